"""All the probability on one action."""

import math

import torch
from torch import Tensor

from compiled_rl.functional.scalars import scalar
from compiled_rl.kernels.checks import check_last, check_shapes


def deterministic_log_prob(
    action: Tensor, param: Tensor, atol: float = 1e-6, rtol: float = 1e-6
) -> Tensor:
    """Log-probability of an action where one action has all the probability.

        0 if abs(action - param) <= atol + rtol * abs(param) in every dimension else -inf

    It is a probability, not a density, and has no gradient.

    Args:
        action: ``[*B, A]``.
        param: the one action, ``[*B, A]``.
        atol: absolute tolerance, in units of the action.
        rtol: relative tolerance.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Silver et al. 2014, Deterministic Policy Gradient Algorithms, sec. 2.1.
    """
    name = "deterministic_log_prob"
    check_last(name, "param", param)
    check_shapes(name, {"param": param, "action": action})
    absolute = scalar(name, "atol", atol, param, "at least 0")
    relative = scalar(name, "rtol", rtol, param, "at least 0")
    near = ((action - param).abs() <= absolute + relative * param.abs()).all(-1)
    certain = torch.zeros_like(param[..., 0])
    return torch.where(near, certain, certain - math.inf)


def smoothed_action(
    action: Tensor,
    noise: Tensor,
    low: Tensor,
    high: Tensor,
    policy_noise: float = 0.2,
    noise_clip: float = 0.5,
) -> Tensor:
    """An action with bounded noise: TD3's target policy smoothing.

        clip(action + clip(policy_noise * noise, -noise_clip, noise_clip), low, high)

    Args:
        action: of the target policy at the state entered, ``[*B, A]``.
        noise: standard normal, ``[*B, A]``.
        low: lower bounds of the action, ``[*B, A]``.
        high: upper bounds of the action, ``[*B, A]``.
        policy_noise: standard deviation of the noise, in units of the action, at least 0.
        noise_clip: bound of the noise, in units of the action, at least 0.

    Returns:
        ``[*B, A]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Fujimoto et al. 2018, arXiv:1802.09477, eq. 14.
    """
    owner = "smoothed_action"
    check_shapes(owner, {"action": action, "noise": noise, "low": low, "high": high})
    deviation = scalar(owner, "policy_noise", policy_noise, action, "at least 0")
    bound = scalar(owner, "noise_clip", noise_clip, action, "at least 0")
    added = torch.clamp(deviation * noise, min=-bound, max=bound)
    # Not `clamp`, whose gradient TorchScript does not hand on to bounds that are tensors.
    return torch.maximum(torch.minimum(action + added, high), low)
