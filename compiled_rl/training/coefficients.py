"""Rules that move coefficients and learning rates in the graph of the update."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compiled_rl.losses import LossModule
from compiled_rl.training.numbers import put
from compiled_rl.training.optimisers import Group, OptimiserState, Tensors

# From the numbers that there are now, by name, and an update's metrics, to those that move.
Rule = Callable[[Tensors, Tensors], Tensors]
UPDATES = "updates"


def rate_names(groups: int) -> list[str]:
    """The names of the learning rates of so many groups of parameters."""
    return ["learning_rate"] if groups == 1 else [f"learning_rate_{k}" for k in range(groups)]


class Coefficients:
    """The numbers that a rule may read and move: learning rates, and what a loss anneals.

    Args:
        loss: whose own 0-d floating-point buffers they are, such as ``clip_epsilon``.
        groups: of the optimisers. The rate of the only one is ``learning_rate``; those of several
            are ``learning_rate_0``, ``learning_rate_1``, ..., in their order.
        rule: how they move.
        outputs: the names of the metrics.

    Raises:
        TypeError: ``rule`` is not a function, or does not return a dict of 0-d tensors.
        ValueError: it moves what is not there.
    """

    def __init__(
        self, loss: LossModule, groups: Sequence[Group], rule: Any, outputs: Sequence[str]
    ) -> None:
        if not callable(rule):
            raise TypeError(f"UpdateStep: `rule` must be a function or None, got {rule!r}")
        self._loss, self._rule = loss, rule
        self._groups = dict(zip(rate_names(len(groups)), groups, strict=True))
        own = loss.named_buffers(recurse=False)
        self._names = [name for name, x in own if x.dim() == 0 and x.is_floating_point()]
        state = [[group.state() for group in groups]]
        metrics = {name: torch.ones([]) for name in outputs}
        self.moves = tuple(self._tried(self.now(state, torch.zeros([])), metrics))

    def now(self, state: Sequence[OptimiserState], updates: Tensor) -> Tensors:
        """What the rule reads."""
        scalars = {name: self._loss._buffers[name] for name in self._names}
        rates = [group.learning_rate for optimiser in state for group in optimiser]
        return {**scalars, **dict(zip(self._groups, rates, strict=True)), UPDATES: updates}

    @torch.no_grad()
    def move_(self, state: Sequence[OptimiserState], updates: Tensor, metrics: Tensors) -> None:
        """Write what the rule says to where the numbers are.

        Raises:
            ValueError: it moves others than it did at first.
        """
        now = self.now(state, updates)
        moved = {name: x.clone() for name, x in self._rule(dict(now), metrics).items()}
        if sorted(moved) != sorted(self.moves):
            raise ValueError(
                f"UpdateStep: `rule` must move {self.moves} every time, got {tuple(moved)}; "
                "return a number as it was where it stays"
            )
        put({name: now[name] for name in moved}, moved)

    def written(self) -> None:
        """Show the learning rates that have moved to the optimisers."""
        for name in self.moves:
            if name in self._groups:
                self._groups[name].take_rate()

    @torch.no_grad()
    def _tried(self, now: Tensors, metrics: Tensors) -> Tensors:
        copies = {name: x.detach().clone() for name, x in now.items()}
        moved = self._rule(copies, metrics)
        if not isinstance(moved, dict) or not all(_is_number(x) for x in moved.values()):
            raise TypeError(f"UpdateStep: `rule` must return a dict of 0-d tensors, got {moved!r}")
        known = [name for name in now if name != UPDATES]
        for name in moved:
            if name not in known:
                raise ValueError(f"UpdateStep: `rule` must move some of {known}, got {name!r}")
        return moved


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() == 0
