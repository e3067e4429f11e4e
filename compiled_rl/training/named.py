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
from compiled_rl.training.pairs import PREFIX, Place, at, places_of
from compiled_rl.training.pure import State, networks
from compiled_rl.training.update import UpdateStep

_OPTIMIZER, _UPDATER = "optimizer.", "target_updater."


class NamedUpdate:
    """A step that changes nothing: all that it would move, it is given and returns.

        new, metrics = update(state, data)

    Parameters and frozen copies have their names in the loss, those that only another step moves,
    such as the critics of an actor's step, included; what an optimiser keeps of one, such as
    ``exp_avg``, is ``optimizer.exp_avg.`` and the parameter's name. Its learning rate is
    ``learning_rate``, and its number of steps, where all parameters have the same,
    ``optimizer.step``; of several groups they are ``learning_rate_0``, ``optimizer.step_0``, ...
    The numbers of the target updater are ``target_updater.tau`` and so on; what the loss itself
    moves, such as ``beta``, has its name there; with a rule, there is ``updates``.

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
        if not isinstance(step, UpdateStep):
            raise TypeError(
                f"NamedUpdate: `step` must be an UpdateStep, got a {type(step).__name__}"
            )
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
        self._others = list(_others(step))
        self._shared: dict[str, str] = {}
        self.state = _copies({**_named_state(step), **_others(step)})
        self._find_what_moves()

    def redrawn(self) -> Tensors:
        """Other noise, by name."""
        batch = {key: self.data[name] for name, key in self._keys.items() if name not in self.noise}
        drawn = self.step.loss.draw_noise(batch, self._generator)
        return {keyword(key): x for key, x in drawn.items()}

    def _find_what_moves(self) -> None:
        """One step on copies tells."""
        known = self.state
        buffers = {k: x for k, x in self.step.loss.named_buffers() if k not in known}
        copies = _copies(buffers)
        new, metrics, after = self._run(self.state, self.data, copies)
        self._shared = _shared_counts(self.step, self.state, new)
        self.state = {self._shared.get(name, name): x for name, x in self.state.items()}
        new = {self._shared.get(name, name): x for name, x in new.items()}
        self._buffers = [k for k, x in copies.items() if _has_moved(after[k], x, buffers[k])]
        self.moved = [name for name, x in self.state.items() if new.get(name, x) is not x]
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
        return {**state, **new, **after}, metrics

    def _run(
        self, state: Tensors, data: Tensors, buffers: Tensors
    ) -> tuple[Tensors, Tensors, Tensors]:
        """The step, with buffers that it may write to; they are returned as they are then."""
        state = {**state, **{own: state[name] for own, name in self._shared.items()}}
        batch = {key: data[name] for name, key in self._keys.items()} | self._time
        rule = self.step._coefficients
        rates = {} if rule is None else {k: state[k].clone() for k in rule.moves if k in state}
        params, optimisers, targets = _nested(self.step, {**state, **rates})
        counted: Tensors = {}
        others = {name: state[name] for name in self._others}
        with _placed(self.step.loss, {**buffers, **others}) as places:
            update = self.step._update
            params, optimisers, targets, metrics = update(params, optimisers, targets, batch, {})
            if rule is not None:
                counted = {UPDATES: state[UPDATES] + 1}
                rule.move_(optimisers, counted[UPDATES], metrics)
            after = {name: at(places[name]) for name in buffers}
        flat = {**_flat(self.step, params, optimisers, targets), **counted}
        return {self._shared.get(name, name): x for name, x in flat.items()}, metrics, after


def _shared_counts(step: UpdateStep, state: Tensors, new: Tensors) -> dict[str, str]:
    """Of the counts of steps, the name of the one that stands for all of a group, if they agree."""
    groups = [group for optimiser in step._optimisers for group in optimiser.groups]
    shared: dict[str, str] = {}
    for rate, group in zip(_rates(step), groups, strict=True):
        own = [f"{_OPTIMIZER}step.{name}" for name in group.names] * ("step" in group.slots)
        if len({(float(state[name]), float(new[name])) for name in own}) == 1:
            shared |= dict.fromkeys(own, rate.replace("learning_rate", f"{_OPTIMIZER}step"))
    return shared


def _device(step: UpdateStep) -> torch.device:
    return next(iter(step._params.values())).device


def _targets(step: UpdateStep) -> Tensors:
    return {} if step.target_updater is None else step.target_updater.targets()


def _named_state(step: UpdateStep) -> Tensors:
    state = [optimiser.state() for optimiser in step._optimisers]
    counted = {} if step._coefficients is None else {UPDATES: step.updates}
    return {**_flat(step, step._params, state, _targets(step)), **counted}


def _others(step: UpdateStep) -> Tensors:
    """Parameters and frozen copies that this step reads and another one may move."""
    own = {**step._params, **_targets(step)}
    held: Tensors = dict(step.loss.named_parameters())
    held |= {name: x for name, x in step.loss.named_buffers() if name.startswith(PREFIX)}
    return {name: x for name, x in held.items() if name not in own}


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


def _has_moved(after: Tensor, x: Tensor, before: Tensor) -> bool:
    """Batch normalisation writes to what it averages, and torch counts no version of it."""
    return after is not x or x._version > 0 or not torch.equal(x, before)


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: x.detach().clone() for name, x in tensors.items()}


@contextmanager
def _placed(module: nn.Module, tensors: Tensors) -> Iterator[dict[str, Place]]:
    """Tensors in every place of a module's own of the same names; where they are, by name."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = {id(own[name]): name for name in tensors}
    found = [(place, at(place)) for _, place in places_of(module)]
    before = [(place, x) for place, x in found if id(x) in names]
    places = {names[id(x)]: place for place, x in before}
    try:
        for (owned, key), x in before:
            owned[key] = tensors[names[id(x)]]
        yield places
    finally:
        for (owned, key), x in before:
            owned[key] = x
