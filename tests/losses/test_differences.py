"""The rows of docs/differences.md that no other test holds: what TorchRL does, and ours."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl import objectives as torchrl
from torchrl.modules import NormalParamExtractor, ProbabilisticActor
from torchrl.modules import TanhNormal as PeerTanhNormal

from compiled_rl import losses
from compiled_rl.modules import TanhNormal
from tests.losses.parity import pair, steps
from tests.losses.peers import (
    ACTION,
    HEADS,
    LOSSES,
    OBSERVATION,
    gradients,
    keywords,
    networks,
    record,
    total,
    unestimated,
)

ROOT = Path(__file__).parent.parent.parent
PPO = ("PPOLoss", "ClipPPOLoss", "KLPENPPOLoss")
# Those of TorchRL's estimates, which are known.
pytestmark = pytest.mark.filterwarnings("ignore")
every_loss = pytest.mark.parametrize("name", LOSSES)


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "differences.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert named
    assert [name for name in named if f"def {name}(" not in tests] == []
    rows = [row for row in page.splitlines() if row.startswith("| ") and "---" not in row]
    without = [row for row in rows if "`test_" not in row and "| held by |" not in row]
    assert without == []


# ---- inputs and outputs --------------------------------------------------------------------------


@every_loss
def test_an_advantage_may_come_by_keyword(name: str) -> None:
    ours, theirs = pair(name)
    batch = keywords(ours, steps())
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        theirs(**batch)
    assert ours(**batch)[0].isfinite()


@pytest.mark.parametrize("name", PPO)
def test_a_critic_without_a_weight_has_no_output(name: str) -> None:
    data = steps()
    ours, theirs = pair(name, critic_coeff=0.0)
    with pytest.raises(KeyError, match="loss_critic"):
        theirs(**keywords(theirs, data))
    assert "loss_critic" not in ours.out_keys
    assert "loss_critic" not in ours(**keywords(ours, data))._fields
    ours, theirs = pair(name, critic_coeff=None)
    assert "loss_critic" in theirs(data)
    assert "loss_critic" not in ours(data)


def test_metrics_are_numbers_whatever_the_batch() -> None:
    data = steps()
    for name, metrics in (
        ("ClipPPOLoss", ("ESS", "explained_variance")),
        ("KLPENPPOLoss", ("kl",)),
    ):
        ours, theirs = pair(name)
        mine, expected = ours(data), theirs(data)
        for metric in metrics:
            assert mine[metric].shape == ()
            assert expected[metric].numel() > 1
    flat = data.reshape(-1)
    for metric in ("ESS", "explained_variance"):
        ours, theirs = pair("ClipPPOLoss")
        torch.testing.assert_close(ours(data)[metric], theirs(flat)[metric].squeeze())


def test_metrics_are_of_the_valid_steps() -> None:
    data = steps()
    data["shifted_valid"] = torch.rand(4, 5) < 0.5
    valid = data[data["shifted_valid"]]
    ours, theirs = pair("ClipPPOLoss")
    for metric in ("entropy", "clip_fraction", "kl_approx", "mean_ratio", "max_ratio"):
        torch.testing.assert_close(ours(data)[metric], ours(valid)[metric])
        torch.testing.assert_close(
            theirs(data)[metric], theirs(data.exclude("shifted_valid"))[metric]
        )


@every_loss
@pytest.mark.parametrize("head", HEADS)
def test_what_a_mask_hides_may_be_anything(name: str, head: str) -> None:
    """NaN everywhere, or zeros, which are no parameters of a normal."""
    arguments = {} if name == "ReinforceLoss" else {"entropy_bonus": head != "tanh_normal"}
    loss = getattr(losses, name)(*networks(head), **arguments).eval()
    data = steps(head)
    data["kl_noise"] = torch.rand(4, 5, ACTION, 1)  # for the family that needs it
    data["shifted_valid"] = mask = torch.rand(4, 5) < 0.6
    poisoned = data.clone()
    for key, x in poisoned.items(include_nested=True, leaves_only=True):
        if x.is_floating_point():
            poisoned[key] = x.masked_fill(~mask.reshape(4, 5, *[1] * (x.dim() - 2)), torch.nan)
    results = [results_of(loss, batch) for batch in (data, poisoned, data[mask])]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[1], results[2], rtol=1e-5, atol=1e-5)


def results_of(loss: Any, data: TensorDictBase) -> tuple[Any, ...]:
    outputs = loss(data)
    return outputs.to_dict(), gradients(total(outputs), loss)


def test_shapes_do_not_broadcast() -> None:
    data = steps(shape=(6,))
    data["advantage"] = data["advantage"].squeeze(-1)
    ours, theirs = pair("A2CLoss", reduction="none")
    assert theirs(data)["loss_objective"].shape == (6, 6)
    with pytest.raises(ValueError, match="`value_target` must have the shape of `advantage`"):
        ours(data)


@every_loss
def test_flags_and_masks_are_not_made_up(name: str) -> None:
    ours, theirs = pair(name)
    data = unestimated(steps()).exclude(("next", "terminated"))
    theirs(data.clone())
    with pytest.raises(KeyError, match="for `terminated` was not found"):
        ours(data)
    ours.loss_mask_key = theirs.loss_mask_key = "valid"
    theirs(steps())
    with pytest.raises(KeyError, match="the mask 'valid' was not found"):
        ours(steps())


def test_reinforce_writes_nothing() -> None:
    ours, theirs = pair("ReinforceLoss")
    mine, data = unestimated(steps()), unestimated(steps())
    ours(mine)
    theirs(data)
    assert set(data.keys()) - set(mine.keys()) == {"advantage", "value_target", "state_value"}


# ---- numbers -------------------------------------------------------------------------------------


def test_a_ratio_that_overflows_has_a_gradient() -> None:
    data = steps()
    data["action_log_prob"] -= 200
    data["advantage"] = data["advantage"].abs()
    ours, theirs = pair("ClipPPOLoss")
    objective = theirs(data)["loss_objective"]
    assert all(x.isnan().all() for x in gradients(objective, theirs.actor_network_params))
    objective = ours(data)["loss_objective"]
    assert all(not x.any() for x in gradients(objective, ours.actor_network))


def test_values_are_clipped_around_those_that_were_recorded() -> None:
    data = unestimated(steps())
    data["state_value"] = data["next", "state_value"] = torch.full((4, 5, 1), 9.0)
    ours, theirs = pair("PPOLoss", clip_value=1e-3)
    assert theirs(data)["value_clip_fraction"] == 0
    assert ours(data)["value_clip_fraction"] == 1


@pytest.mark.parametrize("key", [("collector", "mask"), "shifted_valid"])
def test_advantages_are_normalised_over_the_valid_steps(key: Any) -> None:
    """TorchRL's counts those that are not valid, or is biased, as the mask's name has it."""
    data = steps()
    mask = torch.rand(4, 5) < 0.5
    ours, theirs = pair("PPOLoss", normalize_advantage=True)
    expected = theirs(data[mask])["loss_objective"]
    data[key] = mask
    assert not torch.allclose(theirs(data)["loss_objective"], expected, rtol=1e-3)
    torch.testing.assert_close(ours(data)["loss_objective"], expected)


def test_bounds_of_a_tanh_normal_are_as_exact_as_its_parameters() -> None:
    bounds = {"low": -2.0, "high": 1.0}
    exact = {name: torch.tensor(x, dtype=torch.float64) for name, x in bounds.items()}
    loc, action = torch.randn(2, 5, 3, dtype=torch.float64)
    params, action = (loc, loc.exp()), action.clamp(-1.5, 0.5)
    mine = TanhNormal(**bounds).log_prob(params, action)
    torch.testing.assert_close(mine, PeerTanhNormal(*params, **exact).log_prob(action))
    error = (PeerTanhNormal(*params, **bounds).log_prob(action) - mine).abs().max()
    assert 1e-9 < error < 1e-6


def test_the_divergence_of_several_heads_is_not_sampled() -> None:
    data = steps("composite")
    ours = losses.KLPENPPOLoss(*networks("composite"))
    theirs = torchrl.KLPENPPOLoss(*networks("composite"), samples_mc_kl=4000)
    assert not torch.equal(theirs(data)["kl"], theirs(data)["kl"])
    assert torch.equal(ours(data)["kl"], ours(data)["kl"])
    sampled = theirs(data)["kl"].mean()
    torch.testing.assert_close(ours(data)["kl"], sampled, rtol=0.05, atol=0.01)


def of_dimensions(distribution: Any, *keys: str) -> tuple[Any, Any]:
    """An actor whose log-probabilities are one for each dimension of the action; and a critic."""
    last = [NormalParamExtractor()] if len(keys) > 1 else []
    network = nn.Sequential(nn.Linear(OBSERVATION, len(keys) * ACTION), *last)
    actor = ProbabilisticActor(
        TensorDictModule(network, ["observation"], list(keys)),
        in_keys=list(keys),
        distribution_class=distribution,
        return_log_prob=True,
    )
    return actor, networks()[1]


@every_loss
@pytest.mark.parametrize("estimated", [False, True])
@pytest.mark.parametrize(
    "kind",
    [(torch.distributions.Normal, "loc", "scale"), (torch.distributions.Bernoulli, "logits")],
)
def test_dimensions_make_one_action(name: str, kind: Any, estimated: bool) -> None:
    actor, critic = of_dimensions(*kind)
    each = record(actor, (4, 5))
    each = unestimated(each) if estimated else each
    assert each["action_log_prob"].shape == (4, 5, ACTION)
    joint = each.clone()
    joint["action_log_prob"] = each["action_log_prob"].sum(-1)
    loss = getattr(losses, name)(actor, critic).eval()
    loss.make_value_estimator("vtrace")
    torch.testing.assert_close(loss(each).to_dict(), loss(joint).to_dict())
    each["action_log_prob"] = joint["action_log_prob"].unsqueeze(-1)
    if name in PPO:
        with pytest.raises(ValueError, match="`sample_log_prob` must have the shape of `log_prob`"):
            loss(each)


def test_torchrl_takes_each_dimension_for_an_action() -> None:
    actor, critic = of_dimensions(torch.distributions.Normal, "loc", "scale")
    data = record(actor, (4, 5))
    log_prob = actor.get_dist(data.clone()).log_prob(data["action"])
    ratio = (log_prob - data["action_log_prob"]).exp()
    theirs = torchrl.PPOLoss(actor, critic)(data)["loss_objective"]
    torch.testing.assert_close(theirs, -(ratio * data["advantage"]).mean())
    ours = losses.PPOLoss(actor, critic)(data)["loss_objective"]
    torch.testing.assert_close(ours, -(ratio.prod(-1, keepdim=True) * data["advantage"]).mean())
    with pytest.raises(RuntimeError, match="must match the size"):
        torchrl.A2CLoss(actor, critic)(data)


def test_a2c_takes_several_heads() -> None:
    data = steps("composite")
    with pytest.raises(TypeError, match="unhashable"):
        torchrl.A2CLoss(*networks("composite"))(data)
    mine = losses.A2CLoss(*networks("composite"))(data)
    policy = torchrl.ReinforceLoss(*networks("composite"))(data.clone())
    rest = torchrl.PPOLoss(*networks("composite"))(data)
    torch.testing.assert_close(mine["loss_objective"], policy["loss_actor"])
    for key in ("loss_entropy", "loss_critic", "entropy"):
        torch.testing.assert_close(mine[key], rest[key])


def test_heads_are_named_as_documented() -> None:
    weights = {("agent", "move_log_prob"): 0.1, ("agent", "choose_log_prob"): 0.2}
    short = {("agent", "move"): 0.1, "choose": 0.2}
    data = steps("composite")
    ours, theirs = pair("PPOLoss", "composite", entropy_coeff=weights)
    with pytest.raises(KeyError, match="Missing entropy coeff"):
        theirs(data)
    other = losses.PPOLoss(*networks("composite"), entropy_coeff=short)
    torch.testing.assert_close(ours(data)["loss_entropy"], other(data)["loss_entropy"])
