"""The driver of the pure update: it keeps the state where torch's own loop would have it."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Generator, Tensor
from torch._dynamo.exc import TorchDynamoException

from compiled_rl.adapters import Data
from compiled_rl.losses import LossModule
from compiled_rl.training import arguments
from compiled_rl.training.coefficients import Coefficients, Rule
from compiled_rl.training.compiled import Graphs, Mode, obstacle_to_compiling
from compiled_rl.training.fresh import Structure
from compiled_rl.training.numbers import put
from compiled_rl.training.optimisers import Tensors, optimisers_of
from compiled_rl.training.processes import check_unwrapped, group_named, processes_of
from compiled_rl.training.pure import State, Update, global_norm, networks
from compiled_rl.training.state import load_state, state_of
from compiled_rl.training.statistics import put_back, saved, statistics_of
from compiled_rl.training.updater import TargetNetUpdater


class UpdateStep:
    """Train a loss's parameters: the pure update, applied in place, eagerly or compiled.

    Compiled, the whole update is one call of one graph. New values of the learning rate, of a
    coefficient or of the target updater's, and new batch sizes above one, do not make more than a
    second graph. What the loss draws at random is drawn before the call, which is given it.

    Args:
        loss: a loss with reduction ``"mean"`` or ``"sum"``.
        optimizer: a ``torch.optim.Adam``, ``AdamW``, ``RMSprop`` or ``SGD`` over parameters of the
            loss, or several over disjoint ones. Their state stays the truth: save it, load it, let
            a scheduler change a learning rate. Their ``step`` is not called, so their hooks and
            those of the parameters do not run.
        max_grad_norm: bound on the global norm of the gradients of an optimiser's own parameters,
            positive; None: no bound.
        mode: how it runs; the numbers are the same to rounding. ``"default"`` compiles, and runs
            eagerly, with a warning, where there is no C++ compiler or a ``torch.nn.GRU``, which
            TorchDynamo does not trace; ``modules.GRU`` it does. ``"reduce-overhead"`` records CUDA
            graphs, of which the metrics are copied, so that they may be kept; on CPU it is the same
            as the default. ``"max-autotune"`` also tries several kernels, where it can.
            ``"eager"`` is for a debugger. Hooks of all modules, torch's
            ``register_module_forward_hook``, are run by a compiled step only if they were there at
            its first call.
        target_updater: a ``SoftUpdate`` or ``HardUpdate`` of this loss, whose step is taken in the
            same graph, after the optimisers'; its ``counter`` stays the truth.
        generator: what the noise is drawn from; None: torch's own.
        minimise: the names of those outputs ``loss...`` that are minimised; None: all that the loss
            gives. With names, only they and ``td_error``, for replay, are returned, and compiled
            only what they need is computed; eager, the loss computes everything. So two steps on
            one loss train critics more often than the actor and the targets.
        accumulate: how many calls give one step of the optimisers and of the targets: by the mean
            of their gradients, or by the sum where the loss's reduction is that. As many pieces of
            one size are then one batch, of which less is in memory at a time; under a mask, pieces
            with as many valid steps. What a loss moves itself, such as ``beta`` of
            ``KLPENPPOLoss``, it moves at every call.
        autocast: ``torch.bfloat16``: networks compute in it; parameters, gradients, what is summed
            and the optimisers keep their precision. None: they compute in that, too.
        rule: moves coefficients and learning rates in the same graph, after the targets: a function
            of two dicts of tensors to one. The first has the loss's 0-d floating-point buffers by
            name, ``learning_rate`` (of several groups ``learning_rate_0``, ...), and ``updates``,
            the steps that were taken; the second is the metrics. It returns those that change, the
            same names every time. It is called once when the step is made, with metrics of one. A
            learning rate that is a float is read back after every call; one that is a tensor need
            not be waited for.
        process_group: processes that train one loss together, each on its part of a batch, split
            along the first axis; parts may differ in size, and be empty. Gradients, and whatever
            ``functional`` sums or counts over a batch, are those of the whole batch, in the same
            graph; metrics of the batch are the same everywhere, those of each sample are of the own
            part, and a rule is given the former only. Every process makes the same step, which
            starts with what rank 0 has, and calls it as often as the others. Noise is drawn from
            seeds that ``generator`` gives, on the CPU, other ones for each process. None: this
            process alone. See ``docs/distributed.md``.

    Raises:
        TypeError: an optimiser is of a class without a pure form, ``target_updater`` is none,
            ``rule`` is not such a function, or the loss holds modules that reduce gradients
            themselves (DDP, FSDP), or with a ``process_group`` such as need a whole batch.
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
        mode: Mode = "default",
        target_updater: Optional[TargetNetUpdater] = None,
        generator: Optional[Generator] = None,
        minimise: Optional[Sequence[str]] = None,
        accumulate: int = 1,
        autocast: Optional[torch.dtype] = None,
        rule: Optional[Rule] = None,
        process_group: Optional["torch.distributed.ProcessGroup"] = None,
    ) -> None:
        arguments.check_loss(loss)
        check_unwrapped(loss)
        arguments.check_options(max_grad_norm, mode, accumulate, autocast)
        arguments.check_generator(generator)
        arguments.check_updater(loss, target_updater)
        arguments.check_outputs(loss, minimise)
        self.loss, self.optimizer = loss, optimizer
        self.target_updater = target_updater
        self._outputs = loss.output_names
        self._options: dict[str, Any] = {
            "max_grad_norm": max_grad_norm,
            "mode": mode,
            "minimise": minimise,
            "accumulate": accumulate,
            "autocast": autocast,
            "rule": rule,
            "process_group": process_group,
        }
        names = {parameter: name for name, parameter in loss.named_parameters()}
        self._optimisers = optimisers_of(optimizer, names)
        move = None if target_updater is None else target_updater.moved
        self._update = Update(loss, self._optimisers, max_grad_norm, move, minimise, autocast)
        device = next(iter(self._params.values())).device
        self._processes = processes_of(process_group, loss, device)
        self.generator = self._processes.common(generator)
        self.updates = torch.zeros([], dtype=torch.int64, device=device)
        # Of all that an optimiser has, also of what is frozen now.
        learned = {k: p for each in self._optimisers for k, p in each.members.items()}
        kept = learned if accumulate > 1 else {}
        self._gathered = {k: torch.zeros_like(p, requires_grad=False) for k, p in kept.items()}
        self._calls = 0
        groups = [group for each in self._optimisers for group in each.groups]
        outputs = self.output_names
        self._coefficients = None if rule is None else Coefficients(loss, groups, rule, outputs)
        self._structure = Structure("UpdateStep", loss)
        self._statistics = statistics_of(loss)
        self._graphs = self._graphs_of(mode, device.type == "cpu")
        self._tracing = torch._dynamo.config.patch(trace_autograd_ops=True)
        self._processes.begin_alike(self)

    def __reduce__(self) -> Any:
        """A copy is made anew of copies: what is compiled belongs to a process and a loss."""
        group = self._options["process_group"]
        others = {"target_updater": self.target_updater, "generator": self.generator}
        others["process_group"] = None if group is None else group.group_name
        state = {"updates": self.updates, "gathered": self._gathered, "calls": self._calls}
        return _made, (self.loss, self.optimizer, self._options | others, state)

    def _graphs_of(self, mode: Mode, on_cpu: bool) -> Optional[Graphs]:
        if mode == "eager":
            return None
        obstacle = obstacle_to_compiling(self.loss, on_cpu)
        if obstacle is not None:
            warnings.warn(
                f"UpdateStep: mode {mode!r} cannot be had, since {obstacle}; the update runs "
                "eagerly, which takes longer",
                stacklevel=3,
            )
            return None
        split = self._options["process_group"] is not None
        return Graphs(self._apply, self.loss, mode, on_cpu, split)

    @property
    def accumulate(self) -> int:
        """How many calls give one step."""
        count: int = self._options["accumulate"]
        return count

    @property
    def output_names(self) -> tuple[str, ...]:
        """What a call returns."""
        return (*self._update.kept(self.loss.output_names), "grad_norm")

    @property
    def _params(self) -> Tensors:
        return {name: p for each in self._optimisers for name, p in each.params.items()}

    def __call__(self, batch: Any = None, **tensors: Tensor) -> Tensors:
        """Take one step on a batch, given as the loss takes it.

        Returns:
            The loss's outputs and ``grad_norm`` by name, detached; while gradients are accumulated,
            the norm is that of what there is so far. Nothing is written to the batch.

        Raises:
            RuntimeError: a parameter, or a module that holds parameters or buffers, was replaced
                since the step was made, in a frozen copy, too; or a forward hook came or went.
            ValueError: an option of the optimiser other than its learning rate has changed.
            KeyError, RuntimeError, TypeError, ValueError: what the loss says of the data; nothing
                has moved then but the generator. A graph, however, meets an action that is no index
                of one on its way, and what does not depend on it may have moved.
        """
        data = self.loss.inputs(batch, tensors)
        self._check_fresh()
        noise = self.loss.draw_noise(data, self._source())
        last = self._calls + 1 == self.accumulate
        metrics = self._run(data, noise, last)
        self._calls += 1
        if last:
            self._finish()
        return metrics

    def _source(self) -> Optional[Generator]:
        """What this process draws from now; None: torch's own generator."""
        return self._processes.own(self.generator)

    def _steps_of(self, count: int) -> int:
        """How many steps all processes take where this one has minibatches for so many."""
        return self._processes.most(count)

    def _finish(self) -> None:
        """What a step leaves to Python."""
        self._calls = 0
        for name in self._gathered.keys() - self._params.keys():
            self._gathered[name].zero_()  # it was frozen after a call had gathered
        if self.target_updater is not None:
            self.target_updater.advance()
        if self._coefficients is not None:
            self._coefficients.written()

    def _run(self, data: Data, noise: Data, last: bool) -> Tensors:
        params, state = self._params, [optimiser.state() for optimiser in self._optimisers]
        targets = {} if self.target_updater is None else self.target_updater.targets()
        held = {name: self._gathered[name] for name in params if name in self._gathered}
        inputs = (params, state, targets, held, data, noise, self.updates, last)
        if self._graphs is None:
            return self._apply_or_undo(*inputs)
        updates = None if self.updates.is_cuda else self.updates.clone()
        others = [*_tensors_of(state), *targets.values(), *held.values(), self.updates]
        try:
            with self._tracing, self._processes.split:
                return self._graphs(params, others, *inputs)
        except TorchDynamoException as error:
            raise (self._eager_error(data) or error) from None
        except RuntimeError as error:
            if updates is not None:
                self.updates.copy_(updates)
            raise (_refusal(error) or error) from None

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

    def _apply_or_undo(self, *inputs: Any) -> Tensors:
        """Eagerly, a network may have moved its statistics before the loss refuses a batch."""
        before = saved(self._statistics)
        try:
            with self._processes.split:
                return self._apply(*inputs)
        except BaseException:
            put_back(before)
            raise

    def _check_fresh(self) -> None:
        """What eager would notice by itself, a compiled call must be told."""
        if self.loss.output_names is not self._outputs:
            arguments.check_outputs(self.loss, self._options["minimise"])
            self._outputs = self.loss.output_names
        if self._structure.changed:
            self.loss.check_fresh()  # it knows what else matters, but takes its time
            self._structure.check_modules()
            self._structure = Structure("UpdateStep", self.loss)
            if self._graphs is not None:
                self._graphs.forget()
        self._structure.check_hooks()
        self._structure.check_parameters()

    def _apply(
        self,
        params: Tensors,
        state: State,
        targets: Tensors,
        held: Tensors,
        batch: Data,
        noise: Data,
        updates: Tensor,
        last: bool,
    ) -> Tensors:
        """What is one graph: everything that moves is moved in place."""
        grads, metrics = self._update.gradients(params, targets, batch, noise)
        with torch.no_grad():
            if held:
                grads = self._accumulated(held, grads)
            if not last:
                put(held, grads)
                return {**metrics, "grad_norm": global_norm(grads, next(iter(params.values())))}
            moved = dict(targets)
            metrics["grad_norm"] = self._update.move_(params, state, moved, grads)
            put(networks(targets), moved)
            put(held, {name: torch.zeros_like(x) for name, x in held.items()})
            updates.add_(1)
            if self._coefficients is not None:
                self._coefficients.move_(state, updates, self._processes.of_all(metrics))
        return metrics

    def _accumulated(self, held: Tensors, grads: Tensors) -> Tensors:
        share = 1.0 if self.loss.reduction == "sum" else 1.0 / self.accumulate
        return {name: held[name] + share * grad for name, grad in grads.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that a run goes on from, copied: ``save_checkpoint`` writes it.

        It has the state dicts of the loss (networks, frozen copies, normalisers, coefficients), of
        the optimisers and of the target updater, how many steps were taken, what was accumulated,
        and the state of the generator, which is torch's own where none was given.
        """
        return state_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another step was; on CPU to the same bits, if its options are the same.

        Raises:
            ValueError: it is not the state of such a step; nothing is changed then.
        """
        load_state(self, state_dict)


def _made(loss: LossModule, optimizer: Any, options: Any, state: Mapping[str, Any]) -> UpdateStep:
    """A step that was copied or pickled."""
    group = group_named(options["process_group"])
    step = UpdateStep(loss, optimizer, **{**options, "process_group": group})
    step.updates, step._gathered, step._calls = state["updates"], state["gathered"], state["calls"]
    return step


def _refusal(error: RuntimeError) -> Optional[ValueError]:
    """What an operator of ours refused, of which a graph in C++ hands on the text alone."""
    kind, _, sentence = str(error).partition("\n")[0].partition(": ")
    return ValueError(sentence) if kind == "ValueError" else None


def _tensors_of(state: State) -> Iterator[Tensor]:
    for optimiser in state:
        for group in optimiser:
            yield group.learning_rate
            for tensors in group.slots.values():
                yield from tensors
