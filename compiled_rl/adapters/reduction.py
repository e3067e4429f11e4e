"""Reduction as a loss that was written for TorchRL asks for it."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.adapters.masks import beside
from compiled_rl.functional import reduce

REDUCTIONS = ("none", "mean", "sum")


def reduce_loss(
    owner: str,
    loss: Tensor,
    masks: list[Tensor],
    mask: Optional[Tensor],
    reduction: str,
    weight: Optional[Tensor],
) -> Tensor:
    """Reduce over what every mask allows; see ``functional.reduce``.

    Args:
        owner: whose loss it is, for errors.
        loss: ``[*B]``, or ``[*B, 1]``.
        masks: of the data, bool; of the shape of ``loss``, or with fewer axes or ones behind.
        mask: that of the code; with reduction ``"none"`` what it forbids is left out, and what is
            left is one axis, where a mask of the data leaves zeros in their places.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: of each element, shaped as a mask.

    Raises:
        NotImplementedError: ``reduction`` is unknown.
        ValueError: a mask or the weight has another shape.
    """
    if reduction not in REDUCTIONS:
        raise NotImplementedError(
            f"{owner}: `reduction` must be in {REDUCTIONS}, got {reduction!r}"
        )
    given = masks if mask is None else [*masks, mask]
    aligned = [_aligned(owner, "mask", x, loss) for x in given]
    valid = torch.stack(aligned).all(0) if aligned else None
    weight = None if weight is None else _aligned(owner, "weights", weight, loss)
    reduced = reduce(loss, valid, reduction, weight)
    return reduced[valid] if reduction == "none" and mask is not None else reduced


def _aligned(owner: str, name: str, x: Tensor, loss: Tensor) -> Tensor:
    """A mask or a weight as one element for each of the loss."""
    aligned = x
    while aligned.dim() > 1 and aligned.shape != loss.shape[: aligned.dim()]:
        if aligned.shape[-1] != 1:
            break
        aligned = aligned.squeeze(-1)
    if aligned.shape != loss.shape[: aligned.dim()]:
        raise ValueError(
            f"{owner}: `{name}` must have the shape {list(loss.shape)} of the loss or less, "
            f"got {list(x.shape)}"
        )
    return beside(aligned, loss).expand_as(loss)
