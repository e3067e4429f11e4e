"""What modules ask of their arguments; see ``kernels.checks`` for what functions do."""

from numbers import Integral
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.kernels.checks import check_bool, check_device, check_floating, check_tensor


def check_module(owner: str, argument: str, module: Any) -> nn.Module:
    """Refuse what is no module."""
    if not isinstance(module, nn.Module):
        got = "None" if module is None else f"a {type(module).__name__}"
        raise TypeError(f"{owner}: `{argument}` must be an nn.Module, got {got}")
    return module


def check_count(owner: str, argument: str, count: Any) -> int:
    """A number of things, NumPy's too."""
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{owner}: `{argument}` must be an integer of at least 1, got {count!r}")
    return int(count)


def check_text(owner: str, argument: str, text: Any) -> str:
    """Refuse what is no name."""
    if not isinstance(text, str) or not text:
        raise TypeError(f"{owner}: `{argument}` must be a string that is not empty, got {text!r}")
    return text


def check_key(owner: str, argument: str, key: Any) -> None:
    """Refuse what is neither a string nor a tuple of strings, none of them empty."""
    parts = key if isinstance(key, tuple) else (key,)
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise TypeError(
            f"{owner}: `{argument}` must be a string or a tuple of strings, got {key!r}"
        )


def check_flags(owner: str, **flags: Any) -> None:
    """Refuse switches that are neither True nor False."""
    for argument, value in flags.items():
        check_bool(owner, argument, value)


def as_device(owner: str, argument: str, device: Any) -> Optional[torch.device]:
    """A device, as torch names them; None stays None."""
    if device is None or isinstance(device, torch.device):
        return device
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{owner}: `{argument}` must be a device or None, got {device!r}"
        ) from error


def as_shape(owner: str, argument: str, shape: Any) -> tuple[int, ...]:
    """Sizes of at least one each; a number is one of them."""
    sizes = shape if isinstance(shape, tuple | list | torch.Size) else (shape,)
    return tuple(check_count(owner, argument, size) for size in sizes)


def check_tail(
    owner: str, argument: str, x: Tensor, tail: list[int], reference_name: str, reference: Tensor
) -> None:
    """Refuse what is no tensor, does not end in ``tail``, or is elsewhere."""
    check_tensor(owner, argument, x)
    check_device(owner, argument, x, reference_name, reference)
    if list(x.shape[max(x.dim() - len(tail), 0) :]) != tail:
        raise ValueError(f"{owner}: `{argument}` must end in {tail}, got {list(x.shape)}")


def check_features(owner: str, argument: str, x: Tensor, size: int, weight: Tensor) -> None:
    """Refuse what a layer of these weights cannot be given."""
    check_floating(owner, argument, x)
    check_tail(owner, argument, x, [size], "the parameters", weight)
    _check_dtype(owner, argument, x, "the parameters", weight)


def check_like_features(owner: str, argument: str, x: Tensor, features: Tensor) -> None:
    """Refuse what is not of the kind of the features beside which it is read."""
    check_floating(owner, argument, x)
    check_device(owner, argument, x, "features", features)
    _check_dtype(owner, argument, x, "features", features)


def _check_dtype(owner: str, argument: str, x: Tensor, name: str, reference: Tensor) -> None:
    """Refuse another dtype, but where layers convert what they are given."""
    if x.dtype != reference.dtype and not torch.jit.is_scripting():
        if not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"{owner}: `{argument}` must have the dtype of {name}, {reference.dtype}, "
                f"got {x.dtype}"
            )


def check_starts(owner: str, is_init: Any, batch: tuple[int, ...], x: Tensor) -> None:
    """Refuse what does not say, of each of ``batch``, whether an episode begins there."""
    check_tensor(owner, "is_init", is_init)
    # Not `in`: TorchDynamo decides it wrongly for sizes that it keeps symbolic.
    fits = is_init.shape == batch or is_init.shape == (*batch, 1)
    if not fits or is_init.dtype != torch.bool:
        raise ValueError(
            f"{owner}: `is_init` must be torch.bool of shape {list(batch)} or {[*batch, 1]}, "
            f"got {is_init.dtype} of shape {list(is_init.shape)}"
        )
    check_device(owner, "is_init", is_init, "features", x)


def check_valid(owner: str, mask: Any, batch: tuple[int, ...], x: Tensor, name: str) -> None:
    """Refuse a mask that is given and is no flag of ``batch``."""
    if mask is None:
        return
    check_tensor(owner, "mask", mask)
    if mask.shape != batch or mask.dtype != torch.bool:
        raise ValueError(
            f"{owner}: `mask` must be torch.bool of shape {list(batch)}, "
            f"got {mask.dtype} of shape {list(mask.shape)}"
        )
    check_device(owner, "mask", mask, name, x)
