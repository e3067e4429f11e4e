"""A diagonal normal cut off at bounds and scaled up to one, as functions of its parameters.

With a, b the bounds in standard deviations from the mean, phi and Phi the standard normal's density
and distribution function, and e = 1e-6 (more in half precision):

    Z = Phi(b) - Phi(a),   Phi within [e, 1 - e],   Z within [e, 1 - e]

So everything is finite and equals TorchRL's numbers, but a mean more than some 4.7 standard
deviations outside of the bounds has a density that no longer integrates to one.
"""

import math

import torch
from torch import Tensor

from compiled_rl.functional.normal import normal_log_prob
from compiled_rl.functional.scalars import resolution
from compiled_rl.kernels.checks import check_last, check_shapes


def truncated_normal_log_prob(
    action: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Log-density of an action under a truncated normal.

        normal_log_prob(action) - sum over the last axis of log(Z)

    Args:
        action: ``[*B, A]``.
        loc: mean before the cut, ``[*B, A]``.
        scale: standard deviation before the cut, positive, ``[*B, A]``.
        low: lower bound, finite, ``[*B, A]``.
        high: upper bound, finite, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats; minus infinity where any dimension is outside of its bounds.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Burkardt 2014, The Truncated Normal Distribution, sec. 3.1.
    """
    check_last("truncated_normal_log_prob", "loc", loc)
    check_shapes(
        "truncated_normal_log_prob",
        {"loc": loc, "action": action, "scale": scale, "low": low, "high": high},
    )
    margin = _margin(loc)
    scale = scale.clamp(min=margin)
    inside = ((low <= action) & (action <= high)).all(-1)
    value = torch.maximum(torch.minimum(action, high - margin), low + margin)
    mass = _mass((low - loc) / scale, (high - loc) / scale, margin)
    log_prob = normal_log_prob(value, loc, scale) - mass.log().sum(-1)
    return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))


def truncated_normal_entropy(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Differential entropy of a truncated normal.

        sum over the last axis of
        log(scale) + (1 + log(2 pi)) / 2 + log(Z) - (b phi(b) - a phi(a)) / (2 Z)

    Args:
        loc: mean before the cut, ``[*B, A]``.
        scale: standard deviation before the cut, positive, ``[*B, A]``.
        low: lower bound, finite, ``[*B, A]``.
        high: upper bound, finite, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Burkardt 2014, The Truncated Normal Distribution, sec. 3.
    """
    check_last("truncated_normal_entropy", "loc", loc)
    check_shapes("truncated_normal_entropy", {"loc": loc, "scale": scale, "low": low, "high": high})
    margin = _margin(loc)
    scale = scale.clamp(min=margin)
    a, b = (low - loc) / scale, (high - loc) / scale
    mass = _mass(a, b, margin)
    edges = (b * _density(b) - a * _density(a)) / (2 * mass)
    return (scale.log() + (1 + math.log(2 * math.pi)) / 2 + mass.log() - edges).sum(-1)


def truncated_normal_mode(loc: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The most probable action of a truncated normal: the mean, or the bound next to it.

        clip(loc, low + e, high - e)

    Args:
        loc: mean before the cut, ``[*B, A]``.
        low: lower bound, ``[*B, A]``.
        high: upper bound, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B, A]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Burkardt 2014, The Truncated Normal Distribution, sec. 3.
    """
    check_shapes("truncated_normal_mode", {"loc": loc, "low": low, "high": high})
    margin = _margin(loc)
    return torch.maximum(torch.minimum(loc, high - margin), low + margin)


def truncated_normal_sample(
    loc: Tensor, scale: Tensor, noise: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """A reparametrised sample of a truncated normal from given noise, by the inverse of Phi.

        clip(loc + scale * Phi^-1(Phi(a) + noise * Z), low, high)

    Args:
        loc: mean before the cut, ``[*B, A]``.
        scale: standard deviation before the cut, positive, ``[*B, A]``.
        noise: uniform in [0, 1), ``[*B, A]``.
        low: lower bound, finite, ``[*B, A]``.
        high: upper bound, finite, above ``low``, ``[*B, A]``.

    Returns:
        ``[*B, A]``; gradients reach ``loc`` and ``scale``, of a clipped sample too, so that a mean
        that went astray finds back.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Burkardt 2014, The Truncated Normal Distribution, sec. 3.4.
    """
    check_shapes(
        "truncated_normal_sample",
        {"loc": loc, "scale": scale, "noise": noise, "low": low, "high": high},
    )
    margin = _margin(loc)
    scale = scale.clamp(min=margin)
    a, b = (low - loc) / scale, (high - loc) / scale
    below = (_distribution(a, margin) + noise * _mass(a, b, margin)).clamp(margin, 1 - margin)
    free = loc + scale * math.sqrt(2.0) * torch.erfinv(2 * below - 1)
    clipped = torch.maximum(torch.minimum(free, high), low).detach()
    return clipped + (free - free.detach())


def _margin(x: Tensor) -> float:
    """What is kept between a probability and 0 or 1, and between an action and its bounds."""
    return max(1e-6, resolution(x.dtype))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _distribution(x: Tensor, margin: float) -> Tensor:
    return ((1 + torch.erf(x / math.sqrt(2.0))) / 2).clamp(margin, 1 - margin)


def _mass(a: Tensor, b: Tensor, margin: float) -> Tensor:
    """The part of the normal between the bounds."""
    return (_distribution(b, margin) - _distribution(a, margin)).clamp(margin, 1 - margin)
