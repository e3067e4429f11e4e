"""Several networks of one architecture as one, whose parameters are stacked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from compiled_rl.modules.arguments import check_module
from compiled_rl.modules.calls import call_with, deep_copy, filled, holds_tensordict, slots_of


class Ensemble(nn.Module):
    """``N`` networks of one architecture, evaluated together.

        output[n] = network_n(inputs)

    Their parameters are stacked along a new first axis and keep their names, under ``network.``. A
    parameter that is held out of the stack (``shared``) is one for all members.

    The members are called one after the other, each with its part of the stack. One call by
    ``torch.func.vmap`` is slower for two of 64 units on a CPU, and PyTorch 2.13 compiles a new
    graph for every size of a batch with two axes there; of ten such, eagerly, it is the faster.

    Args:
        networks: one architecture, at least one; they are copied.
        shared: parameters of the first one that all members use as they are, and that are not
            copied.

    Raises:
        ValueError: there is no network, or one has other modules or tensors than the first.

    Reference: Lakshminarayanan et al. 2017, arXiv:1612.01474, for independent members.
    """

    def __init__(self, networks: Sequence[nn.Module], shared: Sequence[nn.Parameter] = ()) -> None:
        super().__init__()
        _check(networks)
        _check_shared(shared)
        self.size = len(networks)
        self.network = deep_copy(networks[0], {p: p for p in shared})
        self._stack(networks, set(shared))
        self._slots = slots_of(self.network)

    @classmethod
    def resampled(
        cls, network: nn.Module, size: int, shared: Sequence[nn.Parameter] = ()
    ) -> "Ensemble":
        """Members whose parameters are drawn anew, uniformly in the range of the network's own.

        Args:
            network: of which the architecture, the ranges and the buffers are taken.
            size: how many members, at least 1.
            shared: see the class.
        """
        ensemble = cls([network] * size, shared)
        held = dict(tensors_of(network))
        for name, stacked in ensemble.members().items():
            if stacked.requires_grad:
                own = held[name].detach()
                stacked.data.uniform_(float(own.min()), float(own.max()))
        return ensemble

    def _stack(self, networks: Sequence[nn.Module], shared: set[nn.Parameter]) -> None:
        """Put the stack of all members' tensors in the place of each tensor of the first."""
        sources = [dict(tensors_of(network)) for network in networks]
        names: list[str] = []
        made: dict[Tensor, Tensor] = {}
        for path, module in self.network.named_modules():
            for slots in (module._parameters, module._buffers):
                for name, own in list(slots.items()):
                    if own is None or own in shared:
                        continue
                    full = f"{path}.{name}" if path else name
                    if own not in made:
                        made[own] = _stacked([source[full] for source in sources])
                        names.append(full)
                    slots[name] = made[own]
            if holds_tensordict(module):
                module._param_td = filled(module)
        self._names = tuple(names)

    def members(self) -> dict[str, Tensor]:
        """The stacked tensors by name, those of this very call under a functional call."""
        named = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return {name: named[name] for name in self._names}

    def shared(self) -> dict[str, nn.Parameter]:
        """The parameters that are one for all members, by name."""
        named = self.network.named_parameters()
        return {name: x for name, x in named if name not in self._names}

    def each(self) -> Iterator[nn.Module]:
        """Each member as a network of its own, in the memory of the stack."""
        return members_of(self.network, self._names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What each member returns for the same inputs, stacked: ``[N, ...]``."""
        return torch.stack([self._member(own, *inputs) for own in each_of(self.members())])

    def _member(self, own: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        output: Tensor = call_with(self.network, self._slots, own, *inputs)
        return output

    def extra_repr(self) -> str:
        """The number of members."""
        return f"size={self.size}"


def each_of(members: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors of each member, by name."""
    for own in zip(*[x.unbind() for x in members.values()], strict=True):
        yield dict(zip(members, own, strict=True))


def members_of(network: nn.Module, names: Iterable[str]) -> Iterator[nn.Module]:
    """Each member of a stack as a network of its own, in the stack's memory.

    Args:
        network: holds stacks ``[N, ...]`` in the place of tensors; what it holds else, its members
            hold, too.
        names: of the stacks.
    """
    held = dict(tensors_of(network))
    stacks = [held[name] for name in names]
    for parts in zip(*[stack.detach().unbind() for stack in stacks], strict=True):
        kept = {x: x for x in held.values()}
        for stack, part in zip(stacks, parts, strict=True):
            kept[stack] = nn.Parameter(part) if isinstance(stack, nn.Parameter) else part
        yield deep_copy(network, kept)


def tensors_of(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Every parameter and buffer under each of its names."""
    parameters = network.named_parameters(remove_duplicate=False)
    return [*parameters, *network.named_buffers(remove_duplicate=False)]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    stack = torch.stack([x.detach() for x in tensors])
    first = tensors[0]
    if not isinstance(first, nn.Parameter):
        return stack
    return nn.Parameter(stack, requires_grad=first.requires_grad)


def _check_shared(shared: Sequence[nn.Parameter]) -> None:
    if not isinstance(shared, Iterable) or not all(isinstance(x, nn.Parameter) for x in shared):
        raise TypeError(f"Ensemble: `shared` must be parameters, got {shared!r}")


def _check(networks: Sequence[nn.Module]) -> None:
    if not isinstance(networks, Sequence | nn.ModuleList):
        got = f"a {type(networks).__name__}"
        raise TypeError(f"Ensemble: `networks` must be a sequence of modules, got {got}")
    if not networks:
        raise ValueError("Ensemble: `networks` must be at least one, got none")
    for network in networks:
        check_module("Ensemble", "networks", network)
    first = _described(networks[0])
    for k, network in enumerate(networks):
        differing = sorted(set(_described(network)) ^ set(first))
        if differing:
            raise ValueError(
                f"Ensemble: `networks` must have one architecture, got others in network {k}: "
                f"{differing}"
            )


def _described(network: nn.Module) -> list[str]:
    """The kinds of modules and tensors that a network is made of, by name."""
    parts = [f"{name} {type(part).__name__}" for name, part in network.named_modules()]
    return parts + [f"{name} {list(x.shape)} {x.dtype}" for name, x in tensors_of(network)]
