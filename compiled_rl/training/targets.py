"""Frozen copies follow their networks: a little at every step, or whole now and then."""

import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.functional import hard_update, soft_update
from compiled_rl.modules.coefficients import check_range
from compiled_rl.training.optimisers import Tensors
from compiled_rl.training.updater import TargetNetUpdater


class SoftUpdate(TargetNetUpdater):
    """Moves frozen copies a little towards their networks at every step.

        target = eps * target + (1 - eps) * source

    Args:
        loss_module: a loss with frozen copies.
        eps: how much of the copy stays, in [0, 1]; may be set at any time.
        tau: instead of it, how much of the network comes in, ``1 - eps``; may be set, too.

    Raises:
        RuntimeError: neither ``eps`` nor ``tau`` is given; see also ``TargetNetUpdater``.
        ValueError: both are given, one is out of range, or ``loss_module`` is not a loss.

    Reference: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1.
    """

    def __init__(
        self,
        loss_module: nn.Module,
        *,
        eps: Optional[float] = None,
        tau: Optional[float] = None,
    ) -> None:
        self._eps = _eps(eps, tau)
        super().__init__(loss_module)

    @property
    def eps(self) -> float:
        """How much of the copy stays, in [0, 1]."""
        return self._eps

    @eps.setter
    def eps(self, eps: float) -> None:
        self._eps = _fraction("eps", eps)

    @property
    def tau(self) -> float:
        """How much of the network comes in, ``1 - eps``."""
        return 1 - self._eps

    @tau.setter
    def tau(self, tau: float) -> None:
        self._eps = 1 - _fraction("tau", tau)

    def _move(self, targets: list[Tensor], sources: list[Tensor], averaged: int) -> None:
        if averaged:
            torch._foreach_lerp_(targets[:averaged], sources[:averaged], 1 - self._eps)
        if len(targets) > averaged:
            torch._foreach_copy_(targets[averaged:], sources[averaged:])

    def _numbers(self) -> dict[str, float]:
        return {"tau": self.tau}

    def _moved(self, targets: Tensors, sources: Tensors) -> Tensors:
        tau: Any = targets["tau"]
        return targets | {k: soft_update(targets[k], source, tau) for k, source in sources.items()}


class HardUpdate(TargetNetUpdater):
    """Makes frozen copies anew now and then.

        target  = source if counter == interval else target
        counter = 0 if counter == interval else counter + 1

    So a copy is made at every step number ``interval + 1``, as in TorchRL.

    Args:
        loss_module: a loss with frozen copies.
        value_network_update_interval: steps between two that copy, an integer of at least 0; may be
            set at any time.

    Raises:
        RuntimeError: see ``TargetNetUpdater``.
        ValueError: the interval is no such number; see also ``TargetNetUpdater``.

    Reference: Mnih et al. 2015, Nature 518:529, algorithm 1.
    """

    def __init__(
        self, loss_module: nn.Module, *, value_network_update_interval: float = 1000
    ) -> None:
        interval = _whole(value_network_update_interval)  # before the copies are made anew
        super().__init__(loss_module)
        self.value_network_update_interval = interval
        self.counter = 0

    @property
    def value_network_update_interval(self) -> int:
        """Steps between two that copy."""
        return self._interval

    @value_network_update_interval.setter
    def value_network_update_interval(self, interval: float) -> None:
        self._interval = _whole(interval)

    def step(self) -> None:
        """Count a step, and copy if it is the one.

        Raises:
            RuntimeError: see ``TargetNetUpdater.step``.
        """
        super().step()
        self.advance()

    def _move(self, targets: list[Tensor], sources: list[Tensor], averaged: int) -> None:
        if self.counter == self.value_network_update_interval:
            torch._foreach_copy_(targets, sources)

    def _numbers(self) -> dict[str, float]:
        return {"counter": self.counter, "interval": self._interval}

    def _moved(self, targets: Tensors, sources: Tensors) -> Tensors:
        counter: Any = targets["counter"]
        interval: Any = targets["interval"]
        moved = {k: hard_update(targets[k], x, counter, interval) for k, x in sources.items()}
        following = torch.where(counter == interval, 0.0, counter + 1)
        return targets | moved | {"counter": following}

    def advance(self) -> None:
        """Count a step that was taken by ``moved``."""
        again = self.counter == self.value_network_update_interval
        self.counter = 0 if again else self.counter + 1

    def state_dict(self) -> dict[str, Any]:
        """What the loss's own state dict does not have."""
        return {**super().state_dict(), "counter": self.counter}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another updater was; what ``state_dict`` lacks stays as it is."""
        super().load_state_dict(state_dict)
        self.counter = state_dict.get("counter", self.counter)


def _eps(eps: Optional[float], tau: Optional[float]) -> float:
    if eps is None and tau is None:
        raise RuntimeError("SoftUpdate: `eps` or `tau` must be given, got neither")
    if eps is not None and tau is not None:
        raise ValueError(f"SoftUpdate: only one of `eps` and `tau` is taken, got {eps} and {tau}")
    if eps is None:
        eps = 1 - _fraction("tau", tau)
    eps = _fraction("eps", eps)
    if eps < 0.5:
        warnings.warn(
            f"SoftUpdate: little is left of the copy with `eps` {eps}; `tau` is what comes in",
            stacklevel=3,
        )
    return eps


def _fraction(name: str, x: Any) -> float:
    """A number, whatever holds it: a tensor would be read anew at every step."""
    check_range("SoftUpdate", name, x, "in [0, 1]")
    return float(torch.as_tensor(x, dtype=torch.float64).detach())


def _whole(interval: Any) -> int:
    number = isinstance(interval, Real) and not isinstance(interval, bool)
    if not number or interval < 0 or interval % 1:
        raise ValueError(
            "HardUpdate: `value_network_update_interval` must be an integer of at least 0, "
            f"got {interval!r}"
        )
    return int(interval)
