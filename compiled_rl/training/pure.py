"""The update as a pure function: gradients, clipping, optimisers, target networks."""

from collections.abc import Callable, Sequence
from typing import Optional

import torch
from torch import Tensor

from compiled_rl.adapters import Data
from compiled_rl.losses import LossModule
from compiled_rl.modules.calls import call_with, slots_of
from compiled_rl.training.optimisers import Optimiser, OptimiserState, Tensors
from compiled_rl.training.pairs import PREFIX

State = list[OptimiserState]
Update = Callable[[Tensors, State, Tensors, Data, Data], tuple[Tensors, State, Tensors, Tensors]]
Move = Callable[[Tensors, Tensors], Tensors]


def make_update(
    loss: LossModule,
    optimisers: Sequence[Optimiser],
    max_grad_norm: Optional[float] = None,
    move: Optional[Move] = None,
    minimise: Optional[Sequence[str]] = None,
) -> Update:
    """The pure update of a loss.

        losses  = loss(params, targets, batch, noise)
        grads   = gradient of the sum of those that are minimised, by params
        grads  *= min(1, max_grad_norm / norm(grads)), for each optimiser's own
        params  = optimiser(params, grads)
        targets = move(targets, params)

    Args:
        loss: its reduction must not be ``"none"``.
        optimisers: which parameters move, and how; no parameter has two.
        max_grad_norm: bound on the global norm of the gradients of an optimiser's parameters,
            positive; None: no bound.
        move: how target networks follow, such as ``SoftUpdate(...).moved``; None: they do not.
        minimise: the losses among the outputs that are minimised, as if there were no others;
            None: all that the loss says.

    What is in ``batch`` stands before what is in ``noise``. Of ``targets``, those whose names begin
    with ``target_`` stand in the place of the loss's own; others are numbers for ``move``.

    Returns:
        ``update(params, optimiser_state, targets, batch, noise) -> (params, optimiser_state,
        targets, metrics)``, where ``optimiser_state`` has a list for each optimiser. It changes
        none of its arguments. ``metrics`` are the loss's outputs, with ``minimise`` only those and
        the priorities, detached, and ``grad_norm``, the norm of all gradients before clipping.

    Reference: Pascanu et al. 2012, arXiv:1211.5063, algorithm 1, for the clipping.
    """
    slots = slots_of(loss)
    wanted = loss.minimised if minimise is None else tuple(minimise)
    kept = None if minimise is None else {*wanted, *loss.priorities}

    def update(
        params: Tensors, state: State, targets: Tensors, batch: Data, noise: Data
    ) -> tuple[Tensors, State, Tensors, Tensors]:
        """The new parameters, state and targets, and the metrics."""
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            placed = {**leaves, **_copies(targets)}
            outputs: Tensors = call_with(loss, slots, placed, {**noise, **batch})
        if kept is not None:  # what is not returned is not computed in a compiled graph
            outputs = {name: x for name, x in outputs.items() if name in kept}
        grads = _gradients([outputs[name] for name in wanted if name in outputs], leaves)
        with torch.no_grad():
            norms, new_state = [], []
            for optimiser, own in zip(optimisers, state, strict=True):
                own_grads = {name: grads[name] for name in optimiser.names if name in grads}
                norms.append(_global_norm(own_grads, next(iter(leaves.values()))))
                own_grads = _clipped(own_grads, norms[-1], max_grad_norm)
                params, own = optimiser.step(params, own_grads, own)
                new_state.append(own)
            targets = targets if move is None else move(targets, params)
        metrics = {name: x.detach() for name, x in outputs.items()}
        return params, new_state, targets, {**metrics, "grad_norm": torch.stack(norms).norm()}

    return update


def _copies(targets: Tensors) -> Tensors:
    """Without the numbers of the rule, whose names a loss may have for something else."""
    return {name: x for name, x in targets.items() if name.startswith(PREFIX)}


def _gradients(losses: list[Tensor], leaves: Tensors) -> Tensors:
    """The gradient of the sum of the losses by each parameter that has one."""
    with torch.enable_grad():
        total = torch.stack(losses).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = zip(leaves, grads, strict=True)
    return {name: grad for name, grad in found if grad is not None}


def _global_norm(grads: Tensors, like: Tensor) -> Tensor:
    """Of no gradient, a zero that is ``like`` the parameters."""
    norms = [grad.norm() for grad in grads.values()] or [like.new_zeros([])]
    total: Tensor = torch.stack(norms).norm()
    return total


def _clipped(grads: Tensors, norm: Tensor, max_grad_norm: Optional[float]) -> Tensors:
    if max_grad_norm is None:
        return grads
    scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    return {name: grad * scale for name, grad in grads.items()}
