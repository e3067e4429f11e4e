"""What is known of TensorDict; imported only when a user hands one over."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from compiled_rl.adapters.acting import DETERMINISTIC, over_time
from compiled_rl.adapters.action_values import is_choice, log_softmax_of_atoms, values_before
from compiled_rl.adapters.dispatch import Data
from compiled_rl.adapters.fields import Key, in_next, joined
from compiled_rl.adapters.objects import GivenDistribution
from compiled_rl.adapters.policy import Head, Heads
from compiled_rl.adapters.steps import Step
from compiled_rl.extras import needed_by
from compiled_rl.modules import family_of

with needed_by(__name__):
    import tensordict
    from tensordict.nn import (
        CompositeDistribution,
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
        TensorDictModuleWrapper,
        TensorDictSequential,
        set_interaction_type,
    )

_LEAF, _WRAPPER = TensorDictModule.forward, TensorDictModuleWrapper.forward
_SEQUENCES = (TensorDictSequential.forward, ProbabilisticTensorDictSequential.forward)
# Noise on top of a policy, known by name: TorchRL is not imported here.
_EXPLORATION = ("EGreedyModule", "AdditiveGaussianModule", "OrnsteinUhlenbeckProcessModule")


def to_tensordict(tensors: dict[Key, Tensor]) -> Any:
    """A TensorDict without batch dimensions, as losses return it."""
    return tensordict.TensorDict(tensors, [])


class CalledStep(Step):
    """A TensorDict module without a plain form, called as it is: a TensorDict in, its outputs out.

    The TensorDict has the module's inputs, and as its batch the longest leading shape that they
    share and that leaves each of them an axis. TorchRL's recurrent modules take it for sequences,
    time last, as they do in TorchRL's losses, and what would be sampled is deterministic. What a
    recurrent module's state is, its outputs say: the input of which there is a next one. It need
    not be recorded, and begins with zeros then. Of a ``partial_tolerant`` module no input need be.
    """

    def __init__(self, module: nn.Module) -> None:
        named: Any = module
        super().__init__(module, _keys(named, "in_keys"), _keys(named, "out_keys"))
        states = {key for key in self.in_keys if in_next(key) in self.out_keys}
        self.tolerant = getattr(module, "partial_tolerant", False)
        self.optional = frozenset(self.in_keys if self.tolerant else states)
        recurrent = any(hasattr(part, "recurrent_mode") for part in module.modules())
        self.mode = over_time if recurrent else nullcontext

    def __call__(self, data: Data) -> Data:
        """The outputs that the module gave, by key."""
        output = self._called(self.module, data)
        found = {key: output.get(key, None) for key in self.out_keys}
        for key in self.computed():
            if found[key] is None and not self.tolerant:
                raise KeyError(f"{type(self.module).__name__} did not give its output {key!r}")
        return {key: x for key, x in found.items() if x is not None}

    def _called(self, function: Any, data: Data) -> Any:
        inputs = {key: data[key] for key in self.in_keys if key in data}
        source = tensordict.TensorDict(inputs, _batch(list(inputs.values())))
        with self.mode(), set_interaction_type(DETERMINISTIC):
            return function(source)


class ChoiceStep(Step):
    """TorchRL's choice among action values: the action and what it is worth, not all values again.

    It is seldom made where a loss asks for values, but looked for at every call.
    """

    def __init__(self, module: Any) -> None:
        out_keys = tuple(key for key in module.out_keys if key not in module.in_keys)
        super().__init__(module, tuple(module.in_keys), out_keys)

    def __call__(self, data: Data) -> Data:
        """The outputs, by key."""
        choice: Any = self.module
        found = CalledStep(choice)(data)
        return {key: found[key] for key in self.out_keys}


class DistributionStep(CalledStep):
    """A policy with a ``get_dist`` of its own: what it gives stands for the parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.out_keys = GivenDistribution.param_names

    def __call__(self, data: Data) -> Data:
        """The distribution object."""
        named: Any = self.module
        return {self.out_keys[0]: self._called(named.get_dist, data)}


def _keys(module: Any, name: str) -> tuple[Key, ...]:
    keys = tuple(getattr(module, name, ()))
    if not keys:
        raise TypeError(f"a TensorDict network must say its `{name}`, got {type(module).__name__}")
    return keys


def _batch(tensors: list[Tensor]) -> tuple[int, ...]:
    """The longest leading shape that all share and that leaves each of them an axis."""
    rank = min([x.dim() - 1 for x in tensors], default=0)
    shared = 0
    while shared < rank and all(x.shape[shared] == tensors[0].shape[shared] for x in tensors):
        shared += 1
    return tuple(tensors[0].shape[:shared]) if tensors else ()


def steps_of(module: nn.Module) -> list[Step]:
    """The flattened calls of a TensorDict module, in order.

    Left out are a distribution at the end, which computes nothing that is needed (nor is it needed
    that an action be projected to its range), and TorchRL's exploration modules: a loss learns the
    policy, not its noise.

    Raises:
        TypeError: a part is no TensorDict module.
    """
    leaves = _leaves(module)
    last = leaves[-1] if isinstance(leaves[-1], ProbabilisticTensorDictModule) else None
    return [step for leaf in leaves if leaf is not last for step in _steps(leaf)]


def _leaves(module: nn.Module) -> list[nn.Module]:
    """The parts that are called, in order, but for the noise.

    A policy's own wrapper counts for nothing: its distribution is that of its parts.
    """
    if any(cls.__name__ in _EXPLORATION and _is_torchrl(cls) for cls in type(module).__mro__):
        return []
    forward = getattr(module.forward, "__func__", None)
    named: Any = module
    policy = isinstance(module, ProbabilisticTensorDictSequential)
    if policy or (forward in _SEQUENCES and _is_plain(module)):
        return [leaf for part in named._module_iter() for leaf in _leaves(part)]
    if forward is _WRAPPER and _is_plain(module):
        return _leaves(named.td_module)
    return [module]


def _is_torchrl(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "torchrl"


def _is_plain(module: nn.Module) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and not getattr(module, "partial_tolerant", False)


def _steps(leaf: nn.Module) -> list[Step]:
    """The call of a part; of a choice among action values also what it does to them before."""
    if not (is_choice(leaf) and _is_torchrl(type(leaf)) and _is_plain(leaf)):
        return [_step(leaf)]
    return [*values_before(leaf), ChoiceStep(leaf)]


def _step(leaf: nn.Module) -> Step:
    named: Any = leaf
    plain = getattr(leaf.forward, "__func__", None) is _LEAF and _is_plain(leaf)
    if plain and named._kwargs is None and named.method is None and not named.method_kwargs:
        return Step(named.module, tuple(named.in_keys), tuple(named.out_keys))
    if type(leaf).__name__ == "DistributionalDQNnet" and _is_torchrl(type(leaf)):
        return Step(log_softmax_of_atoms, tuple(named.in_keys), tuple(named.out_keys))
    return CalledStep(leaf)


def has_distribution(network: nn.Module) -> bool:
    """Whether it ends in a distribution."""
    return isinstance(_leaves(network)[-1], ProbabilisticTensorDictModule)


def tensordict_heads(network: nn.Module, out_keys: tuple[Key, ...]) -> Heads:
    """The heads of the distribution with which a TensorDict policy ends.

    Raises:
        TypeError: there is no such distribution, there are several, or a parameter of it is not
            computed.
    """
    last = _distribution_of(network)
    log_prob_keys = tuple(last.log_prob_keys)
    if _is_composite(last.distribution_class):
        return Heads(tuple(_composite_heads(last, out_keys)), log_prob_keys)
    # TensorDict calls the distribution with the end of a nested key.
    names = [name if isinstance(name, str) else name[-1] for name in last.dist_keys]
    keys = dict(zip(names, last.in_keys, strict=True))
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


def _distribution_of(network: nn.Module) -> ProbabilisticTensorDictModule:
    """The one distribution with which a policy ends.

    Raises:
        TypeError: there is none, it is not the last, or it is conditioned on others.
    """
    leaves = _leaves(network)
    if not isinstance(leaves[-1], ProbabilisticTensorDictModule):
        raise TypeError(
            "`actor_network` must end in a ProbabilisticTensorDictModule, "
            f"got {type(leaves[-1]).__name__} at the end of {type(network).__name__}"
        )
    several = {id(leaf) for leaf in leaves if isinstance(leaf, ProbabilisticTensorDictModule)}
    if len(several) > 1 and getattr(network, "return_composite", False):
        raise TypeError(
            f"`actor_network` must have one distribution, got {len(several)} that are conditioned "
            "on one another; join independent ones in a CompositeDistribution"
        )
    return leaves[-1]
