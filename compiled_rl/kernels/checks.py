"""Argument checks in one sentence; scriptable."""

from numbers import Integral, Real
from typing import Optional

import torch
from torch import Tensor


def check_tensor(function: str, name: str, x: Tensor) -> None:
    """Refuse what is no tensor, and one that is sparse or of complex numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: `{name}` must be a tensor, got a {type(x).__name__}")
    if x.is_complex():
        raise ValueError(f"{function}: `{name}` must be of real numbers, got {x.dtype}")
    if x.is_sparse:
        raise ValueError(f"{function}: `{name}` must be dense, got a sparse tensor")


def check_shape(
    function: str, name: str, x: Tensor, reference_name: str, reference: Tensor
) -> None:
    """Refuse a tensor that has not exactly the reference's shape: nothing broadcasts.

    Nor its device; what either of them is otherwise is left to others, if it is a tensor.
    """
    check_tensor(function, reference_name, reference)
    check_tensor(function, name, x)
    check_device(function, name, x, reference_name, reference)
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
    """Refuse integers, flags and complex numbers, and what is sparse."""
    if not isinstance(x, Tensor) or x.is_sparse:
        check_tensor(function, name, x)
    if not x.is_floating_point():
        raise ValueError(f"{function}: `{name}` must be floating point, got {x.dtype}")


def check_last(function: str, name: str, x: Tensor) -> None:
    """Refuse a tensor that is not floating point or has no last axis to work over."""
    check_floating(function, name, x)
    if x.dim() == 0:
        raise ValueError(f"{function}: `{name}` must have an axis, got a 0-d tensor")


def check_bool(function: str, name: str, value: bool) -> bool:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: `{name}` must be True or False, got {value}")
    return value


def check_integer(function: str, name: str, x: int) -> None:
    """Refuse what is no integer."""
    if not torch.jit.is_scripting():
        if not isinstance(x, int | Integral) or isinstance(x, bool):
            raise TypeError(f"{function}: `{name}` must be an integer, got a {type(x).__name__}")


def check_sizes(function: str, name: str, sizes: list[int]) -> None:
    """Refuse what is no list of positive integers, or an empty one."""
    if not torch.jit.is_scripting():
        if not isinstance(sizes, list | tuple):
            raise TypeError(
                f"{function}: `{name}` must be a list of integers, got a {type(sizes).__name__}"
            )
    for size in sizes:
        check_integer(function, name, size)
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"{function}: `{name}` must be at least one positive integer, got {sizes}")


def check_number(function: str, name: str, x: float, range_: str = "a number") -> None:
    """Refuse what is no real number, or one out of a range; NaN is in none.

    A 0-d tensor is a number whose value is not asked.

    Args:
        function: the owner of the argument.
        name: of the argument.
        x: a number or a tensor.
        range_: one of those of ``is_in_range``, in the words of the refusal.
    """
    if isinstance(x, Tensor):
        check_tensor(function, name, x)
        if x.dim() != 0 or x.dtype == torch.bool:
            raise ValueError(
                f"{function}: `{name}` must be a number or a 0-d tensor, "
                f"got {x.dtype} of shape {list(x.shape)}"
            )
        return
    if not torch.jit.is_scripting():
        # A float is told at once; asking for any other number takes longer.
        if not isinstance(x, float) and (not isinstance(x, Real) or isinstance(x, bool)):
            raise TypeError(f"{function}: `{name}` must be a number, got a {type(x).__name__}")
    if not is_in_range(x, range_):
        raise ValueError(f"{function}: `{name}` must be {range_}, got {x}")


def is_in_range(x: float, range_: str) -> bool:
    """Whether a number is in a range that is named; written so that NaN is not."""
    if range_ == "in [0, 1]":
        return x >= 0 and x <= 1
    if range_ == "in [0, 1)":
        return x >= 0 and x < 1
    if range_ == "in (0, 1]":
        return x > 0 and x <= 1
    if range_ == "positive":
        return x > 0
    if range_ == "at least 0":
        return x >= 0
    if range_ == "at least 1":
        return x >= 1
    if range_ == "above 1":
        return x > 1
    if range_ == "finite":
        return x - x == 0
    if range_ == "a number":
        return x == x
    raise ValueError(f"there is no range {range_}")


def check_time(function: str, name: str, x: Tensor, time_dim: int) -> None:
    """Refuse a tensor that is not floating point or has no axis ``time_dim``."""
    check_floating(function, name, x)
    _check_axis(function, name, x, time_dim)


def _check_axis(function: str, name: str, x: Tensor, time_dim: int) -> None:
    check_integer(function, "time_dim", time_dim)
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
    function: str, tensors: dict[str, Tensor], mask: Optional[Tensor], time_dim: int
) -> None:
    """What every estimator over time asks of its inputs, one value a step."""
    check_each_step(function, tensors, mask)
    name = list(tensors.keys())[0]  # noqa: RUF015  (TorchScript has no iterators)
    _check_axis(function, name, tensors[name], time_dim)


def check_each_step(function: str, tensors: dict[str, Tensor], mask: Optional[Tensor]) -> None:
    """What every estimator asks of its inputs, one value a step.

    The first tensor has the shape, dtype and device of all; flags are known by their names.
    """
    name = list(tensors.keys())[0]  # noqa: RUF015  (TorchScript has no iterators)
    first = tensors[name]
    check_floating(function, name, first)
    shape, dtype, device = first.shape, first.dtype, first.device
    for other, x in tensors.items():
        if not isinstance(x, Tensor):
            check_tensor(function, other, x)
        flag = other == "terminated" or other == "done"
        expected = torch.bool if flag else dtype
        # One look at each; only what fails it is asked for its sentence.
        if x.dtype != expected or x.shape != shape or x.device != device:
            if flag:
                check_flag(function, other, x, name, first)
            else:
                check_like(function, other, x, name, first)
    check_mask(function, mask, name, first)


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
    """Refuse tensors that are not floating point, or have not the first's shape and device."""
    name = list(tensors.keys())[0]  # noqa: RUF015  (TorchScript has no iterators)
    first = tensors[name]
    check_floating(function, name, first)
    shape, device = first.shape, first.device
    for other, x in tensors.items():
        # One look at each; only what fails it is asked for its sentence.
        if not isinstance(x, Tensor):
            check_tensor(function, other, x)
        if x.shape != shape or x.device != device or not x.is_floating_point():
            check_floating(function, other, x)
            check_shape(function, other, x, name, first)
