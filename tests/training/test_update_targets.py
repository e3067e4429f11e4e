"""The update step of losses with target networks against the loop that their users write."""

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from compiled_rl import DDPGLoss, HardUpdate, ReinforceLoss, SoftUpdate, UpdateStep
from compiled_rl.functional import soft_update
from compiled_rl.training import Update
from compiled_rl.training.optimisers import optimisers_of
from tests.losses.networks import as_keywords, make_data, plain_networks
from tests.losses.transitions import ACTION, OBSERVATION, SUBJECTS, transitions


class Joined(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, observation, action):
        return self.layers(torch.cat([observation, action], -1))


def normalised():
    """Statistics in actor and critic, which are moved by the call itself.

    A bias in front of them would have a gradient of rounding errors, which Adam makes steps of.
    """
    torch.manual_seed(0)
    first = [nn.Linear(n, 8, bias=False) for n in (OBSERVATION, OBSERVATION + ACTION)]
    actor = nn.Sequential(first[0], nn.BatchNorm1d(8), nn.Linear(8, ACTION))
    critic = Joined(first[1], nn.BatchNorm1d(8), nn.Linear(8, 1))
    return DDPGLoss(actor, critic, delay_actor=True)


def reinforce():
    return ReinforceLoss(*plain_networks("normal"), delay_value=True)


def steps(size, seed, dtype=torch.float64):
    return as_keywords(transitions((size,), dtype, seed=seed))


def episodes(size, seed, dtype=torch.float64):
    actor = plain_networks("normal")[0].to(dtype)
    data = as_keywords(make_data(actor, (size, 3), dtype, seed=seed))
    return {k: x for k, x in data.items() if k not in ("advantage", "value_target")}


LOSSES = {
    "reinforce": (reinforce, episodes),
    "ddpg": (SUBJECTS["ddpg-delayed"].ours, steps),
    "ddpg, one trunk": (SUBJECTS["ddpg-shared"].ours, steps),
    "ddpg, batch normalisation": (normalised, steps),
    "td3": (SUBJECTS["td3"].ours, steps),
    "sac": (SUBJECTS["sac"].ours, steps),
    "sac, one trunk": (SUBJECTS["sac-separate"].ours, steps),
}
UPDATERS = {
    "soft": lambda loss: SoftUpdate(loss, tau=0.1),
    "hard": lambda loss: HardUpdate(loss, value_network_update_interval=2),
}


class Learner(NamedTuple):
    """A loss with an optimiser for the actor and one for all else, each of its own class."""

    loss: Any
    optimizers: list[torch.optim.Optimizer]
    updater: Any

    def step(self, **arguments):
        return UpdateStep(
            self.loss, self.optimizers, target_updater=self.updater, max_grad_norm=0.3, **arguments
        )


def made(name: str, updater: str = "soft", dtype: torch.dtype = torch.float64) -> Learner:
    loss = LOSSES[name][0]().to(dtype)
    actor = [p for key, p in loss.named_parameters() if "actor" in key]
    others = [p for key, p in loss.named_parameters() if "actor" not in key]
    optimizers = [torch.optim.Adam(actor, lr=3e-3), torch.optim.SGD(others, lr=3e-2, momentum=0.9)]
    return Learner(loss, optimizers, UPDATERS[updater](loss))


def by_hand(learner: Learner, data: dict, generator=None):
    """TorchRL's users' loop; the gradients of each optimiser are clipped together."""
    noise = learner.loss.draw_noise({"action": data["action"]}, generator)
    outputs = learner.loss({**noise, **data})
    for optimizer in learner.optimizers:
        optimizer.zero_grad()
    sum(outputs[name] for name in learner.loss.minimised).backward()
    norms = [
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.3)
        for optimizer in learner.optimizers
    ]
    for moving in (*learner.optimizers, learner.updater):
        moving.step()
    metrics = {name: x.detach() for name, x in outputs.items()}
    return metrics | {"grad_norm": torch.stack(norms).norm()}


def assert_equal(a: Learner, b: Learner, tolerance=1e-10):
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(a.loss.state_dict(), b.loss.state_dict(), **close)
    assert a.updater.state_dict() == b.updater.state_dict()
    for one, other in zip(a.optimizers, b.optimizers, strict=True):
        mine, theirs = one.state_dict()["state"], other.state_dict()["state"]
        assert mine.keys() == theirs.keys()
        for key, slots in theirs.items():
            torch.testing.assert_close(mine[key], slots, **close)


def assert_equal_steps(name, updater, mode, sizes, tolerance=1e-10):
    """Twenty steps of both, on the same batches, with noise of the same seed."""
    mine, theirs = made(name, updater), made(name, updater)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    step = mine.step(mode=mode, generator=generators[0])
    for k in range(20):
        for learner in (mine, theirs):
            learner.optimizers[0].param_groups[0]["lr"] = 3e-3 / (1 + k % 4)
            learner.updater.eps = 0.9 - 0.1 * (k % 4)
        data = LOSSES[name][1](sizes[k % len(sizes)], seed=k)
        metrics, expected = step(data), by_hand(theirs, data, generators[1])
        assert metrics.keys() == expected.keys()
        for key, x in expected.items():
            torch.testing.assert_close(metrics[key], x, rtol=tolerance, atol=tolerance, msg=key)
            assert not metrics[key].requires_grad
    assert_equal(mine, theirs, tolerance)


every_loss = pytest.mark.parametrize("name", LOSSES)
every_updater = pytest.mark.parametrize("updater", UPDATERS)


@every_loss
@every_updater
def test_eager_equals_a_loop_by_hand(name, updater):
    assert_equal_steps(name, updater, "eager", [8])


@pytest.mark.parametrize(
    "name", [n if n == "ddpg" else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES]
)
def test_two_graphs_equal_a_loop_by_hand(name, counted):
    """Over batch sizes, learning rates, taus, and a counter that counts.

    Torch's Adam, compiled, corrects its bias in float32.
    """
    updater = "hard" if name in ("ddpg", "ddpg, batch normalisation") else "soft"
    assert_equal_steps(name, updater, "default", [2, 3, 5, 8, 13], 1e-5)
    assert 1 <= counted.count <= 2


@pytest.mark.slow
def test_inductor_equals_a_loop_by_hand():
    assert_equal_steps("ddpg", "hard", "default", [8, 5], 1e-5)


def test_the_counter_is_the_updaters(counted):
    learner = made("ddpg", "hard")
    step = learner.step()
    before = tensors(learner.loss.target_value_network)
    step(steps(4, 0))
    assert learner.updater.counter == 1
    learner.updater.load_state_dict({"counter": 2})
    torch.testing.assert_close(tensors(learner.loss.target_value_network), before, rtol=0, atol=0)
    step(steps(4, 0))
    assert learner.updater.counter == 0
    assert learner.updater.state_dict() == {"initialized": True, "counter": 0}
    now = tensors(learner.loss.value_network)
    torch.testing.assert_close(tensors(learner.loss.target_value_network), now, rtol=0, atol=0)


def tensors(network):
    return {name: x.clone() for name, x in network.state_dict().items()}


def test_targets_stay_where_nothing_moves_them():
    learner = made("ddpg")
    before = tensors(learner.loss.target_value_network)
    UpdateStep(learner.loss, learner.optimizers, mode="eager")(steps(4, 0))
    torch.testing.assert_close(tensors(learner.loss.target_value_network), before, rtol=0, atol=0)


def test_bad_input_moves_no_target():
    learner = made("ddpg", "hard")
    before, step = tensors(learner.loss), learner.step(mode="eager")
    with pytest.raises(KeyError, match="'action'"):
        step({k: x for k, x in steps(4, 0).items() if k != "action"})
    torch.testing.assert_close(tensors(learner.loss), before, rtol=0, atol=0)
    assert learner.updater.counter == 0


# ---- noise ---------------------------------------------------------------------------------------


def test_noise_that_is_given_stands_before_what_is_drawn():
    learners = [made("sac") for _ in range(3)]
    data = steps(4, 0)
    noise = learners[0].loss.draw_noise({"action": data["action"]})
    given = [learner.step(mode="eager")({**data, **noise}) for learner in learners[:2]]
    torch.testing.assert_close(given[0], given[1], rtol=0, atol=0)
    assert learners[2].step(mode="eager")(data)["loss_actor"] != given[0]["loss_actor"]


def test_noise_follows_the_generator_or_the_seed():
    data, runs = steps(4, 0), []
    for seed in (1, 1, 2):
        for chosen in (None, torch.Generator().manual_seed(5)):
            step = made("sac").step(mode="eager", generator=chosen)
            torch.manual_seed(seed)
            runs.append(step(data)["loss_actor"])
    assert runs[0] == runs[2] != runs[4]
    assert runs[1] == runs[3] == runs[5] != runs[0]


# ---- some of the losses --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", pytest.param("default", marks=pytest.mark.slow)])
def test_critics_may_be_trained_more_often_than_the_actor(mode, counted):
    """TD3's delay: two steps on one loss, whose optimisers they share."""
    mine, theirs = made("td3"), made("td3")
    often = UpdateStep(mine.loss, mine.optimizers[1], mode=mode, minimise=["loss_qvalue"])
    seldom = UpdateStep(mine.loss, mine.optimizers, target_updater=mine.updater, mode=mode)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    often.generator = seldom.generator = generators[0]
    for k in range(6):
        data = steps(4, k)
        metrics = (seldom if k % 2 else often)(data)
        assert k % 2 or ("loss_actor" not in metrics and "td_error" in metrics)
        noise = theirs.loss.draw_noise({"action": data["action"]}, generators[1])
        outputs = theirs.loss({**data, **noise})
        wanted = theirs.loss.minimised if k % 2 else ("loss_qvalue",)
        for optimizer in theirs.optimizers:
            optimizer.zero_grad()
        sum(outputs[name] for name in wanted).backward()
        for moving in (*theirs.optimizers, theirs.updater) if k % 2 else theirs.optimizers[1:]:
            moving.step()
    assert_equal(mine, theirs, 1e-5)
    assert mode == "eager" or counted.count == 2


def test_what_is_not_minimised_does_not_move_what_could_move():
    learner = made("ddpg")
    step = UpdateStep(
        learner.loss,
        torch.optim.Adam(learner.loss.parameters()),
        minimise=["loss_value"],
        mode="eager",
    )
    before = tensors(learner.loss.actor_network)
    step(steps(4, 0))
    torch.testing.assert_close(tensors(learner.loss.actor_network), before, rtol=0, atol=0)


class Named(DDPGLoss):
    """A loss with a coefficient that is named as a number of an updater is."""

    def __init__(self, *networks, name):
        super().__init__(*networks)
        self.own = name
        self.register_buffer(name, torch.tensor(7.0))

    def evaluate(self, data):
        outputs = super().evaluate(data)
        return outputs | {"loss_value": outputs["loss_value"] * getattr(self, self.own)}


@pytest.mark.parametrize("name", ["tau", "counter", "interval"])
def test_the_numbers_of_an_updater_are_not_the_losss(name):
    model = SUBJECTS["ddpg-delayed"].ours()
    loss = Named(model.actor_network, model.value_network, name=name)
    updater = UPDATERS["soft" if name == "tau" else "hard"](loss)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    data = steps(4, 0, torch.float32)
    expected = loss(data)["loss_value"].detach()
    step = UpdateStep(loss, optimizer, target_updater=updater, mode="eager")
    torch.testing.assert_close(step(data)["loss_value"], expected)
    assert getattr(loss, name) == 7


# ---- the pure update -----------------------------------------------------------------------------


def towards(targets, params):
    """A plain function that moves targets."""
    return {k: soft_update(x, params[k.removeprefix("target_")], 0.5) for k, x in targets.items()}


def test_the_pure_update_takes_a_plain_function_and_changes_no_argument():
    learner = made("ddpg")
    names = {p: name for name, p in learner.loss.named_parameters()}
    optimisers = optimisers_of(learner.optimizers, names)
    update = Update(learner.loss, optimisers, 0.5, towards)
    params = {name: p for each in optimisers for name, p in each.params.items()}
    state = [each.state() for each in optimisers]
    targets = {f"target_{name}": x.detach() + 1 for name, x in params.items()}
    batch = {
        ("next", name.removeprefix("next_")) if name.startswith("next_") else name: x
        for name, x in steps(4, 0).items()
    }
    arguments = (params, state, targets, batch, {})
    before = copy.deepcopy(arguments)
    new_params, new_state, new_targets, _ = update(*arguments)
    torch.testing.assert_close(arguments, before, rtol=0, atol=0)
    assert len(new_state) == len(state) == 2
    for name, x in new_params.items():
        assert not torch.equal(x, params[name])
        middle = (x + targets[f"target_{name}"]) / 2
        torch.testing.assert_close(new_targets[f"target_{name}"], middle.detach())


# ---- what is undone, copied, left out ----


@pytest.mark.parametrize("mode", ["eager", pytest.param("default", marks=pytest.mark.slow)])
def test_a_refused_batch_moves_no_statistics(mode, counted):
    learner = made("ddpg, batch normalisation")
    step, data = learner.step(mode=mode), steps(4, 0)
    step(data)
    before = tensors(learner.loss)
    with pytest.raises(ValueError, match="must have the shape"):
        step({**data, "next_reward": data["next_reward"][:3]})
    torch.testing.assert_close(tensors(learner.loss), before, rtol=0, atol=0)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_step_goes_its_own_way(how):
    learner = made("sac", "hard")
    step = learner.step(mode="eager", generator=torch.Generator().manual_seed(1))
    step(steps(4, 0))
    twin, before = how(step), tensors(learner.loss)
    metrics = twin(steps(4, 1))
    torch.testing.assert_close(tensors(learner.loss), before, rtol=0, atol=0)
    torch.testing.assert_close(metrics, step(steps(4, 1)), rtol=0, atol=0)
    assert_equal(Learner(twin.loss, twin.optimizer, twin.target_updater), learner)


def test_outputs_that_were_deselected_are_not_minimised():
    learner = made("ddpg")
    step = learner.step(mode="eager")
    critics = UpdateStep(learner.loss, learner.optimizers, mode="eager", minimise=["loss_value"])
    learner.loss.select_out_keys("pred_value")
    with pytest.raises(ValueError, match=r"must have one of .* got \('pred_value',\)"):
        step(steps(4, 0))
    learner.loss.select_out_keys("loss_actor")
    assert step(steps(4, 0)).keys() == {"loss_actor", "grad_norm"}
    with pytest.raises(ValueError, match=r"must name some of \['loss_actor'\]"):
        critics(steps(4, 0))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_optimiser_without_gradients_has_a_norm_like_the_others(device):
    loss = LOSSES["ddpg"][0]().to(device, torch.float64)
    networks = (loss.actor_network, loss.value_network)
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in networks]
    step = UpdateStep(loss, optimizers, mode="eager", minimise=["loss_value"])
    norm = step({k: x.to(device) for k, x in steps(4, 0).items()})["grad_norm"]
    assert norm.dtype == torch.float64
    assert norm.device.type == device


# ---- what is refused -----------------------------------------------------------------------------


def refused():
    learner, other = made("ddpg"), made("ddpg")
    loss, optimizers = learner.loss, learner.optimizers
    return [
        ((loss, optimizers), {"target_updater": other.updater}, ValueError, "not of another"),
        ((loss, optimizers), {"target_updater": optimizers[0]}, TypeError, "got a Adam"),
        ((loss, []), {}, ValueError, "one or several over different parameters, got 0"),
        (
            (loss, [*optimizers, torch.optim.SGD([loss.actor_network.module[0].bias])]),
            {},
            ValueError,
            r"got 3 that share \['actor_network.module.0.bias'\]",
        ),
        ((loss, optimizers), {"minimise": ["loss_q"]}, ValueError, r"got \['loss_q'\]"),
        ((loss, optimizers), {"minimise": "loss_value"}, ValueError, "must name some of"),
        ((loss, optimizers), {"minimise": ["loss_value"] * 2}, ValueError, "each once, got"),
        ((loss, optimizers), {"minimise": 5}, ValueError, "must name some of .* got 5"),
        ((loss, optimizers), {"generator": 3}, TypeError, "`generator` must be .* got a int"),
        ((loss, optimizers), {"minimise": []}, ValueError, r"must name some of .* got \[\]"),
    ]


@pytest.mark.parametrize(("positional", "keywords", "kind", "sentence"), refused())
def test_refusals(positional, keywords, kind, sentence):
    with pytest.raises(kind, match=sentence):
        UpdateStep(*positional, **keywords)
