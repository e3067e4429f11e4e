"""A diagonal normal squashed by tanh into bounds, as functions of its parameters.

An action at a bound has no finite pre-image: both ways of tanh stop at ``resolution`` before one.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from compiled_rl.functional.normal import normal_log_prob, normal_sample
from compiled_rl.functional.scalars import resolution
from compiled_rl.kernels.checks import check_last, check_shapes


class SampleOutput(NamedTuple):
    """An action ``[*B, A]`` and its log-probability ``[*B]``."""

    action: Tensor
    log_prob: Tensor


def tanh_normal_log_prob(
    action: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Log-density of a stored action under a normal squashed into bounds.

        x        = atanh((action - (high + low) / 2) / ((high - low) / 2))
        log_prob = normal_log_prob(x) - sum over the last axis of
                   log(1 - tanh(x)^2) + log((high - low) / 2)

    Rounding loses a saturated action's pre-image: of an action that was just sampled, take the
    log-probability from ``tanh_normal_sample_with_log_prob``.

    Args:
        action: ``[*B, A]``; at or beyond a bound it counts as just inside.
        loc: mean before tanh, ``[*B, A]``.
        scale: standard deviation before tanh, positive, ``[*B, A]``.
        low: lower bound, ``[*B, A]``.
        high: upper bound, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.
    """
    check_last("tanh_normal_log_prob", "loc", loc)
    check_shapes(
        "tanh_normal_log_prob",
        {"loc": loc, "action": action, "scale": scale, "low": low, "high": high},
    )
    half, limit = (high - low) / 2, 1 - resolution(action.dtype)
    x = ((action - (high + low) / 2) / half).clamp(-limit, limit).atanh()
    return normal_log_prob(x, loc, scale) - _log_slope(x, half).sum(-1)


def tanh_normal_mode(loc: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The squashed mean, which is the median: the action that is deployed.

        (high + low) / 2 + (high - low) / 2 * tanh(loc)

    The density's highest point is elsewhere, and at the bounds if the scale is large.

    Args:
        loc: mean before tanh, ``[*B, A]``.
        low: lower bound, ``[*B, A]``.
        high: upper bound, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B, A]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.
    """
    check_shapes("tanh_normal_mode", {"loc": loc, "low": low, "high": high})
    limit = 1 - resolution(loc.dtype)
    return (high + low) / 2 + (high - low) / 2 * loc.tanh().clamp(-limit, limit)


def tanh_normal_sample(
    loc: Tensor, scale: Tensor, noise: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """A reparametrised sample from given noise, squashed into bounds.

        (high + low) / 2 + (high - low) / 2 * tanh(loc + scale * noise)

    Args:
        loc: mean before tanh, ``[*B, A]``.
        scale: standard deviation before tanh, positive, ``[*B, A]``.
        noise: standard normal, ``[*B, A]``.
        low: lower bound, ``[*B, A]``.
        high: upper bound, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B, A]``; gradients reach ``loc`` and ``scale``, but of a saturated action.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.
    """
    check_shapes(
        "tanh_normal_sample",
        {"loc": loc, "scale": scale, "noise": noise, "low": low, "high": high},
    )
    return tanh_normal_mode(normal_sample(loc, scale, noise), low, high)


def tanh_normal_sample_with_log_prob(
    loc: Tensor, scale: Tensor, noise: Tensor, low: Tensor, high: Tensor
) -> SampleOutput:
    """A reparametrised sample and its log-probability, without inverting tanh.

        x                   = loc + scale * noise
        log(1 - tanh(x)^2)  = 2 * (log(2) - x - softplus(-2 x))

    It stays exact where tanh saturates, which ``tanh_normal_log_prob`` of the action cannot.

    Args:
        loc: mean before tanh, ``[*B, A]``.
        scale: standard deviation before tanh, positive, ``[*B, A]``.
        noise: standard normal, ``[*B, A]``.
        low: lower bound, ``[*B, A]``.
        high: upper bound, above ``low``, ``[*B, A]``.

    Returns:
        ``action`` ``[*B, A]`` and ``log_prob`` ``[*B]``, both with gradients.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Haarnoja et al. 2018, arXiv:1812.05905, appendix C.
    """
    check_last("tanh_normal_sample_with_log_prob", "loc", loc)
    check_shapes(
        "tanh_normal_sample_with_log_prob",
        {"loc": loc, "scale": scale, "noise": noise, "low": low, "high": high},
    )
    x = normal_sample(loc, scale, noise)
    # The density of the noise itself: (x - loc) / scale would round.
    log_prob = normal_log_prob(noise, torch.zeros_like(loc), torch.ones_like(scale))
    log_prob = log_prob - (scale.log() + _log_slope(x, (high - low) / 2)).sum(-1)
    return SampleOutput(tanh_normal_mode(x, low, high), log_prob)


def _log_slope(x: Tensor, half: Tensor) -> Tensor:
    """Logarithm of the derivative of ``half * tanh(x)``."""
    return 2 * (math.log(2.0) - x - torch.nn.functional.softplus(-2 * x)) + half.log()
