"""What exists for the habits of TorchRL's users alone: their losses, written on our ``LossModule``.

Only attributes and names that such losses use lead here; a native loss never does.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl import functional
from compiled_rl.adapters.fields import joined
from compiled_rl.extras import needed_by
from compiled_rl.kernels.checks import check_bool, check_device, check_tensor
from compiled_rl.modules.calls import holds_tensordict, tensors_in

with needed_by(__name__):
    from tensordict import TensorDict


class ParameterView(TensorDict):  # type: ignore[misc]  # it is untyped
    """The tensors of a network, which ``with view.to_module(network): ...`` calls it with.

    They are placed as they are, with ``preserve_module_state=False``: a tensor without gradient in
    the place of a parameter does not become one. TorchDynamo makes no parameter inside of a graph,
    and a gradient would be computed for nothing.
    """

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The network's own parameters that are seen, with their dotted names.

        What is held out, and the tensors of a frozen copy, are none.

        Args:
            prefix: put before each name.
            recurse: whether those of the network's submodules are among them.
            remove_duplicate: whether one that goes by several names comes once.
        """
        found = set[nn.Parameter]()
        for key, x in self.items(True, True):
            own = x._base if x.requires_grad and x._base is not None else x  # of an expansion
            seen = remove_duplicate and own in found
            if isinstance(own, nn.Parameter) and not seen and (recurse or isinstance(key, str)):
                found.add(own)
                yield ".".join(part for part in (prefix, *joined(key)) if part), own

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """See ``named_parameters``."""
        for _, x in self.named_parameters(recurse=recurse):
            yield x

    def _to_module(self, module: nn.Module, **options: Any) -> Any:
        taken = super()._to_module(module, **options | {"preserve_module_state": False})
        # Where the view is inside of another TensorDict, it is a dict; TorchDynamo compiles several
        # such calls only if what goes back is a view, too.
        return self._new_unsafe(taken, torch.Size([])) if isinstance(taken, dict) else taken


def parameters_of(
    network: nn.Module,
    size: Optional[int] = None,
    shared: Collection[str] = (),
    held_out: Collection[str] = (),
) -> ParameterView:
    """The parameters and buffers of a network, themselves.

    Args:
        network: one, or several in one, whose tensors are stacks ``[size, ...]``.
        size: how many there are in one; it is the batch size of the view. None: it is one.
        shared: dotted names of those that are no stacks, of which the view has expansions.
        held_out: dotted names of those of which the values are there and no gradient.
    """
    view: ParameterView = ParameterView.from_module(network)

    def seen(key: Any, x: Tensor) -> Tensor:
        name = key if isinstance(key, str) else ".".join(key)
        x = x.detach() if name in held_out else x
        return x if size is None or name not in shared else x.expand(size, *x.shape)

    if shared or held_out:
        view = view.named_apply(seen, nested_keys=True)
        _stack_collections(view, network, size, shared)
    if size is not None:
        view.batch_size = [size]
    return view


def _stack_collections(
    view: ParameterView, network: nn.Module, size: Optional[int], shared: Collection[str]
) -> None:
    """Give those parts of a view that a TensorDict has for agents the batch of what they hold."""
    for path, part in network.named_modules():
        if size is not None and holds_tensordict(part):
            collection: Any = part
            if all(f"{path}.{name}" in shared for name in tensors_in(collection)):
                view[tuple(path.split("."))].batch_size = [size, *collection.batch_size]


_random: list[type[nn.Module]] = [nn.modules.dropout._DropoutNd]


def add_random_module(module: type[nn.Module]) -> None:
    """Let ``LossModule.vmap_randomness`` know modules of a class as random, as dropout is."""
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise TypeError(f"add_random_module: `module` must be a class of modules, got {module!r}")
    _random.append(module)


def is_random(module: nn.Module) -> bool:
    """Whether a module is known to draw random numbers."""
    return isinstance(module, tuple(_random))


def _vmap_func(
    module: nn.Module,
    in_dims: Any = 0,
    out_dims: Any = 0,
    *,
    func: Optional[str] = None,
    pseudo_vmap: bool = False,
    **options: Any,
) -> Callable[..., Any]:
    """``torch.vmap`` of a module, which is called with all arguments but the last: its parameters.

    Args:
        module: a child of a loss, with whose parameters it is called.
        in_dims: as of ``torch.vmap``, the parameters' included.
        out_dims: as of ``torch.vmap``.
        func: a method that is called instead of the module.
        pseudo_vmap: accepted for the peer's sake; networks of a loss are called by ``torch.vmap``.
        **options: of ``torch.vmap``, such as ``randomness=loss.vmap_randomness``.
    """
    return _Vmapped(module, func, (in_dims, out_dims), options)


@dataclass
class _Vmapped:
    """A loss may keep it: it is copied and pickled with the loss's own module."""

    module: nn.Module
    func: Optional[str]
    dims: tuple[Any, Any]
    options: dict[str, Any]

    def __call__(self, *inputs: Any) -> Any:
        return torch.vmap(self._call, *self.dims, **self.options)(*inputs)

    def _call(self, *inputs: Any) -> Any:
        with inputs[-1].to_module(self.module):
            method = self.module if self.func is None else getattr(self.module, self.func)
            return method(*inputs[:-1])


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
        ValueError: a tensor is of complex numbers, or on another device.
    """
    check_bool("distance_loss", "strict_shape", strict_shape)
    check_tensor("distance_loss", "v1", v1)
    check_tensor("distance_loss", "v2", v2)
    check_device("distance_loss", "v2", v2, "v1", v1)
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
