"""Every loss as a module: copied, stored, differentiated twice, on no device; and beta."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from tests.losses.peers import LOSSES, gradients, make, record, sequences, total, unestimated

every_loss = pytest.mark.parametrize("name", LOSSES)
estimated_or_not = pytest.mark.parametrize("estimated", [False, True], ids=["given", "estimated"])

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda loss: pickle.loads(pickle.dumps(loss))}


@every_loss
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_copies_are_equal_and_independent(name, copied, used):
    loss = make(name, "categorical", "twice", separate_losses=True)
    data = sequences(loss)
    if used:
        total(loss(data)).backward()
    other = copied(loss)
    assert list(dict(other.named_parameters())) == list(dict(loss.named_parameters()))
    torch.testing.assert_close(total(other(data)), total(loss.train()(data)))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    assert not torch.equal(total(other(data)), total(loss(data)))
    assert not any(a is b for a in loss.parameters() for b in other.parameters())


@every_loss
@pytest.mark.parametrize("used", [(False, True), (True, False)], ids=["into used", "from used"])
def test_a_state_dict_fits_before_and_after_the_first_call(name, used):
    loss, other = make(name), make(name)
    data = sequences(loss)
    with torch.no_grad():
        for x in [*loss.parameters(), *loss.buffers()]:
            x.mul_(1.1)
    for module, first in zip((loss, other), used, strict=True):
        if first:
            module.eval()(data)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(total(other.eval()(data)), total(loss.eval()(data)))


@every_loss
@estimated_or_not
def test_second_derivatives_through_an_updated_set_of_parameters(name, estimated):
    """Against differences of the same two steps, each with the advantages that it estimated."""
    arguments = {"adapt_beta": False} if name == "KLPENPPOLoss" else {}
    loss = make(name, loss_critic_type="l2", **arguments).double()
    data = record(loss.actor_network, (4, 5), torch.float64)
    data = unestimated(data) if estimated else data
    start = {key: p.detach().clone() for key, p in loss.named_parameters()}

    def value(parameters, batch):
        return total(torch.func.functional_call(loss, parameters, (batch,)))

    def two_steps(parameters, first, second):
        return value(moved(parameters, first), second)

    def moved(parameters, batch):
        slope = torch.func.grad(value)(parameters, batch)
        return {key: p - 0.1 * slope[key] for key, p in parameters.items()}

    meta = torch.func.grad(two_steps)(start, data, data)
    held = (estimate(loss, start, data), estimate(loss, moved(start, data), data))
    ahead = {key: torch.randn_like(p) for key, p in start.items()}
    ends = [
        two_steps({key: p + eps * ahead[key] for key, p in start.items()}, *held)
        for eps in (1e-6, -1e-6)
    ]
    slope = sum((meta[key] * ahead[key]).sum() for key in meta)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-5)


def estimate(loss: Any, parameters: dict[str, Tensor], data: TensorDictBase) -> TensorDictBase:
    """The data with what the loss would estimate with these parameters, if it lacks them."""
    if "advantage" in data.keys():
        return data
    other = copy.deepcopy(loss)
    other.load_state_dict(parameters, strict=False)
    return other.value_estimator(data.clone()).detach()


# ---- devices -------------------------------------------------------------------------------------


@every_loss
@estimated_or_not
def test_on_the_meta_device(name, estimated):
    loss = make(name, clip_value=None if estimated else 0.2)
    data = sequences(loss, estimated)
    expected = loss(data)
    there = loss.to("meta")
    assert all(x.is_meta for x in [*there.parameters(), *there.buffers()])
    outputs = there(data.to("meta"))
    assert set(outputs.keys(True)) == set(expected.keys(True))
    for key, x in outputs.items():
        assert x.is_meta
        assert x.shape == expected[key].shape
        assert x.dtype == expected[key].dtype
    total(outputs).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in there.parameters())


# ---- the weight of the KL penalty ----------------------------------------------------------------


def test_beta_moves_in_training_with_gradients_and_at_no_other_call():
    loss = make("KLPENPPOLoss", beta=2.0, dtarg=1e3)
    data = sequences(loss)
    loss.eval()(data)
    assert loss.beta == 2
    with torch.no_grad():
        loss.train()(data)
    assert loss.beta == 2
    loss(data)
    assert loss.beta == 1
    loss.reset()
    assert loss.beta == 2


def test_the_loss_and_its_gradient_use_beta_before_it_moves():
    moving = make("KLPENPPOLoss", beta=2.0, dtarg=1e3)
    still = make("KLPENPPOLoss", beta=2.0, dtarg=1e3, adapt_beta=False)
    data = sequences(moving)
    a, b = moving(data)["loss_objective"], still(data)["loss_objective"]
    assert torch.equal(a, b)
    for x, y in zip(
        gradients(a, moving.actor_network), gradients(b, still.actor_network), strict=True
    ):
        assert torch.equal(x, y)
    assert (moving.beta, still.beta) == (1, 2)


def test_beta_is_state_and_follows_the_valid_steps():
    loss = make("KLPENPPOLoss", beta=2.0, dtarg=1.0)
    data = sequences(loss)
    data["shifted_valid"] = torch.zeros(4, 5, dtype=torch.bool)
    data["shifted_valid"][0] = True
    data["loc"][1:] += 1e3
    loss(data)  # the divergence of the valid steps is small, that of the others huge
    assert loss.beta == 1
    other = make("KLPENPPOLoss")
    other.load_state_dict(loss.state_dict())
    assert other.beta == 1
    loss.beta = 5.0
    assert copy.deepcopy(loss).beta == 5


@pytest.mark.parametrize(
    ("argument", "value", "range_"),
    [
        ("increment", 0.5, "at least 1"),
        ("decrement", 1.5, r"in \(0, 1\]"),
        ("dtarg", 0.0, "positive"),
        ("beta", -1.0, "at least 0"),
    ],
)
def test_ranges_of_the_rule_of_beta(argument, value, range_):
    with pytest.raises(ValueError, match=f"`{argument}` must be {range_}, got {value:g}"):
        make("KLPENPPOLoss", **{argument: value})


@pytest.mark.parametrize("nothing", ["no step", "no valid step"])
def test_beta_stays_where_there_is_no_divergence(nothing):
    loss = make("KLPENPPOLoss")
    data = sequences(loss, estimated=False)
    if nothing == "no step":
        data = data[:0]
    else:
        data["collector", "mask"] = torch.zeros(data.shape, dtype=torch.bool)
    assert loss(data)["kl"] == 0
    assert loss.beta == 1


def test_beta_stays_where_the_call_is_refused():
    loss = make("KLPENPPOLoss", clip_value=0.2)
    data = sequences(loss, estimated=False).exclude("state_value")
    with pytest.raises(KeyError, match="for `clip_value`"):
        loss(data)
    with pytest.raises(ValueError, match="`value_target` must have the shape"):
        loss(data.set("state_value", data["advantage"]).set("value_target", data["action"]))
    assert loss.beta == 1


def test_beta_follows_a_divergence_that_the_user_measured():
    loss = make("KLPENPPOLoss", adapt_beta=False)
    for kl, beta in ((1.0, 2.0), (torch.tensor(0.0, dtype=torch.float64), 1.0), (0.01, 1.0)):
        loss.adapt(kl)
        assert loss.beta == beta
