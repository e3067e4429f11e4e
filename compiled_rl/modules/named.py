"""Named tensors in, named tensors out: what a file computes."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Optional

from torch import Generator, Tensor, nn

from compiled_rl.kernels.checks import check_tensor
from compiled_rl.modules.arguments import check_module, check_text
from compiled_rl.modules.policy import Policy
from compiled_rl.modules.q_policy import QPolicy
from compiled_rl.modules.reads import Reads

Named = dict[str, Tensor]


class NamedModule(nn.Module):
    """A module of tensors by name, whose names are known when it is made.

    .. code-block:: python

        module(observation, h_in, is_init)                                # in their order, or
        module(observation=observation, h_in=h_in, is_init=is_init)       # by name

    Attributes:
        input_names: of the tensors that it takes, in order.
        optional_names: of those that may be left out.
        state_names: which output is which input of the next step.
    """

    input_names: tuple[str, ...]
    optional_names: tuple[str, ...]
    state_names: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.optional_names, self.state_names = (), {}

    def forward(self, *tensors: Tensor, **named: Tensor) -> Named:
        """The outputs by name.

        Raises:
            ValueError: the tensors are not the inputs.
        """
        given = {**dict(zip(self.input_names, tensors, strict=False)), **named}
        needed = set(self.input_names) - set(self.optional_names)
        if not needed <= set(given) <= set(self.input_names) or len(given) < len(tensors) + len(
            named
        ):
            raise ValueError(
                f"{type(self).__name__}: the inputs are {list(self.input_names)}, "
                f"got {len(tensors)} in order and {list(named)} by name"
            )
        for name, x in given.items():
            check_tensor(type(self).__name__, name, x)
        return self.computed(given)

    @abstractmethod
    def computed(self, data: Named) -> Named:
        """What it computes of its inputs."""

    def draw_noise(
        self, data: Mapping[str, Tensor], generator: Optional[Generator] = None
    ) -> Named:
        """Noise for one step at the other inputs, by input name; of most modules there is none."""
        return {}


class NamedPolicy(NamedModule):
    """A policy's deterministic action, or what any network computes, by name.

    The inputs are called as ``Reads`` says, a nested key with underscores; without it there is one,
    ``observation``. The heads of a ``Composite`` are ``action_<head>``.

    Args:
        policy: a ``Policy``, a ``QPolicy``, or a module of tensors.
        output: what a single tensor is called.
    """

    def __init__(self, policy: nn.Module, output: str = "action") -> None:
        super().__init__()
        self.policy = check_module("NamedPolicy", "policy", policy)
        self.output = check_text("NamedPolicy", "output", output)
        self.input_names = names_read(policy)

    def computed(self, data: Named) -> Named:
        """The action."""
        outputs = self.policy(*[data[name] for name in self.input_names])
        if isinstance(self.policy, Policy | QPolicy) or isinstance(outputs, Tensor):
            return flat(self.output, outputs)
        return dict(outputs._asdict() if hasattr(outputs, "_asdict") else outputs)


def as_named(policy: nn.Module) -> NamedModule:
    """What takes and returns tensors by name, as it is; a ``NamedPolicy`` of any other module."""
    return policy if isinstance(policy, NamedModule) else NamedPolicy(policy)


def names_read(network: nn.Module) -> tuple[str, ...]:
    """What a network's inputs are called."""
    if isinstance(network, Policy | QPolicy):
        return names_read(network.network)
    if isinstance(network, Reads):
        return tuple(key if isinstance(key, str) else "_".join(key) for key in network.keys)
    return ("observation",)


def flat(name: str, x: Any) -> Named:
    """A tensor by its name, or those of a dict with their own names behind it."""
    if isinstance(x, Tensor):
        return {name: x}
    return {k: y for part, inner in x.items() for k, y in flat(f"{name}_{part}", inner).items()}
