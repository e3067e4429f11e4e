"""The whole step of an ``UpdateStep`` as a function of tensors by name: what becomes a file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from compiled_rl.adapters import keyword
from compiled_rl.adapters.dispatch import TIME
from compiled_rl.training.coefficients import UPDATES, rate_names
from compiled_rl.training.optimisers import GroupState, Tensors
from compiled_rl.training.pure import State, networks
from compiled_rl.training.update import UpdateStep

_OPTIMIZER, _UPDATER = "optimizer.", "target_updater."


class NamedUpdate:
    """A step that changes nothing: all that it would move, it is given and returns.

        new, metrics = update(state, data)

    Parameters and frozen copies have their names in the loss; what an optimiser keeps of one, such
    as ``exp_avg``, is ``optimizer.exp_avg.`` and the parameter's name; its learning rate is
    ``learning_rate`` (of several groups ``learning_rate_0``, ...); the numbers of the target
    updater are ``target_updater.tau`` and so on; what the loss itself moves, such as ``beta``,
    has its name there; with a rule, there is ``updates``.

    Args:
        step: whose update it is; its modules stay in the modes in which they are.
        batch: as the step takes it, to see what is read, drawn and moved.

    Raises:
        ValueError: the step accumulates gradients.
        KeyError, RuntimeError, TypeError, ValueError: what the loss says of the batch.

    Attributes:
        state: what it is given of its own, by name, as it is now.
        data: the batch and the noise, by keyword.
        noise: the names of those that are drawn.
        moved: the names of the state that it returns; the rest of it stays as it is.
        metrics: what else it returns, by name, of that batch.
    """

    def __init__(self, step: UpdateStep, batch: Any) -> None:
        if step.accumulate > 1:
            raise ValueError(
                f"UpdateStep: `accumulate` must be 1 for a step in one call, got {step.accumulate}"
            )
        self.step = step
        inputs = step.loss.inputs(batch, {})
        self._generator = Generator(_device(step)).manual_seed(0)
        drawn = step.loss.draw_noise(inputs, self._generator)
        self._time = {key: x for key, x in inputs.items() if key == TIME}
        self._keys = {keyword(key): key for key in (inputs | drawn) if key != TIME}
        self.noise = [keyword(key) for key in drawn if key not in inputs]
        self.data = {name: (drawn | inputs)[key] for name, key in self._keys.items()}
        self.state = _copies(_named_state(step))
        self._find_what_moves()

    def redrawn(self) -> Tensors:
        """Other noise, by name."""
        batch = {key: self.data[name] for name, key in self._keys.items() if name not in self.noise}
        drawn = self.step.loss.draw_noise(batch, self._generator)
        return {keyword(key): x for key, x in drawn.items()}

    def _find_what_moves(self) -> None:
        """One step on copies tells."""
        frozen = _targets(self.step)
        buffers = {k: x for k, x in self.step.loss.named_buffers() if k not in frozen}
        copies = _copies(buffers)
        new, metrics, after = self._run(self.state, self.data, copies)
        self._buffers = [k for k, x in copies.items() if after[k] is not x or x._version > 0]
        self.moved = [name for name, x in self.state.items() if new[name] is not x]
        self.moved += self._buffers
        self.state |= _copies({name: buffers[name] for name in self._buffers})
        self.metrics = metrics

    def __call__(self, state: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
        """The state after one step, by name, and the metrics: outputs of the loss, ``grad_norm``.

        Args:
            state: of all the names of ``self.state``.
            data: of all the names of ``self.data``.
        """
        buffers = _copies({name: state[name] for name in self._buffers})
        new, metrics, after = self._run(state, data, buffers)
        return {**new, **after}, metrics

    def _run(
        self, state: Tensors, data: Tensors, buffers: Tensors
    ) -> tuple[Tensors, Tensors, Tensors]:
        """The step, with buffers that it may write to; they are returned as they are then."""
        batch = {key: data[name] for name, key in self._keys.items()} | self._time
        rule = self.step._coefficients
        rates = {} if rule is None else {k: state[k].clone() for k in rule.moves if k in state}
        params, optimisers, targets = _nested(self.step, {**state, **rates})
        counted: Tensors = {}
        with _placed(self.step.loss, buffers) as places:
            update = self.step._update
            params, optimisers, targets, metrics = update(params, optimisers, targets, batch, {})
            if rule is not None:
                counted = {UPDATES: state[UPDATES] + 1}
                rule.move_(optimisers, counted[UPDATES], metrics)
            after = {name: place[key] for name, (place, key) in places.items()}
        return {**_flat(self.step, params, optimisers, targets), **counted}, metrics, after


def _device(step: UpdateStep) -> torch.device:
    return next(iter(step._params.values())).device


def _targets(step: UpdateStep) -> Tensors:
    return {} if step.target_updater is None else step.target_updater.targets()


def _named_state(step: UpdateStep) -> Tensors:
    state = [optimiser.state() for optimiser in step._optimisers]
    counted = {} if step._coefficients is None else {UPDATES: step.updates}
    return {**_flat(step, step._params, state, _targets(step)), **counted}


def _flat(step: UpdateStep, params: Tensors, state: State, targets: Tensors) -> Tensors:
    """What the pure update takes and returns, under the names."""
    flat = dict(params)
    rates = iter(_rates(step))
    for optimiser, own in zip(step._optimisers, state, strict=True):
        for group, held in zip(optimiser.groups, own, strict=True):
            flat[next(rates)] = held.learning_rate
            for slot, xs in held.slots.items():
                names = [f"{_OPTIMIZER}{slot}.{name}" for name in group.names]
                flat |= dict(zip(names, xs, strict=True))
    frozen = networks(targets)
    return flat | {k if k in frozen else f"{_UPDATER}{k}": x for k, x in targets.items()}


def _nested(step: UpdateStep, flat: Mapping[str, Tensor]) -> tuple[Tensors, State, Tensors]:
    """The other way round: parameters, optimiser state and targets of the names."""
    rates = iter(_rates(step))
    state = [
        [
            GroupState(
                flat[next(rates)],
                {
                    slot: [flat[f"{_OPTIMIZER}{slot}.{name}"] for name in group.names]
                    for slot in group.slots
                },
            )
            for group in optimiser.groups
        ]
        for optimiser in step._optimisers
    ]
    targets = {k: flat[k] if k in flat else flat[f"{_UPDATER}{k}"] for k in _targets(step)}
    return {name: flat[name] for name in step._params}, state, targets


def _rates(step: UpdateStep) -> list[str]:
    return rate_names(sum(len(optimiser.groups) for optimiser in step._optimisers))


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: x.detach().clone() for name, x in tensors.items()}


@contextmanager
def _placed(module: nn.Module, buffers: Tensors) -> Iterator[dict[str, tuple[Any, str]]]:
    """Buffers in the place of a module's own, and where they are."""
    places: dict[str, tuple[Any, str]] = {}
    for name in buffers:
        path, _, key = name.rpartition(".")
        places[name] = (module.get_submodule(path)._buffers, key)
    own = {name: place[key] for name, (place, key) in places.items()}
    try:
        for name, (place, key) in places.items():
            place[key] = buffers[name]
        yield places
    finally:
        for name, (place, key) in places.items():
            place[key] = own[name]
