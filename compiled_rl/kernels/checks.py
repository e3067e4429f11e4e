"""Argument checks in one sentence; scriptable."""

from typing import Optional

import torch
from torch import Tensor


def check_shape(
    function: str, name: str, x: Tensor, reference_name: str, reference: Tensor
) -> None:
    """Refuse a tensor whose shape is not exactly the reference's: nothing broadcasts."""
    if x.shape != reference.shape:
        raise ValueError(
            f"{function}: `{name}` must have the shape of `{reference_name}`, "
            f"got {list(x.shape)} and {list(reference.shape)}"
        )


def check_like(function: str, name: str, x: Tensor, reference_name: str, reference: Tensor) -> None:
    """Refuse a tensor whose shape or dtype is not the reference's."""
    check_shape(function, name, x, reference_name, reference)
    if x.dtype != reference.dtype:
        raise ValueError(
            f"{function}: `{name}` must have the dtype of `{reference_name}`, "
            f"got {x.dtype} and {reference.dtype}"
        )


def check_flag(function: str, name: str, x: Tensor, reference_name: str, reference: Tensor) -> None:
    """Refuse a flag that is not bool, which would give silently wrong numbers, or misshapen."""
    check_shape(function, name, x, reference_name, reference)
    if x.dtype != torch.bool:
        raise ValueError(f"{function}: `{name}` must be torch.bool, got {x.dtype}")


def check_mask(
    function: str, mask: Optional[Tensor], reference_name: str, reference: Tensor
) -> None:
    """Refuse a mask that is given and is no flag."""
    if mask is not None:
        check_flag(function, "mask", mask, reference_name, reference)


def check_floating(function: str, name: str, x: Tensor) -> None:
    """Refuse integers, flags and complex numbers."""
    if not torch.is_floating_point(x):
        raise ValueError(f"{function}: `{name}` must be floating point, got {x.dtype}")


def check_time(function: str, name: str, x: Tensor, time_dim: int) -> None:
    """Refuse a tensor that is not floating point or has no axis ``time_dim``."""
    check_floating(function, name, x)
    axes = x.dim()
    if axes == 0:
        raise ValueError(f"{function}: `{name}` must have a time axis, got a 0-d tensor")
    if not -axes <= time_dim < axes:
        raise ValueError(f"{function}: `time_dim` must be in [{-axes}, {axes - 1}], got {time_dim}")


def check_recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> None:
    """What the loops of ``linear_recurrence`` rely on when they read memory."""
    check_time("linear_recurrence", "x", x, time_dim)
    check_like("linear_recurrence", "decay", decay, "x", x)


def check_steps(
    function: str, tensors: dict[str, Tensor], mask: Optional[Tensor], time_dim: Optional[int]
) -> None:
    """What every estimator asks of its inputs, one value a step; None: there is no time axis.

    The first tensor has the shape, dtype and device of all; flags are known by their names.
    """
    name = list(tensors.keys())[0]  # noqa: RUF015  (TorchScript has no iterators)
    first = tensors[name]
    if time_dim is None:
        check_floating(function, name, first)
    else:
        check_time(function, name, first, time_dim)
    shape, dtype, device = first.shape, first.dtype, first.device
    for other, x in tensors.items():
        flag = other == "terminated" or other == "done"
        expected = torch.bool if flag else dtype
        # One look at each; only what fails it is asked for its sentence.
        if x.dtype != expected or x.shape != shape or x.device != device:
            if flag:
                check_flag(function, other, x, name, first)
            else:
                check_like(function, other, x, name, first)
            check_device(function, other, x, name, first)
    if mask is not None:
        check_mask(function, mask, name, first)
        check_device(function, "mask", mask, name, first)


def check_device(
    function: str, name: str, x: Tensor, reference_name: str, reference: Tensor
) -> None:
    """Refuse a tensor that is not on the reference's device."""
    if x.device != reference.device:
        raise ValueError(
            f"{function}: `{name}` must be on the device of `{reference_name}`, "
            f"got {x.device} and {reference.device}"
        )


def check_shapes(function: str, tensors: dict[str, Tensor]) -> None:
    """Refuse tensors whose shapes are not exactly the first's."""
    name = list(tensors.keys())[0]  # noqa: RUF015  (TorchScript has no iterators)
    for other, x in tensors.items():
        check_shape(function, other, x, name, tensors[name])
