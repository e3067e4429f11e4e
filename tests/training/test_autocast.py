"""Networks in bfloat16, everything else as precise as before."""

import copy

import pytest
import torch

from compiled_rl import ClipPPOLoss, UpdateStep
from tests.losses.networks import make_data, plain_networks
from tests.training.test_update_targets import LOSSES

SLOW = pytest.param("default", marks=pytest.mark.slow)
MODES = pytest.mark.parametrize("mode", ["eager", SLOW])


def learner(mode, autocast):
    loss = ClipPPOLoss(*plain_networks("normal"))
    adam = torch.optim.SGD(loss.parameters(), lr=1e-2)
    return loss, UpdateStep(loss, adam, mode=mode, autocast=autocast)


@MODES
def test_it_is_a_loop_under_autocast(mode, counted):
    loss, step = learner(mode, torch.bfloat16)
    mine, _ = learner("eager", None)
    sgd = torch.optim.SGD(mine.parameters(), lr=1e-2)
    dtypes = set()
    hook = loss.actor_network.network[0].register_forward_hook(
        lambda *args: dtypes.add(args[-1].dtype)
    )
    step = UpdateStep(loss, step.optimizer, mode=mode, autocast=torch.bfloat16)
    for k in range(5):
        data = make_data(loss.actor_network, (8,), seed=k)
        metrics = step(data)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = mine(data)
        sgd.zero_grad()
        sum(outputs[name] for name in mine.minimised).backward()
        sgd.step()
        assert all(x.dtype == torch.float32 for x in metrics.values())
    hook.remove()
    assert mode != "eager" or dtypes == {torch.bfloat16, torch.float32}  # the latter in make_data
    for a, b in zip(loss.parameters(), mine.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_off_policy_losses_learn_under_it(name):
    """About as in full precision, and not the same."""
    make, data = LOSSES[name]
    moved = {}
    loss = make()
    for autocast in (None, torch.bfloat16):
        own = copy.deepcopy(loss)
        generator = torch.Generator().manual_seed(1)
        sgd = torch.optim.SGD(own.parameters(), lr=1e-2)
        step = UpdateStep(own, sgd, mode="eager", autocast=autocast, generator=generator)
        for k in range(3):
            assert torch.isfinite(step(data(16, k, torch.float32))["grad_norm"])
        before = torch.cat([p.detach().flatten() for p in loss.parameters()])
        moved[autocast] = torch.cat([p.detach().flatten() for p in own.parameters()]) - before
    exact, coarse = moved[None], moved[torch.bfloat16]
    assert 0 < (coarse - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, "bfloat16"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=r"`autocast` must be torch.bfloat16 or None, got"):
        learner("eager", dtype)
