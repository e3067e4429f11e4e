"""Published numbers, identities, and hostile values of the objectives and metrics."""

import math

import pytest
import torch

from compiled_rl import functional as F
from compiled_rl.modules import Categorical, OneHotCategorical

DOUBLE = torch.float64


@pytest.mark.parametrize(("sign", "expected"), [(1, -0.17117467), (-1, 0.19333333)])
def test_ppo_clip_golden_numbers_of_rlax(sign, expected):
    new = torch.tensor([[1.0, 1, 1], [2, 0, 0], [-1, -2, -3]], dtype=DOUBLE)
    old = torch.tensor([[1.0, 1, 1], [2, 0, 0], [-3, -2, -1]], dtype=DOUBLE)
    action, advantage = torch.arange(3), sign * torch.tensor([0.3, 0.2, 0.1], dtype=DOUBLE)
    log_probs = [F.categorical_log_prob(action, logits) for logits in (new, old)]
    assert F.ppo_clip(*log_probs, advantage).mean().item() == pytest.approx(expected, abs=1e-5)


def test_ppo_clip_has_no_gradient_exactly_where_the_bound_is_crossed():
    log_ratio = torch.linspace(-1, 1, 41, dtype=DOUBLE, requires_grad=True)
    for advantage in (1.0, -1.0):
        weights = torch.full_like(log_ratio, advantage)
        loss = F.ppo_clip(log_ratio, torch.zeros_like(log_ratio), weights).sum()
        (grad,) = torch.autograd.grad(loss, log_ratio)
        ratio = log_ratio.detach().exp()
        beyond = ratio > 1.2 if advantage > 0 else ratio < 0.8
        assert ((grad == 0) == beyond).all()


@pytest.mark.parametrize("log_ratio", [200.0, -200.0, 1e4])
def test_ppo_clip_survives_a_ratio_that_overflows(log_ratio):
    new = torch.tensor([log_ratio], requires_grad=True)
    for advantage in (1.0, 0.0):
        loss = F.ppo_clip(new, torch.zeros(1), torch.tensor([advantage]))
        (grad,) = torch.autograd.grad(loss, new)
        assert loss.isfinite().all()
        assert grad.isfinite().all()


def test_ppo_clip_at_ratio_one_is_the_policy_gradient():
    log_prob = torch.randn(6, dtype=DOUBLE, requires_grad=True)
    advantage = torch.randn(6, dtype=DOUBLE)
    ppo = torch.autograd.grad(F.ppo_clip(log_prob, log_prob.detach(), advantage).sum(), log_prob)
    a2c = torch.autograd.grad(-(log_prob * advantage).sum(), log_prob)
    torch.testing.assert_close(ppo, a2c)


def test_kl_estimators_have_schulmans_bias_and_spread():
    q = torch.zeros(400_000, 1, dtype=DOUBLE)
    x = torch.randn(q.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    one = torch.ones_like(q)
    behavior = F.normal_log_prob(x, q, one)
    for mean, true, spreads in ((0.1, 0.005, (20, 1.42)), (1.0, 0.5, (2, 1.7))):
        log_prob = F.normal_log_prob(x, q + mean, one)
        for estimator, spread in zip((F.kl_k1, F.kl_k3), spreads, strict=True):
            sample = estimator(log_prob, behavior)
            error = 4 * sample.std() / math.sqrt(len(sample))
            assert abs(sample.mean() - true) < error
            assert sample.std().item() / true == pytest.approx(spread, rel=0.03)


def test_forbidden_actions_have_no_probability_no_gradient_and_no_nan():
    logits = torch.tensor([[0.5, -torch.inf, 1.0]], dtype=DOUBLE, requires_grad=True)
    other = torch.tensor([[0.1, -torch.inf, 0.3]], dtype=DOUBLE)
    for value in (
        F.categorical_entropy(logits),
        F.categorical_kl(logits, other),
        F.categorical_log_prob(torch.tensor([2]), logits),
        F.categorical_log_prob(torch.tensor([[0, 0, 1]]), logits),
    ):
        (grad,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all()
        assert grad.isfinite().all()
        assert grad[0, 1] == 0
    assert F.categorical_log_prob(torch.tensor([1]), logits).item() == -math.inf
    noise = torch.rand(1000, 3, dtype=DOUBLE)
    assert (F.categorical_sample(logits.detach().expand(1000, 3), noise) != 1).all()


def test_a_divergence_from_what_is_forbidden_is_infinite():
    allowed = torch.zeros(1, 2, dtype=DOUBLE)
    forbids = torch.tensor([[0.0, -torch.inf]], dtype=DOUBLE)
    assert F.categorical_kl(allowed, forbids).item() == math.inf


def test_samples_follow_their_law():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(200_000, 3)
    index = F.categorical_sample(logits, torch.rand(logits.shape, generator=generator))
    share = torch.bincount(index, minlength=3) / len(index)
    torch.testing.assert_close(share, logits[0].softmax(-1), atol=5e-3, rtol=0)


def test_one_hot_actions_are_those_of_the_indices():
    logits, noise = torch.randn(7, 4), torch.rand(7, 4)
    index, one_hot = Categorical(), OneHotCategorical()
    for a, b in (
        (index.mode((logits,)), one_hot.mode((logits,))),
        (index.sample((logits,), noise), one_hot.sample((logits,), noise)),
    ):
        assert (b.argmax(-1) == a).all()
        assert (b.sum(-1) == 1).all()
        torch.testing.assert_close(index.log_prob((logits,), a), one_hot.log_prob((logits,), b))


def test_ratios_that_overflow_leave_the_effective_sample_size_finite():
    assert F.effective_sample_size(torch.tensor([500.0, 500.0, -500.0])).item() == pytest.approx(
        2 / 3
    )


def test_nothing_valid_is_zero_not_nan():
    x, mask = torch.randn(4), torch.zeros(4, dtype=torch.bool)
    assert F.reduce(x, mask).item() == 0
    assert F.variance(x, mask).item() == 0
    assert F.effective_sample_size(x, mask).item() == 0
    assert F.effective_sample_size(x[:0]).item() == 0
    assert (F.standardize(x, mask) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_counted_and_summed_in_float32(dtype):
    x = torch.randn(70_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.arange(70_000) % 3 > 0
    for reduced, expected in (
        (F.reduce(x + 1), (x + 1).float().mean()),
        (F.reduce(x + 1, mask), (x + 1)[mask].float().mean()),
        (F.variance(x), x.float().var(correction=0)),
        (F.effective_sample_size(x, mask), F.effective_sample_size(x[mask].float())),
    ):
        assert reduced.dtype == dtype
        torch.testing.assert_close(reduced.float(), expected, rtol=1e-2, atol=1e-2)


def test_masked_ratios_far_from_one_keep_their_effective_sample_size():
    log_ratio, mask = torch.tensor([-200.0, -200.0, 0.0]), torch.tensor([True, True, False])
    assert F.effective_sample_size(log_ratio, mask).item() == pytest.approx(1)


def test_a_single_element_is_not_standardized():
    assert F.standardize(torch.tensor([3.0])).item() == 3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda x: F.value_loss(x, x, loss_function="l3"),
            "distance_loss: `loss_function` must be 'l1', 'l2' or 'smooth_l1', got 'l3'",
        ),
        (
            lambda x: F.reduce(x, None, "max"),
            "reduce: `reduction` must be 'none', 'mean' or 'sum', got 'max'",
        ),
        (
            lambda x: F.ppo_clip(x, x, x.unsqueeze(-1)),
            r"ppo_clip: `advantage` must have the shape of `log_prob`, got \[4, 1\] and \[4\]",
        ),
        (
            lambda x: F.reduce(x, torch.ones(4)),
            "reduce: `mask` must be torch.bool, got torch.float32",
        ),
        (
            lambda x: F.categorical_log_prob(x > 0, torch.zeros(4, 3)),
            "`action` as indices must be of an integer dtype, got torch.bool",
        ),
        (
            lambda x: F.categorical_log_prob(x, torch.zeros(4, 3)),
            "`action` as indices must be of an integer dtype, got torch.float32",
        ),
    ],
)
def test_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.randn(4))


def test_what_is_sparse_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="kl_k1: `log_prob` must be dense, got a sparse tensor"):
        F.kl_k1(torch.ones(3).to_sparse(), torch.ones(3))
