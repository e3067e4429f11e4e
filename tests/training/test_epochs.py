"""Epochs of minibatches against the loop that everybody writes."""

import pytest
import torch
from torch import nn

from compiled_rl import ClipPPOLoss, KLPENPPOLoss, Policy, UpdateEpochs, UpdateStep
from compiled_rl.modules import GRU, Categorical, Reads
from tests.losses.networks import as_keywords, make_data, plain_networks


def learner(mode="eager", generator=None, **options):
    loss = ClipPPOLoss(*plain_networks("normal"), normalize_advantage=True, **options)
    adam = torch.optim.Adam(loss.parameters(), lr=3e-3)
    return loss, UpdateStep(loss, adam, mode=mode, generator=generator)


def assert_equal(a: nn.Module, b: nn.Module, tolerance: float) -> None:
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(a.state_dict(), b.state_dict(), **close)


@pytest.mark.parametrize("count", [16, 21])
@pytest.mark.parametrize("mode", ["eager", "default"])
def test_it_is_the_loop_by_hand_in_one_graph(mode, count, counted):
    """The last minibatch is smaller where the size does not divide the rows."""
    loss, step = learner(mode)
    mine, my_step = learner()
    data = as_keywords(make_data(loss.actor_network, (count,)))
    data["shifted_valid"] = torch.arange(count) % 7 != 3
    orders = torch.stack([torch.randperm(count) for _ in range(3)])
    metrics = UpdateEpochs(step, epochs=3, minibatch_size=8)(data, orders)
    pieces = [rows for order in orders for rows in order.split(8)]
    expected = [my_step({k: x[rows] for k, x in data.items()}) for rows in pieces]
    assert metrics["grad_norm"].shape == (len(expected),) == (3 * -(-count // 8),)
    for name, x in metrics.items():
        by_hand = torch.stack([each[name] for each in expected])
        torch.testing.assert_close(x, by_hand, rtol=1e-4, atol=1e-5, msg=name)
    assert_equal(loss, mine, 1e-5)
    assert mode == "eager" or counted.count == 1


def test_advantages_are_normalised_over_the_valid_steps_of_a_minibatch():
    """Whatever a minibatch's advantages are shifted and scaled by, or stand under its mask."""
    loss, step = learner()
    mine, my_step = learner()
    data = as_keywords(make_data(loss.actor_network, (16,)))
    data["shifted_valid"] = torch.arange(16) % 5 != 2
    order = torch.arange(16)[None]
    UpdateEpochs(step, epochs=1, minibatch_size=8)(data, order)
    moved = data["advantage"].clone()
    moved[:8], moved[8:] = moved[:8] * 3 + 5, moved[8:] / 7 - 2
    moved[~data["shifted_valid"]] = torch.nan
    UpdateEpochs(my_step, epochs=1, minibatch_size=8)(data | {"advantage": moved}, order)
    assert_equal(loss, mine, 1e-4)


def test_a_tensordict_is_read_once():
    (loss, step), (mine, my_step) = learner(), learner()
    data, order = make_data(loss.actor_network, (16,)), torch.randperm(16)[None]
    UpdateEpochs(step, epochs=1, minibatch_size=8)(data, order)
    UpdateEpochs(my_step, epochs=1, minibatch_size=8)(as_keywords(data), order)
    assert_equal(loss, mine, 1e-6)


def test_the_order_is_drawn_from_the_steps_generator():
    runs = []
    for seed in (1, 1, 2):
        loss, step = learner(generator=torch.Generator().manual_seed(seed))
        data = make_data(loss.actor_network, (16,))
        UpdateEpochs(step, epochs=2, minibatch_size=8)(data)
        runs.append(loss.actor_network.network[0].weight.detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_no_epoch_behind_one_that_went_too_far():
    def taken(target, far=0.0):
        loss, step = learner()
        data = make_data(loss.actor_network, (16,))
        data["action_log_prob"] = data["action_log_prob"] + far
        epochs = UpdateEpochs(step, epochs=4, minibatch_size=8, target_kl=target)
        return len(epochs(data)["kl_approx"])

    assert taken(None, far=1.0) == 8
    assert taken(10.0) == 8
    assert taken(0.5, far=1.0) == 2


def test_the_divergence_may_be_the_exact_one():
    actor, critic = plain_networks("normal")
    loss = KLPENPPOLoss(actor, critic, beta=0.1)
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters()), mode="eager")
    data = make_data(actor, (16,))
    loc, scale = actor.params(data["observation"])
    data.update({"loc": (loc + 1).detach(), "scale": scale.detach()})
    for target_kl, taken in ((0.1, 2), (1e3, 4)):
        epochs = UpdateEpochs(step, epochs=2, minibatch_size=8, target_kl=target_kl, kl="kl")
        assert epochs(data)["kl"].shape == (taken,)


class Recurrent(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.memory, self.head = GRU(3, 8), nn.Linear(8, out)

    def forward(self, observation, is_init):
        return self.head(self.memory(observation, is_init))


def sequences(count: int, length: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    is_init = torch.rand(count, length) < 0.2
    return {
        "observation": torch.randn(count, length, 3),
        "is_init": is_init,
        "action": torch.randint(2, (count, length)),
        "action_log_prob": -torch.rand(count, length),
        "advantage": torch.randn(count, length, 1),
        "value_target": torch.randn(count, length, 1),
    }


@pytest.mark.parametrize("mode", ["eager", pytest.param("default", marks=pytest.mark.slow)])
def test_the_rows_of_a_recurrent_minibatch_are_whole_sequences(mode, counted):
    def recurrent():
        torch.manual_seed(0)
        keys = ("observation", "is_init")
        policy = Policy(Reads(Recurrent(2), *keys), Categorical)
        loss = ClipPPOLoss(policy, Reads(Recurrent(1), *keys))
        return loss, torch.optim.Adam(loss.parameters(), lr=1e-2)

    (loss, adam), (mine, my_adam) = recurrent(), recurrent()
    data, orders = sequences(5, 6), torch.stack([torch.randperm(5) for _ in range(2)])
    step = UpdateStep(loss, adam, mode=mode)
    UpdateEpochs(step, epochs=2, minibatch_size=2)(data, orders)
    for order in orders:
        for rows in order.split(2):
            outputs = mine({k: x[rows] for k, x in data.items()})
            my_adam.zero_grad()
            sum(outputs[name] for name in mine.minimised).backward()
            my_adam.step()
    assert_equal(loss, mine, 1e-5)
    assert mode == "eager" or counted.count <= 2  # the last sequence is alone


def test_sequences_compile_after_another_step_has_made_sizes_symbolic(counted):
    """TorchDynamo remembers shapes of the function that all steps share."""
    loss, flat = learner("default")
    flat(make_data(loss.actor_network, (32,)))
    keys = ("observation", "is_init")
    policy = Policy(Reads(Recurrent(2), *keys), Categorical)
    recurrent = ClipPPOLoss(policy, Reads(Recurrent(1), *keys))
    step = UpdateStep(recurrent, torch.optim.SGD(recurrent.parameters(), lr=0.1))
    assert step(sequences(6, 3))["loss_critic"].isfinite()


REFUSED = [
    ({"epochs": 0}, "`epochs` must be an integer of at least 1, got 0"),
    ({"minibatch_size": 2.0}, "`minibatch_size` must be an integer of at least 1, got 2.0"),
    ({"target_kl": 0.0}, "`target_kl` must be positive, got 0"),
    ({"target_kl": 0.1, "kl": "k"}, r"`kl` must be in \('loss_objective'.*, got 'k'"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_refusals(options, sentence):
    _, step = learner()
    with pytest.raises(ValueError, match=f"UpdateEpochs: {sentence}"):
        UpdateEpochs(step, **{"epochs": 1, "minibatch_size": 8, **options})


def test_what_is_no_step_is_refused():
    with pytest.raises(TypeError, match="`step` must be an UpdateStep, got a Linear"):
        UpdateEpochs(nn.Linear(1, 1), epochs=1, minibatch_size=1)


def test_steps_without_advantage_are_refused():
    """An estimator would take the shuffled rows for time."""
    _, step = learner()
    data = make_data(plain_networks("normal")[0], (16,)).exclude("advantage", "value_target")
    for batch in (data, as_keywords(data)):
        with pytest.raises(ValueError, match=r"`batch` must have `advantage` or rows that are seq"):
            UpdateEpochs(step, epochs=1, minibatch_size=8)(batch)
    rows = make_data(plain_networks("normal")[0], (4, 6)).exclude("advantage", "value_target")
    for batch in (rows, as_keywords(rows)):
        metrics = UpdateEpochs(step, epochs=1, minibatch_size=2)(batch)
        assert metrics["loss_critic"].isfinite().all()


def test_a_metric_that_the_step_leaves_out_bounds_nothing():
    loss, _ = learner()
    sgd = torch.optim.SGD(loss.parameters())
    step = UpdateStep(loss, sgd, mode="eager", minimise=["loss_objective"])
    with pytest.raises(ValueError, match=r"`kl` must be in .*grad_norm.*, got 'kl_approx'"):
        UpdateEpochs(step, epochs=1, minibatch_size=8, target_kl=0.1)


def test_bad_batches_are_refused_before_anything_moves():
    loss, step = learner()
    epochs = UpdateEpochs(step, epochs=2, minibatch_size=8)
    data = as_keywords(make_data(loss.actor_network, (16,)))
    before = {k: x.clone() for k, x in loss.state_dict().items()}
    with pytest.raises(ValueError, match=r"must have the same rows, got {.*: 9"):
        epochs(data | {"action": data["action"][:9]})
    with pytest.raises(ValueError, match="`batch` must have at least one row, got none"):
        epochs({k: x[:0] for k, x in data.items()})
    twice = torch.zeros(2, 16, dtype=torch.int64)
    with pytest.raises(ValueError, match="must have each of the 16 rows once an epoch, got others"):
        epochs(data, twice)
    for order in (torch.randperm(16)[None], torch.rand(2, 16)):
        with pytest.raises(ValueError, match=r"must be torch.int64 of shape \[2, 16\], got torch"):
            epochs(data, order)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)
