"""Rules that move a coefficient while training goes on: tensors in, a tensor out.

Two adapt to the divergence that an update caused. Three anneal with ``fraction``, how much of the
training is done; a fraction beyond [0, 1] counts as the nearer end, so that they compose by
arithmetic:

.. code-block:: python

    linear_schedule(fraction / 0.1, 1.0, 0.05)              # anneal in the first tenth, then hold
    linear_schedule(fraction / 0.05, 0.0, 1.0) * other      # warm up over the first twentieth
"""

import math

import torch
from torch import Tensor

from compiled_rl.functional.scalars import scalar
from compiled_rl.kernels.checks import check_floating, check_shapes


def next_beta(
    beta: Tensor,
    kl: Tensor,
    target_kl: float = 0.01,
    increment: float = 2.0,
    decrement: float = 0.5,
) -> Tensor:
    """The weight of PPO's KL penalty for the next update.

        beta * increment   if kl > 1.5 * target_kl
        beta * decrement   if kl < target_kl / 1.5
        beta               otherwise, and if kl is NaN

    It is the weight for the *next* update: the loss whose divergence is ``kl`` used ``beta``.

    Args:
        beta: the weight that was used, 0-d or ``[*B]``, not negative.
        kl: mean KL(old || new) of the update in nats, of the shape of ``beta``.
        target_kl: the divergence that an update should cause, in nats, positive.
        increment: at least 1.
        decrement: in (0, 1].

    Returns:
        The weight, of the shape of ``beta``; no gradient flows to ``kl``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman et al. 2017, arXiv:1707.06347, sec. 4.
    """
    name = "next_beta"
    check_shapes(name, {"beta": beta, "kl": kl})
    target = scalar(name, "target_kl", target_kl, kl, "positive")
    more = beta * scalar(name, "increment", increment, beta, "at least 1")
    less = beta * scalar(name, "decrement", decrement, beta, "in (0, 1]")
    raised = torch.where(kl > 1.5 * target, more, beta)
    return torch.where(kl < target / 1.5, less, raised)


def kl_adaptive_learning_rate(
    learning_rate: Tensor,
    kl: Tensor,
    target_kl: float = 0.01,
    factor: float = 1.5,
    min_learning_rate: float = 1e-5,
    max_learning_rate: float = 1e-2,
) -> Tensor:
    """The learning rate for the next update, from the divergence that the last one caused.

        clip(learning_rate / factor, min, max)   if kl > 2 * target_kl
        clip(learning_rate * factor, min, max)   if 0 < kl < target_kl / 2
        clip(learning_rate, min, max)            otherwise, and if kl is NaN

    A divergence of zero or less keeps the rate: a policy that did not move, or an estimate of so
    small a divergence that its sign is noise, must not make the rate grow.

    Args:
        learning_rate: the rate that was used, 0-d or ``[*B]``, positive.
        kl: mean KL(old || new) of the update in nats, of the shape of ``learning_rate``.
        target_kl: the divergence that an update should cause, in nats, positive.
        factor: of one change, above 1.
        min_learning_rate: lower bound, positive.
        max_learning_rate: upper bound.

    Returns:
        The rate, of the shape of ``learning_rate``; no gradient flows to ``kl``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Rudin et al. 2021, arXiv:2109.11978 (in its code, rsl_rl).
    """
    name = "kl_adaptive_learning_rate"
    check_shapes(name, {"learning_rate": learning_rate, "kl": kl})
    target = scalar(name, "target_kl", target_kl, kl, "positive")
    step = scalar(name, "factor", factor, learning_rate, "above 1")
    moved = torch.where(kl > 2 * target, learning_rate / step, learning_rate)
    moved = torch.where((kl > 0) & (kl < target / 2), learning_rate * step, moved)
    low = scalar(name, "min_learning_rate", min_learning_rate, learning_rate, "positive")
    high = scalar(name, "max_learning_rate", max_learning_rate, learning_rate, "positive")
    return torch.clamp(moved, min=low, max=high)


def linear_schedule(fraction: Tensor, start: float, end: float) -> Tensor:
    """A coefficient that moves from ``start`` to ``end`` in a straight line.

        start + fraction * (end - start)

    Args:
        fraction: how much of the training is done, 0-d or ``[*B]``, clipped to [0, 1].
        start: the value at fraction 0.
        end: the value at fraction 1, met exactly.

    Returns:
        The value, of the shape of ``fraction``.

    Raises:
        ValueError: ``fraction`` is not floating point, or an end is not a number.

    Reference: Mnih et al. 2015, Nature 518:529, extended data table 1 (exploration); composed
    with a warm-up, Goyal et al. 2017, arXiv:1706.02677, sec. 2.2.
    """
    done = _progress("linear_schedule", fraction)
    first = scalar("linear_schedule", "start", start, fraction)
    return torch.lerp(first, scalar("linear_schedule", "end", end, fraction), done)


def exponential_schedule(fraction: Tensor, start: float, end: float) -> Tensor:
    """A coefficient that moves from ``start`` to ``end`` by equal factors.

        start^(1 - fraction) * end^fraction

    Neither end may be zero: a decay towards zero has no first factor. Name the smallest value that
    still matters.

    Args:
        fraction: how much of the training is done, 0-d or ``[*B]``, clipped to [0, 1].
        start: the value at fraction 0, positive.
        end: the value at fraction 1, positive, met exactly.

    Returns:
        The value, of the shape of ``fraction``.

    Raises:
        ValueError: ``fraction`` is not floating point, or an end is not positive.

    Reference: Senior et al. 2013, An empirical study of learning rates in deep neural networks for
    speech recognition (exponential scheduling).
    """
    done = _progress("exponential_schedule", fraction)
    first = scalar("exponential_schedule", "start", start, fraction, "positive")
    last = scalar("exponential_schedule", "end", end, fraction, "positive")
    return first ** (1 - done) * last**done


def cosine_schedule(fraction: Tensor, start: float, end: float) -> Tensor:
    """A coefficient that moves from ``start`` to ``end`` along half a cosine, flat at both ends.

        end + (start - end) * (1 + cos(pi * fraction)) / 2

    Args:
        fraction: how much of the training is done, 0-d or ``[*B]``, clipped to [0, 1].
        start: the value at fraction 0.
        end: the value at fraction 1, met exactly.

    Returns:
        The value, of the shape of ``fraction``.

    Raises:
        ValueError: ``fraction`` is not floating point, or an end is not a number.

    Reference: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, one period.
    """
    done = (1 - torch.cos(math.pi * _progress("cosine_schedule", fraction))) / 2
    first = scalar("cosine_schedule", "start", start, fraction)
    return torch.lerp(first, scalar("cosine_schedule", "end", end, fraction), done)


def _progress(function: str, fraction: Tensor) -> Tensor:
    check_floating(function, "fraction", fraction)
    return fraction.clamp(0.0, 1.0)
