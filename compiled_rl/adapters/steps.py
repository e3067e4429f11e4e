"""One call of a network over a dict of tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compiled_rl.adapters.dispatch import Data, given
from compiled_rl.adapters.fields import Key, is_next, keyword, unique
from compiled_rl.modules import Policy, Reads

START: Key = "is_init"  # as TorchRL calls the first step of an episode, wherever it is recorded


class Step:
    """One call of a network: of a module that takes the tensors of its keys and returns tensors.

    Args:
        module: what is called; a function does, too.
        in_keys: of its arguments, in order.
        out_keys: of what it returns, in order, or by key. An output under ``"next"`` is for
            acting: what was recorded there is what counts.
    """

    optional: frozenset[Key] = frozenset()  # the inputs that may be missing

    def __init__(
        self, module: Callable[..., Any], in_keys: tuple[Key, ...], out_keys: tuple[Key, ...]
    ) -> None:
        self.module, self.in_keys, self.out_keys = module, in_keys, out_keys

    def __call__(self, data: Data) -> Data:
        """The outputs, by key."""
        outputs = self.module(*[data[key] for key in self.in_keys])
        if isinstance(outputs, Mapping):
            return self._by_key(outputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if len(outputs) != len(self.out_keys):
            raise ValueError(
                f"a network must return {len(self.out_keys)} tensors, for {list(self.out_keys)}, "
                f"got {len(outputs)}"
            )
        return dict(zip(self.out_keys, outputs, strict=True))

    def _by_key(self, outputs: Mapping[Any, Tensor]) -> Data:
        missing = [key for key in self.out_keys if outputs.get(key, None) is None]
        if missing:
            raise KeyError(
                f"a network that returns tensors by key must return {list(self.out_keys)}, "
                f"got {list(outputs.keys())}"
            )
        return {key: outputs[key] for key in self.out_keys}

    def computed(self) -> set[Key]:
        """The keys of the outputs that are kept."""
        return {key for key in self.out_keys if not is_next(key)}

    def check_inputs(self, data: Data) -> None:
        """Refuse data in which an input is missing."""
        for key in self.in_keys:
            if key not in data and key not in self.optional:
                raise KeyError(
                    f"the network input `{keyword(key)}` was not found; the keys are {given(data)}"
                )


class AgentsStep(Step):
    """A call of a network of agents that have parameters of their own, by a batch of one axis.

    TorchRL calls them by ``vmap``, of which TorchDynamo cannot trace a layer over two batch axes of
    unknown sizes.

    Args:
        network: is called first by the module.
        module: see ``Step``.
        in_keys: see ``Step``.
        out_keys: see ``Step``.
    """

    def __init__(
        self, network: Any, module: Any, in_keys: tuple[Key, ...], out_keys: tuple[Key, ...]
    ) -> None:
        super().__init__(module, in_keys, out_keys)
        self.agents_dim: int = network.agent_dim  # counted from the end

    def __call__(self, data: Data) -> Data:
        """The outputs, by key."""
        inputs = {key: data[key] for key in self.in_keys}
        batch = next(iter(inputs.values())).shape[: self.agents_dim]
        if len(batch) < 2 or any(x.shape[: self.agents_dim] != batch for x in inputs.values()):
            return super().__call__(data)
        flat = {key: x.flatten(0, len(batch) - 1) for key, x in inputs.items()}
        outputs = super().__call__(flat)
        return {key: x.reshape(*batch, *x.shape[1:]) for key, x in outputs.items()}


def of_one_axis(step: Step) -> Step:
    """The same call by a batch of one axis, where a network of several agents needs it."""
    first: Any = step.module
    while isinstance(first, nn.Sequential) and len(first) > 0:
        first = first[0]
    own = getattr(first, "share_params", None) is False and getattr(first, "agent_dim", 0) < 0
    if type(step) is not Step or not own:
        return step
    return AgentsStep(first, step.module, step.in_keys, step.out_keys)


def policy_step(policy: Policy) -> Step:
    """The call of a policy's network, to the parameters of its family.

    Raises:
        TypeError: the policy does more, which would be passed over.
    """
    hooked = policy._forward_hooks or policy._forward_pre_hooks
    if hooked or type(policy).params is not Policy.params:
        raise TypeError(
            "`actor_network` must be a Policy whose parameters are what its `network` returns, "
            f"got {type(policy).__name__} with {'hooks' if hooked else 'a `params` of its own'}; "
            "put that into the network"
        )
    return plain_step(policy.network, policy.family.param_names)


def plain_step(
    network: nn.Module, out_keys: tuple[Key, ...], in_keys: tuple[Key, ...] = ("observation",)
) -> Step:
    """The call of a plain module, of ``in_keys`` or of what ``Reads`` says."""
    in_keys = network.keys if isinstance(network, Reads) else in_keys
    return Step(network, in_keys, out_keys)


def inputs_of(steps: Sequence[Step]) -> tuple[Key, ...]:
    """What must come from outside: read by a call and not computed by one before it."""
    needed: list[Key] = []
    computed: set[Key] = set()
    for step in steps:
        needed += [key for key in step.in_keys if key not in computed]
        computed |= step.computed()
    return unique(needed)
