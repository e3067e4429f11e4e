"""The ways in which a function may be run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiled_rl.export import OnnxModel, to_onnx
from compiled_rl.export.signature import Explicit
from tests.cases import Case

Run = Callable[[dict[str, Tensor]], tuple[Any, ...]]


def eager(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    return lambda inputs: case.call(case.function, inputs)


def compiled(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    return _compiled(case, "aot_eager")


def inductor(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    return _compiled(case, "inductor")


def _compiled(case: Case, backend: str) -> Run:
    function = torch.compile(
        case.function, fullgraph=True, backend=backend, isolate_recompiles=True
    )
    return lambda inputs: case.call(function, inputs)


def scripted(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    function = torch.jit.script(case.function)
    return lambda inputs: case.call(function, inputs)


def exported(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    explicit = Explicit(partial(case.function, **case.scalars, **case.fixed), list(example))
    dims = [torch.export.Dim(name) for name in case.dynamic]
    shapes = tuple(dict(enumerate(dims[: x.dim()])) for x in example.values())
    clones = tuple(x.detach().clone() for x in example.values())
    module = torch.export.export(explicit, clones, dynamic_shapes=(shapes,)).module()
    return lambda inputs: tuple(module(*inputs.values()))


def onnx(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    target = partial(case.function, **case.scalars, **case.fixed)
    model = OnnxModel(to_onnx(target, example, folder / "case.onnx", case.dynamic).path)

    def run(inputs: dict[str, Tensor]) -> tuple[Any, ...]:
        outputs = model(**{name: x.detach().numpy() for name, x in inputs.items()})
        return tuple(torch.from_numpy(x) for x in outputs.values())

    return run


FAST = [compiled, scripted, exported, onnx]
SLOW = [inductor]
DIFFERENTIABLE = [compiled, scripted, exported]
