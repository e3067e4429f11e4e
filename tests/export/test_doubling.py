"""The recurrence in a fixed number of steps, which exported graphs hold."""

import pytest
import torch

from compiled_rl.kernels.doubling import bounded_doubling
from tests.oracles import formulas


def expected(x, decay, reverse):
    return torch.tensor(formulas.linear_recurrence(x, decay, reverse=reverse)[0], dtype=x.dtype)


@pytest.mark.parametrize("time", [1, 2, 7, 8, 9, 23])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("doublings", [5, 9])
def test_distances_longer_than_time(time, reverse, doublings):
    x, decay = torch.randn(3, time).double(), torch.rand(3, time).double()
    got = bounded_doubling(x, decay, 1, reverse, doublings)
    torch.testing.assert_close(got, expected(x, decay, reverse), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [True, False])
def test_as_many_doublings_as_the_longest_time_needs(reverse):
    x, decay = torch.randn(2, 8).double(), torch.ones(2, 8).double()
    truth = expected(x, decay, reverse)
    torch.testing.assert_close(bounded_doubling(x, decay, 1, reverse, 3), truth)
    assert not torch.allclose(bounded_doubling(x, decay, 1, reverse, 2), truth)


@pytest.mark.parametrize("time_dim", [0, 1, -1, -2])
@pytest.mark.parametrize("reverse", [True, False])
def test_any_axis_and_layout(time_dim, reverse):
    x, decay = torch.randn(2, 4, 5, 6).double().unbind()[0], torch.rand(4, 5, 6).double()
    got = bounded_doubling(x, decay, time_dim, reverse, 3)
    there = [y.movedim(time_dim, -1).reshape(-1, y.shape[time_dim]) for y in (x, decay, got)]
    torch.testing.assert_close(there[2], expected(*there[:2], reverse))
    assert got.is_contiguous()


@pytest.mark.parametrize("reverse", [True, False])
def test_the_decay_is_not_read_where_the_recurrence_starts(reverse):
    x, decay = torch.randn(2, 5), torch.rand(2, 5)
    clean = bounded_doubling(x, decay, 1, reverse, 4)
    decay[:, -1 if reverse else 0] = torch.nan
    torch.testing.assert_close(bounded_doubling(x, decay, 1, reverse, 4), clean, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_comes_of_nothing(shape):
    assert bounded_doubling(torch.ones(shape), torch.ones(shape), 1, True, 3).shape == shape


def test_half_precision_is_computed_in_float32():
    x, decay = torch.randn(2, 64).bfloat16(), torch.rand(2, 64).bfloat16()
    got = bounded_doubling(x, decay, 1, True, 6)
    exact = bounded_doubling(x.float(), decay.float(), 1, True, 6)
    torch.testing.assert_close(got, exact.bfloat16(), rtol=0, atol=0)
