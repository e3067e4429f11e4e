"""Frozen copies follow their networks: a little at every step, or whole now and then."""

import warnings
from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import nn

from compiled_rl.functional import hard_update, soft_update
from compiled_rl.losses import LossModule
from compiled_rl.training.fresh import Structure
from compiled_rl.training.optimisers import Tensors
from compiled_rl.training.pairs import at, copy_networks, pairs_of, trees


class TargetNetUpdater:
    """Moves every frozen copy ``target_X`` of a loss towards its network ``X``; abstract.

    Parameters and floating-point buffers, such as the statistics of a batch normalisation, move by
    one rule; other buffers are copied whenever something moves. Making an updater copies
    everything once. The tensors are looked up again at every step: ``loss.to(...)`` may come in
    between.

    Args:
        loss_module: a loss with frozen copies. One of TorchRL's own is taken, too, and moved as
            TorchRL does it: what requires a gradient moves, and nothing else.

    Raises:
        RuntimeError: there is no copy, one has no network, one requires a gradient, or none has
            memory of its own.
        ValueError: ``loss_module`` is not a loss.
    """

    def __init__(self, loss_module: nn.Module) -> None:
        self.name = type(self).__name__
        self._native = isinstance(loss_module, LossModule)
        if not (self._native or hasattr(loss_module, "convert_to_functional")):
            raise ValueError(
                f"{self.name}: `loss_module` must be a loss, got a {type(loss_module).__name__}"
            )
        self.loss_module = loss_module
        self.initialized = False
        self.init_()

    def init_(self) -> None:
        """Copy every network, buffers included, into its frozen copy."""
        if self.initialized:
            warnings.warn(f"{self.name}: initialised again, the copies start anew", stacklevel=2)
        pairs = pairs_of(self.name, self.loss_module)
        learning = [p for p in pairs if self._native or at(p.source_place).requires_grad]
        moving = [pair for pair in learning if pair.distinct]
        if not moving:
            raise RuntimeError(
                f"{self.name}: the targets of `loss_module` must be copies of networks that "
                "learn, got the networks themselves; see the loss's `delay_...` arguments"
            )
        copy_networks(pairs)
        moving.sort(key=lambda pair: not pair.has_mean)
        self._pairs, self._averaged = moving, sum(pair.has_mean for pair in moving)
        self._places = [(p.target_place, p.source_place) for p in moving]
        self._structure = Structure(self.name, self.loss_module)
        associated = getattr(self.loss_module, "_has_update_associated", {})
        associated.update(dict.fromkeys(associated, True))  # TorchRL's losses warn without
        self.initialized = True

    def step(self) -> None:
        """Move every copy by the rule.

        Raises:
            RuntimeError: ``initialized`` is false, or a module that holds tensors was replaced.
        """
        if not self.initialized:
            raise RuntimeError(f"{self.name}: `init_()` must be called before `step()`")
        self._structure.check_modules()
        targets = [owned[key] for (owned, key), _ in self._places]
        sources = [owned[key] for _, (owned, key) in self._places]
        enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # `no_grad` takes a quarter of the time of the rule
        try:
            self._step(targets, sources)
        finally:
            torch._C._set_grad_enabled(enabled)

    def _step(self, targets: Any, sources: Any) -> None:
        """The rule, in place; the first ``_averaged`` tensors have a mean, others not."""
        raise NotImplementedError

    def targets(self) -> Tensors:
        """What ``moved`` takes: every copy's tensors that move, by name, and the rule's numbers."""
        raise NotImplementedError

    def _with_numbers(self, **numbers: float) -> Tensors:
        tensors = {pair.target: at(pair.target_place) for pair in self._pairs}
        # Not float64 without need: it makes TorchDynamo trace everything twice.
        dtype = torch.promote_types(next(iter(tensors.values())).dtype, torch.float32)
        return tensors | {k: torch.tensor(x, dtype=dtype) for k, x in numbers.items()}

    def moved(self, targets: Tensors, params: Tensors) -> Tensors:
        """The rule as a pure function.

        Args:
            targets: as ``targets()`` gives them.
            params: of the networks, by name in the loss; others are taken from it.

        Returns:
            The next ``targets``.
        """
        sources = {
            # Not `get`: of a default that is not needed, a graph would be guarded for nothing.
            p.target: params[p.source] if p.source in params else at(p.source_place).detach()
            for p in self._pairs
        }
        return self._moved(targets, sources)

    def _moved(self, targets: Tensors, sources: Tensors) -> Tensors:
        raise NotImplementedError

    def advance(self) -> None:
        """Count a step that was taken by ``moved``."""

    def state_dict(self) -> dict[str, Any]:
        """What the loss's own state dict does not have."""
        return {"initialized": self.initialized}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another updater was; what ``state_dict`` lacks stays as it is."""
        self.initialized = state_dict.get("initialized", self.initialized)

    @property
    def _sources(self) -> Any:
        return trees(self._pairs)[0]

    @property
    def _targets(self) -> Any:
        return trees(self._pairs)[1]


class SoftUpdate(TargetNetUpdater):
    """Moves frozen copies a little towards their networks at every step.

        target = eps * target + (1 - eps) * source

    Args:
        loss_module: a loss with frozen copies.
        eps: how much of the copy stays, in [0, 1]; may be set at any time.
        tau: instead of it, how much of the network comes in, ``1 - eps``.

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
        self.eps = _eps(eps, tau)
        super().__init__(loss_module)

    def _step(self, targets: Any, sources: Any) -> None:
        count = self._averaged
        torch._foreach_lerp_(targets[:count], sources[:count], 1 - self.eps)
        if len(targets) > count:
            torch._foreach_copy_(targets[count:], sources[count:])

    def targets(self) -> Tensors:
        """Every copy's tensors that move, by name, and ``tau``."""
        return self._with_numbers(tau=1 - self.eps)

    def _moved(self, targets: Tensors, sources: Tensors) -> Tensors:
        tau: Any = targets["tau"]
        return targets | {k: soft_update(targets[k], source, tau) for k, source in sources.items()}


class HardUpdate(TargetNetUpdater):
    """Makes frozen copies anew now and then.

        target  = source if counter == interval else target
        counter = 0      if counter == interval else counter + 1

    So a copy is made at every step number ``interval + 1``, as in TorchRL.

    Args:
        loss_module: a loss with frozen copies.
        value_network_update_interval: steps between two that copy.

    Raises:
        RuntimeError, ValueError: see ``TargetNetUpdater``.

    Reference: Mnih et al. 2015, Nature 518:529, algorithm 1.
    """

    def __init__(
        self, loss_module: nn.Module, *, value_network_update_interval: float = 1000
    ) -> None:
        super().__init__(loss_module)
        self.value_network_update_interval = value_network_update_interval
        self.counter = 0

    def step(self) -> None:
        """Count a step, and copy if it is the one.

        Raises:
            RuntimeError: ``initialized`` is false.
        """
        super().step()
        self.advance()

    def _step(self, targets: Any, sources: Any) -> None:
        if self.counter == self.value_network_update_interval:
            torch._foreach_copy_(targets, sources)

    def targets(self) -> Tensors:
        """Every copy's tensors that move, by name, ``counter`` and ``interval``."""
        interval = self.value_network_update_interval
        return self._with_numbers(counter=self.counter, interval=interval)

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
    if tau is not None:
        eps = 1 - tau
    assert eps is not None
    if not 0 <= eps <= 1:
        raise ValueError(f"SoftUpdate: `eps`, which is 1 - `tau`, must be in [0, 1], got {eps}")
    if eps < 0.5:
        warnings.warn(
            f"SoftUpdate: little is left of the copy with `eps` {eps}; `tau` is what comes in",
            stacklevel=3,
        )
    return eps
