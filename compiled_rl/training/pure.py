"""The update as a pure function: gradients, clipping, optimisers, target networks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from compiled_rl.adapters import Data
from compiled_rl.functional.processes import all_over_processes
from compiled_rl.losses import LossModule
from compiled_rl.modules.calls import call_with, slots_of
from compiled_rl.modules.coefficients import check_range
from compiled_rl.training.optimisers import GroupState, Optimiser, OptimiserState, Tensors
from compiled_rl.training.pairs import PREFIX

State = list[OptimiserState]
Move = Callable[[Tensors, Tensors], Tensors]


class Update:
    """The pure update of a loss.

        losses  = loss(params, targets, batch, noise)
        grads   = gradient of the sum of those that are minimised, by params
        grads  *= min(1, max_grad_norm / norm(grads)), for each optimiser's own
        params  = optimiser(params, grads)
        targets = move(targets, params)

    It is ``gradients``, then ``move_``, which moves in place what it is given; called, it moves
    copies and changes none of its arguments.

    Args:
        loss: its reduction must not be ``"none"``.
        optimisers: which parameters move, and how; no parameter has two.
        max_grad_norm: bound on the global norm of the gradients of an optimiser's parameters,
            positive; None: no bound.
        move: how target networks follow, such as ``SoftUpdate(...).moved``; None: they do not.
        minimise: the losses among the outputs that are minimised, as if there were no others;
            None: all that the loss says.
        autocast: the dtype in which networks compute, ``torch.bfloat16``; parameters, gradients and
            losses keep theirs. None: all in that of the parameters.

    Raises:
        ValueError: an argument is out of its range, or a parameter has two optimisers.

    What is in ``batch`` stands before what is in ``noise``. Of ``targets``, those whose names begin
    with ``target_`` stand in the place of the loss's own; others are numbers for ``move``.

    Reference: Pascanu et al. 2012, arXiv:1211.5063, algorithm 1, for the clipping; Micikevicius et
    al. 2017, arXiv:1710.03740, sec. 3.1, for parameters of full precision under autocast.
    """

    def __init__(
        self,
        loss: LossModule,
        optimisers: Sequence[Optimiser],
        max_grad_norm: Optional[float] = None,
        move: Optional[Move] = None,
        minimise: Optional[Sequence[str]] = None,
        autocast: Optional[torch.dtype] = None,
    ) -> None:
        if not isinstance(loss, LossModule):
            raise TypeError(f"Update: `loss` must be a LossModule, got a {type(loss).__name__}")
        several = isinstance(optimisers, Sequence) and bool(optimisers)
        if not several or not all(isinstance(x, Optimiser) for x in optimisers):
            raise TypeError(f"Update: `optimisers` must be a list of Optimiser, got {optimisers!r}")
        if max_grad_norm is not None:
            check_range("Update", "max_grad_norm", max_grad_norm, "positive")
        self.loss = loss
        self._optimisers = tuple(optimisers)
        self._max_grad_norm = max_grad_norm
        self._follow = move
        self._slots = slots_of(loss)
        self._wanted = loss.minimised if minimise is None else tuple(minimise)
        self._kept = None if minimise is None else {*self._wanted, *loss.priorities}
        self._autocast = autocast

    def __call__(
        self, params: Tensors, state: State, targets: Tensors, batch: Data, noise: Data
    ) -> tuple[Tensors, State, Tensors, Tensors]:
        """The new parameters, optimiser state (a list an optimiser), targets and metrics.

        The metrics are the loss's outputs, with ``minimise`` only those and the priorities,
        detached, and ``grad_norm``, the norm of all gradients before clipping.
        """
        grads, metrics = self.gradients(params, targets, batch, noise)
        params, state, targets = _copied(params), [_copies(own) for own in state], dict(targets)
        metrics["grad_norm"] = self.move_(params, state, targets, grads)
        return params, state, targets, metrics

    def gradients(
        self, params: Tensors, targets: Tensors, batch: Data, noise: Data
    ) -> tuple[Tensors, Tensors]:
        """The gradient of the sum of the losses by each parameter that has one, and the metrics."""
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            placed = {**leaves, **networks(targets)}
            outputs = self._outputs(placed, {**noise, **batch})
            total = torch.stack([outputs[name] for name in self._wanted if name in outputs]).sum()
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        found = zip(leaves, grads, strict=True)
        own = {name: grad for name, grad in found if grad is not None}
        metrics = {name: x.detach() for name, x in outputs.items()}
        return dict(zip(own, all_over_processes(list(own.values())), strict=True)), metrics

    def _outputs(self, placed: Tensors, data: Data) -> Tensors:
        call: tuple[Any, ...] = (self.loss, self._slots, placed, data)
        if self._autocast is None:
            outputs: Tensors = call_with(*call)
        else:
            first = next(iter(placed.values()))
            with torch.autocast(first.device.type, self._autocast, cache_enabled=False):
                outputs = call_with(*call)
        # What is not returned is not computed in a compiled graph.
        return {name: outputs[name] for name in self.kept(outputs)}

    def kept(self, outputs: Iterable[str]) -> list[str]:
        """Of the loss's outputs, those that are returned."""
        return [name for name in outputs if self._kept is None or name in self._kept]

    @torch.no_grad()
    def move_(self, params: Tensors, state: State, targets: Tensors, grads: Tensors) -> Tensor:
        """Move parameters, state and targets in place by gradients, whose norm is returned."""
        norms = []
        for optimiser, own in zip(self._optimisers, state, strict=True):
            own_grads = {name: grads[name] for name in optimiser.names if name in grads}
            norms.append(global_norm(own_grads, next(iter(params.values()))))
            optimiser.move_(params, _clipped(own_grads, norms[-1], self._max_grad_norm), own)
        if self._follow is not None:
            targets.update(self._follow(targets, params))
        norm: Tensor = torch.stack(norms).norm()
        return norm


def _copied(tensors: Tensors) -> Tensors:
    return {name: x.detach().clone() for name, x in tensors.items()}


def _copies(state: OptimiserState) -> OptimiserState:
    return [
        GroupState(rate, {slot: [x.clone() for x in xs] for slot, xs in slots.items()})
        for rate, slots in state
    ]


def networks(targets: Tensors) -> Tensors:
    """Without the numbers of the rule, whose names a loss may have for something else."""
    return {name: x for name, x in targets.items() if name.startswith(PREFIX)}


def global_norm(grads: Tensors, like: Tensor) -> Tensor:
    """Of no gradient, a zero that is ``like`` the parameters."""
    norms = [grad.norm() for grad in grads.values()] or [like.new_zeros([])]
    total: Tensor = torch.stack(norms).norm()
    return total


def _clipped(grads: Tensors, norm: Tensor, max_grad_norm: Optional[float]) -> Tensors:
    if max_grad_norm is None:
        return grads
    scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    return {name: grad * scale for name, grad in grads.items()}
