"""Argument checks in one sentence; the same words eagerly and in TorchScript."""

import torch
from torch import Tensor


def check_shape(function: str, name: str, x: Tensor, reference_name: str, reference: Tensor) -> None:
    """Refuse a tensor whose shape is not exactly the reference's: nothing broadcasts by accident.

    Raises:
        ValueError: the shapes differ.
    """
    if x.shape != reference.shape:
        raise ValueError(
            f"{function}: `{name}` must have the shape of `{reference_name}`, "
            f"got {list(x.shape)} and {list(reference.shape)}"
        )


def check_bool(function: str, name: str, x: Tensor) -> None:
    """Refuse a flag or mask that is not bool: uint8 and float flags give silently wrong numbers.

    Raises:
        ValueError: the dtype is not ``torch.bool``.
    """
    if x.dtype != torch.bool:
        raise ValueError(f"{function}: `{name}` must be torch.bool, got {x.dtype}")


def check_floating(function: str, name: str, x: Tensor) -> None:
    """Refuse a tensor that is not of a floating-point dtype.

    Raises:
        ValueError: the dtype is not floating point.
    """
    if not torch.is_floating_point(x):
        raise ValueError(f"{function}: `{name}` must be of a floating-point dtype, got {x.dtype}")
