"""The networks of a loss as TorchRL's users set them: whole, initialised anew, and under vmap."""

from copy import deepcopy
from typing import Literal, Optional

import torch
from torch import nn

from compiled_rl.adapters.converted import ConvertedNetworks
from compiled_rl.modules.ensemble import tensors_of

Randomness = Literal["error", "different", "same"]
_RANDOMNESS = ("error", "different", "same")


class StatefulNetworks(ConvertedNetworks):
    """Networks that can be had as they are, filled from others, and initialised anew."""

    functional: bool = True  # whether the parameters of a network can be had apart from it
    _vmap_randomness: Optional[Randomness] = None

    def get_stateful_net(self, network_name: str, copy: Optional[bool] = None) -> nn.Module:
        """A network with its parameters, to initialise or to look at them.

        Of several in one, the parameters are stacks: it is called by ``torch.vmap``.

        Args:
            network_name: of the child.
            copy: whether it is a copy, which shares nothing with the loss; None: where the loss is
                ``functional``.

        Raises:
            AttributeError: there is no such network.
        """
        network = self._network(network_name)
        copied = self.functional if copy is None else copy
        return deepcopy(network) if copied else network

    def from_stateful_net(self, network_name: str, stateful_net: nn.Module) -> None:
        """Copy the values of another network's parameters and buffers, all of them or none.

        Args:
            network_name: of the child that takes them; its frozen copy stays as it is.
            stateful_net: as ``get_stateful_net`` gives it.

        Raises:
            AttributeError: there is no such network.
            RuntimeError: its tensors have other names or shapes.
        """
        network = self._network(network_name)
        differing = sorted(_described(network) ^ _described(stateful_net))
        if differing:
            raise RuntimeError(
                f"{type(self).__name__}: `stateful_net` must have the tensors of "
                f"`{network_name}`, got others in {differing}"
            )
        _fill(network, stateful_net)

    def reset_parameters_recursive(self) -> None:
        """Initialise every network anew, by its modules' ``reset_parameters``.

        Frozen copies are made equal to their networks.
        """
        names = self._network_names()
        for name in names:
            for member in self._members(name):
                _reset(member)
        for name in names:  # not before: the next network may have reset what it shares
            target = self._modules.get(f"target_{name}")
            if target is not None:
                _fill(target, self._network(name))

    @property
    def vmap_randomness(self) -> Randomness:
        """What ``torch.vmap`` is to do about random numbers; it may be set.

        ``"different"`` where a network has a module that is known as random, such as dropout (see
        ``adapters.torchrl.add_random_module``); else ``"error"``.

        Raises:
            ValueError: it is set to what is none of ``"error"``, ``"different"`` and ``"same"``.
        """
        if self._vmap_randomness is not None:
            return self._vmap_randomness
        from compiled_rl.adapters.torchrl import is_random

        return "different" if any(is_random(part) for part in self.modules()) else "error"

    @vmap_randomness.setter
    def vmap_randomness(self, value: Randomness) -> None:
        self.set_vmap_randomness(value)

    def set_vmap_randomness(self, value: Randomness) -> None:
        """Set ``vmap_randomness``; what was made with the old one, ``_make_vmap`` makes anew."""
        if value not in _RANDOMNESS:
            raise ValueError(
                f"{type(self).__name__}: `vmap_randomness` must be in {_RANDOMNESS}, got {value!r}"
            )
        self._vmap_randomness = value
        self._make_vmap()

    def _make_vmap(self) -> None:
        """Nothing; a loss that keeps vmapped functions makes them here."""


def _described(network: nn.Module) -> set[str]:
    return {f"{name} {list(x.shape)}" for name, x in tensors_of(network)}


@torch.no_grad()
def _fill(network: nn.Module, source: nn.Module) -> None:
    """Give a network the values of another, by name."""
    values = dict(tensors_of(source))
    for name, x in tensors_of(network):
        x.copy_(values[name])


def _reset(network: nn.Module) -> None:
    for part in network.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # type: ignore[operator]
