"""The public API as lines of text: ``python -m tests.package.api`` writes them to ``api.txt``.

A line is a name and how its source declares it: the arguments of a function or a class, what a
method returns, the default key of a field. What a class has of a public base is found there.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack

FILE = Path(__file__).parents[2] / "api.txt"
# A name that several of them have is told of in the first one; the others refer to it.
MODULES = [
    f"compiled_rl{name}"
    for name in (
        ".functional",
        ".modules",
        ".estimators",
        ".losses",
        ".training",
        ".export",
        ".testing",
        "",
    )
]
Definition = ast.FunctionDef | ast.ClassDef


def lines() -> list[str]:
    """The whole API, sorted."""
    homes: dict[int, str] = {}
    told = []
    public = {place: _public(import_module(place)) for place in MODULES}
    classes = [x for found in public.values() for x in found.values() if inspect.isclass(x)]
    for place, found in public.items():
        for name, x in found.items():
            path = f"{place}.{name}"
            if isinstance(x, ModuleType) or homes.setdefault(id(x), path) == path:
                told += _told(path, x, classes)
            else:
                told.append(f"{path} = {homes[id(x)]}")
    return sorted(told)


def _public(module: ModuleType) -> dict[str, Any]:
    names = getattr(module, "__all__", None)
    if names is None:
        own = {k: x for k, x in vars(module).items() if not k.startswith("_")}
        return {k: x for k, x in own.items() if getattr(x, "__module__", "") == module.__name__}
    return {name: getattr(module, name) for name in names}


def _told(path: str, x: Any, classes: list[type]) -> Iterator[str]:
    if inspect.isclass(x):
        yield from _class(path, x, classes)
    elif inspect.isfunction(x):
        yield path + _signature(x)
    else:
        yield f"{path}: {'module' if isinstance(x, ModuleType) else type(x).__name__}"


def _class(path: str, cls: type, classes: list[type]) -> Iterator[str]:
    bases = [x for x in cls.__mro__[1:] if x in classes]
    direct = [x.__name__ for x in bases if not any(issubclass(y, x) for y in bases if y is not x)]
    yield f"{path}{_arguments(cls)}" + (f": {', '.join(direct)}" if direct else "")
    yield from (f"{path}(...{name}=)" for name in _options(cls))
    elsewhere = {x for base in bases for x in base.__mro__}
    seen: set[str] = set()
    for part in _own(cls.__mro__):
        if part in elsewhere:
            continue
        for name, text in _members(part):
            if name not in seen:
                yield f"{path}.{text}"
        seen |= {name for name, _ in _members(part)}
    for field in vars(cls).get("fields", ()):
        if isinstance(field, tuple):
            yield f"{path}[{field.name!r}]: {field.kind} {field.key!r} {field.shape}"


def _own(parts: Iterable[type]) -> list[type]:
    """Those that this package has written."""
    return [x for x in parts if x.__module__.startswith("compiled_rl")]


def _members(cls: type) -> Iterator[tuple[str, str]]:
    """The public names in a class's body, as they are declared there."""
    for node in _definition(cls).body:
        if isinstance(node, ast.FunctionDef) and _is_public(node.name):
            how = [ast.unparse(x) for x in node.decorator_list]
            if not any(x.endswith((".setter", ".deleter")) for x in how):
                text = _returns(node) if "property" in how else _declared(node)
                yield node.name, node.name + text
        elif isinstance(node, ast.AnnAssign) and _is_public(ast.unparse(node.target)):
            name = ast.unparse(node.target)
            yield name, f"{name}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.Assign):
            for name in map(ast.unparse, node.targets):
                if _is_public(name):
                    yield name, name


def _is_public(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")


def _signature(function: Any) -> str:
    node = _definition(function)
    assert isinstance(node, ast.FunctionDef), function
    return _declared(node)


def _declared(node: ast.FunctionDef) -> str:
    return f"({ast.unparse(node.args)}){_returns(node)}"


def _returns(node: ast.FunctionDef) -> str:
    return f" -> {ast.unparse(node.returns)}" if node.returns else ""


def _arguments(cls: type) -> str:
    """Of its constructor, without itself; none where the constructor is not written here."""
    for part in _own(cls.__mro__):
        for node in _definition(part).body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                own = ast.arguments(**{**vars(node.args), "args": node.args.args[1:]})
                return f"({ast.unparse(own)})"
    return ""


def _options(cls: type) -> list[str]:
    """The keywords of ``**options: Unpack[...]``."""
    hints = getattr(cls.__init__, "__annotations__", {}).values()
    taken = [x.__args__[0] for x in hints if getattr(x, "__origin__", None) is Unpack]
    return sorted(name for x in taken for name in x.__annotations__)


@cache
def _definition(x: Any) -> Definition:
    node = ast.parse(textwrap.dedent(inspect.getsource(x))).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef), x
    return node


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
