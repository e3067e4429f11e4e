"""Normalisers of value targets in a loss: which are taken, and when their statistics move."""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.modules import ValueNorm


def check_norm(owner: str, argument: str, norm: Any) -> Optional[nn.Module]:
    """A ``ValueNorm``, one of TorchRL's, or None.

    Raises:
        TypeError: it is nothing of the kind.
    """
    needed = ("shape", "update", "normalize", "scale")
    known = isinstance(norm, nn.Module) and all(hasattr(norm, name) for name in needed)
    if norm is not None and not known:
        raise TypeError(
            f"{owner}: `{argument}` must be a ValueNorm or None, got {type(norm).__name__}"
        )
    checked: Optional[nn.Module] = norm
    return checked


def learn(loss: nn.Module, norm: Any, target: Tensor, mask: Optional[Tensor]) -> None:
    """Show a normaliser the targets ``[*B, 1]`` of the steps that are valid for all it tells.

    Like batch normalisation it learns in training only, and with gradients enabled.
    """
    if not (loss.training and norm.training and torch.is_grad_enabled()):
        return
    if mask is None:
        norm.update(target)
        return
    agents = len(norm.shape) - 1
    whole = mask.flatten(-agents).all(-1) if agents else mask
    if isinstance(norm, ValueNorm):
        norm.update(target, whole)
    elif whole.any():  # TorchRL's take no mask, and nothing for NaN
        norm.update(target[whole])
