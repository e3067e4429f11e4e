"""Export to TorchScript, deprecated upstream and still shipped; all of it is in this file."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import Axes
from compiled_rl.export.contract import Contract
from compiled_rl.export.models import TorchModel, reading
from compiled_rl.export.names import CONTRACT_KEY
from compiled_rl.export.program import portable_program
from compiled_rl.export.signature import Example, Explicit, Target, modules_of
from compiled_rl.export.verify import Report


def to_torchscript(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Sequence[str] = ("batch",),
    max_time: Optional[int] = None,
    *,
    output_names: Optional[Sequence[str]] = None,
    tolerance: Optional[float] = None,
) -> Report:
    """Export a policy, a network or a function to a TorchScript file that computes the same.

        torch.jit.load(path)(**tensors)        # without this package
        load_torchscript(path)(**tensors)      # held to its contract

    A function that holds no module is scripted: what ``functools.partial`` binds becomes an
    attribute, the example's tensors come first, in their order, the other arguments keep their
    defaults, and time needs no bound. Whatever
    holds a module is traced from the program of ``to_pt2``, and needs ``max_time`` as that does.

    Args:
        target: as in ``to_onnx``; a function must be one that ``torch.jit.script`` takes.
        example: as in ``to_onnx``.
        path: where to write, ending in ``.pt``; missing folders are made.
        dynamic: as in ``to_pt2``.
        max_time: as in ``to_pt2``; not needed for a function, which refuses beyond where given.
        output_names: as in ``to_onnx``, in the contract; the file returns what the target returns.
        tolerance: as in ``to_onnx``.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        ExportError: the target cannot be exported, or the file does not compute the same.
    """
    return make(_TORCHSCRIPT, target, example, path, dynamic, max_time, output_names, tolerance)


def load_torchscript(path: str | Path) -> TorchModel:
    """What ``to_torchscript`` wrote, as a function of named tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such module.
    """
    inside = {CONTRACT_KEY: ""}
    with reading("load_torchscript", path):
        module = torch.jit.load(str(path), _extra_files=inside)
        return TorchModel(module, inside[CONTRACT_KEY])


def _translate(
    explicit: Explicit, example: dict[str, Tensor], outputs: Sequence[str], axes: Axes
) -> Translation:
    make_module = _traced if modules_of(explicit.target) else _scripted
    module = make_module(explicit, example, axes)

    def write(path: Path, contract: Contract) -> None:
        full = io.BytesIO()
        torch.jit.save(module, full, _extra_files={CONTRACT_KEY: json.dumps(contract)})
        _without_sources(full, path)

    return Translation(write, {})


def _traced(explicit: Explicit, example: dict[str, Tensor], axes: Axes) -> torch.jit.ScriptModule:
    """The exported program, traced, with the inputs' names."""
    program = portable_program(explicit, example, axes).module()
    traced = torch.jit.trace(program, tuple(example.values()), check_trace=False)
    module = _module({"traced": traced})
    parameters = [f"{name}: Tensor" for name in example]
    module.define(_forward(parameters, f"self.traced({', '.join(example)})", example, axes))
    return module


def _scripted(explicit: Explicit, example: dict[str, Tensor], axes: Axes) -> torch.jit.ScriptModule:
    """The function as the method of a module: a saved function would lose its defaults."""
    target = explicit.target
    function: Any = torch.jit.script(getattr(target, "func", target))
    arguments = function.schema.arguments
    names = [argument.name for argument in arguments]
    bound = dict(zip(names, getattr(target, "args", ()), strict=False))
    bound |= getattr(target, "keywords", {})
    module = _module({f"bound_{name}": value for name, value in bound.items()})
    values = [f"{name}=self.bound_{name}" if name in bound else f"{name}={name}" for name in names]
    others = [x for x in arguments if x.name not in {*example, *bound}]
    parameters = [*[f"{name}: Tensor" for name in example], *[_parameter(x) for x in others]]
    # `function` in the source is the variable above: `define` looks names up where it is called.
    module.define(_forward(parameters, f"function({', '.join(values)})", example, axes))
    return module


def _module(attributes: dict[str, Any]) -> torch.jit.ScriptModule:
    """A module with these attributes, and no method yet."""

    class Holder(nn.Module):  # a class of its own: modules of one class share their methods
        pass

    holder = Holder()
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            holder.register_buffer(name, value)
        else:
            setattr(holder, name, value)
    return torch.jit.script(holder)


def _parameter(argument: Any) -> str:
    """An argument as it is written in a definition."""
    written = f"{argument.name}: {argument.type.annotation_str}"
    return f"{written} = {argument.default_value!r}" if argument.has_default_value() else written


def _forward(parameters: Sequence[str], call: str, example: dict[str, Tensor], axes: Axes) -> str:
    """The source of ``forward``; a trace knows no bound, so the module around it does."""
    lines = [f"def forward(self, {', '.join(parameters)}):"]
    for axis, limit in axes.limits.items():
        index = axes.names.index(axis)
        size = next(f"{name}.size({index})" for name, x in example.items() if x.dim() > index)
        sentence = f"'`{axis}` must be at most {limit}, got {{}}'.format({size})"
        lines += [f"    if {size} > {limit}:", f"        raise ValueError({sentence})"]
    return "\n".join([*lines, f"    return {call}", ""])


def _without_sources(full: io.BytesIO, path: Path) -> None:
    """The archive without the records that lead back to source files, and name their folders."""
    with ZipFile(full) as archive, ZipFile(path, "w") as stripped:
        for name in archive.namelist():
            if not name.endswith(".debug_pkl"):
                stripped.writestr(name, archive.read(name))


_TORCHSCRIPT = Form(
    "to_torchscript",
    "torchscript",
    ".pt",
    lambda target: bool(modules_of(target)),
    _translate,
    load_torchscript,
)
