"""Advantages on the scale of running statistics of the returns, against TorchRL's."""

from typing import Any

import pytest
import torch
from torch import nn
from torchrl import modules as torchrl_modules
from torchrl import objectives as torchrl

from compiled_rl import losses, modules
from compiled_rl.testing import assert_compiles_once
from tests.losses.parity import assert_parity, estimate_with, steps
from tests.losses.peers import keywords, networks, unestimated

LOSSES = ("A2CLoss", "PPOLoss", "ClipPPOLoss")
NORMS: dict[str, dict[str, Any]] = {
    "PopArtValueNorm": {},
    "RunningValueNorm": {},
    "PercentileValueNorm": {"rate": 0.5, "min_scale": 0.1},
}
every_norm = pytest.mark.parametrize("norm", NORMS)


def both(name: str, norm: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Ours and TorchRL's on the same networks, each with a normaliser of its own library."""
    shared = [network.to(dtype) for network in networks("normal")]
    made = [
        getattr(library, name)(*shared, advantage_norm=getattr(norms, norm)(**NORMS[norm])).to(
            dtype
        )
        for library, norms in ((losses, modules), (torchrl, torchrl_modules))
    ]
    estimate_with("GAE", *made, dtype)
    return made[0], made[1]


def statistics(loss: Any) -> dict[str, Any]:
    return {name: x.clone() for name, x in loss.advantage_norm.state_dict().items()}


@every_norm
@pytest.mark.parametrize("name", LOSSES)
def test_estimated_advantages_are_scaled_and_their_targets_learned_as_torchrls(name, norm):
    mine, theirs = both(name, norm, torch.float64)
    data = steps("normal").apply(lambda x: x.double() if x.is_floating_point() else x)
    before = statistics(mine)
    for _ in range(3):
        # The quantiles are exact here in float64, which TorchRL rounds.
        if norm != "PercentileValueNorm":
            assert_parity(mine, theirs, data, given=False)
        else:
            mine(unestimated(data)), theirs(unestimated(data))
    torch.testing.assert_close(statistics(mine), statistics(theirs), rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(x, before[name]) for name, x in statistics(mine).items())


@every_norm
@pytest.mark.parametrize("name", LOSSES)
def test_given_advantages_are_scaled_and_nothing_is_learned(name, norm):
    mine, theirs = both(name, norm)
    for loss in (mine, theirs):
        loss.advantage_norm.update(torch.linspace(-30, 50, 8).unsqueeze(-1))
    before, data = statistics(mine), steps("normal")
    assert_parity(mine, theirs, data)
    torch.testing.assert_close(statistics(mine), before, rtol=0, atol=0)
    plain = getattr(losses, name)(*networks("normal"))(data)["loss_objective"]
    assert not torch.isclose(mine(data)["loss_objective"], plain, rtol=0.1)


def test_statistics_move_in_training_only_and_by_valid_steps():
    loss, _ = both("ClipPPOLoss", "RunningValueNorm")
    data = unestimated(steps("normal"))
    before = statistics(loss)
    loss.eval()(data)
    with torch.no_grad():
        loss.train()(data)
    torch.testing.assert_close(statistics(loss), before, rtol=0, atol=0)
    data["collector"] = {"mask": torch.arange(5).expand(4, 5) < 3}
    loss(data)
    assert loss.advantage_norm.count == 12


def test_one_normaliser_of_advantages_is_enough():
    norm = modules.RunningValueNorm()
    with pytest.raises(ValueError, match="`advantage_norm` must be None with `normalize_adv"):
        losses.PPOLoss(*networks("normal"), advantage_norm=norm, normalize_advantage=True)
    with pytest.raises(TypeError, match="`advantage_norm` must be a ValueNorm or None, got Linear"):
        losses.A2CLoss(*networks("normal"), advantage_norm=nn.Linear(1, 1))
    with pytest.raises(TypeError, match="advantage_norm"):
        losses.ReinforceLoss(*networks("normal"), advantage_norm=norm)


@pytest.mark.slow
@every_norm
def test_compiles_whole_and_seldom(norm):
    loss = losses.A2CLoss(*networks("normal"), advantage_norm=getattr(modules, norm)())
    batches = [unestimated(steps("normal", shape=(n, 4))) for n in (2, 3, 5, 8)]
    assert_compiles_once(loss, [keywords(loss, batch) for batch in batches])


@every_norm
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_a_target_that_is_no_number_spoils_statistics_as_torchrls(norm, spoilt):
    """Where it is valid; one under a mask changes nothing."""
    target = torch.randn(6, 3, 1)
    target[0, 1] = spoilt
    mask = torch.ones(6, 3, dtype=torch.bool)
    mine, masked, theirs = (
        getattr(library, norm)(shape=(3, 1), **NORMS[norm])
        for library in (modules, modules, torchrl_modules)
    )
    mine.update(target)
    theirs.update(target)
    masked.update(target, mask[:, 0])
    for name, x in theirs.state_dict().items():
        for ours in (mine, masked):
            assert torch.equal(ours.get_buffer(name).isfinite(), x.isfinite())
    mask[0] = False
    masked.load_state_dict(getattr(modules, norm)(shape=(3, 1), **NORMS[norm]).state_dict())
    masked.update(target, mask[:, 0])
    assert masked.scale().isfinite().all()
