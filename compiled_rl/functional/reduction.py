"""The only place that averages: over valid elements, and over nothing else."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.processes import check_whole, over_processes
from compiled_rl.functional.scalars import as_scalar, at_least_float, where_valid, widened
from compiled_rl.kernels.checks import (
    check_floating,
    check_integer,
    check_mask,
    check_number,
    check_shapes,
)


def reduce(
    x: Tensor,
    mask: Optional[Tensor] = None,
    reduction: str = "mean",
    weight: Optional[Tensor] = None,
) -> Tensor:
    """Reduce per-sample values over the valid ones.

        none   weight * x if valid else 0
        mean   (sum over the valid of weight * x) / (sum over the valid of weight)
        sum    sum over the valid of weight * x

    Without weights they are one each.

    Args:
        x: ``[*B]``.
        mask: valid elements, bool ``[*B]``; None: all. What lies under it is never read.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: of each element, at least 0, ``[*B]``, such as the importance weights of a
            prioritised replay buffer; None: one.

    Returns:
        ``[*B]`` for ``"none"``, a scalar otherwise; the mean of no valid element is zero.

    Raises:
        ValueError: the mask is not bool, a shape is another, or the reduction is unknown.

    Reference: Schaul et al. 2015, arXiv:1511.05952, sec. 3.4, for the weights; the mean over
    valid steps is a convention of masked sequence losses.
    """
    check_floating("reduce", "x", x)
    check_mask("reduce", mask, "x", x)
    valid = where_valid(mask, x)
    if weight is not None:
        check_shapes("reduce", {"x": x, "weight": weight})
        weight = where_valid(mask, weight)
        valid = valid * weight
    if reduction == "none":
        return valid.clone()
    if reduction == "sum":
        return _sum(valid).to(x.dtype)
    if reduction == "mean":
        return (_sum(valid) / _total_weight(x, mask, weight)).to(x.dtype)
    raise ValueError(f"reduce: `reduction` must be 'none', 'mean' or 'sum', got '{reduction}'")


def _total_weight(x: Tensor, mask: Optional[Tensor], weight: Optional[Tensor]) -> Tensor:
    """What a mean divides by; one if there is nothing."""
    if weight is None:
        return count_valid(x, mask).clamp(min=1)
    total = _sum(weight)
    return torch.where(total == 0, torch.ones_like(total), total)


def count_valid(x: Tensor, mask: Optional[Tensor]) -> Tensor:
    """The number of valid elements, a scalar on ``x``'s device, wide enough to count in."""
    if mask is None:
        count = torch.scalar_tensor(x.numel(), dtype=at_least_float(x.dtype), device=x.device)
    else:
        count = mask.sum().to(at_least_float(x.dtype))
    return over_processes(count)


def largest(x: Tensor, mask: Optional[Tensor], least: float) -> Tensor:
    """The largest valid element, or ``least``, which none is below, if there is none."""
    if mask is not None:
        x = torch.where(mask, x, torch.full_like(x, least))
    return over_processes(torch.nn.functional.pad(x.flatten(), [0, 1], value=least).max(), "max")


def _sum(x: Tensor) -> Tensor:
    """The sum; half types are accumulated and returned in float32, where large counts exist."""
    return over_processes(widened(x).sum())


def variance(x: Tensor, mask: Optional[Tensor] = None, correction: int = 0) -> Tensor:
    """Variance over the valid elements.

        (sum over the valid of (x - mean)^2) / max(number of the valid - correction, 1)

    Args:
        x: ``[*B]``.
        mask: valid elements, bool ``[*B]``; None: all.
        correction: 0 is the biased estimate, 1 the unbiased one.

    Returns:
        A scalar; zero for a single element.

    Raises:
        ValueError: the mask is not bool or of another shape.

    Reference: Bessel's correction, any textbook of statistics.
    """
    check_floating("variance", "x", x)
    check_integer("variance", "correction", correction)
    check_mask("variance", mask, "x", x)
    deviation = where_valid(mask, x - reduce(x, mask, "mean"))
    count = count_valid(x, mask) - correction
    return (_sum(deviation.to(count.dtype).square()) / count.clamp(min=1)).to(x.dtype)


def standardize(
    x: Tensor,
    mask: Optional[Tensor] = None,
    floor: float = 1e-6,
    exclude_dims: Optional[list[int]] = None,
) -> Tensor:
    """Shift and scale to zero mean and unit standard deviation over the valid elements.

        (x - mean) / max(standard deviation, floor),   unbiased

    A single valid element has no deviation and is returned as it is.

    Args:
        x: ``[*B]``, an advantage for instance.
        mask: valid elements, bool ``[*B]``; None: all.
        floor: least divisor, positive.
        exclude_dims: dimensions along which each slice has a mean and a deviation of its own, such
            as that of the agents; None: one for all.

    Returns:
        ``[*B]``; zero under the mask.

    Raises:
        IndexError: ``x`` has no such dimension.
        ValueError: the mask is not bool or of another shape.

    Reference: Andrychowicz et al. 2020, arXiv:2006.05990, appendix B.7 (per-minibatch
    advantage normalisation).
    """
    check_floating("standardize", "x", x)
    check_number("standardize", "floor", floor, "positive")
    check_mask("standardize", mask, "x", x)
    x = where_valid(mask, x)
    dims = _others(x, exclude_dims)
    if len(dims) == 0:
        return x.clone()
    count, mean, squares = moments(x, mask, dims)
    number = count.to(mean.dtype)
    deviation = _root(squares / (number - 1).clamp(min=1)).clamp(min=as_scalar(floor, number))
    standard = torch.where(count > 1, (x - mean) / deviation, x.to(mean.dtype))
    return where_valid(mask, standard).to(x.dtype)


def moments(x: Tensor, mask: Optional[Tensor], dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and sum of squared deviations of the valid elements along some dimensions.

    The dimensions stay, of size one; half types are accumulated and returned in float32.
    """
    x = where_valid(mask, x)
    valid = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    count = _sum_along(valid, dims)
    divisor = count.clamp(min=1)
    mean = _sum_along(widened(x), dims) / divisor
    # What rounding left of it, so that equal values deviate by nothing.
    mean = mean + _sum_along(where_valid(mask, x - mean), dims) / divisor
    return count, mean, _sum_along(where_valid(mask, x - mean).square(), dims)


def _sum_along(x: Tensor, dims: list[int]) -> Tensor:
    """The sum along some dimensions, which stay; batches are split along the first."""
    total = x.sum(dims, keepdim=True)
    return over_processes(total) if 0 in dims else total


def _others(x: Tensor, exclude_dims: Optional[list[int]]) -> list[int]:
    """The dimensions of ``x`` that are not excluded."""
    others = list(range(x.dim()))
    if exclude_dims is not None:
        if not torch.jit.is_scripting():
            if not isinstance(exclude_dims, list | tuple):
                raise TypeError(
                    "standardize: `exclude_dims` must be a list of dimensions, "
                    f"got a {type(exclude_dims).__name__}"
                )
        for dim in exclude_dims:
            check_integer("standardize", "exclude_dims", dim)
        for dim in exclude_dims:
            if dim < -x.dim() or dim >= x.dim():
                raise IndexError(
                    f"standardize: `exclude_dims` must be dimensions of `x`, which has {x.dim()}, "
                    f"got {dim}"
                )
            if dim % x.dim() in others:
                others.remove(dim % x.dim())
    return others


def standardize_groups(x: Tensor, group: Tensor, mask: Optional[Tensor], floor: float) -> Tensor:
    """``standardize`` within each group of elements that bear the same number.

    How many groups there are is never asked: they are numbered by their order, below the number of
    elements.
    """
    check_whole("standardize_groups", "the statistics of groups")
    index = _numbered(group.flatten())
    flat = where_valid(mask, x).flatten()
    one = torch.ones_like(flat) if mask is None else mask.flatten().to(flat.dtype)
    count = _sum_by(one, index)
    centred = flat - (_sum_by(flat, index) / count.clamp(min=1))[index]
    deviation = _sum_by(one * centred.square(), index) / (count - 1).clamp(min=1)
    scale = _root(deviation).clamp(min=as_scalar(floor, x))[index]
    standard = torch.where(count[index] > 1, centred / scale, flat)
    return where_valid(mask, standard.view_as(x))


def _root(x: Tensor) -> Tensor:
    """The square root, with a gradient of zero at zero instead of none."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), 0.0)


def _numbered(group: Tensor) -> Tensor:
    """The groups' numbers, from zero on without a gap."""
    ordered, order = group.sort(stable=True)
    starts = torch.cat([torch.zeros_like(order[:1]), (ordered[1:] != ordered[:-1]).long()])
    return torch.empty_like(order).scatter(0, order, starts.cumsum(0))


def _sum_by(x: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, index, x)
