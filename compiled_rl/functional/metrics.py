"""Diagnostics of an update. None is differentiated; all are over valid samples only."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.reduction import count_valid, largest, reduce, variance
from compiled_rl.functional.scalars import scalar, where_valid
from compiled_rl.kernels.checks import check_floating, check_mask, check_shapes


def explained_variance(
    value: Tensor, value_target: Tensor, mask: Optional[Tensor] = None
) -> Tensor:
    """How much of the target's variance the critic predicts.

        1 - var(value_target - value) / var(value_target),   biased variances

    One is perfect, zero is no better than a constant, negative is worse. It is one number for the
    whole batch, not one a time step.

    Args:
        value: ``[*B]``.
        value_target: ``[*B]``.
        mask: valid samples, bool ``[*B]``.

    Returns:
        A detached scalar.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Achen 1982, Interpreting and Using Regression, p. 58 (R squared of the residual).
    """
    check_shapes("explained_variance", {"value": value, "value_target": value_target})
    check_mask("explained_variance", mask, "value", value)
    residual = variance((value_target - value).detach(), mask)
    total = variance(value_target.detach(), mask)
    return 1 - residual / total.clamp(min=1e-8)


def effective_sample_size(log_ratio: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """Effective sample size of importance weights, as a share of the samples.

        (sum of w)^2 / (n * sum of w^2),   w = exp(log_ratio) of the n valid samples

    Computed from log-ratios, so it survives ratios that overflow.

    Args:
        log_ratio: log importance weights, ``[*B]``.
        mask: valid samples, bool ``[*B]``.

    Returns:
        A detached scalar in (0, 1]; one when all weights are equal. Zero if no sample is valid.

    Raises:
        ValueError: the mask is not bool or of another shape.

    Reference: Kong 1992, technical report 348, University of Chicago; Martino et al. 2016,
    arXiv:1602.03572, eq. 6.
    """
    check_floating("effective_sample_size", "log_ratio", log_ratio)
    check_mask("effective_sample_size", mask, "log_ratio", log_ratio)
    dtype = log_ratio.dtype
    count = count_valid(log_ratio, mask)
    log_ratio = where_valid(mask, log_ratio).detach().to(count.dtype)
    weight = (log_ratio - largest(log_ratio, mask, -1e30)).exp()
    total = reduce(weight, mask, "sum")
    squares = reduce(weight.square(), mask, "sum")
    return (total.square() / (count * squares).clamp(min=1e-30)).to(dtype)


def kl_k1(log_prob: Tensor, behavior_log_prob: Tensor) -> Tensor:
    """Estimator k1 of KL(behavior || current), per sample: unbiased, of high variance.

        behavior_log_prob - log_prob

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        behavior_log_prob: under the policy that acted, ``[*B]``.

    Returns:
        ``[*B]``, in nats, detached; may be negative.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman 2020, Approximating KL Divergence (joschu.net/blog/kl-approx.html).
    """
    check_shapes("kl_k1", {"log_prob": log_prob, "behavior_log_prob": behavior_log_prob})
    return (behavior_log_prob - log_prob).detach()


def kl_k3(log_prob: Tensor, behavior_log_prob: Tensor) -> Tensor:
    """Estimator k3 of KL(behavior || current), per sample: unbiased, never negative.

        exp(r) - 1 - r,   r = log_prob - behavior_log_prob

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        behavior_log_prob: under the policy that acted, ``[*B]``.

    Returns:
        ``[*B]``, in nats, detached; infinite where the exponential overflows.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman 2020, Approximating KL Divergence (joschu.net/blog/kl-approx.html).
    """
    check_shapes("kl_k3", {"log_prob": log_prob, "behavior_log_prob": behavior_log_prob})
    log_ratio = (log_prob - behavior_log_prob).detach()
    return torch.expm1(log_ratio) - log_ratio


def clip_fraction(x: Tensor, low: float, high: float, mask: Optional[Tensor] = None) -> Tensor:
    """The share of the valid samples that a clip to ``[low, high]`` would change.

        mean of (1 if x < low or x > high else 0)

    For PPO pass the ratio, 1 - epsilon and 1 + epsilon; for a clipped value ``value - old_value``,
    minus and plus the bound.

    Args:
        x: ``[*B]``.
        low: lower bound.
        high: upper bound.
        mask: valid samples, bool ``[*B]``.

    Returns:
        A detached scalar in [0, 1].

    Raises:
        ValueError: the mask is not bool or of another shape.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7 (what is clipped).
    """
    check_mask("clip_fraction", mask, "x", x)
    name = "clip_fraction"
    check_floating(name, "x", x)
    outside = (x < scalar(name, "low", low, x)) | (x > scalar(name, "high", high, x))
    return reduce(outside.to(x.dtype), mask, "mean")
