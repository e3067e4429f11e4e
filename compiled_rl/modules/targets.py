"""Frozen copies of networks."""

import copy
from typing import Optional

from torch import Tensor, nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A deep copy whose parameters are buffers: in the state dict, but in no ``parameters()``.

    It is in evaluation mode.

    Args:
        network: copied as it is now; a tensor that it holds twice is held twice by the copy.
    """
    frozen = copy.deepcopy(network).eval()
    made: dict[Tensor, Tensor] = {}
    for module in frozen.modules():
        for name, parameter in list(module._parameters.items()):
            _freeze(module, name, parameter, made)
        if isinstance(module, nn.RNNBase):
            # It keeps a list of its own, which still has the parameters.
            module._flat_weights = [getattr(module, n) for n in module._flat_weights_names]
    return frozen


def _freeze(
    module: nn.Module, name: str, parameter: Optional[Tensor], made: dict[Tensor, Tensor]
) -> None:
    del module._parameters[name]
    if parameter is not None:
        parameter = made.setdefault(parameter, parameter.detach())
    module.register_buffer(name, parameter)
