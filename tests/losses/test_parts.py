"""Parts of the losses, asked for one by one, are TorchRL's: values, shapes, gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compiled_rl import losses
from tests.losses.parity import pair, steps
from tests.losses.peers import gradients, make
from tests.losses.soft_networks import draws, soft, value
from tests.losses.test_off_policy import gradients as ordered_gradients
from tests.losses.test_off_policy import pair as moved_pair
from tests.losses.transitions import SUBJECTS

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
PARTS = [
    ("ddpg", "loss_actor"),
    ("ddpg", "loss_value"),
    ("ddpg-separate", "loss_value"),
    ("td3", "actor_loss"),
    ("td3", "value_loss"),
    ("sac", "actor_loss"),
    ("sac", "qvalue_v2_loss"),
    ("discrete-sac", "actor_loss"),
    ("discrete-sac", "qvalue_loss"),
]
pytestmark = pytest.mark.filterwarnings(
    "ignore:No target network updater", "ignore:.*cannot include scalar values"
)


@pytest.mark.parametrize(("subject", "part"), PARTS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_parts_of_off_policy_losses_are_the_peers(subject: str, part: str, reduction: str) -> None:
    row = SUBJECTS[subject]
    ours, theirs = moved_pair(row, "TD0", torch.float64, reduction=reduction)
    data = row.data(6, dtype=torch.float64)
    torch.manual_seed(3)
    there = data.clone()
    expected, known = getattr(theirs, part)(there)
    here = data.clone().update(_first_draw(row, data))
    loss, found = getattr(ours, part)(here)
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert found.keys() == known.keys()
    torch.testing.assert_close(found, known, **CLOSE)
    a, b = ordered_gradients(ours, loss), ordered_gradients(theirs, expected)
    torch.testing.assert_close(a, b, **CLOSE)
    assert ("td_error" in here) == ("td_error" in there)


def _first_draw(row: Any, data: Any) -> dict[Any, Tensor]:
    """The noise that a part of TorchRL's, which draws once, has drawn after the seed."""
    if row.noise is None:
        return {}
    torch.manual_seed(3)
    first = torch.randn_like(data["action"]) if row.loss == "TD3Loss" else draws(data, 3)[0]
    return {("next", "action_noise"): first, "action_noise": first}


def test_the_temperatures_loss_is_the_peers() -> None:
    for subject in ("sac", "discrete-sac"):
        ours, theirs = moved_pair(SUBJECTS[subject], "TD0", torch.float64)
        log_prob = torch.randn(6, dtype=torch.float64)
        torch.testing.assert_close(ours.alpha_loss(log_prob), theirs.alpha_loss(log_prob))


def test_the_value_networks_loss_is_that_of_a_call() -> None:
    networks = soft("normal")
    loss = losses.SACLoss(networks[0], networks[1], value(), target_entropy=-3.0)
    data = SUBJECTS["sac"].data(6)
    data.update(dict.fromkeys(("action_noise", "value_action_noise"), draws(data, 3)[0]))
    torch.testing.assert_close(loss.value_loss(data)[0], loss(data)["loss_value"])
    torch.testing.assert_close(loss.qvalue_v1_loss(data)[0], loss(data)["loss_qvalue"])


CRITICS = [("A2CLoss", 2), ("PPOLoss", 3), ("ClipPPOLoss", 3), ("KLPENPPOLoss", 3)]


@pytest.mark.parametrize(("name", "count"), [*CRITICS, ("ReinforceLoss", 2)])
@pytest.mark.parametrize("clip_value", [None, 0.1])
def test_a_critics_part_is_the_peers(name: str, count: int, clip_value: Any) -> None:
    ours, theirs = (loss.double() for loss in pair(name, clip_value=clip_value))
    data, beta = steps(shape=(12,)).double(), getattr(ours, "beta", torch.ones(())).clone()
    mine, expected = ours.loss_critic(data), theirs.loss_critic(data)
    assert len(mine) == len(expected) == count
    for x, y in zip(mine, expected, strict=True):
        torch.testing.assert_close(x, y if y is None or y.dim() != 1 else y.squeeze(0))
    a = gradients(mine[0].sum(), ours.critic_network)
    b = torch.autograd.grad(
        expected[0].sum(), list(theirs.critic_network_params.values(True, True))
    )
    assert sorted(x.sum().item() for x in a) == pytest.approx(sorted(x.sum().item() for x in b))
    assert ours.reduction == "mean"
    assert ours.training
    assert getattr(ours, "beta", torch.ones(())) == beta


def test_a_critics_part_without_a_target_or_a_weight_is_refused() -> None:
    data = steps(shape=(5,))
    with pytest.raises(KeyError, match="`value_target` was not found"):
        make("A2CLoss").loss_critic(data.exclude("value_target"))
    with pytest.raises(RuntimeError, match="needs a critic with a weight, got None"):
        make("PPOLoss", critic_coeff=None).loss_critic(data)
    assert make("PPOLoss", log_explained_variance=False).loss_critic(data)[2] is None


def test_log_probs_are_the_peers() -> None:
    ours, theirs = pair("A2CLoss")
    data = steps(shape=(5,))
    (mine, dist), (expected, _) = ours._log_probs(data), theirs._log_probs(data)
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(dist.log_prob(data["action"]).unsqueeze(-1), expected)
    data["action"].requires_grad_()
    with pytest.raises(RuntimeError, match="`action` must be recorded data"):
        ours._log_probs(data)


def test_the_entropy_bonus_is_the_peers() -> None:
    ours, theirs = pair("A2CLoss", samples_mc_entropy=2)
    data = steps(shape=(5,))
    _, dist = ours._log_probs(data)
    found = ours.get_entropy_bonus(dist)
    torch.testing.assert_close(found, theirs.get_entropy_bonus(dist))
    assert found.shape == (5, 1)


def test_the_weighted_entropy_is_the_peers() -> None:
    ours, theirs = pair("PPOLoss", entropy_coeff=0.3)
    entropy = torch.rand(5)
    mine = ours._weighted_loss_entropy(entropy)
    torch.testing.assert_close(mine, theirs._weighted_loss_entropy(entropy))


OVERRIDDEN = [
    ("A2CLoss", "loss_critic"),
    ("A2CLoss", "_log_probs"),
    ("MAPPOLoss", "loss_critic"),
    ("ReinforceLoss", "loss_critic"),
    ("PPOLoss", "_get_entropy"),
    ("DDPGLoss", "loss_actor"),
    ("DDPGLoss", "loss_value"),
    ("TD3Loss", "actor_loss"),
    ("SACLoss", "qvalue_v2_loss"),
    ("SACLoss", "_alpha_loss"),
    ("DiscreteSACLoss", "qvalue_loss"),
]


@pytest.mark.parametrize(("name", "part"), OVERRIDDEN)
def test_a_part_that_would_not_be_called_is_not_overridden(name: str, part: str) -> None:
    parent: Any = getattr(losses, name)
    refused = f"Mine: `evaluate`, .* must be overridden, got `{part}`"
    with pytest.raises(TypeError, match=refused):
        type("Mine", (parent,), {part: lambda self, data: 0})
    other = type("Other", (), {part: lambda self, data: 0})
    with pytest.raises(TypeError, match=refused):
        type("Mine", (other, parent), {})
    type("Mine", (parent,), {"evaluate": parent.evaluate, "extra_loss": lambda self, data: 0})
