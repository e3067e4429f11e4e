"""What every updater of target networks does: find, check and walk the copies."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compiled_rl.losses import LossModule
from compiled_rl.training.fresh import Structure
from compiled_rl.training.numbers import Number
from compiled_rl.training.optimisers import Tensors
from compiled_rl.training.pairs import at, copy_networks, has_mean, pairs_of, trees


class TargetNetUpdater:
    """Moves every frozen copy ``target_X`` of a loss towards its network ``X``; abstract.

    Parameters and floating-point buffers, such as the statistics of a batch normalisation, move by
    one rule; other buffers are copied whenever something moves. Making an updater copies
    everything once. The tensors are looked up again at every step: ``loss.to(...)`` may come in
    between.

    A subclass has a rule: ``_step(p_source, p_target)`` in place, called for each tensor, as for
    TorchRL; or ``_move`` for all tensors at once, with ``_numbers`` and ``_moved`` for the same as
    a pure function, which an ``UpdateStep`` needs.

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
        self._one_by_one = type(self)._step is not TargetNetUpdater._step
        self.initialized = False
        self._held: dict[str, Number] = {}
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
        if isinstance(self.loss_module, LossModule):
            self.loss_module.targets_follow()
        associated = getattr(self.loss_module, "_has_update_associated", {})
        associated.update(dict.fromkeys(associated, True))  # TorchRL's losses warn without
        self._structure = Structure(self.name, self.loss_module)
        self.initialized = True

    def step(self) -> None:
        """Move every copy by the rule.

        Raises:
            RuntimeError: ``initialized`` is false, or a module that holds tensors was replaced.
        """
        self._check_initialized()
        self._structure.check_modules()
        targets: list[Any] = [owned[key] for (owned, key), _ in self._places]
        sources: list[Any] = [owned[key] for _, (owned, key) in self._places]
        enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # `no_grad` takes a quarter of the time of the rule
        try:
            if self._one_by_one:
                for source, target in zip(sources, targets, strict=True):
                    self._step(source, target)
            else:
                self._move(targets, sources, self._averaged)
        finally:
            torch._C._set_grad_enabled(enabled)

    def _check_initialized(self) -> None:
        if not self.initialized:
            raise RuntimeError(f"{self.name}: `init_()` must be called before `step()`")

    def _step(self, p_source: Tensor, p_target: Tensor) -> None:
        """The rule for one tensor, in place; a subclass's own stands before ``_move``."""
        self._move([p_target], [p_source], int(has_mean(p_target)))

    def _move(self, targets: list[Tensor], sources: list[Tensor], averaged: int) -> None:
        """The rule, in place; the first ``averaged`` tensors have a mean, others not."""
        raise NotImplementedError(f"{self.name}: `_step(p_source, p_target)` must be written")

    @property
    def is_pure(self) -> bool:
        """Whether ``moved`` computes what ``step`` does."""
        return not self._one_by_one and type(self)._moved is not TargetNetUpdater._moved

    def targets(self) -> Tensors:
        """What ``moved`` takes: every copy's tensors that move, by name, and the rule's numbers.

        Raises:
            RuntimeError: ``initialized`` is false.
        """
        self._check_initialized()
        tensors = {pair.target: at(pair.target_place) for pair in self._pairs}
        first = next(iter(tensors.values()))
        return tensors | {k: self._number(k, first).holding(x) for k, x in self._numbers().items()}

    def _number(self, name: str, like: Tensor) -> Number:
        """A number of the rule, where the tensors are and in their precision."""
        # Not float64 without need: it makes TorchDynamo trace everything twice.
        dtype = torch.promote_types(like.dtype, torch.float32)
        held = self._held.get(name)
        if held is None or (held.tensor.dtype, held.tensor.device) != (dtype, like.device):
            held = Number(torch.zeros([], dtype=dtype, device=like.device))
            self._held[name] = held
        return held

    def _numbers(self) -> dict[str, float]:
        """What the pure rule needs beside tensors, by name."""
        return {}

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
        raise NotImplementedError(f"{self.name}: the rule has no pure form")

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
