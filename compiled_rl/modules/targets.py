"""Frozen copies of networks."""

from typing import Any, Optional

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from compiled_rl.modules.arguments import check_module
from compiled_rl.modules.calls import deep_copy, holds_tensordict
from compiled_rl.modules.ensemble import tensors_of


def frozen_copy(network: nn.Module) -> nn.Module:
    """A deep copy whose parameters are buffers: in the state dict, but in no ``parameters()``.

    It is in evaluation mode.

    Args:
        network: copied as it is now; a tensor that it holds twice is held twice by the copy.

    Raises:
        ValueError: a parameter of a lazy module has no shape yet.
    """
    check_called("network", check_module("frozen_copy", "network", network))
    frozen = deep_copy(network, {}).eval()
    made: dict[Tensor, Tensor] = {}
    for module in frozen.modules():
        if holds_tensordict(module):
            _freeze_collection(module, made)
            continue
        for name, parameter in list(module._parameters.items()):
            _freeze(module, name, parameter, made)
    return frozen


def check_called(argument: str, network: nn.Module) -> None:
    """Refuse a network whose lazy modules have no shapes, which is neither copied nor stacked.

    Raises:
        ValueError: it has one.
    """
    lazy = [name for name, x in tensors_of(network) if is_lazy(x)]
    if lazy:
        raise ValueError(
            f"frozen_copy: `{argument}` must have been called once before the loss is made, so "
            f"that its lazy modules know their shapes, got one that does not at {lazy[0]!r}"
        )


def _freeze(
    module: nn.Module, name: str, parameter: Optional[Tensor], made: dict[Tensor, Tensor]
) -> None:
    del module._parameters[name]
    if parameter is not None:
        parameter = made.setdefault(parameter, parameter.detach())
    module.register_buffer(name, parameter)


def _freeze_collection(collection: Any, made: dict[Tensor, Tensor]) -> None:
    """Likewise in a TensorDictParams, which registers what its TensorDict holds."""
    collection._param_td = collection._param_td.apply(lambda x: made.setdefault(x, x.detach()))
    collection._reset_params()
