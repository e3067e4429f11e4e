"""How an estimator values the two states of every step with one critic."""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.adapters import Data, HeadForm, Key, PlainForm, in_next
from compiled_rl.adapters.steps import START
from compiled_rl.estimators.axes import Axes
from compiled_rl.estimators.shifted import make_slots, take


class Values(NamedTuple):
    """Values of the states left and entered; ``valid`` where a shifted call had room for them."""

    value: Optional[Tensor]
    next_value: Tensor
    valid: Optional[Tensor] = None


class Calls(NamedTuple):
    """How the critic is called: see ``ValueEstimatorBase``."""

    shifted: bool = False
    shifted_budget: int = 1
    value_chunk_size: Optional[int] = None
    num_chunks: Optional[int] = None
    value_chunk_dim: int = 0


class Critic:
    """A critic with its parameters held out.

    Args:
        form: its plain form; of a head, that with the part of the actor that it needs.
        key: of its output.
        calls: how it is called.
    """

    def __init__(self, form: PlainForm | HeadForm, key: Key, calls: Calls) -> None:
        self.form, self.key, self.calls = form, key, calls

    def values(
        self,
        data: Data,
        axes: Axes,
        ends: tuple[Tensor, Tensor],
        params: Any,
        target_params: Any,
        value: Optional[Tensor],
        mask: Optional[Tensor],
    ) -> Values:
        """The values of both states; ``ends`` are the flags terminated and done.

        A ``value`` that the caller has already is not computed again.
        """
        if self.calls.shifted and ends[1].shape[axes.time] > 0:
            if params is not target_params:
                raise ValueError(
                    "`target_params` must be None where `shifted` values all states at once"
                )
            return self._shifted(data, axes, ends, mask, params)
        if value is None:
            value = self._call(
                {key: data[key] for key in self.form.in_keys if key in data}, axes, params
            )
        return Values(value, self.next_values(data, axes, ends[0], target_params))

    def next_values(self, data: Data, axes: Axes, terminated: Tensor, params: Any) -> Tensor:
        """The values of the states entered.

        Raises:
            ValueError: a recurrent critic would not know what came before them.
        """
        recorded = any(in_next(key) in data for key in self.form.optional)
        if START in self.form.in_keys and not recorded:
            raise ValueError(
                "a recurrent critic must be `shifted`, so that one call remembers the states left "
                "when it values those entered, or its state must be in the data at the next state"
            )
        return self._call(self._entered(data, axes, terminated), axes, params)

    def _entered(self, data: Data, axes: Axes, terminated: Tensor) -> Data:
        inputs = self.form.at_next(data)
        if not torch.is_grad_enabled():
            return inputs
        # NaN there would reach the inputs' gradients, though the value is never read.
        ended = axes.batched(terminated)
        return {key: _finite_where(ended, x) for key, x in inputs.items()}

    def _call(self, inputs: Data, axes: Axes, params: Any) -> Tensor:
        if isinstance(params, PlainForm):  # not other parameters only, but a network of its own
            return Critic(self.form.replaced(params), self.key, self.calls)._call(
                inputs, axes, None
            )
        if not (self.calls.value_chunk_size or self.calls.num_chunks):
            return self.form.detached(inputs, params)[self.key]
        size, dim = self._chunk(inputs, axes)
        names = list(inputs)
        pieces = zip(*[torch.split(inputs[name], size, dim) for name in names], strict=True)
        values = [
            self.form.detached(dict(zip(names, piece, strict=True)), params)[self.key]
            for piece in pieces
        ]
        return torch.cat(values, dim)

    def _chunk(self, inputs: Data, axes: Axes) -> tuple[int, int]:
        """How long a piece is, and along which axis."""
        calls = self.calls
        if not -axes.batch <= calls.value_chunk_dim < axes.batch:
            raise ValueError(
                f"`value_chunk_dim` must be one of the {axes.batch} batch axes, "
                f"got {calls.value_chunk_dim}"
            )
        dim = calls.value_chunk_dim % axes.batch
        length = next(iter(inputs.values())).shape[dim]
        return calls.value_chunk_size or max(1, -(-length // (calls.num_chunks or 1))), dim

    def _shifted(
        self,
        data: Data,
        axes: Axes,
        ends: tuple[Tensor, Tensor],
        mask: Optional[Tensor],
        params: Any,
    ) -> Values:
        """One call on the states left and, behind the truncated steps and the last, those entered.

        Beside a step's own slot stands the state that it entered.
        """
        terminated, done = [axes.batched(x).movedim(axes.time, -1) for x in ends]
        if done.dim() != axes.batch:
            raise ValueError(
                f"`done` must be one flag a step where `shifted` values all states at once, "
                f"got {list(ends[1].shape)}"
            )
        mask = None if mask is None else axes.batched(mask).movedim(axes.time, -1)
        slots = make_slots(terminated, done, mask, self.calls.shifted_budget)
        # In one sequence with the states left, those entered begin no episode, and go on with the
        # state that is there: a recorded one is not read.
        entered = self._entered(data, axes, ends[0])
        passed_by = [key for key in self.form.optional if key in data and key not in entered]
        passed_by += [START] if START in entered else []
        entered |= {key: torch.zeros_like(data[key]) for key in passed_by}
        inputs = {
            key: take(torch.cat([data[key], x], axes.time), slots.source, axes.time)
            for key, x in entered.items()
        }
        values = self._call(inputs, axes, params)
        last = slots.source.shape[-1] - 1
        left = take(values, slots.position.clamp(max=last), axes.time)
        reached = take(values, (slots.position + 1).clamp(max=last), axes.time)
        valid = slots.valid.movedim(-1, axes.time)
        return Values(left, reached, axes.like(valid, ends[0]))


def _finite_where(ended: Tensor, x: Tensor) -> Tensor:
    if x.shape[: ended.dim()] != ended.shape:
        return x  # a state of the team, where flags are an agent's
    ended = ended.reshape(ended.shape + (1,) * (x.dim() - ended.dim()))
    return torch.where(ended & ~x.isfinite(), torch.zeros_like(x), x)
