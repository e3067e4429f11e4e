"""The driver of the pure update: it keeps the state where torch's own loop would have it."""

from collections.abc import Sequence
from typing import Any, Literal, Optional

import torch
from torch import Generator, Tensor
from torch._dynamo.exc import TorchDynamoException

from compiled_rl.adapters import Data
from compiled_rl.losses import LossModule
from compiled_rl.training.compiled import compiled
from compiled_rl.training.fresh import Structure
from compiled_rl.training.optimisers import Tensors, optimisers_of
from compiled_rl.training.pure import State, make_update
from compiled_rl.training.statistics import put_back, saved, statistics_of
from compiled_rl.training.updater import TargetNetUpdater


class UpdateStep:
    """Train a loss's parameters: the pure update, applied in place, eagerly or compiled.

    Compiled, the whole update is one call of one graph. New values of the learning rate, of a
    coefficient or of the target updater's, and new batch sizes above one, do not make more than a
    second graph. What the loss draws at random is drawn before the call, which is given it.

    Args:
        loss: a loss with reduction ``"mean"`` or ``"sum"``.
        optimizer: a ``torch.optim.Adam``, ``AdamW`` or ``SGD`` over parameters of the loss, or
            several over disjoint ones. Their state stays the truth: save it, load it, let a
            scheduler change a learning rate. Their ``step`` is not called, so their hooks and those
            of the parameters do not run.
        max_grad_norm: bound on the global norm of the gradients of an optimiser's own parameters,
            positive; None: no bound.
        mode: ``"compiled"`` or ``"eager"``, which computes the same. Hooks of all modules, torch's
            ``register_module_forward_hook``, are run by a compiled step only if they were there at
            its first call.
        target_updater: a ``SoftUpdate`` or ``HardUpdate`` of this loss, whose step is taken in the
            same graph, after the optimisers'; its ``counter`` stays the truth.
        generator: what the noise is drawn from; None: torch's own.
        minimise: the names of those outputs ``loss...`` that are minimised; None: all that the loss
            gives. With names, only they and ``td_error``, for replay, are returned, and compiled
            only what they need is computed; eager, the loss computes everything. So two steps on
            one loss train critics more often than the actor and the targets.

    Raises:
        TypeError: an optimiser is of a class without a pure form, or ``target_updater`` is none.
        ValueError: the loss does not reduce or declares no ``fields``, two optimisers have a
            parameter in common, the target updater is another loss's, or an argument is out of
            range.
    """

    def __init__(
        self,
        loss: LossModule,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        max_grad_norm: Optional[float] = None,
        mode: Literal["compiled", "eager"] = "compiled",
        target_updater: Optional[TargetNetUpdater] = None,
        generator: Optional[Generator] = None,
        minimise: Optional[Sequence[str]] = None,
    ) -> None:
        _check(loss, max_grad_norm, mode)
        _check_generator(generator)
        _check_updater(loss, target_updater)
        _check_outputs(loss, minimise)
        self._outputs = loss.output_names
        self._options = {"max_grad_norm": max_grad_norm, "mode": mode, "minimise": minimise}
        self.loss, self.optimizer, self.generator = loss, optimizer, generator
        self.target_updater = target_updater
        names = {parameter: name for name, parameter in loss.named_parameters()}
        self._optimisers = optimisers_of(optimizer, names)
        self._structure = Structure("UpdateStep", loss)
        self._statistics = statistics_of(loss)
        move = None if target_updater is None else target_updater.moved
        self._update = make_update(loss, self._optimisers, max_grad_norm, move, minimise)
        on_cpu = all(p.device.type == "cpu" for p in self._params.values())
        self._tracing = torch._dynamo.config.patch(trace_autograd_ops=True)
        self._step = self._apply_or_undo if mode == "eager" else compiled(self._apply, on_cpu)

    def __reduce__(self) -> Any:
        """A copy is made anew of copies: what is compiled belongs to a process and a loss."""
        others = {"target_updater": self.target_updater, "generator": self.generator}
        return _made, (self.loss, self.optimizer, self._options | others)

    @property
    def _params(self) -> Tensors:
        return {name: p for each in self._optimisers for name, p in each.params.items()}

    def __call__(self, batch: Any = None, **tensors: Tensor) -> Tensors:
        """Take one step on a batch, given as the loss takes it.

        Returns:
            The loss's outputs and ``grad_norm`` by name, detached. Nothing is written to the batch.

        Raises:
            RuntimeError: a parameter, or a module that holds parameters or buffers, was replaced
                since the step was made, in a frozen copy, too; or a forward hook came or went.
            ValueError: an option of the optimiser other than its learning rate has changed.
            KeyError, RuntimeError, TypeError, ValueError: what the loss says of the data; nothing
                has moved then but the generator.
        """
        data = self.loss.inputs(batch, tensors)
        self._check_fresh()
        noise = self.loss.draw_noise(data, self.generator)
        state = [optimiser.state() for optimiser in self._optimisers]
        updater = self.target_updater
        targets = {} if updater is None else updater.targets()
        try:
            with self._tracing:
                metrics = self._step(self._params, state, targets, data, noise)
        except TorchDynamoException as error:
            raise (self._eager_error(data) or error) from None
        if updater is not None:
            updater.advance()
        return metrics

    @torch.no_grad()
    def _eager_error(self, data: Data) -> Optional[Exception]:
        """What the loss itself says of the data; TorchDynamo buries it in a page."""
        before = saved(self._statistics)
        try:
            self.loss(data)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            return error
        finally:
            put_back(before)
        return None

    def _apply_or_undo(self, *arguments: Any) -> Tensors:
        """Eagerly, a network may have moved its statistics before the loss refuses a batch."""
        before = saved(self._statistics)
        try:
            return self._apply(*arguments)
        except BaseException:
            put_back(before)
            raise

    def _check_fresh(self) -> None:
        """What eager would notice by itself, a compiled call must be told."""
        if self.loss.output_names is not self._outputs:
            _check_outputs(self.loss, self._options["minimise"])
            self._outputs = self.loss.output_names
        if self._structure.rebuilt:
            self.loss.check_fresh()  # it knows what else matters, but takes its time
            self._structure.check_modules()
        self._structure.check_hooks()
        self._structure.check_parameters()

    def _apply(
        self, params: Tensors, state: State, targets: Tensors, batch: Data, noise: Data
    ) -> Tensors:
        updated = self._update(params, state, targets, batch, noise)
        new_params, new_state, new_targets, metrics = updated
        with torch.no_grad():
            _put(params, new_params)
            _put(targets, new_targets)
            for optimiser, new in zip(state, new_state, strict=True):
                for group, new_group in zip(optimiser, new, strict=True):
                    for slot, own in group.slots.items():
                        _put(dict(enumerate(own)), dict(enumerate(new_group.slots[slot])))
        return metrics


def _made(loss: LossModule, optimizer: Any, options: dict[str, Any]) -> UpdateStep:
    """A step that was copied or pickled."""
    return UpdateStep(loss, optimizer, **options)


def _put(tensors: dict[Any, Tensor], new: dict[Any, Tensor]) -> None:
    for name, tensor in tensors.items():
        if new[name] is not tensor:
            # TorchDynamo drops a `copy_` into a float64 number when it traces once more.
            where = tensor.view(1) if tensor.dim() == 0 else tensor
            where.copy_(new[name])


def _check(loss: LossModule, max_grad_norm: Optional[float], mode: str) -> None:
    if not isinstance(loss, LossModule):
        raise TypeError(f"UpdateStep: `loss` must be a LossModule, got a {type(loss).__name__}")
    if not getattr(loss, "minimised", ()):
        raise ValueError(
            "UpdateStep: `loss` must declare `fields` with an output `loss...`, got a "
            f"{type(loss).__name__} with none; train it by `forward`, `backward` and `step`"
        )
    if loss.reduction == "none":
        raise ValueError("UpdateStep: `loss` must reduce to scalars, got reduction 'none'")
    number = isinstance(max_grad_norm, int | float) and not isinstance(max_grad_norm, bool)
    if max_grad_norm is not None and not (number and max_grad_norm > 0):
        raise ValueError(f"UpdateStep: `max_grad_norm` must be positive, got {max_grad_norm!r}")
    if mode not in ("compiled", "eager"):
        raise ValueError(f"UpdateStep: `mode` must be 'compiled' or 'eager', got {mode!r}")


def _check_updater(loss: LossModule, updater: Any) -> None:
    if updater is None:
        return
    if not isinstance(updater, TargetNetUpdater):
        raise TypeError(
            "UpdateStep: `target_updater` must be a SoftUpdate or a HardUpdate, "
            f"got a {type(updater).__name__}"
        )
    if not updater.is_pure:
        raise TypeError(
            "UpdateStep: `target_updater` must have a pure rule, as SoftUpdate and HardUpdate do, "
            f"got a {type(updater).__name__} without; call its `step()` after the update"
        )
    if updater.loss_module is not loss:
        raise ValueError("UpdateStep: `target_updater` must be made of this loss, not of another")


def _check_generator(generator: Any) -> None:
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            "UpdateStep: `generator` must be a torch.Generator or None, "
            f"got a {type(generator).__name__}"
        )


def _check_outputs(loss: LossModule, minimise: Any) -> None:
    given = [name for name in loss.minimised if name in loss.output_names]
    if minimise is None:
        if not given:
            raise ValueError(
                f"UpdateStep: the outputs selected of `loss` must have one of {loss.minimised}, "
                f"got {loss.output_names}"
            )
        return
    named = list(minimise) if isinstance(minimise, Sequence) else []
    unfit = isinstance(minimise, str) or not named
    if unfit or any(name not in given or named.count(name) > 1 for name in named):
        raise ValueError(
            f"UpdateStep: `minimise` must name some of {given}, each once, got {minimise!r}"
        )
