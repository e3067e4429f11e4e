"""What is known of TensorDict; imported only when a user hands one over."""

from typing import Any

import tensordict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn

from compiled_rl.adapters.plain import Step


def to_tensordict(tensors: dict[str, Tensor]) -> Any:
    """A TensorDict without batch dimensions, as losses return it."""
    return tensordict.TensorDict(tensors, [])


def steps_of(module: nn.Module) -> list[Step]:
    """The flattened calls of a TensorDict module: ``(module, in_keys, out_keys)``, in order.

    A distribution at the end computes nothing that is needed and is left out.

    Raises:
        TypeError: a part does more than call its module, so that it has no plain form.
    """
    if isinstance(module, ProbabilisticTensorDictModule):
        return []
    _check_plain(module)
    if isinstance(module, TensorDictSequential):
        return [step for part in module._module_iter() for step in steps_of(part)]
    leaf: Any = module
    return [(leaf.module, tuple(leaf.in_keys), tuple(leaf.out_keys))]


def distribution_of(module: nn.Module) -> ProbabilisticTensorDictModule:
    """The one distribution with which a policy ends.

    Raises:
        TypeError: there is none, or it is not the last, or it takes arguments of its own.
    """
    last = list(module._module_iter())[-1] if isinstance(module, TensorDictSequential) else module
    if isinstance(last, TensorDictSequential):
        return distribution_of(last)
    if not isinstance(last, ProbabilisticTensorDictModule):
        raise TypeError(
            "`actor_network` must end in a ProbabilisticTensorDictModule, "
            f"got {type(last).__name__} at the end of {type(module).__name__}"
        )
    if last.distribution_kwargs:
        raise TypeError(
            "`actor_network` must have a distribution without arguments of its own, "
            f"got distribution_kwargs {sorted(last.distribution_kwargs)}"
        )
    return last


def _check_plain(module: nn.Module) -> None:
    if not isinstance(module, TensorDictModuleBase):
        raise TypeError(
            f"a TensorDict network must be made of TensorDict modules, got {type(module).__name__}"
        )
    definer = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    hooked = module._forward_hooks or module._forward_pre_hooks
    if definer.__module__.split(".")[0] != "tensordict" or hooked:
        raise TypeError(
            f"{type(module).__name__} has no plain form: its forward is overridden or hooked; "
            "pass a TensorDictModule or a TensorDictSequential of them"
        )
    if getattr(module, "partial_tolerant", False):
        raise TypeError(f"{type(module).__name__} has no plain form: it is partial_tolerant")
