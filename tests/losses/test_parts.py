"""Parts of the losses, asked for one by one, are TorchRL's: values, shapes, gradients."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrl import modules as torchrl_modules
from torchrl.objectives import multiagent

from compiled_rl import Policy, losses, modules
from tests.losses.parity import pair, steps
from tests.losses.peers import gradients, make
from tests.losses.soft_networks import draws, soft, value
from tests.losses.teams import KEYS, team_actor, team_critic, team_steps
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
    without = losses.SACLoss(networks[0], networks[1], target_entropy=-3.0)
    with pytest.raises(RuntimeError, match="`value_loss` needs a `value_network`, got None"):
        without.value_loss(data)


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


def statistics(loss: Any, network: str) -> dict[str, Tensor]:
    return dict(getattr(loss, network).named_buffers())


@pytest.mark.parametrize("norm", ["PopArtValueNorm", "RunningValueNorm", "PercentileValueNorm"])
def test_a_critics_part_moves_its_normaliser_as_the_peers(norm: str) -> None:
    actor, critic = team_actor(), team_critic()
    data = team_steps(actor)
    made: list[Any] = []
    for loss, library in ((losses.MAPPOLoss, modules), (multiagent.MAPPOLoss, torchrl_modules)):
        made.append(loss(actor, critic, value_norm=getattr(library, norm)()))
        made[-1].set_keys(**KEYS)
    ours, theirs = made
    for _ in range(2):
        mine, expected = ours.loss_critic(data)[0], theirs.loss_critic(data)[0]
        torch.testing.assert_close(mine.flatten(), expected.flatten(), rtol=1e-4, atol=1e-4)
    found = statistics(ours, "value_norm")
    torch.testing.assert_close(found, {name: theirs.value_norm.get_buffer(name) for name in found})
    with torch.no_grad():
        ours.loss_critic(data)
    ours.eval().loss_critic(data)
    torch.testing.assert_close(statistics(ours, "value_norm"), found)


def test_what_moves_by_a_call_moves_by_a_critics_part() -> None:
    torch.manual_seed(0)
    batches = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), modules.StateDependentScale())
    policy = Policy(batches, modules.Normal)
    made = [losses.A2CLoss(copy.deepcopy(policy), nn.Linear(4, 1)) for _ in range(2)]
    data = steps(shape=(12,))
    made[0](data)
    made[1].loss_critic(data)
    found = [statistics(loss, "actor_network") for loss in made]
    torch.testing.assert_close(*found)
    assert found[0]["network.0.num_batches_tracked"] == 1


@pytest.mark.parametrize("name", ["A2CLoss", "KLPENPPOLoss"])
def test_a_critics_part_compiles_whole(name: str) -> None:
    loss, data = make(name), steps(shape=(12,))
    compiled = torch.compile(lambda x: loss.loss_critic(x)[0], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(data), loss.loss_critic(data)[0])


def test_parts_of_targets_that_nothing_moves_are_warned_of() -> None:
    row = SUBJECTS["ddpg"]
    ours, _ = moved_pair(row, "TD0", torch.float64)
    ours._follow = False
    with pytest.warns(UserWarning, match="no updater was made of its targets"):
        ours.loss_value(row.data(6, dtype=torch.float64))


def test_parts_take_time_where_a_call_does() -> None:
    row = SUBJECTS["ddpg"]
    ours, _ = moved_pair(row, "TD0", torch.float64)
    ours.make_value_estimator("td1")
    data = row.data(12, dtype=torch.float64).reshape(3, 4)
    data.names = ["time", None]
    assert torch.equal(ours.loss_value(data)[0], ours(data)["loss_value"])


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
