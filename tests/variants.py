"""The ways in which a function may be run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiled_rl.export import (
    OnnxModel,
    TorchModel,
    load_aotinductor,
    load_pt2,
    load_torchscript,
    to_aotinductor,
    to_onnx,
    to_pt2,
    to_torchscript,
)
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
    explicit = Explicit(_bound(case), list(example))
    dims = [torch.export.Dim(name) for name in case.dynamic]
    shapes = tuple(dict(enumerate(dims[: x.dim()])) for x in example.values())
    clones = tuple(x.detach().clone() for x in example.values())
    module = torch.export.export(explicit, clones, dynamic_shapes=(shapes,)).module()
    return lambda inputs: tuple(module(*inputs.values()))


def onnx(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    model = OnnxModel(to_onnx(_bound(case), example, folder / "case.onnx", case.dynamic).path)

    def run(inputs: dict[str, Tensor]) -> tuple[Any, ...]:
        outputs = model(**{name: x.detach().numpy() for name, x in inputs.items()})
        return tuple(torch.from_numpy(x) for x in outputs.values())

    return run


def pt2(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    limit = _longest(case)
    report = to_pt2(_bound(case), example, folder / "case.pt2", case.dynamic, limit)
    return _loaded(load_pt2(report.path))


def aotinductor(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    limit = _longest(case)
    report = to_aotinductor(_bound(case), example, folder / "case.pt2", case.dynamic, limit)
    return _loaded(load_aotinductor(report.path))


def torchscript(case: Case, example: dict[str, Tensor], folder: Path) -> Run:
    report = to_torchscript(_bound(case), example, folder / "case.pt", case.dynamic)
    return _loaded(load_torchscript(report.path))


def _bound(case: Case) -> Callable[..., Any]:
    return partial(case.function, **case.scalars, **case.fixed)


def _longest(case: Case) -> int | None:
    return 1024 if "time" in case.dynamic else None


def _loaded(model: TorchModel) -> Run:
    return lambda inputs: tuple(model(**inputs).values())


FAST = [compiled, scripted, exported, onnx]
SLOW = [inductor, pt2]
DIFFERENTIABLE = [compiled, scripted, exported]
