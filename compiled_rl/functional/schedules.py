"""Rules that move a coefficient while training goes on: tensors in, a tensor out."""

import torch
from torch import Tensor

from compiled_rl.functional.scalars import as_scalar
from compiled_rl.kernels.checks import check_shape


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
        beta: the weight that was used, a 0-d tensor or ``[*B]``, not negative.
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
    check_shape("next_beta", "kl", kl, "beta", beta)
    target = as_scalar(target_kl, kl)
    raised = torch.where(kl > 1.5 * target, beta * as_scalar(increment, beta), beta)
    return torch.where(kl < target / 1.5, beta * as_scalar(decrement, beta), raised)
