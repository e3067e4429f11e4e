"""The rows of docs/differences.md that no other test holds: what TorchRL does, and ours."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl import objectives as torchrl
from torchrl.modules import TanhNormal as PeerTanhNormal

from compiled_rl import losses
from compiled_rl.modules import TanhNormal
from tests.losses.peers import (
    ACTION,
    HEADS,
    LOSSES,
    gradients,
    keywords,
    networks,
    record,
    total,
    unestimated,
)

ROOT = Path(__file__).parent.parent.parent
PPO = ("PPOLoss", "ClipPPOLoss", "KLPENPPOLoss")
every_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture(autouse=True)
def _the_warnings_of_estimates_are_known() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pair(name: str, *kind: Any, **arguments: Any) -> tuple[Any, Any]:
    """Ours and TorchRL's, on networks of their own with the same weights."""
    made = (getattr(losses, name), getattr(torchrl, name))
    ours, theirs = (loss(*networks(*kind), **arguments) for loss in made)
    return ours, theirs


def steps(*kind: Any, shape: tuple[int, ...] = (4, 5)) -> TensorDictBase:
    return record(networks(*kind)[0], shape)


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


# ---- networks ------------------------------------------------------------------------------------


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
