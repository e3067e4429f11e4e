"""A recipe: a function in a user's file that returns what to export, ``FILE.py:make``."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

from torch import Tensor

from compiled_rl.export.axes import Dynamic
from compiled_rl.export.options import Options
from compiled_rl.export.signature import Example, Target
from compiled_rl.modules.arguments import check_count

_OPTIONS = [*Options.__annotations__, "dynamic", "max_time"]


class Recipe(NamedTuple):
    """What to export, and how; see ``to_onnx`` and ``Options``."""

    target: Target
    example: Example
    dynamic: Dynamic
    max_time: Optional[int]
    options: Options


def read_recipe(path: Path, name: str) -> Recipe:
    """What the function ``name`` of the file returns, which is called.

    The function takes nothing and returns ``(target, example)``, or a third thing: a dict with any
    of the keywords of ``Options``, and ``dynamic`` and ``max_time``. While it runs, its folder is
    where imports look first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or the function raises, or returns something else.
    """
    path = path.resolve()  # as Python names it
    with _at_home(path):
        made = _function(path, name)()
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise ValueError(
            f"`{name}` in {path} must return (target, example) or (target, example, options), "
            f"got {_described(made)}"
        )
    target, example, given = (*made, {})[:3]
    _check(target, example, given, f"`{name}` in {path}")
    options: Any = {k: x for k, x in given.items() if k not in ("dynamic", "max_time")}
    dynamic = given.get("dynamic", ("batch",))
    return Recipe(target, example, dynamic, given.get("max_time"), options)


def _check(target: Any, example: Any, options: Any, function: str) -> None:
    if not callable(target):
        raise ValueError(f"{function} must return a target that can be called, got {target!r}")
    if not isinstance(example, Tensor | Sequence | Mapping):
        raise ValueError(f"{function} must return an example of tensors, got {_described(example)}")
    if not isinstance(options, Mapping) or not set(options) <= set(_OPTIONS):
        got = list(options) if isinstance(options, Mapping) else _described(options)
        raise ValueError(f"{function} must return options among {_OPTIONS}, got {got}")
    if options.get("max_time") is not None:
        check_count(function, "max_time", options["max_time"])


def _described(x: Any) -> str:
    count = f" of {len(x)}" if isinstance(x, tuple) else ""
    return f"a {type(x).__name__}{count}"


def _function(path: Path, name: str) -> Callable[[], Any]:
    module = _module(path)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{path} must have a function `{name}`, got none")
    made: Callable[[], Any] = function
    return made


def _module(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ValueError(f"the recipe must be in a Python file, got {path}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module  # where dataclasses and pickles look for it
    specification.loader.exec_module(module)
    return module


@contextmanager
def _at_home(path: Path) -> Iterator[None]:
    """The file's folder first in ``sys.path``; what its code raises as one sentence."""
    if not path.is_file():
        raise FileNotFoundError(f"the recipe must be a file, got {path}")
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    except Exception as error:
        line = _line(error, path)
        if line is None and isinstance(error, ValueError):  # of ours
            raise
        place = f"{path}, line {line}," if line else str(path)
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{place} must run, got {said}") from error
    finally:
        sys.path.remove(folder)


def _line(error: Exception, path: Path) -> Optional[int]:
    """The last line of the file that an error came through; None if it did not."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None
