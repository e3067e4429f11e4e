"""Frozen copies of networks."""

from typing import Any, Optional

from torch import Tensor, nn

from compiled_rl.modules.calls import deep_copy, holds_tensordict


def frozen_copy(network: nn.Module) -> nn.Module:
    """A deep copy whose parameters are buffers: in the state dict, but in no ``parameters()``.

    It is in evaluation mode.

    Args:
        network: copied as it is now; a tensor that it holds twice is held twice by the copy.
    """
    frozen = deep_copy(network, {}).eval()
    made: dict[Tensor, Tensor] = {}
    for module in frozen.modules():
        if holds_tensordict(module):
            _freeze_collection(module, made)
            continue
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


def _freeze_collection(collection: Any, made: dict[Tensor, Tensor]) -> None:
    """Likewise in a TensorDictParams, which registers what its TensorDict holds."""
    collection._param_td = collection._param_td.apply(lambda x: made.setdefault(x, x.detach()))
    collection._reset_params()
