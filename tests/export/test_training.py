"""Files that hold training steps learn what torch learns, in ONNX Runtime alone."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from compiled_rl import ClipPPOLoss, HardUpdate, KLPENPPOLoss, Policy, UpdateStep, ValueHead
from compiled_rl.export import (
    ExportError,
    OnnxModel,
    OnnxTrainer,
    load_artefact,
    load_pt2,
    load_torchscript,
    to_aotinductor,
    to_onnx,
    to_pt2,
    to_torchscript,
)
from compiled_rl.modules import Categorical
from compiled_rl.training import UpdateEpochs
from tests.export.learning import CASES, RATE, loss_and_batch, step_of
from tests.export.targets import left_in

FAST = ("ClipPPOLoss", "SACLoss")
every_loss = pytest.mark.parametrize(
    "name", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in sorted(CASES)]
)


def arrays(batch):
    return {name: x.numpy() for name, x in batch.items()}


def resampled(batch, rows: int):
    """Other data of the same kind: rows of the batch, moved a little."""
    count = len(next(iter(batch.values())))
    picked = {name: x[torch.randint(count, (rows,))] for name, x in batch.items()}
    return {
        name: x + 0.1 * torch.randn_like(x) if x.is_floating_point() else x
        for name, x in picked.items()
    }


def assert_same_state(trainer: OnnxTrainer, step: UpdateStep, tolerance: float = 1e-5) -> None:
    """Of every parameter, moment and target that the trainer has."""
    own = {**dict(step.loss.named_parameters()), **dict(step.loss.named_buffers())}
    for name, x in trainer.state.items():
        if name in own:
            close(x, own[name], tolerance)
    named = {p: name for name, p in step.loss.named_parameters()}
    for parameter, slots in step.optimizer.state.items():
        for slot, x in slots.items():
            if x is not None and parameter in named:
                own = f"optimizer.{slot}.{named[parameter]}"
                close(trainer.state["optimizer.step" if slot == "step" else own], x, tolerance)


def close(got: np.ndarray, expected: torch.Tensor, tolerance: float) -> None:
    got = torch.from_numpy(np.asarray(got))
    torch.testing.assert_close(got, expected.detach(), rtol=tolerance, atol=tolerance)


@every_loss
def test_steps_of_every_loss(name, tmp_path):
    loss, batch = loss_and_batch(name)
    step = step_of(loss)
    report = to_onnx(step, batch, tmp_path / "step.onnx")
    trainer = OnnxTrainer(report.path)
    for rows in (1, 3, 64, 17):
        data = resampled(batch, rows)
        noise = step.loss.draw_noise(step.loss.inputs(data, {}))
        data |= {k if isinstance(k, str) else "_".join(k): x for k, x in noise.items()}
        metrics, expected = trainer(**arrays(data)), step(data)
        assert sorted(metrics) == sorted(expected)
        for key, x in expected.items():
            close(metrics[key], x, 1e-4)  # a ratio of large numbers, in some
    assert_same_state(trainer, step)


def ppo(seed: int = 0, loss_class=ClipPPOLoss, **options):
    torch.manual_seed(seed)
    actor = Policy(nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)), Categorical)
    critic = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), ValueHead(32))
    return loss_class(actor, critic, normalize_advantage=True, **options)


def recorded(rows: int):
    logits = torch.randn(rows, 3)
    action = torch.randint(3, (rows,))
    return {
        "observation": torch.randn(rows, 4),
        "action": action,
        "action_log_prob": logits.log_softmax(-1).gather(-1, action[:, None])[:, 0],
        "advantage": torch.randn(rows),
        "value_target": torch.randn(rows),
        "logits": logits,
    }


def without_logits(rows: int):
    return {name: x for name, x in recorded(rows).items() if name != "logits"}


OPTIMISERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=RATE),
    "AdamW, amsgrad": lambda p: torch.optim.AdamW(p, lr=RATE, amsgrad=True, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=10 * RATE),
    "SGD, nesterov": lambda p: torch.optim.SGD(
        p, lr=RATE, momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True
    ),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=RATE, momentum=0.5, centered=True),
}


@pytest.mark.parametrize(
    "kind",
    [k if k == "Adam" else pytest.param(k, marks=pytest.mark.slow) for k in OPTIMISERS],
)
def test_two_hundred_steps(kind, tmp_path):
    """With a beta that moves by itself, and a norm that is clipped."""
    loss = ppo(loss_class=KLPENPPOLoss, dtarg=0.1, increment=1.01, decrement=0.99)
    step = UpdateStep(loss, OPTIMISERS[kind](loss.parameters()), mode="eager", max_grad_norm=0.5)
    to_onnx(step, recorded(16), tmp_path / "step.onnx")
    trainer = OnnxTrainer(tmp_path / "step.onnx")
    beta = float(loss.beta)
    before = {name: x.copy() for name, x in trainer.state.items()}
    for _ in range(200):
        data = recorded(64)
        metrics, expected = trainer(**arrays(data)), step(data)
    assert_same_state(trainer, step)
    close(metrics["loss_objective"], expected["loss_objective"], 1e-5)
    assert float(trainer.state["beta"]) == float(loss.beta) != beta
    moved = [np.abs(before[k] - x).max() for k, x in trainer.state.items() if "actor" in k]
    assert max(moved) > 0.01
    assert trainer.updates == 200


def anneal(now, metrics):
    share = now["updates"] / 10
    return {"learning_rate": RATE * (1 - share), "clip_epsilon": 0.2 * (1 - share)}


@pytest.mark.slow
def test_a_rule_is_in_the_file(tmp_path):
    loss = ppo()
    optimizer = torch.optim.Adam(loss.parameters(), lr=RATE)
    step = UpdateStep(loss, optimizer, mode="eager", rule=anneal)
    to_onnx(step, without_logits(8), tmp_path / "step.onnx")
    trainer = OnnxTrainer(tmp_path / "step.onnx")
    for _ in range(5):
        data = without_logits(8)
        trainer(**arrays(data)), step(data)
    assert_same_state(trainer, step)
    assert float(trainer.state["updates"]) == 5
    assert float(trainer.state["learning_rate"]) == pytest.approx(RATE / 2)
    assert float(trainer.state["clip_epsilon"]) == pytest.approx(0.1)


@pytest.mark.slow
def test_a_step_that_has_learned_goes_on(tmp_path):
    """Its moments are in the file, too; to make it changes nothing; a learning rate may be told."""
    loss = ppo()
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters(), lr=RATE), mode="eager")
    for _ in range(3):
        step(without_logits(8))
    batch = without_logits(8)
    before, random = copy.deepcopy(step.state_dict()), torch.get_rng_state()
    to_onnx(step, batch, tmp_path / "step.onnx")
    torch.testing.assert_close(step.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert loss.training
    trainer = OnnxTrainer(tmp_path / "step.onnx")
    assert_same_state(trainer, step, 0.0)
    for rate in (RATE, 0.05):
        trainer.state["learning_rate"] = rate
        step.optimizer.param_groups[0]["lr"] = rate
        data = without_logits(8)
        trainer(**arrays(data)), step(data)
        assert_same_state(trainer, step)


@pytest.fixture(scope="module")
def epochs(tmp_path_factory):
    """A loss, its epochs, and their file."""
    loss = ppo()
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters(), lr=RATE), mode="eager")
    made = UpdateEpochs(step, epochs=3, minibatch_size=8, target_kl=1e6)
    path = tmp_path_factory.mktemp("epochs") / "epochs.onnx"
    to_onnx(made, without_logits(20), path)
    return made, path


def test_whole_epochs(epochs):
    made, path = epochs
    made = copy.deepcopy(made)
    trainer, data = OnnxTrainer(path, seed=3), without_logits(20)
    metrics = trainer(**arrays(data))
    generator = np.random.default_rng(3)
    orders = torch.stack([torch.from_numpy(generator.permutation(20)) for _ in range(3)])
    expected = made(data, orders)
    assert metrics["loss_objective"].shape == (9,)  # two of eight rows and one of four, three times
    for name, x in expected.items():
        close(metrics[name], x, 1e-4)
    assert_same_state(trainer, made.step)
    assert trainer.updates == 9


def test_minibatches_may_be_given(epochs):
    made, path = epochs
    made = copy.deepcopy(made)
    trainer, data = OnnxTrainer(path), without_logits(20)
    rows = np.array([[0, 5, 7], [3, 1, 19]])
    metrics = trainer(**arrays(data), minibatches=rows)
    for k in rows:
        expected = made.step({name: x[k] for name, x in data.items()})
    assert_same_state(trainer, made.step)
    close(metrics["grad_norm"][-1], expected["grad_norm"], 1e-5)


def test_an_epoch_that_goes_too_far_is_the_last(epochs):
    _, path = epochs
    data = arrays(without_logits(20))
    data["action_log_prob"] += 1e7  # far above the policy's own; the bound of the file is 1e6
    trainer = OnnxTrainer(path)
    assert trainer.model.contract["schedule"]["target_kl"] == 1e6
    assert len(trainer(**data)["kl_approx"]) == 3


def test_a_trainer_goes_on_from_a_checkpoint(epochs, tmp_path):
    _, path = epochs
    first, second = OnnxTrainer(path, seed=1), OnnxTrainer(path, seed=2)
    first(**arrays(without_logits(20)))
    first.save(tmp_path / "new" / "state.npz")
    second.load(tmp_path / "new" / "state.npz")
    assert left_in(tmp_path / "new") == ["state.npz"]
    data = arrays(without_logits(20))
    one, other = first(**data), second(**data)
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name])
    for name, x in first.state.items():
        np.testing.assert_array_equal(x, second.state[name])
    assert first.updates == second.updates == 18


def test_a_checkpoint_that_is_none_changes_nothing(epochs, tmp_path):
    _, path = epochs
    trainer = OnnxTrainer(path)
    before = {name: x.copy() for name, x in trainer.state.items()}
    (tmp_path / "broken.npz").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"broken.npz is not a trainer's state"):
        trainer.load(tmp_path / "broken.npz")
    with pytest.raises(FileNotFoundError, match="`path` must be a file"):
        trainer.load(tmp_path / "absent.npz")
    other = OnnxTrainer(path)
    other.state["learning_rate"] = np.zeros(3, np.float32)
    other.save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"whose `learning_rate` is float32 of shape \[\], got"):
        trainer.load(tmp_path / "other.npz")
    for name, x in before.items():
        np.testing.assert_array_equal(x, trainer.state[name])


def test_data_that_do_not_fit_move_nothing(epochs):
    _, path = epochs
    trainer, data = OnnxTrainer(path), arrays(without_logits(20))
    before = {name: x.copy() for name, x in trainer.state.items()}
    with pytest.raises(ValueError, match="`observation` must be a float32 array"):
        trainer(**{**data, "observation": data["observation"].astype(np.float64)})
    with pytest.raises(ValueError, match="the inputs are"):
        trainer(**{k: x for k, x in data.items() if k != "advantage"})
    for name, x in before.items():
        np.testing.assert_array_equal(x, trainer.state[name])
    assert trainer.updates == 0


def test_a_state_may_be_written_to_in_place_or_anew(epochs):
    _, path = epochs
    data, first, second = arrays(without_logits(20)), OnnxTrainer(path), OnnxTrainer(path)
    first(**data), second(**data)
    first.state["learning_rate"][...] = 0.05
    second.state = {name: x.copy() for name, x in second.state.items()} | {"learning_rate": 0.05}
    for trainer in (first, second):
        trainer(**{name: x[:9] for name, x in data.items()})  # in other buffers
        trainer(**data)
        assert float(trainer.state["learning_rate"]) == pytest.approx(0.05)
    for name, x in first.state.items():
        np.testing.assert_array_equal(x, second.state[name])


def test_a_state_that_does_not_fit_moves_nothing(epochs):
    _, path = epochs
    trainer, data = OnnxTrainer(path), arrays(without_logits(20))
    before = {name: x.copy() for name, x in trainer.state.items()}
    for wrong, sentence in [
        ({"learning_rate": np.zeros(3)}, r"`learning_rate` must be a float32 array of shape \[\]"),
        ({"unknown": 1.0}, "the state is .*, got .*unknown"),
    ]:
        trainer.state = before | wrong
        with pytest.raises(ValueError, match=sentence):
            trainer(**data)
    del trainer.state["unknown"], trainer.state["learning_rate"]
    with pytest.raises(ValueError, match="the state is"):
        trainer(**data)
    trainer.state = dict(before)
    trainer.state["learning_rate"] = 0.0
    trainer(**data)
    moved = [name for name, x in before.items() if (trainer.state[name] != x).any()]
    assert not [name for name in moved if name.startswith(("actor", "critic"))]


def test_the_policy_learns_with_the_trainer(epochs, tmp_path):
    """Its parameters are inputs under the names that the trainer has for them."""
    made, path = epochs
    made = copy.deepcopy(made)
    policy = made.step.loss.actor_network
    to_onnx(
        policy.network, {"input": torch.randn(2, 4)}, tmp_path / "p.onnx", parameters=made.step.loss
    )
    model, trainer, data = OnnxModel(tmp_path / "p.onnx"), OnnxTrainer(path), without_logits(20)
    rows = torch.arange(20)[None]
    trainer(**arrays(data), minibatches=rows.numpy())
    made.step(data)
    held = {name: x for name, x in trainer.state.items() if name in model.inputs}
    assert set(model.inputs) == {"input", *held}
    got = model(input=data["observation"].numpy(), **held)["output"]
    close(got, policy.network(data["observation"]), 1e-5)


def test_it_learns_without_torch(epochs, tmp_path):
    _, path = epochs
    np.savez(tmp_path / "batch.npz", **arrays(without_logits(20)))
    code = """
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
from compiled_rl.export import OnnxTrainer
trainer = OnnxTrainer(sys.argv[1])
print(trainer(**np.load(sys.argv[2]))["grad_norm"].shape)
"""
    command = [sys.executable, "-c", code, path, tmp_path / "batch.npz"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "(9,)\n", done.stderr


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("pt2", marks=pytest.mark.slow),
        pytest.param("torchscript", marks=pytest.mark.slow),
        pytest.param("aotinductor", marks=pytest.mark.slow),
    ],
)
def test_other_forms_of_a_step(form, tmp_path):
    from compiled_rl.export import load_aotinductor

    write, load, suffix = {
        "pt2": (to_pt2, load_pt2, "pt2"),
        "torchscript": (to_torchscript, load_torchscript, "pt"),
        "aotinductor": (to_aotinductor, load_aotinductor, "pt2"),
    }[form]
    loss = ppo(loss_class=KLPENPPOLoss)
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters(), lr=RATE), mode="eager")
    write(step, recorded(8), tmp_path / f"step.{suffix}")
    model = load(tmp_path / f"step.{suffix}")
    state = dict(model.state)
    for _ in range(20):
        data = recorded(16)
        outputs, expected = model(**state, **data), step(data)
        state = {
            name: state[name] if output is None else outputs[output]
            for name, output in model.contract["state"].items()
        }
    for name, parameter in loss.named_parameters():
        torch.testing.assert_close(state[name], parameter.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs["kl"], expected["kl"], rtol=1e-4, atol=1e-6)


def critics_slower(loss):
    """An optimiser of two groups beside another one, each with a count of its own."""
    first, *others = loss.critic_network.parameters()
    groups = [{"params": [first], "lr": 1e-2}, {"params": others, "lr": 1e-3}]
    return [torch.optim.Adam(loss.actor_network.parameters(), lr=RATE), torch.optim.Adam(groups)]


def masked(rows: int):
    return {**without_logits(rows), "mask": torch.arange(rows) % 3 > 0}


def of_other_keys(rows: int):
    batch = without_logits(rows)
    batch["estimates_advantage"] = batch.pop("advantage")
    return batch


def kinds_of_steps():
    summed, several = ppo(reduction="sum"), ppo()
    under_a_mask, keyed = ppo(loss_mask_key="mask"), ppo()
    keyed.set_keys(advantage=("estimates", "advantage"))
    make = {"mode": "eager", "max_grad_norm": 0.5}
    return {
        "a sum": (
            UpdateStep(summed, torch.optim.Adam(summed.parameters()), **make),
            without_logits,
        ),
        "groups": (UpdateStep(several, critics_slower(several), **make), without_logits),
        "a mask": (UpdateStep(under_a_mask, critics_slower(under_a_mask), **make), masked),
        "other keys": (UpdateStep(keyed, critics_slower(keyed), **make), of_other_keys),
    }


def assert_same_networks(trainer: OnnxTrainer, loss) -> None:
    """Of every parameter and every buffer that the trainer has, frozen copies included."""
    own = {**dict(loss.named_parameters()), **dict(loss.named_buffers())}
    found = [name for name in trainer.state if name in own]
    assert found
    for name in found:
        close(trainer.state[name], own[name], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds_of_steps())
def test_steps_of_every_kind(kind, tmp_path):
    step, draw = kinds_of_steps()[kind]
    to_onnx(step, draw(8), tmp_path / "step.onnx")
    trainer = OnnxTrainer(tmp_path / "step.onnx")
    for _ in range(10):
        data = draw(12)
        trainer(**arrays(data)), step(data)
    assert_same_networks(trainer, step.loss)


@pytest.mark.slow
def test_hard_targets_are_copied_when_it_is_time(tmp_path):
    loss, batch = loss_and_batch("DQNLoss")
    updater = HardUpdate(loss, value_network_update_interval=3)
    optimizer = torch.optim.Adam(loss.parameters(), lr=RATE)
    step = UpdateStep(loss, optimizer, mode="eager", target_updater=updater)
    to_onnx(step, batch, tmp_path / "step.onnx")
    trainer = OnnxTrainer(tmp_path / "step.onnx")
    for _ in range(10):
        data = resampled(batch, 8)
        trainer(**arrays(data)), step(data)
        assert_same_networks(trainer, loss)


@pytest.mark.slow
@pytest.mark.parametrize("write", [to_pt2, to_aotinductor])
def test_epochs_in_torchs_own_forms(write, tmp_path):
    loss = ppo()
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters(), lr=RATE), mode="eager")
    made = UpdateEpochs(step, epochs=1, minibatch_size=4)
    write(made, without_logits(8), tmp_path / "epochs.pt2")
    model = load_artefact(tmp_path / "epochs.pt2")
    data, orders = without_logits(12), torch.randperm(12)[None]
    outputs = model(**model.state, **data, minibatches=orders.reshape(3, 4))
    metrics = made(data, orders)
    torch.testing.assert_close(outputs["grad_norm"], metrics["grad_norm"], rtol=1e-4, atol=1e-6)
    for name, parameter in loss.named_parameters():
        got = outputs[model.contract["state"][name]]
        torch.testing.assert_close(got, parameter.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_epochs_of_a_loss_that_draws(tmp_path):
    """A noise for every row of every minibatch, drawn by the trainer."""
    loss, batch = loss_and_batch("SACLoss")
    epochs = UpdateEpochs(step_of(loss), epochs=2, minibatch_size=4)
    to_onnx(epochs, batch, tmp_path / "epochs.onnx")
    trainer = OnnxTrainer(tmp_path / "epochs.onnx")
    before = {name: x.copy() for name, x in trainer.state.items()}
    metrics = trainer(**arrays(resampled(batch, 10)))
    assert metrics["loss_actor"].shape == (6,)  # twice two of four rows, and one of two
    assert np.isfinite(metrics["loss_actor"]).all()
    assert any(not np.array_equal(before[name], x) for name, x in trainer.state.items())


def test_epochs_have_no_torchscript(tmp_path):
    loss = ppo()
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters(), lr=RATE), mode="eager")
    with pytest.raises(ExportError, match=r"epochs are a loop, which .*; use to_pt2"):
        to_torchscript(
            UpdateEpochs(step, epochs=1, minibatch_size=4), without_logits(8), tmp_path / "e.pt"
        )
    assert left_in(tmp_path) == []


def refused():
    loss = ppo()
    optimizer = torch.optim.Adam(loss.parameters(), lr=RATE)
    step = UpdateStep(loss, optimizer, mode="eager")
    noisy = ClipPPOLoss(
        Policy(nn.Sequential(nn.Linear(4, 3), nn.Dropout()), Categorical), ValueHead(4)
    )
    batch = without_logits(8)
    return {
        "accumulation": (
            UpdateStep(loss, optimizer, mode="eager", accumulate=2),
            batch,
            {},
            "`accumulate` must be 1",
        ),
        "names": (step, batch, {"output_names": ("loss",)}, "a training step has names of its own"),
        "a batch that lacks something": (
            step,
            {k: x for k, x in batch.items() if k != "action"},
            {},
            "could not be taken on `example`: .*action",
        ),
        "time": (
            UpdateEpochs(step, epochs=1, minibatch_size=4),
            batch,
            {"dynamic": ("time",)},
            "`dynamic` must be",
        ),
        "axes by input that are not its own": (
            UpdateEpochs(step, epochs=1, minibatch_size=4),
            batch,
            {"dynamic": {"observation": ("batch", None)}},
            "`dynamic` must be",
        ),
        "dropout": (
            UpdateStep(noisy, torch.optim.Adam(noisy.parameters()), mode="eager"),
            batch,
            {},
            "draws at random",
        ),
    }


@pytest.mark.parametrize("what", refused())
def test_what_cannot_be_a_file(what, tmp_path):
    step, batch, options, sentence = refused()[what]
    with pytest.raises(ExportError, match=sentence):
        to_onnx(step, batch, tmp_path / "step.onnx", **options)
    assert left_in(tmp_path) == []


def test_a_file_without_a_step_is_no_trainer(tmp_path):
    to_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "f.onnx")
    with pytest.raises(ValueError, match=r"must be a file with a training step, got .*a Linear"):
        OnnxTrainer(tmp_path / "f.onnx")


def test_minibatches_of_no_rows_move_nothing(epochs):
    _, path = epochs
    trainer, data = OnnxTrainer(path), arrays(without_logits(20))
    before = {name: x.copy() for name, x in trainer.state.items()}
    for rows in ([[0, 20]], [[0, -1]], [[], []], np.zeros((0, 4))):
        with pytest.raises(ValueError, match="`minibatches` must be of the batch's 20 rows, got"):
            trainer(**data, minibatches=np.array(rows, np.int64))
    for name, x in before.items():
        np.testing.assert_array_equal(x, trainer.state[name])
    assert trainer.updates == 0
    with pytest.raises(ValueError, match="the batch must have rows"):
        trainer(**{name: x[:0] for name, x in data.items()})


def test_the_rows_of_a_batch_are_not_those_of_noise(epochs):
    """Noise has the updates first, however it is named before the data."""
    _, path = epochs
    trainer = OnnxTrainer(path)
    trainer._noise = {"action": "normal"}
    data = arrays(without_logits(20))
    noise = data.pop("action")[:3]
    assert sum(x.size for x in trainer._order({"action": noise, **data})) == 20


@pytest.mark.slow
def test_batch_normalisation_learns(tmp_path):
    """By batches of one size: of a single row there is nothing to normalise."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    loss = ClipPPOLoss(Policy(network, Categorical), ValueHead(4))
    step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1), mode="eager")
    to_onnx(step, without_logits(8), tmp_path / "step.onnx", ())
    trainer = OnnxTrainer(tmp_path / "step.onnx")
    assert any("running_mean" in name for name in trainer.state)
    for _ in range(3):
        data = without_logits(8)
        trainer(**arrays(data)), step(data)
    assert_same_state(trainer, step)
