"""What is known of TensorDict; imported only when a user hands one over."""

from collections.abc import Iterator
from typing import Any

import tensordict
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn

from compiled_rl.adapters.fields import Key, joined
from compiled_rl.adapters.plain import Step
from compiled_rl.adapters.policy import Head, Heads
from compiled_rl.modules import family_of


def to_tensordict(tensors: dict[Key, Tensor]) -> Any:
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


def tensordict_heads(network: nn.Module, out_keys: tuple[Key, ...]) -> Heads:
    """The heads of the distribution with which a TensorDict policy ends.

    Raises:
        TypeError: there is no such distribution, or it needs a parameter that is not computed.
    """
    last = _distribution_of(network)
    log_prob_keys = tuple(last.log_prob_keys)
    if _is_composite(last.distribution_class):
        return Heads(tuple(_composite_heads(last, out_keys)), log_prob_keys)
    keys = dict(zip(last.dist_keys, last.in_keys, strict=True))
    head = _head(last.distribution_class, last.distribution_kwargs, keys, last.dist_sample_keys[0])
    return Heads((head,), log_prob_keys)


def _head(distribution: Any, options: dict[str, Any], keys: dict[str, Key], action: Key) -> Head:
    family = family_of(distribution, tuple(keys), **options)
    if set(keys) != set(family.param_names):
        raise TypeError(
            f"`actor_network` must give {type(family).__name__} the parameters "
            f"{list(family.param_names)}, got {list(keys)}"
        )
    return Head(family, tuple(keys[name] for name in family.param_names), action)


def _is_composite(distribution: Any) -> bool:
    return getattr(distribution, "func", distribution) is CompositeDistribution


def _composite_heads(last: Any, out_keys: tuple[Key, ...]) -> Iterator[Head]:
    """A head for each entry of the distribution's map, with what was computed for it."""
    options = {**getattr(last.distribution_class, "keywords", {}), **last.distribution_kwargs}
    names, extra = options.get("name_map") or {}, options.get("extra_kwargs") or {}
    for name, distribution in options["distribution_map"].items():
        prefix = joined(last.in_keys[0], name)
        keys: dict[str, Key] = {
            key[-1]: key for key in out_keys if isinstance(key, tuple) and key[:-1] == prefix
        }
        yield _head(distribution, extra.get(name, {}), keys, names.get(name, name))


def _distribution_of(module: nn.Module) -> ProbabilisticTensorDictModule:
    """The one distribution with which a policy ends.

    Raises:
        TypeError: there is none, or it is not the last.
    """
    last = list(module._module_iter())[-1] if isinstance(module, TensorDictSequential) else module
    if isinstance(last, TensorDictSequential):
        return _distribution_of(last)
    if not isinstance(last, ProbabilisticTensorDictModule):
        raise TypeError(
            "`actor_network` must end in a ProbabilisticTensorDictModule, "
            f"got {type(last).__name__} at the end of {type(module).__name__}"
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
