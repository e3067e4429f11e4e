"""Where the rules and schedules end, what they keep, and that the peer's rule is the same."""

import math

import pytest
import torch
from torchrl.objectives.utils import KLAdaptiveLR

from compiled_rl import functional as F

SCHEDULES = [F.linear_schedule, F.exponential_schedule, F.cosine_schedule]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda f: f.__name__)


def scalar(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.0151, 6.0), (0.0149, 3.0), (0.0067, 3.0), (0.0066, 1.5), (-1.0, 1.5)]
)
def test_beta_moves_outside_the_band(kl, expected):
    assert F.next_beta(scalar(3.0), scalar(kl)).item() == expected


def test_a_divergence_that_is_not_a_number_moves_nothing():
    assert F.next_beta(scalar(3.0), scalar(math.nan)).item() == 3
    assert F.kl_adaptive_learning_rate(scalar(1e-3), scalar(math.nan)).item() == 1e-3


def test_the_learning_rate_is_the_peers():
    rates = torch.logspace(-5, -2, 7, dtype=torch.float64)
    for kl in (-0.1, 0.0, 1e-6, 0.0049, 0.0051, 0.01, 0.0199, 0.0201, 3.0):
        for rate in rates:
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate.item())
            KLAdaptiveLR(optimizer, target_kl=0.01).step(kl)
            expected = optimizer.param_groups[0]["lr"]
            got = F.kl_adaptive_learning_rate(rate, scalar(kl)).item()
            assert got == pytest.approx(expected, rel=1e-12)


@every_schedule
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.017), (0.017, 0.3), (0.1, 0.1)])
def test_ends_are_met_exactly_and_held(schedule, start, end):
    for dtype in (torch.float32, torch.float64):
        fraction = torch.tensor([-0.5, 0.0, 1.0, 1.5], dtype=dtype)
        expected = torch.tensor([start, start, end, end], dtype=dtype)
        assert torch.equal(schedule(fraction, start, end), expected)


@every_schedule
def test_a_schedule_never_turns_back(schedule):
    fraction = torch.linspace(0, 1, 101, dtype=torch.float64)
    steps = schedule(fraction, 0.3, 0.01).diff()
    assert (steps < 0).all()


def test_schedules_are_halfway_where_their_formulas_say():
    half = scalar(0.5)
    assert F.linear_schedule(half, 4.0, 1.0).item() == pytest.approx(2.5)
    assert F.exponential_schedule(half, 4.0, 1.0).item() == pytest.approx(2)
    assert F.cosine_schedule(half, 4.0, 1.0).item() == pytest.approx(2.5)


def test_a_warm_up_is_a_linear_schedule_times_another():
    fraction = torch.tensor([0.0, 0.05, 0.1, 0.55, 1.0], dtype=torch.float64)
    warm = F.linear_schedule(fraction / 0.1, 0.0, 1.0)
    rate = warm * F.linear_schedule(fraction, 1.0, 0.0)
    torch.testing.assert_close(rate, torch.tensor([0, 0.475, 0.9, 0.45, 0.0]).double())
