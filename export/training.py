"""Training steps as modules of named tensors, in graphs that hold the gradients, too."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch._higher_order_ops.scan import scan
from torch.fx.experimental.proxy_tensor import make_fx

from compiled_rl.export.axes import Axes
from compiled_rl.export.names import MINIBATCHES
from compiled_rl.training import NamedUpdate

# Sizes of an example's axes: each another, since equal ones would be taken for the same axis.
_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


class StepModule(nn.Module):
    """An update as a function of positional tensors: its state, then its data.

    Args:
        update: the step by names.
    """

    def __init__(self, update: NamedUpdate) -> None:
        super().__init__()
        self.update = update
        self.inputs = [*update.state, *update.data]
        self.outputs = [*[following(name) for name in update.moved], *update.metrics]
        self.example = {**update.state, **update.data}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The state that has moved, then the metrics."""
        given = dict(zip(self.inputs, tensors, strict=True))
        state = {name: given[name] for name in self.update.state}
        new, metrics = self.update(state, {name: given[name] for name in self.update.data})
        return (*[new[name] for name in self.update.moved], *metrics.values())

    def traced(self, example: Mapping[str, Tensor], axes: Axes) -> nn.Module:
        """The same as torch's operators alone, those of the backward pass included."""
        trace = make_fx(
            self, _decompositions(), tracing_mode="symbolic", _allow_non_fake_inputs=True
        )
        return _Graph(trace(*distinct(example, axes)))


class EpochModule(nn.Module):
    """Updates on minibatches of one batch, whose rows are given, in one graph.

        for rows, noise in zip(minibatches, noises):
            state, metrics = update(state, batch[rows], noise)

    Args:
        update: the step by names.
    """

    def __init__(self, update: NamedUpdate) -> None:
        super().__init__()
        self.step, self.update = StepModule(update), update
        self.batch = {k: x for k, x in update.data.items() if k not in update.noise}
        self.noise = {k: torch.stack([update.data[k]] * 2) for k in update.noise}
        self.scalars = [name for name, x in update.metrics.items() if x.dim() == 0]
        rows = torch.arange(len(next(iter(self.batch.values()))))
        indices = {MINIBATCHES: torch.stack([rows, rows])}
        self.example = {**update.state, **self.batch, **indices, **self.noise}
        self.inputs = list(self.example)
        self.outputs = [*[following(name) for name in update.moved], *self.scalars]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The state that has moved, then the metrics, one value an update."""
        given = dict(zip(self.inputs, tensors, strict=True))
        state = {name: given[name] for name in self.update.state}
        taken: list[dict[str, Tensor]] = []
        for k, rows in enumerate(given[MINIBATCHES]):
            data = {name: given[name][rows] for name in self.batch}
            noise = {name: given[name][k] for name in self.noise}
            state, metrics = self.update(state, {**data, **noise})
            taken.append(metrics)
        stacked = [torch.stack([metrics[name] for metrics in taken]) for name in self.scalars]
        return (*[state[name] for name in self.update.moved], *stacked)

    def traced(self, example: Mapping[str, Tensor], axes: Axes) -> nn.Module:
        """The same as one loop over the graph of a step."""
        rows = {name: example[name][example[MINIBATCHES][0]] for name in self.batch}
        noise = {name: example[name][0] for name in self.noise}
        state = {name: example[name] for name in self.update.state}
        of = {name: axes.of[name] for name in state}
        of |= {name: ("batch", *axes.of[name][1:]) for name in rows}
        of |= {name: axes.of[name][1:] for name in noise}
        inner = Axes(("batch",), of, axes.max_time)
        return _Loop(self, self.step.traced({**state, **rows, **noise}, inner))


class _Graph(nn.Module):
    """A graph as a module of positional tensors."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.step = graph

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the graph returns."""
        outputs: tuple[Tensor, ...] = self.step(*tensors)
        return outputs


class _Loop(nn.Module):
    """A graph of one step, taken for every row of the minibatches."""

    def __init__(self, epoch: EpochModule, graph: nn.Module) -> None:
        super().__init__()
        self.step = graph
        self.inputs, self.batch, self.noise = epoch.inputs, list(epoch.batch), list(epoch.noise)
        self.state, self.moved = list(epoch.update.state), epoch.update.moved
        self.metrics = [list(epoch.update.metrics).index(name) for name in epoch.scalars]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What ``EpochModule`` returns."""
        given = dict(zip(self.inputs, tensors, strict=True))
        xs = tuple(given[name][given[MINIBATCHES]] for name in self.batch)
        xs += tuple(given[name] for name in self.noise)
        last, metrics = scan(self._step, tuple(given[name] for name in self.state), xs)
        state = dict(zip(self.state, last, strict=True))
        return (*[state[name] for name in self.moved], *metrics)

    def _step(
        self, carry: tuple[Tensor, ...], xs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        # Copies, where something is returned as it came: a loop may not alias what it carries.
        outputs = self.step(*carry, *xs)
        new = dict(zip(self.moved, outputs, strict=False))
        state = tuple(new.get(name, x).clone() for name, x in zip(self.state, carry, strict=True))
        metrics = outputs[len(self.moved) :]
        return state, tuple(metrics[k].clone() for k in self.metrics)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Of batch normalisation, which moves averages unseen and whose gradient ONNX gets wrong."""
    names = ("native_batch_norm", "_native_batch_norm_legit", "native_batch_norm_backward")
    return get_decompositions([getattr(torch.ops.aten, name) for name in names])


def following(name: str) -> str:
    """The name of the output that replaces an input at the next call."""
    return f"next.{name}"


def distinct(example: Mapping[str, Tensor], axes: Axes) -> list[Tensor]:
    """The example with a size of its own for every axis that may change."""
    taken = {size for x in example.values() for size in x.shape}
    free = (size for size in _PRIMES if size not in taken)
    sizes = {axis: next(free) for axis in axes.names}
    return [_resized(x, axes.sized(name, x, sizes)) for name, x in example.items()]


def _resized(x: Tensor, shape: list[int]) -> Tensor:
    for k, size in enumerate(shape):
        if size != x.shape[k]:
            x = x.index_select(k, torch.arange(size) % x.shape[k])
    return x
