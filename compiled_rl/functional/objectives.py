"""What is minimised, per sample: named tensors in, losses out. Nothing here averages."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.scalars import as_scalar
from compiled_rl.kernels.checks import check_shape


def ppo_clip(
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    advantage: Tensor,
    clip_epsilon_low: float = 0.2,
    clip_epsilon_high: float = 0.2,
) -> Tensor:
    """The clipped surrogate objective of PPO, as a loss.

        ratio = exp(log_prob - behavior_log_prob)
        loss  = -min(ratio * advantage,
                     clip(ratio, 1 - clip_epsilon_low, 1 + clip_epsilon_high) * advantage)

    The minimum bounds the ratio from one side only, the one that the advantage pushes to. The
    bound is taken on the log-ratio, before the exponential: a sample that is clipped has a zero
    gradient whatever its ratio, where 0 * inf would be NaN.

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        behavior_log_prob: of the same action under the policy that acted, ``[*B]``.
        advantage: of the recorded action, ``[*B]``.
        clip_epsilon_low: how far the ratio may fall below one, in [0, 1).
        clip_epsilon_high: how far the ratio may rise above one, at least 0.

    Returns:
        The loss of each sample, ``[*B]``. With a negative advantage the loss grows with the ratio
        without bound, and is infinite where the ratio overflows.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    check_shape("ppo_clip", "behavior_log_prob", behavior_log_prob, "log_prob", log_prob)
    check_shape("ppo_clip", "advantage", advantage, "log_prob", log_prob)
    log_ratio = log_prob - behavior_log_prob
    low = torch.log1p(-as_scalar(clip_epsilon_low, log_prob))
    high = torch.log1p(as_scalar(clip_epsilon_high, log_prob))
    bounded = torch.where(
        advantage >= 0, torch.minimum(log_ratio, high), torch.maximum(log_ratio, low)
    )
    return -bounded.exp() * advantage


def value_loss(
    value: Tensor,
    value_target: Tensor,
    old_value: Optional[Tensor] = None,
    clip_value: float = 0.2,
    loss_type: str = "smooth_l1",
) -> Tensor:
    """The distance of a value from its target, optionally clipped around the old value.

        l2         (value - value_target)^2
        l1         |value - value_target|
        smooth_l1  d^2 / 2 where |d| < 1, else |d| - 1/2,   d = value - value_target

        with old_value:  max(distance(value), distance(old_value + clip(value - old_value,
                                                                -clip_value, clip_value)))

    Clipping takes the larger of two losses: it removes the reward for moving further than
    ``clip_value`` from the old value, it does not bound the loss.

    Args:
        value: critic that learns, ``[*B]``.
        value_target: what it should predict, ``[*B]``.
        old_value: the critic's prediction when the data was collected, ``[*B]``; None: no clip.
        clip_value: the distance from ``old_value``, in units of value, positive.
        loss_type: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.

    Returns:
        The loss of each sample, ``[*B]``.

    Raises:
        ValueError: the tensors' shapes differ, or the loss type is unknown.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 9; the clip, Engstrom et al. 2020,
    arXiv:2005.12729, sec. 3; smooth_l1, Huber 1964 at threshold one.
    """
    check_shape("value_loss", "value_target", value_target, "value", value)
    loss = _distance(value, value_target, loss_type)
    if old_value is None:
        return loss
    check_shape("value_loss", "old_value", old_value, "value", value)
    bound = as_scalar(clip_value, value)
    clipped = old_value + torch.clamp(value - old_value, min=-bound, max=bound)
    return torch.maximum(loss, _distance(clipped, value_target, loss_type))


def _distance(prediction: Tensor, target: Tensor, loss_type: str) -> Tensor:
    if loss_type == "l2":
        return (prediction - target).square()
    if loss_type == "l1":
        return (prediction - target).abs()
    if loss_type == "smooth_l1":
        return torch.nn.functional.smooth_l1_loss(prediction, target, reduction="none")
    raise ValueError(
        f"value_loss: `loss_type` must be 'l1', 'l2' or 'smooth_l1', got '{loss_type}'"
    )
