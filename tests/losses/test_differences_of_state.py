"""The rows of docs/differences.md on networks, state, arguments and the weight of the penalty."""

from typing import Any

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl import objectives as torchrl

from compiled_rl import losses
from tests.losses.parity import pair, steps
from tests.losses.peers import LOSSES, gradients, make, networks, unestimated

# Those of TorchRL's estimates, which are known.
pytestmark = pytest.mark.filterwarnings("ignore")
every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_losses_are_separate_without_functional_too(name: str) -> None:
    ours, theirs = pair(name, "normal", "twice", separate_losses=True, functional=False)
    data = steps("normal", "twice")
    key = "loss_value" if name == "ReinforceLoss" else "loss_critic"
    trunk = "module.0.module.0.weight"
    for loss, reached in ((ours, False), (theirs, True)):
        (grad,) = torch.autograd.grad(
            loss(data.clone())[key], loss.actor_network.get_parameter(trunk), allow_unused=True
        )
        assert (grad is not None) is reached


def test_features_of_the_actor_reach_the_critic() -> None:
    """Where the advantage is computed, and where a delayed actor has the same features."""
    data = steps("normal", "once")
    ours, theirs = pair("PPOLoss", "normal", "once")
    with pytest.raises(KeyError, match="necessary for the module call"):
        theirs(unestimated(data))
    assert ours(unestimated(data))["loss_critic"].isfinite()
    ours, theirs = pair("PPOLoss", "normal", "once", delay_actor=True)
    expected = ours(data)["loss_critic"]
    torch.testing.assert_close(theirs(data)["loss_critic"], expected)
    for x in ours.target_actor_network.buffers():
        x.add_(1.0)
    theirs.target_actor_network_params.data.apply_(lambda x: x.add_(1.0))
    assert not torch.allclose(theirs(data)["loss_critic"], expected)
    torch.testing.assert_close(ours(data)["loss_critic"], expected)


@every_loss
def test_modes_reach_the_networks(name: str) -> None:
    for made, still in ((getattr(losses, name), False), (getattr(torchrl, name), True)):
        dropout = nn.Dropout()
        critic = nn.Sequential(nn.Linear(4, 8), dropout, nn.Linear(8, 1))
        made(networks()[0], TensorDictModule(critic, ["observation"], ["state_value"])).eval()
        assert dropout.training is still


@every_loss
def test_the_state_dict_is_whole_from_the_start(name: str) -> None:
    ours, theirs = pair(name)
    before = [set(loss.state_dict()) for loss in (ours, theirs)]
    for loss in (ours, theirs):
        loss(unestimated(steps()))
    added = [
        set(loss.state_dict()) - keys for loss, keys in zip((ours, theirs), before, strict=True)
    ]
    assert added == [set(), {"_value_estimator.gamma", "_value_estimator.lmbda"}]


def test_a_delayed_value_needs_no_functional_form() -> None:
    arguments = {"delay_value": True, "functional": False}
    with pytest.raises(RuntimeError, match="incompatible"):
        torchrl.ReinforceLoss(*networks(), **arguments)
    assert losses.ReinforceLoss(*networks(), **arguments)(steps())["loss_value"].isfinite()


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("A2CLoss", {"nothing": 1}),
        ("PPOLoss", {"loss_critic_type": "huber"}),
        ("PPOLoss", {"reduction": "median"}),
        ("PPOLoss", {"clip_value": 0.0}),
        ("ClipPPOLoss", {"clip_epsilon": 1.5}),
        ("KLPENPPOLoss", {"dtarg": -1.0}),
    ],
    ids=str,
)
def test_arguments_are_checked_when_they_are_given(name: str, arguments: dict[str, Any]) -> None:
    getattr(torchrl, name)(*networks(), **arguments)
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        getattr(losses, name)(*networks(), **arguments)


def test_beta_moves_in_training_only() -> None:
    data = steps()
    ours, theirs = pair("KLPENPPOLoss", dtarg=1e3)
    with torch.no_grad():
        for loss in (ours.eval(), theirs.eval()):
            loss(data)
    assert (ours.beta, theirs.beta) == (1, 0.5)


def test_the_gradient_uses_the_beta_of_the_loss() -> None:
    data = steps()
    ours, theirs = pair("KLPENPPOLoss", beta=8.0, dtarg=1e3)
    mine, expected = (loss(data)["loss_objective"] for loss in (ours, theirs))
    torch.testing.assert_close(mine, expected)
    moved, halved = gradients(mine, ours.actor_network), theirs.actor_network_params
    still = losses.KLPENPPOLoss(*networks(), beta=8.0, adapt_beta=False)
    for x, y in zip(moved, gradients(still(data)["loss_objective"], still), strict=False):
        torch.testing.assert_close(x, y)
    assert not torch.allclose(gradients(expected, halved)[0], moved[0])


def test_keys_and_reduction_are_set_by_their_methods() -> None:
    loss = make("PPOLoss")
    assert loss.out_keys == ("loss_objective", "entropy", "loss_entropy", "loss_critic")
    loss.set_keys(advantage="gain")
    assert loss.tensor_keys["advantage"] == "gain"
    with pytest.raises(AttributeError, match="`reduction` is fixed when it is made"):
        loss.reduction = "sum"
