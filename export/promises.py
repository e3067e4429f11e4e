"""Hold what a file says of itself to what its graph is; needs numpy alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compiled_rl.export.names import MINIBATCHES, fits

_NOISE = ("normal", "uniform")


class Port(NamedTuple):
    """What an input or an output of a graph is: its dtype as numpy writes it, and its axes."""

    name: str
    dtype: str
    shape: Sequence[int | str | None]


def check_promises(
    contract: Mapping[str, Any],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    stored: Mapping[str, np.ndarray],
) -> None:
    """Refuse a contract of another graph, by whose words memory would be read and written.

    Args:
        contract: as it was read, of any structure.
        inputs: of the graph.
        outputs: of the graph.
        stored: what the file has of the state to begin with.

    Raises:
        ValueError: it does not fit.
        KeyError, TypeError, AttributeError: it is no contract.
    """
    _check_ports("inputs", contract["inputs"], inputs)
    _check_ports("outputs", contract["outputs"], outputs)
    for entry in contract["inputs"]:
        if "noise" in entry and (
            entry["noise"] not in _NOISE or entry["dtype"] not in ("float32", "float64")
        ):
            raise ValueError(f"`noise` must be of {_NOISE} and of floats, got {entry}")
    check_state(contract, stored)
    if contract.get("schedule") is not None:
        _check_schedule(contract["schedule"], inputs, outputs)


def check_state(contract: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> None:
    """Refuse a state that leads from what is no input, or to what has another shape.

    Raises:
        ValueError: it does.
    """
    inputs = {x["name"]: x for x in contract["inputs"]}
    outputs = {x["name"]: x for x in contract["outputs"]}
    for name, output in contract["state"].items():
        if name not in inputs or output not in (None, *outputs):
            raise ValueError(f"the state must lead from inputs to outputs, got {name} to {output}")
        if output is not None and _kind(outputs[output]) != _kind(inputs[name]):
            raise ValueError(
                f"the state {name} must be followed by its like, {_kind(inputs[name])}, got "
                f"{output}, {_kind(outputs[output])}"
            )
    sizes: dict[str, int] = {}
    for name, x in stored.items():
        entry = inputs[name]
        if name not in contract["state"] or str(x.dtype) != entry["dtype"]:
            raise ValueError(f"{name} must be a state of {entry['dtype']}, got {x.dtype}")
        if not fits(entry["shape"], x.shape, sizes):
            raise ValueError(f"{name} must have the shape {entry['shape']}, got {list(x.shape)}")


def _kind(entry: Mapping[str, Any]) -> tuple[str, list[int | str | None]]:
    return entry["dtype"], entry["shape"]


def _check_ports(kind: str, promised: Sequence[Mapping[str, Any]], found: Sequence[Port]) -> None:
    said, real = [x["name"] for x in promised], [x.name for x in found]
    if said != real:
        raise ValueError(f"the {kind} must be {real}, as the graph has them, got {said}")
    for entry, port in zip(promised, found, strict=True):
        shape = entry["shape"]
        near = [_is_like(*axes) for axes in zip(shape, port.shape, strict=False)]
        if entry["dtype"] != port.dtype or len(shape) != len(port.shape) or not all(near):
            raise ValueError(
                f"`{port.name}` must be {port.dtype} of shape {list(port.shape)}, as the graph "
                f"has it, got {entry['dtype']} of shape {shape}"
            )


def _is_like(promised: int | str | None, found: int | str | None) -> bool:
    """Whether both are one size, or one of them may be of any size."""
    if isinstance(promised, bool) or not isinstance(promised, int | str | None):
        raise TypeError(f"an axis must be a size, a name or null, got {promised!r}")
    return not isinstance(promised, int) or not isinstance(found, int) or promised == found


def _check_schedule(
    schedule: Mapping[str, Any], inputs: Sequence[Port], outputs: Sequence[Port]
) -> None:
    for name in ("epochs", "minibatch_size"):
        if not isinstance(schedule[name], int) or schedule[name] < 1:
            raise ValueError(f"`{name}` must be a whole number, at least 1, got {schedule[name]!r}")
    if MINIBATCHES not in [x.name for x in inputs]:
        raise ValueError(f"a file with a schedule must have the input `{MINIBATCHES}`")
    bound = schedule.get("target_kl")
    if bound is not None and not (
        isinstance(bound, float | int) and schedule["kl"] in [x.name for x in outputs]
    ):
        raise ValueError(f"`target_kl` must be a number, and `kl` an output, got {schedule}")
