"""All the probability on one action."""

import math

import torch
from torch import Tensor

from compiled_rl.kernels.checks import check_shape


def deterministic_log_prob(
    action: Tensor, param: Tensor, atol: float = 1e-6, rtol: float = 1e-6
) -> Tensor:
    """Log-probability of an action where one action has all the probability.

        0 if abs(action - param) <= atol + rtol * abs(param) in every dimension, else -inf

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
    check_shape("deterministic_log_prob", "action", action, "param", param)
    near = ((action - param).abs() <= atol + rtol * param.abs()).all(-1)
    certain = torch.zeros_like(param[..., 0])
    return torch.where(near, certain, certain - math.inf)
