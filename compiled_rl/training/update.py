"""One update: gradients, clipping, optimiser step. A pure function and its driver."""

from collections.abc import Callable
from typing import Any, Literal, Optional

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from compiled_rl.adapters import Data, read
from compiled_rl.losses import LossModule
from compiled_rl.modules.calls import call_with, slots_of
from compiled_rl.training.optimisers import Optimiser, OptimiserState, Tensors

# Guards on a library's functions, classes and modules notice only that one was patched; without
# them a call at batch 256 is an eighth faster. Those on a user's stay.
_DEFINITIONS = ("CLOSURE_MATCH", "BUILTIN_MATCH", "CLASS_MATCH", "MODULE_MATCH", "DUPLICATE_INPUT")
_LIBRARIES = ("torch_dot_", "compiled_rl_dot_")
# Inductor's own tanh and random numbers are several times slower than ATen's on CPU; a sum over a
# few actions that it unrolls makes everything before it scalar, a tenth of an update at batch 256.
_CPU_OPTIONS: dict[str, Any] = {
    "cpp.use_decompose_tanh": True,
    "fallback_random": True,
    "unroll_reductions_threshold": 1,
}

Update = Callable[
    [Tensors, OptimiserState, Tensors, Data, Data],
    tuple[Tensors, OptimiserState, Tensors, Tensors],
]


def make_update(
    loss: LossModule, optimiser: Optimiser, max_grad_norm: Optional[float] = None
) -> Update:
    """The pure update of a loss.

        losses  = loss(params, targets, batch, noise)
        grads   = gradient of the sum of the outputs called loss_*, by params
        grads  *= min(1, max_grad_norm / norm(grads))
        params  = optimiser(params, grads)

    Args:
        loss: its reduction must not be ``"none"``.
        optimiser: which parameters move, and how.
        max_grad_norm: bound on the global norm of the gradients, positive; None: no bound.

    Returns:
        ``update(params, optimiser_state, targets, batch, noise) -> (params, optimiser_state,
        targets, metrics)``. It changes none of its arguments. ``metrics`` are the loss's outputs,
        detached, and ``grad_norm``, the norm before clipping.

    Reference: Pascanu et al. 2012, arXiv:1211.5063, algorithm 1, for the clipping.
    """

    slots = slots_of(loss)

    def update(
        params: Tensors,
        optimiser_state: OptimiserState,
        targets: Tensors,
        batch: Data,
        noise: Data,
    ) -> tuple[Tensors, OptimiserState, Tensors, Tensors]:
        """The new parameters, state and targets, and the metrics."""
        outputs, grads = _value_and_grad(loss, slots, params, targets, {**batch, **noise})
        with torch.no_grad():
            norm = _global_norm(grads)
            if max_grad_norm is not None:
                scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
                grads = {name: grad * scale for name, grad in grads.items()}
            params, optimiser_state = optimiser.step(params, grads, optimiser_state)
        metrics = {name: x.detach() for name, x in outputs.items()}
        return params, optimiser_state, targets, {**metrics, "grad_norm": norm}

    return update


class UpdateStep:
    """Train a loss's parameters: the pure update, applied in place, eagerly or compiled.

    Compiled, the whole update is one call of one graph. New values of the learning rate or of a
    coefficient, and new batch sizes above one, do not make more than a second graph.

    Args:
        loss: a loss with reduction ``"mean"`` or ``"sum"``.
        optimizer: a ``torch.optim.Adam``, ``AdamW`` or ``SGD`` over parameters of the loss. Its
            state stays the truth: save it, load it, let a scheduler change its learning rate. Its
            ``step`` is not called, so its hooks and those of the parameters do not run.
        max_grad_norm: bound on the global norm of the gradients, positive; None: no bound.
        mode: ``"compiled"`` or ``"eager"``, which computes the same.

    Raises:
        TypeError: the optimiser is of a class without a pure form.
        ValueError: the loss does not reduce, or an argument is out of range.
    """

    def __init__(
        self,
        loss: LossModule,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: Optional[float] = None,
        mode: Literal["compiled", "eager"] = "compiled",
    ) -> None:
        _check(loss, max_grad_norm, mode)
        self.loss = loss
        self.optimizer = optimizer
        optimizer._opt_called = True  # type: ignore[attr-defined]  # schedulers look for it
        names = {parameter: name for name, parameter in loss.named_parameters()}
        self._optimiser = Optimiser(optimizer, names)
        self._owners = [
            (module._parameters, name, parameter)
            for module in loss.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._update = make_update(loss, self._optimiser, max_grad_norm)
        self._step = self._apply if mode == "eager" else self._compile()

    def __call__(self, batch: Any = None, **tensors: Tensor) -> Tensors:
        """Take one step on a batch, given as the loss takes it.

        Returns:
            The loss's outputs and ``grad_norm`` by name, detached.

        Raises:
            RuntimeError: a submodule or a parameter was replaced since the step was made.
            ValueError: an option of the optimiser other than its learning rate has changed.
            KeyError, RuntimeError, TypeError, ValueError: what the loss says of the data; nothing
                has moved then.
        """
        data = read(self.loss.name, self.loss.in_keys, batch, tensors)
        self._check_fresh()
        state = self._optimiser.state()
        try:
            with torch._dynamo.config.patch(trace_autograd_ops=True):
                return self._step(self._optimiser.params, state, data)
        except TorchDynamoException as error:
            raise (self._eager_error(data) or error) from None

    @torch.no_grad()
    def _eager_error(self, data: Data) -> Optional[Exception]:
        """What the loss itself says of the data; TorchDynamo buries it in a page."""
        try:
            self.loss(data)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            return error
        return None

    def _check_fresh(self) -> None:
        """What eager would notice by itself, a compiled call must be told."""
        self.loss.check_fresh()
        for owned, name, parameter in self._owners:
            if owned.get(name) is not parameter:
                raise RuntimeError(
                    f"UpdateStep: the parameter `{name}` of shape {list(parameter.shape)} was "
                    "replaced after the step was made; make the step again"
                )

    def _apply(self, params: Tensors, state: OptimiserState, batch: Data) -> Tensors:
        new_params, new_state, _, metrics = self._update(params, state, {}, batch, {})
        with torch.no_grad():
            for name, parameter in params.items():
                parameter.copy_(new_params[name])
            for group, new in zip(state, new_state, strict=True):
                for slot, tensors in group.slots.items():
                    for tensor, value in zip(tensors, new.slots[slot], strict=True):
                        tensor.copy_(value)
        return metrics

    def _compile(self) -> Callable[[Tensors, OptimiserState, Data], Tensors]:
        on_cpu = all(p.device.type == "cpu" for p in self._optimiser.params.values())
        compiled: Callable[[Tensors, OptimiserState, Data], Tensors] = torch.compile(  # type: ignore[call-overload]
            self._apply,
            fullgraph=True,
            isolate_recompiles=True,  # the graphs of one step never crowd out another's
            options={"guard_filter_fn": _needed, **(_CPU_OPTIONS if on_cpu else {})},
        )
        return compiled


def _value_and_grad(
    loss: LossModule, slots: dict[str, str], params: Tensors, targets: Tensors, data: Data
) -> tuple[Tensors, Tensors]:
    """The loss's outputs, and the gradient of each parameter that has one."""
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        outputs: Tensors = call_with(loss, slots, {**leaves, **targets}, data)
        total = torch.stack([x for name, x in outputs.items() if name.startswith("loss_")]).sum()
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = zip(leaves, grads, strict=True)
    return outputs, {name: grad for name, grad in found if grad is not None}


def _needed(guards: list[Any]) -> list[bool]:
    return [not (guard.guard_type in _DEFINITIONS and _is_library(guard)) for guard in guards]


def _is_library(guard: Any) -> bool:
    """Whether a guard is on a global of this file, of this library, or of torch."""
    origin = guard.name.partition("__import_")[2]
    return guard.is_global and (not origin or origin.startswith(_LIBRARIES))


def _global_norm(grads: Tensors) -> Tensor:
    norms = [grad.norm() for grad in grads.values()] or [torch.zeros([])]
    total: Tensor = torch.stack(norms).norm()
    return total


def _check(loss: LossModule, max_grad_norm: Optional[float], mode: str) -> None:
    if not isinstance(loss, LossModule):
        raise TypeError(f"UpdateStep: `loss` must be a LossModule, got a {type(loss).__name__}")
    if loss.reduction == "none":
        raise ValueError("UpdateStep: `loss` must reduce to scalars, got reduction 'none'")
    number = isinstance(max_grad_norm, int | float) and not isinstance(max_grad_norm, bool)
    if max_grad_norm is not None and not (number and max_grad_norm > 0):
        raise ValueError(f"UpdateStep: `max_grad_norm` must be positive, got {max_grad_norm!r}")
    if mode not in ("compiled", "eager"):
        raise ValueError(f"UpdateStep: `mode` must be 'compiled' or 'eager', got {mode!r}")
