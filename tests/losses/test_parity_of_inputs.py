"""Every loss against TorchRL's: masks, keys, spellings, agents, and what is recorded otherwise."""

from typing import Any

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MaskedCategorical, ProbabilisticActor

from compiled_rl import losses
from tests.losses.parity import Arguments, assert_parity, both, estimate_with, move_targets
from tests.losses.peers import ACTION, LOSSES, OBSERVATION, networks, record, unestimated

# Those of TorchRL's estimates, which are known.
pytestmark = pytest.mark.filterwarnings("ignore")
every_loss = pytest.mark.parametrize("loss", LOSSES)

MASKS: list[tuple[Any, Any, Arguments]] = [
    (("collector", "mask"), "auto", {}),
    ("shifted_valid", "auto", {"reduction": "sum"}),
    ("shifted_valid", "auto", {"reduction": "none", "clip_value": 0.2}),
    ("valid", "valid", {}),
    (("agent", "valid"), ("agent", "valid"), {"clip_value": 0.2}),
    ("auto", ("auto",), {}),
    ("shifted_valid", None, {}),
]


@every_loss
@pytest.mark.parametrize(("key", "loss_mask_key", "arguments"), MASKS, ids=str)
def test_masks(loss: str, key: Any, loss_mask_key: Any, arguments: Arguments) -> None:
    actor, critic = networks("normal", "twice")
    data = record(actor, (4, 5))
    data[key] = torch.rand(4, 5, 1) < 0.6
    pair = both(loss, actor, critic, arguments, torch.float32)
    for module in pair:
        module.loss_mask_key = loss_mask_key
    assert_parity(*pair, data, metrics=False)


KEYS = {"observation": ("agent", "observation"), "value": ("agent", "value")}
RENAMED = {
    "action": "a",
    "sample_log_prob": ("agent", "log_prob"),
    "advantage": ("agent", "advantage"),
    "value_target": "goal",
    "reward": ("agent", "gain"),
    "done": "stop",
    "terminated": ("agent", "end"),
}


@every_loss
@pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])
def test_keys_renamed_and_nested(loss: str, given: bool) -> None:
    actor, critic = networks("categorical", **KEYS)
    data = record(actor, (4, 5), **KEYS)
    arguments = {"clip_value": 0.2} if given else {}
    pair = both(loss, actor, critic, arguments, torch.float32)
    for module in pair:
        module.set_keys(**RENAMED, value=KEYS["value"])
        module.make_value_estimator(module.default_value_estimator, gamma=0.9)
    for name, key in RENAMED.items():
        within = data["next"] if name in ("reward", "done", "terminated") else data
        within.rename_key_("action_log_prob" if name == "sample_log_prob" else name, key)
    if not given:
        data = data.exclude(RENAMED["advantage"], RENAMED["value_target"], KEYS["value"])
    assert_parity(*pair, data)


@every_loss
@pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])
def test_one_of_several_outputs_of_the_critic_is_the_value(loss: str, given: bool) -> None:
    actor, head = networks(trunk="twice", value="v")
    data = record(actor, (4, 5))
    assert list(head.out_keys) == ["hidden", "v"]
    ours, theirs = both(loss, actor, head, {}, torch.float32)
    with pytest.raises(KeyError, match=r"`value` must be an output of the critic, .*'hidden', 'v'"):
        ours(data if given else unestimated(data))
    for module in (ours, theirs):
        module.set_keys(value="v")
        module.make_value_estimator(module.default_value_estimator)
    assert_parity(ours, theirs, data, given)
    named = getattr(losses, loss)(actor, head, value_key="v")
    assert named.value_estimator.tensor_keys["value"] == "v"


@pytest.mark.parametrize("loss", ["PPOLoss", "ClipPPOLoss"])
def test_an_entropy_coefficient_for_each_head(loss: str) -> None:
    actor, critic = networks("composite")
    weights = {("agent", "move_entropy"): 0.3, ("agent", "choose_entropy"): 0.7}
    arguments = {"entropy_coeff": weights}
    assert_parity(*both(loss, actor, critic, arguments, torch.float32), record(actor, (4, 5)))


@every_loss
def test_a_truncated_normal(loss: str) -> None:
    """Without its divergence, which has no formula: samples estimate it, on both sides."""
    actor, critic = networks("truncated_normal")
    data = record(actor, (4, 5))
    arguments: Arguments = {"beta": 0.0} if loss == "KLPENPPOLoss" else {}
    pair = both(loss, actor, critic, arguments, torch.float32)
    if loss == "KLPENPPOLoss":
        for module in pair:
            module.samples_mc_kl = 4000
        means = [float(module(data)["kl"].mean()) for module in pair]
        assert means[0] == pytest.approx(means[1], rel=0.05)
    assert_parity(*pair, data, metrics=False)


@every_loss
@pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])
def test_actions_that_are_allowed_are_recorded(loss: str, given: bool) -> None:
    """The distribution's mask is computed by no network."""
    _, critic = networks("categorical")
    actor = ProbabilisticActor(
        TensorDictModule(nn.Linear(OBSERVATION, ACTION), ["observation"], ["logits"]),
        in_keys=["logits", "mask"],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    allowed = torch.rand(4, 5, ACTION) < 0.6
    allowed[..., 0] = True
    data = record(actor, (4, 5), mask=allowed)
    pair = both(loss, actor, critic, {}, torch.float32)
    assert_parity(*pair, data if given else unestimated(data))
    with pytest.raises(KeyError, match="the parameter `mask` of the distribution was not found"):
        pair[0](data.exclude("mask"))


@every_loss
def test_the_other_spellings(loss: str) -> None:
    actor, critic = networks()
    arguments = {} if loss == "ReinforceLoss" else {"entropy_coeff": 0.3, "critic_coeff": 0.4}
    _, theirs = both(loss, actor, critic, arguments, torch.float32)
    old = {name.replace("coeff", "coef"): x for name, x in arguments.items()}
    ours = getattr(losses, loss)(actor=actor, critic=critic, **old)
    if loss == "KLPENPPOLoss":
        ours.increment = ours.decrement = 1.0
    assert_parity(ours, theirs, record(actor, (4, 5)))


def test_a_value_that_is_delayed() -> None:
    actor, critic = networks()
    pair = both("ReinforceLoss", actor, critic, {"delay_value": True}, torch.float64)
    estimate_with("TD1", *pair, torch.float64)
    move_targets(*pair)
    assert_parity(*pair, record(actor.double(), (4, 5), torch.float64), given=False)


def test_agents_are_normalised_apart() -> None:
    """Advantages ``[*B, T, agents, 1]``, with the agents' dimension excluded."""
    actor, critic = networks()
    arguments = {"normalize_advantage": True, "normalize_advantage_exclude_dims": (-2,)}
    data = record(actor, (4, 5, 3))
    assert_parity(*both("ClipPPOLoss", actor, critic, arguments, torch.float32), data)


@every_loss
@pytest.mark.parametrize("team", [False, True], ids=["each", "team"])
def test_rewards_of_agents_and_of_their_team(loss: str, team: bool) -> None:
    actor, critic = networks()
    data = unestimated(record(actor, (4, 5, 2)))
    data.batch_size = data["next"].batch_size = (4, 5)
    for name in ("reward", "done", "terminated") if team else ():
        data["next", name] = data["next", name][:, :, 0]
    pair = both(loss, actor, critic, {}, torch.float32)
    estimate_with("MAGAE", *pair, torch.float32)
    assert_parity(*pair, data)


@pytest.mark.parametrize("dtarg", [1e-4, 0.05, 10.0], ids=["raised", "kept", "lowered"])
def test_beta_moves_by_the_same_rule(dtarg: float) -> None:
    actor, critic = networks()
    data = record(actor, (4, 5))
    arguments = {"dtarg": dtarg, "beta": 2.0, "increment": 1.5, "decrement": 0.75}
    ours, theirs = both("KLPENPPOLoss", actor, critic, arguments, torch.float32)
    if dtarg == 0.05:  # in the middle of the band that is left alone
        ours.dtarg = theirs.dtarg = float(theirs(data)["kl"].mean())
        theirs.reset()
    for _ in range(3):
        mine, expected = ours(data), theirs(data)
        torch.testing.assert_close(mine["loss_objective"], expected["loss_objective"])
        torch.testing.assert_close(ours.beta, theirs.beta)
    ours.reset()
    assert ours.beta == 2.0
