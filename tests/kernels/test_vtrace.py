"""What only V-trace has: thresholds, and an exponential that must not overflow."""

import math

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

from compiled_rl.kernels import fused
from compiled_rl.kernels.exponential import exp
from tests.kernels.inputs import assert_right, draw

DOUBLE = torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    "thresholds", [(1.0, 1.0), (0.5, 2.0), (math.inf, math.inf), (1e300, 1e-30)]
)
def test_thresholds(thresholds, dtype):
    inputs = list(draw("vtrace", 5, 70, dtype=dtype))
    inputs[5:] = [x / 4 for x in inputs[5:]]  # products of unbounded ratios stay moderate
    assert_right("vtrace", inputs, None, -1, (0.97, 0.9, *thresholds))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("time_dim", [0, 1])
def test_huge_log_ratios_give_the_threshold_or_zero(dtype, time_dim):
    inputs = list(draw("vtrace", 6, 40, dtype=dtype))
    signs = torch.where(torch.arange(240).view(6, 40) % 3 == 0, -1.0, 1.0).to(dtype)
    inputs[5], inputs[6] = 5e3 * signs, -5e3 * signs
    assert_right("vtrace", inputs, None, time_dim, (0.97, 0.9, 1.2, 1.1))


def test_an_impossible_action_has_no_weight():
    inputs = list(draw("vtrace", 3, 20))
    inputs[5] = torch.full_like(inputs[5], -math.inf)
    advantage, target = fused("vtrace", tuple(inputs), (0.97, 0.9, 1.0, 1.0), None, -1)
    assert (advantage == 0).all()
    assert torch.equal(target, inputs[1])


def test_a_nan_ratio_is_not_hidden():
    inputs = list(draw("vtrace", 3, 20))
    inputs[5][1, 19] = math.nan
    advantage, target = fused("vtrace", tuple(inputs), (0.97, 0.9, 1.0, 1.0), None, -1)
    assert advantage[1, 19].isnan()
    assert target[1, 19].isnan()
    assert advantage[[0, 2]].isfinite().all()


def test_on_policy_with_lambda_one_the_target_is_the_monte_carlo_return():
    inputs = list(draw("vtrace", 4, 30))
    inputs[6] = inputs[5]
    for flag in inputs[3:5]:
        flag.zero_()
    inputs[2] = torch.cat([inputs[1][:, 1:], inputs[2][:, -1:]], 1)
    _, target = fused("vtrace", tuple(inputs), (0.9, 1.0, 1.0, 1.0), None, -1)
    returns, total = [], inputs[2][:, -1]
    for t in range(29, -1, -1):
        total = inputs[0][:, t] + 0.9 * total
        returns.insert(0, total)
    torch.testing.assert_close(target, torch.stack(returns, 1))


@njit(error_model="numpy", fastmath={"contract"})
def exponentials(x, y):
    for k in range(x.size):
        y[k] = exp(x[k])


def exp_of(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    exponentials(x.numpy(), y.numpy())
    return y


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 87), (DOUBLE, 708)])
def test_the_exponential_is_exact_to_a_digit(dtype, limit):
    x = torch.cat([torch.linspace(-limit, limit, 200_001), torch.linspace(-1, 1, 20_001)]).to(dtype)
    exact = np.exp(x.numpy().astype(np.longdouble))
    error = np.abs(exp_of(x).numpy() - exact) / exact
    assert error.max() < 1.0 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_exponential_at_its_ends(dtype):
    x = torch.tensor([0.0, math.inf, -math.inf, 1e4, -1e4, math.nan], dtype=dtype)
    y = exp_of(x)
    assert y[0] == 1
    assert y[[1, 3]].isfinite().all()
    assert (y[[1, 3]] > 1e37).all()
    assert (y[[2, 4]] == 0).all()
    assert y[5].isnan()
