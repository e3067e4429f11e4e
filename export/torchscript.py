"""Export to TorchScript, deprecated upstream and still shipped; all of it is in this file."""

import io
import math
import re
from collections.abc import Iterable, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any, Optional, Unpack
from zipfile import ZipFile

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import Axes, Dynamic
from compiled_rl.export.errors import ExportError
from compiled_rl.export.models import TorchModel, reading
from compiled_rl.export.names import CONTRACT_KEY, STATE_KEY
from compiled_rl.export.options import Options
from compiled_rl.export.program import portable_program
from compiled_rl.export.signature import Example, Explicit, Target, modules_of
from compiled_rl.export.subject import Subject
from compiled_rl.export.training import EpochModule
from compiled_rl.export.verify import Report


def to_torchscript(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Dynamic = ("batch",),
    max_time: Optional[int] = None,
    **options: Unpack[Options],
) -> Report:
    """Export a policy, a network or a function to a TorchScript file that computes the same.

    .. code-block:: python

        torch.jit.load(path)(**tensors)        # without this package
        load_torchscript(path)(**tensors)      # held to its contract

    A function that holds no module is scripted: what ``functools.partial`` binds becomes an
    attribute, the example's tensors come first, in their order, the other arguments keep their
    defaults, and time needs no bound. Whatever
    holds a module is the program of ``to_pt2``, and needs ``max_time`` as that does.

    Args:
        target: as in ``to_onnx``; a function must be one that ``torch.jit.script`` takes.
        example: as in ``to_onnx``.
        path: where to write, ending in ``.pt``; missing folders are made.
        dynamic: as in ``to_pt2``.
        max_time: as in ``to_pt2``; not needed for a function, which refuses beyond where given.
        **options: see ``Options``. Names of outputs are in the contract; the file returns what the
            target returns. A name that is no identifier has underscores in the file.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        ExportError: the target cannot be exported, or the file does not compute the same.
    """
    return make(_TORCHSCRIPT, target, example, path, dynamic, max_time, options)


def load_torchscript(path: str | Path) -> TorchModel:
    """What ``to_torchscript`` wrote, as a function of named tensors.

    TorchScript is a program, which may write files when it is run: load what you would run.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or no such module.
    """
    inside = {CONTRACT_KEY: "", STATE_KEY: ""}
    with reading("load_torchscript", path):
        _check_quiet(path)
        module = torch.jit.load(str(path), _extra_files=inside)
        return TorchModel(module, inside)


def _check_quiet(path: str | Path) -> None:
    """Refuse a program of which a part would be run by being loaded."""
    archive = torch._C.PyTorchFileReader(str(path))
    for name in archive.get_all_records():
        if name.startswith("code/") and b"__setstate__" in archive.get_record(name):
            raise ValueError("it must run nothing while it is loaded, got a `__setstate__`")


def _translate(subject: Subject) -> Translation:
    function = isinstance(subject.module, Explicit) and not modules_of(subject.target)
    if isinstance(subject.module, EpochModule):
        raise ExportError("epochs are a loop, which a program has no TorchScript for; use to_pt2")
    module = (_scripted if function else _of_program)(subject)

    def write(path: Path, texts: dict[str, str]) -> None:
        full = io.BytesIO()
        torch.jit.save(module, full, _extra_files=texts)
        _without_sources(full, path)

    return Translation(write, {})


def _of_program(subject: Subject) -> torch.jit.ScriptModule:
    """The exported program as a module with the inputs' names.

    Not traced: a trace takes every size that is computed with for a constant.
    """
    program = torch.jit.script(_graph_module(portable_program(subject)))
    module = _module({"program": program})
    names = _identifiers(subject.example)
    parameters = [f"{name}: Tensor" for name in names]
    alone = "[0]" if len(subject.outputs) == 1 else ""  # a tensor, as who calls it in C++ expects
    call = f"self.program({', '.join(names)}){alone}"
    module.define(_forward(parameters, call, subject.axes))
    return module


def _graph_module(program: ExportedProgram) -> GraphModule:
    """The program's graph in words that TorchScript knows, with its tensors as attributes."""
    tensors = _tensors_of(program)
    root = nn.Module()
    graph = Graph()
    copies: dict[Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in tensors:
            root.register_buffer(node.name, tensors[node.name].detach())
            copies[node] = graph.get_attr(node.name)
        elif not _is_check(node):
            copies[node] = graph.node_copy(node, lambda x: copies[x])
            _reword(copies[node])
            _name_literals(copies[node], root)
    return GraphModule(root, graph)


def _tensors_of(program: ExportedProgram) -> dict[str, Tensor]:
    """The program's own tensors, by the name of their place in its graph."""
    signature = program.graph_signature
    own = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    own |= signature.inputs_to_lifted_tensor_constants
    held = {**program.state_dict, **program.constants}
    return {place: held[name] for place, name in own.items()}


def _is_check(node: Node) -> bool:
    """Whether a node only looks at sizes, which whoever calls the file holds to the contract."""
    return node.op == "call_function" and not node.users and "assert" in str(node.target)


def _reword(node: Node) -> None:
    if node.target is torch.ops.aten.sym_size.int:
        node.op, node.target = "call_method", "size"
    elif isinstance(node.target, OpOverload):
        node.target = node.target.overloadpacket
        node.kwargs = {name: x for name, x in node.kwargs.items() if name != "device"}


def _name_literals(node: Node, root: nn.Module) -> None:
    """Numbers that have no literal, infinity and NaN, as attributes."""

    def named(x: Any) -> Any:
        if not isinstance(x, float) or math.isfinite(x):
            return x
        name = f"number_{_identifiers([str(x)])[0]}"
        setattr(root, name, x)
        with node.graph.inserting_before(node):
            return node.graph.get_attr(name)

    node.args = map_aggregate(node.args, named)
    node.kwargs = map_aggregate(node.kwargs, named)


def _scripted(subject: Subject) -> torch.jit.ScriptModule:
    """The function as the method of a module: a saved function would lose its defaults."""
    target = subject.target
    function: Any = torch.jit.script(getattr(target, "func", target))
    arguments = function.schema.arguments
    names = [argument.name for argument in arguments]
    bound = dict(zip(names, getattr(target, "args", ()), strict=False))
    bound |= getattr(target, "keywords", {})
    module = _module({f"bound_{name}": value for name, value in bound.items()})
    assert isinstance(subject.module, Explicit)
    inputs = _identifiers(subject.example)
    values = {name: name for name in names}
    values |= {name: f"self.bound_{name}" for name in bound}
    values |= dict(zip(subject.module.inputs, inputs, strict=True))
    others = [x for x in arguments if x.name not in {*subject.module.inputs, *bound}]
    parameters = [f"{name}: Tensor" for name in inputs]
    parameters += [_parameter(x) for x in others]
    given = ", ".join(f"{name}={value}" for name, value in values.items())
    # `function` in the source is the variable above: `define` looks names up where it is called.
    module.define(_forward(parameters, f"function({given})", subject.axes))
    return module


def _identifiers(names: Iterable[str]) -> list[str]:
    """A name for each in a source, another each time."""
    found: list[str] = []
    for name in names:
        made = re.sub(r"\W|^(?=\d)", "_", name)
        while made in (*found, "self") or iskeyword(made):
            made += "_"
        found.append(made)
    return found


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


def _forward(parameters: Sequence[str], call: str, axes: Axes) -> str:
    """The source of ``forward``; the program knows no bound, so what is around it does."""
    lines = [f"def forward(self, {', '.join(parameters)}):"]
    for axis, limit in axes.limits.items():
        position, dim = axes.place(axis)
        size = f"{parameters[position].partition(':')[0]}.size({dim})"
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
