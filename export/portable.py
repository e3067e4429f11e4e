"""See that a ``.pt2`` file holds tensors and a graph of operators alone, before torch reads it.

What torch 2.13 does with such a file, whoever wrote it: it unpickles weights, constants and example
inputs that say so; it gives the expressions of sizes to ``eval``, through sympy; it pastes guards
and the names of inputs into a source that it executes; it imports what the structures of inputs and
outputs name; and it calls whatever function of the module ``torch`` a node names. None of it is
needed for what ``to_pt2`` writes, and all of it is refused here, by what is allowed.
"""

import ast
import io
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader

from compiled_rl.export.vouched import parsed

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json|data/(weights|constants)/model_\w+_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/model\.pt"
    r"|extra/compiled_rl\.(contract|state)"
)
_NAME = re.compile(r"[\w.]*")
_OPERATOR = re.compile(
    r"torch\.ops\.higher_order\.(scan|while_loop|cond)|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
)
_SIZES = {"Symbol", "Integer", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "Eq"}
_SIZES |= {"Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Rational", "Float", "CeilDiv"}
_PLAIN: tuple[type[ast.AST], ...] = (
    *(ast.Expression, ast.Constant, ast.Load, ast.keyword, ast.BinOp, ast.UnaryOp, ast.USub),
    *(ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.BoolOp, ast.And, ast.Or, ast.Not),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_EMPTY = ("metadata", "custom_obj_values", "treespec_namedtuple_fields")
_TRACES = {"custom", "stack_trace", "nn_module_stack", "torch_fn"}  # of nodes, read as texts
_TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_portable(content: bytes) -> None:
    """Refuse an archive that torch would run code of, or allocate without end for.

    Raises:
        ValueError: it is one.
        Exception: of torch's or json's, where it is no such archive.
    """
    archive = PT2ArchiveReader(io.BytesIO(content))
    records = archive.get_file_names()
    for name in records:
        if not _RECORDS.fullmatch(name):
            raise ValueError(f"it must hold a program of operators alone, got the record {name}")
    for folder in ("weights", "constants"):
        _check_payloads(archive, folder)
    torch.load(io.BytesIO(archive.read_bytes("data/sample_inputs/model.pt")), weights_only=True)
    _check("", parsed(archive.read_string("models/model.json")))


def _check_payloads(archive: Any, folder: str) -> None:
    """Tensors as bytes, none as a pickle, and none without bytes that is large."""
    table = parsed(archive.read_string(f"data/{folder}/model_{folder}_config.json"))["config"]
    for name, about in table.items():
        path = about["path_name"]
        if about["use_pickle"] is not False or not _RECORDS.fullmatch(f"data/{folder}/{path}"):
            raise ValueError(f"its {folder} must be tensors as they are, got a pickle for {name}")
        sizes = [size["as_int"] for size in about["tensor_meta"]["sizes"]]
        if prod(sizes) and not archive.archive_file.get_record_size(f"data/{folder}/{path}"):
            raise ValueError(f"{name} must have the bytes of {sizes}, got none")


def _check(key: str, value: Any) -> None:
    """Refuse what no graph of operators needs, wherever it is in the document."""
    if isinstance(value, Mapping):
        if key in _EMPTY and not set(value) <= _TRACES:
            raise ValueError(f"`{key}` must be empty, got {list(value)}")
        for name, inner in value.items():
            _STRINGS["name"](name)
            _check(name, inner)
    elif isinstance(value, list):
        for inner in value:
            _check(key, inner)
    elif isinstance(value, str):
        _STRINGS.get(key, _check_name)(value)


def _check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise ValueError(f"a name must be of letters, digits, _ and dots, got {text!r}")


def _check_operator(text: str) -> None:
    if not _OPERATOR.fullmatch(text) and text not in _tensor_operators():
        raise ValueError(f"an operator must be one of torch's of tensors, got {text!r}")


@cache
def _tensor_operators() -> set[str]:
    """Of the dispatcher's: ``torch.ops`` has TorchScript's, too, one of which writes files."""
    operators = set()
    for full in torch._C._dispatch_get_all_op_names():
        home, _, name = full.partition("::")
        if home in ("aten", "prims") and name.partition(".")[0] != "from_file":
            operators.add(f"torch.ops.{home}.{name if '.' in name else f'{name}.default'}")
    return operators


def _check_size(text: str) -> None:
    """``Add(Symbol('s0', positive=True, integer=True), Integer(1))``: calls of what is known."""
    for node in _nodes(text):
        if isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name)
        elif isinstance(node, ast.Name):
            known = node.id in _SIZES
        else:
            known = _is_plain(node)
        _refuse_unless(known, text)


def _check_guard(text: str) -> None:
    """``L['tensors'][1].size()[0] == 3``: sizes of inputs, compared."""
    for node in _nodes(text):
        if isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
        elif isinstance(node, ast.Attribute):
            known = node.attr == "size"
        elif isinstance(node, ast.Name):
            known = node.id == "L"
        else:
            known = isinstance(node, ast.Subscript) or _is_plain(node)
        _refuse_unless(known, text)


def _nodes(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text, mode="eval")))


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or bool(_NAME.fullmatch(str(node.value)))
    return isinstance(node, _PLAIN)


def _refuse_unless(known: bool, text: str) -> None:
    if not known:
        raise ValueError(f"a size must be an expression of sizes, got {text!r:.200}")


def _check_tree(text: str) -> None:
    """Nested tuples, lists and dicts with names for keys."""
    protocol, tree = json.loads(text)
    if protocol != 1:
        raise ValueError(f"a structure must be written as 1, got {protocol!r}")
    _check_branch(tree)


def _check_branch(tree: Mapping[str, Any]) -> None:
    context = json.loads(tree["context"] or "null")
    names = context if isinstance(context, list) else []
    if tree["type"] not in _TREES or not isinstance(context, list | None):
        raise ValueError(f"a structure must be of {_TREES}, got {tree['type']!r}")
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"a structure must have names for keys, got {names}")
    for inner in tree["children_spec"]:
        _check_branch(inner)


def _check_number(text: str) -> None:
    if text not in ("Infinity", "-Infinity", "NaN"):
        raise ValueError(f"a number must be one, got {text!r}")


def _check_text(text: str) -> None:
    """Of any kind: what torch reads as text or JSON, or writes as a constant."""


_STRINGS: dict[str, Callable[[str], None]] = {
    "name": _check_name,
    "target": _check_operator,
    "as_operator": _check_operator,
    "expr_str": _check_size,
    "guards_code": _check_guard,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    **dict.fromkeys(_TRACES, _check_text),
    "as_string": _check_text,
    "as_strings": _check_text,
    "as_float": _check_number,
    "as_floats": _check_number,
    "torch_version": _check_text,
}
