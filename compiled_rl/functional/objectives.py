"""What is minimised, per sample: named tensors in, losses out. Nothing here averages."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.scalars import as_scalar, scalar
from compiled_rl.kernels.checks import check_number, check_shapes


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """The score-function objective of REINFORCE and A2C, as a loss.

        loss = -log_prob * advantage

    Its gradient is that of the expected return only for actions that the policy itself took: on
    older data use a ratio.

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        advantage: of the recorded action, or its return, ``[*B]``.

    Returns:
        The loss of each sample, ``[*B]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Williams 1992, Machine Learning 8, eq. 4; Mnih et al. 2016, arXiv:1602.01783, sec. 4.
    """
    check_shapes("policy_gradient", {"log_prob": log_prob, "advantage": advantage})
    return -log_prob * advantage


def ppo_surrogate(
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    advantage: Tensor,
    log_weight: Optional[Tensor] = None,
) -> Tensor:
    """The surrogate objective of PPO without a clip, as a loss.

        loss = -exp(log_prob - behavior_log_prob + log_weight) * advantage

    Nothing bounds the ratio: take few steps on the same data, or penalise the divergence.

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        behavior_log_prob: of the same action under the policy that acted, ``[*B]``.
        advantage: of the recorded action, ``[*B]``.
        log_weight: logarithm of a weight of each sample, see ``importance_correction``, ``[*B]``;
            None: one.

    Returns:
        The loss of each sample, ``[*B]``; infinite where the ratio overflows, with a gradient that
        is infinite or NaN.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 6.
    """
    return _surrogate("ppo_surrogate", log_prob, behavior_log_prob, advantage, log_weight)


def ppo_kl_penalty(
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    advantage: Tensor,
    kl: Tensor,
    beta: float = 1.0,
    log_weight: Optional[Tensor] = None,
) -> Tensor:
    """The surrogate objective of PPO with a penalty on the divergence, as a loss.

        loss = -exp(log_prob - behavior_log_prob + log_weight) * advantage + beta * kl

    ``kl`` is KL(old || new), in this order.

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        behavior_log_prob: of the same action under the policy that acted, ``[*B]``.
        advantage: of the recorded action, ``[*B]``.
        kl: divergence of the policy that learns from the old one, in nats, ``[*B]``.
        beta: weight of the penalty, at least 0; ``next_beta`` adapts it.
        log_weight: logarithm of a weight of each sample, see ``importance_correction``, ``[*B]``;
            None: one.

    Returns:
        The loss of each sample, ``[*B]``; infinite where the ratio overflows, with a gradient that
        is infinite or NaN.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 8.
    """
    check_shapes("ppo_kl_penalty", {"log_prob": log_prob, "kl": kl})
    loss = _surrogate("ppo_kl_penalty", log_prob, behavior_log_prob, advantage, log_weight)
    return loss + scalar("ppo_kl_penalty", "beta", beta, kl, "at least 0") * kl


def importance_correction(
    log_prob: Tensor,
    proximal_log_prob: Tensor,
    behavior_log_prob: Tensor,
    max_importance_ratio: Optional[float] = None,
) -> Tensor:
    """The weight that lets a proximal policy, not the one that acted, be PPO's trust region.

        log_weight = min(proximal_log_prob - behavior_log_prob,
                         log(max_importance_ratio) - (log_prob - proximal_log_prob))

    PPO's ratio is then taken to the proximal policy; the weight makes it the ratio to the policy
    that acted, and the second term bounds that ratio.

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        proximal_log_prob: under the proximal policy, ``[*B]``.
        behavior_log_prob: under the policy that acted, ``[*B]``.
        max_importance_ratio: bound on exp(log_prob - behavior_log_prob), positive; None: none.

    Returns:
        The logarithm of each sample's weight, ``[*B]``, detached.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Hilton et al. 2021, arXiv:2110.00641, eq. 4; its PPO-EWMA bounds the ratio so.
    """
    owner = "importance_correction"
    check_shapes(
        owner,
        {
            "log_prob": log_prob,
            "proximal_log_prob": proximal_log_prob,
            "behavior_log_prob": behavior_log_prob,
        },
    )
    weight = proximal_log_prob - behavior_log_prob
    if max_importance_ratio is not None:
        bound = scalar(
            owner, "max_importance_ratio", max_importance_ratio, log_prob, "positive"
        ).log()
        weight = torch.minimum(weight, bound - (log_prob - proximal_log_prob))
    return weight.detach()


def ppo_clip(
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    advantage: Tensor,
    clip_epsilon_low: float = 0.2,
    clip_epsilon_high: float = 0.2,
    log_weight: Optional[Tensor] = None,
) -> Tensor:
    """The clipped surrogate objective of PPO, as a loss.

        ratio = exp(log_prob - behavior_log_prob)
        loss  = -min(ratio * advantage,
                     clip(ratio, 1 - clip_epsilon_low, 1 + clip_epsilon_high) * advantage)
                * exp(log_weight)

    The minimum bounds the ratio from one side only, the one that the advantage pushes to. The
    bound is taken on the log-ratio, before the exponential: a sample that is clipped has a zero
    gradient whatever its ratio, where 0 * inf would be NaN.

    Args:
        log_prob: of the recorded action under the policy that learns, ``[*B]``.
        behavior_log_prob: of the same action under the policy that acted, ``[*B]``.
        advantage: of the recorded action, ``[*B]``.
        clip_epsilon_low: how far the ratio may fall below one, in [0, 1).
        clip_epsilon_high: how far the ratio may rise above one, at least 0.
        log_weight: logarithm of a weight of each sample, see ``importance_correction``, ``[*B]``;
            None: one.

    Returns:
        The loss of each sample, ``[*B]``. With a negative advantage the loss grows with the ratio
        without bound, and is infinite where the ratio overflows, with a gradient that is infinite
        or NaN.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    _check_surrogate("ppo_clip", log_prob, behavior_log_prob, advantage)
    log_ratio = log_prob - behavior_log_prob
    low = scalar("ppo_clip", "clip_epsilon_low", clip_epsilon_low, log_prob, "in [0, 1)")
    high = scalar("ppo_clip", "clip_epsilon_high", clip_epsilon_high, log_prob, "at least 0")
    low, high = torch.log1p(-low), torch.log1p(high)
    bounded = torch.where(
        advantage >= 0, torch.minimum(log_ratio, high), torch.maximum(log_ratio, low)
    )
    return -_weighted("ppo_clip", bounded, log_weight).exp() * advantage


def _check_surrogate(
    function: str, log_prob: Tensor, behavior_log_prob: Tensor, advantage: Tensor
) -> None:
    check_shapes(
        function,
        {"log_prob": log_prob, "behavior_log_prob": behavior_log_prob, "advantage": advantage},
    )


def _surrogate(
    function: str,
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    advantage: Tensor,
    log_weight: Optional[Tensor],
) -> Tensor:
    _check_surrogate(function, log_prob, behavior_log_prob, advantage)
    return -_weighted(function, log_prob - behavior_log_prob, log_weight).exp() * advantage


def _weighted(function: str, log_ratio: Tensor, log_weight: Optional[Tensor]) -> Tensor:
    if log_weight is None:
        return log_ratio
    check_shapes(function, {"log_prob": log_ratio, "log_weight": log_weight})
    return log_ratio + log_weight


def value_loss(
    value: Tensor,
    value_target: Tensor,
    old_value: Optional[Tensor] = None,
    clip_value: float = 0.2,
    loss_function: str = "smooth_l1",
) -> Tensor:
    """The distance of a value from its target, optionally clipped around the old value.

        loss = distance(value, value_target)
        loss = max(distance(value, value_target), distance(clipped, value_target))   with old_value,
               where clipped = old_value + clip(value - old_value, -clip_value, clip_value)

    Clipping takes the larger of two losses: it removes the reward for moving further than
    ``clip_value`` from the old value, it does not bound the loss.

    Args:
        value: critic that learns, ``[*B]``.
        value_target: what it should predict, ``[*B]``.
        old_value: the critic's prediction when the data was collected, ``[*B]``; None: no clip.
        clip_value: the distance from ``old_value``, in units of value, positive.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.

    Returns:
        The loss of each sample, ``[*B]``.

    Raises:
        ValueError: the tensors' shapes differ, or the loss type is unknown.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 9; the clip, Engstrom et al. 2020,
    arXiv:2005.12729, sec. 3.
    """
    check_shapes("value_loss", {"value": value, "value_target": value_target})
    check_number("value_loss", "clip_value", clip_value, "positive")
    loss = distance_loss(value, value_target, loss_function)
    if old_value is None:
        return loss
    check_shapes("value_loss", {"value": value, "old_value": old_value})
    bound = as_scalar(clip_value, value)
    clipped = old_value + torch.clamp(value - old_value, min=-bound, max=bound)
    return torch.maximum(loss, distance_loss(clipped, value_target, loss_function))


def distance_loss(value: Tensor, value_target: Tensor, loss_function: str = "l2") -> Tensor:
    """The distance of a value from its target.

        l2          d^2,   d = value - value_target
        l1          |d|
        smooth_l1   d^2 / 2 if |d| < 1 else |d| - 1/2

    Args:
        value: what learns, ``[*B]``.
        value_target: what it should be, ``[*B]``.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.

    Returns:
        The loss of each sample, ``[*B]``.

    Raises:
        ValueError: the tensors' shapes differ, or the loss function is unknown.

    Reference: smooth_l1, Huber 1964 at threshold one.
    """
    check_shapes("distance_loss", {"value": value, "value_target": value_target})
    if loss_function == "l2":
        return (value - value_target).square()
    if loss_function == "l1":
        return (value - value_target).abs()
    if loss_function == "smooth_l1":
        return torch.nn.functional.smooth_l1_loss(value, value_target, reduction="none")
    raise ValueError(
        f"distance_loss: `loss_function` must be 'l1', 'l2' or 'smooth_l1', got '{loss_function}'"
    )
