"""Where a loss is made: its coefficients, its estimator's, and the device that has no values."""

import math

import pytest
import torch
from torch import distributions

from compiled_rl import Policy, losses
from compiled_rl.estimators import GAE, TDLambdaEstimator
from compiled_rl.modules import ActionRescaler, Normal, StateDependentScale, TanhNormal, family_of
from tests.losses.networks import ACTION, make_data, mlp, plain_networks
from tests.losses.peers import HEADS, LOSSES, make, sequences, total

every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_the_estimator_that_a_loss_makes_is_where_its_coefficients_are(name):
    actor, critic = plain_networks("normal")
    made = getattr(losses, name)
    there = made(actor.to("meta"), critic.to("meta"))
    actor, critic = plain_networks("normal")
    for loss in (there, made(actor, critic, device="meta"), made(actor, critic).to("meta")):
        for value_type in (None, "vtrace", TDLambdaEstimator):
            loss.make_value_estimator(value_type)
            assert all(x.is_meta for x in loss.buffers())
        loss.make_value_estimator("gae", device="cpu")
        assert not loss.value_estimator.gamma.is_meta
        own = GAE(gamma=0.9)
        loss.make_value_estimator(own)
        assert float(own.gamma) == float(torch.tensor(0.9))


# ---- no values -----------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("head", HEADS)
def test_a_loss_is_built_on_the_meta_device_and_filled(name, head):
    """As models too large to be made twice are: without values, then with those of a state dict."""
    expected = make(name, head)
    data = sequences(expected)
    with torch.device("meta"):
        loss = make(name, head)
        assert all(x.is_meta for x in (*loss.parameters(), *loss.buffers()))
        assert set(loss(data.to("meta")).keys(True)) == set(expected.eval()(data).keys(True))
        for value_type in ("td0", "td1", "td_lambda"):
            loss.make_value_estimator(value_type)
    loss.make_value_estimator()
    loss.to_empty(device="cpu").load_state_dict(expected.state_dict())
    torch.manual_seed(0)
    value = total(loss.eval()(data))
    torch.manual_seed(0)
    torch.testing.assert_close(value, total(expected(data)))


@pytest.mark.parametrize("name", LOSSES)
def test_targets_are_built_and_filled_too(name):
    delay = {"A2CLoss": {}, "ReinforceLoss": {"delay_value": True}}.get(name, {"delay_actor": True})
    expected = getattr(losses, name)(*plain_networks("normal"), clip_value=0.2, **delay)
    data = make_data(expected.actor_network, (4, 5)).exclude("advantage", "value_target")
    with torch.no_grad():
        data["loc"], data["scale"] = expected.actor_network.params(data["observation"])
    with torch.device("meta"):
        networks = Policy(mlp(2 * ACTION, StateDependentScale()), Normal), mlp(1)
        bound = torch.tensor(0.2)
        loss = getattr(losses, name)(*networks, clip_value=bound, **delay)
    total(loss(data.to("meta"))).backward()
    loss.to_empty(device="cpu").load_state_dict(expected.state_dict())
    torch.testing.assert_close(total(loss.eval()(data)), total(expected.eval()(data)))


def test_ranges_are_checked_where_there_are_values():
    for device in ("cpu", "meta"):
        with torch.device(device):
            networks = mlp(2 * ACTION, StateDependentScale()), mlp(1)
            for argument, value in (("clip_epsilon", 1.5), ("clip_value", -1.0)):
                with pytest.raises(ValueError, match=f"`{argument}` must be"):
                    losses.ClipPPOLoss(
                        Policy(networks[0], Normal), networks[1], **{argument: value}
                    )
    with pytest.raises(ValueError, match="`gamma` must be in"):
        GAE(gamma=torch.tensor([0.5, 1.5]))
    with torch.device("meta"):
        GAE(gamma=torch.tensor([0.5, 1.5]))
        ActionRescaler(torch.tensor([1.0]), torch.tensor([0.0]))


def normal(loc, scale):
    return distributions.Independent(distributions.Normal(loc, scale), 1)


def laplace(loc, scale):
    return distributions.Laplace(loc + torch.zeros(()), scale * torch.ones(()))


@pytest.mark.filterwarnings("ignore:family_of")
@pytest.mark.parametrize("function", [normal, laplace])
def test_a_function_stands_for_the_same_family_on_every_device(function):
    expected = family_of(function)
    with torch.device("meta"):
        family = family_of(function)
    assert type(family) is type(expected)
    for name in ("analytic_entropy", "analytic_kl", "reparametrized"):
        assert getattr(family, name) is getattr(expected, name)


def test_bounds_may_be_numbers_beside_tensors():
    low = torch.tensor([-1.0, -2.0])
    with torch.device("meta"):
        assert TanhNormal(low, 3.0).low.is_meta
        with pytest.raises(ValueError, match="`low` and `high` must be finite and ordered"):
            TanhNormal(-1.0, math.inf)
