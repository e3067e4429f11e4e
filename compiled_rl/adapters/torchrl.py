"""What exists for the habits of TorchRL's users alone: their losses, written on our ``LossModule``.

Only attributes and names that such losses use lead here; a native loss never does.
"""

from collections.abc import Iterable

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from compiled_rl import functional


def parameters_of(network: nn.Module, held_out: Iterable[str] = ()) -> TensorDict:
    """The parameters and buffers of a network, themselves, in a TensorDict.

    ``with parameters.to_module(network): ...`` calls the network with them. Of those ``held_out``,
    by their dotted names, the values are there and no gradient.
    """
    view = TensorDict.from_module(network)
    for name in held_out:
        key = tuple(name.split("."))
        view[key] = view[key].detach()
    return view


def distance_loss(v1: Tensor, v2: Tensor, loss_function: str, strict_shape: bool = True) -> Tensor:
    """The distance of every element; ``functional.distance_loss`` with TorchRL's arguments.

    Args:
        v1: values.
        v2: others, of the same shape.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        strict_shape: whether shapes must be the same; else they must broadcast.

    Raises:
        NotImplementedError: ``loss_function`` is unknown.
        RuntimeError: the shapes differ.
    """
    if strict_shape and v1.shape != v2.shape:
        raise RuntimeError(
            "distance_loss: `v2` must have the shape of `v1`, "
            f"got {list(v2.shape)} and {list(v1.shape)}"
        )
    if loss_function not in ("l1", "l2", "smooth_l1"):
        raise NotImplementedError(
            "distance_loss: `loss_function` must be 'l1', 'l2' or 'smooth_l1', "
            f"got {loss_function!r}"
        )
    shape = torch.broadcast_shapes(v1.shape, v2.shape)  # type: ignore[no-untyped-call]
    return functional.distance_loss(v1.expand(shape), v2.expand(shape), loss_function)
