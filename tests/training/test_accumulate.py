"""Several calls, one step: as of one batch of all their data."""

import copy

import pytest
import torch

from compiled_rl import ClipPPOLoss, SoftUpdate, UpdateStep
from tests.losses.networks import as_keywords, make_data, plain_networks
from tests.training.test_update_targets import made, steps, tensors

SLOW = pytest.param("default", marks=pytest.mark.slow)
MODES = pytest.mark.parametrize("mode", ["eager", SLOW])


def pieces_of(data: dict, count: int) -> list[dict]:
    size = len(data["action"]) // count
    return [{k: x[i * size : (i + 1) * size] for k, x in data.items()} for i in range(count)]


def learner(reduction: str, mode: str, accumulate: int):
    loss = ClipPPOLoss(*(n.double() for n in plain_networks("normal")), reduction=reduction)
    sgd = torch.optim.SGD(loss.parameters(), lr=3e-2, momentum=0.9)
    return loss, UpdateStep(loss, sgd, max_grad_norm=0.1, mode=mode, accumulate=accumulate)


@MODES
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pieces_of_one_size_are_one_batch(mode, reduction, counted):
    whole, step = learner(reduction, "eager", 1)
    parts, accumulating = learner(reduction, mode, 3)
    for k in range(4):
        data = as_keywords(make_data(whole.actor_network, (12,), torch.float64, seed=k))
        norm = step(data)["grad_norm"]
        for piece in pieces_of(data, 3):
            before = tensors(parts)
            metrics = accumulating(piece)
            if accumulating.updates == k:
                torch.testing.assert_close(tensors(parts), before, rtol=0, atol=0)
        torch.testing.assert_close(metrics["grad_norm"], norm)
        torch.testing.assert_close(tensors(parts), tensors(whole), rtol=1e-10, atol=1e-10)
    assert accumulating.updates == step.updates == 4
    assert mode == "eager" or counted.count == 2  # one that gathers, and one that moves


def test_targets_move_when_the_optimisers_do():
    one = made("ddpg", "hard")
    step = one.step(mode="eager", accumulate=2)
    before = tensors(one.loss.target_value_network)
    for k in range(5):
        step(steps(4, k))
        assert one.updater.counter == (k + 1) // 2
    torch.testing.assert_close(tensors(one.loss.target_value_network), before, rtol=0, atol=0)
    step(steps(4, 5))  # the third step, of an interval of two
    now = tensors(one.loss.value_network)
    torch.testing.assert_close(tensors(one.loss.target_value_network), now, rtol=0, atol=0)


def test_what_was_accumulated_is_in_the_state():
    one, other = made("ddpg"), made("ddpg")
    step, again = (x.step(mode="eager", accumulate=2) for x in (one, other))
    step(steps(4, 0))
    again.load_state_dict(copy.deepcopy(step.state_dict()))
    step(steps(4, 1))
    again(steps(4, 1))
    torch.testing.assert_close(tensors(other.loss), tensors(one.loss), rtol=0, atol=0)
    assert again.updates == 1


def test_what_is_frozen_meanwhile_is_forgotten():
    one = made("ddpg")
    step = one.step(mode="eager", accumulate=2)
    frozen = next(one.loss.value_network.parameters())
    step(steps(4, 0))
    frozen.requires_grad_(False)
    step(steps(4, 1))
    frozen.requires_grad_(True)
    assert all((x == 0).all() for x in step._gathered.values())


@pytest.mark.parametrize("count", [0, -1, True, 1.5])
def test_a_count_is_wanted(count):
    loss = made("ddpg").loss
    with pytest.raises(ValueError, match=r"`accumulate` must be an integer of at least 1, got"):
        UpdateStep(loss, torch.optim.SGD(loss.parameters()), accumulate=count)


def test_a_copy_has_what_was_accumulated():
    one = made("ddpg")
    step = UpdateStep(
        one.loss,
        one.optimizers,
        target_updater=SoftUpdate(one.loss, tau=0.1),
        mode="eager",
        accumulate=2,
    )
    step(steps(4, 0))
    twin = copy.deepcopy(step)
    step(steps(4, 1))
    twin(steps(4, 1))
    torch.testing.assert_close(tensors(twin.loss), tensors(one.loss), rtol=0, atol=0)
