"""Make a call with some arguments changed, and say what is wrong with what came of it."""

import inspect
import linecache
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from tests.fuzz.call import SHAPES
from tests.fuzz.mutations import ABSENT, Mutation

REFUSALS = (
    ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError, NotImplementedError,
    OSError,
)  # fmt: skip
# Python itself refuses a wrong signature, in one sentence that names function and argument.
SIGNATURE = re.compile(r"got an unexpected keyword argument|missing \d+ required|multiple values")
ROUNDS = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-4}
OWNER = re.compile(r"^(`?[A-Za-z_][\w. `]*: |the network inputs? )")


class Outcome(NamedTuple):
    refused: bool
    fault: Optional[str]
    error: Optional[BaseException] = None


def attempt(
    make: Callable[[], tuple[Callable[..., Any], dict[str, Any]]],
    changes: Mapping[str, Mutation],
    names: Callable[[str], set[str]] = lambda name: {name},
    users: frozenset[str] = frozenset(),
    writes: frozenset[str] = frozenset(),
) -> Outcome:
    """Call with each argument of ``changes`` replaced, and look at everything afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _attempt(make, changes, names, users, writes)


def _attempt(make: Any, changes: Any, names: Any, users: Any, writes: Any) -> Outcome:
    function, arguments = make()
    given = replaced(arguments, {name: mutation.value for name, mutation in changes.items()})
    before, state = snapshot(given), snapshot(owners(function))
    mutation = next(iter(changes.values()), None) if len(changes) == 1 else None
    try:
        torch.manual_seed(0)
        returned = function(**given)
    except Exception as error:
        fault = judged(error, changes, names, users, before, given, state, function)
        return Outcome(True, fault, error)
    left = {name: x for name, x in given.items() if name not in writes}
    changed = differs({name: before[name] for name in left}, snapshot(left))
    if changed:
        return Outcome(False, f"changes its argument: {changed}")
    # Two arguments of other shapes may fit each other; what is wrong by itself stays wrong.
    alone = [x for x in changes.values() if mutation is not None or not is_relative(x)]
    if any(x.expected == "refused" for x in alone):
        return Outcome(False, f"is accepted: {shown(returned)}")
    if mutation is not None and mutation.expected == "equal":
        function, arguments = make()
        given = replaced(arguments, {name: x.instead for name, x in changes.items()})
        torch.manual_seed(0)
        coarse = getattr(mutation.value, "dtype", torch.float64)
        return Outcome(False, unlike(returned, function(**given), coarse))
    return Outcome(False, None)


def replaced(arguments: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in {**arguments, **values}.items() if x is not ABSENT}


def judged(error, changes, names, users, before, given, state, function) -> Optional[str]:
    words = str(error.args[0]) if error.args else ""
    changed = differs(before, snapshot(given)) or differs(state, snapshot(owners(function)))
    if changed:
        return f"refuses and changes something: {changed}"
    if not changes:
        return f"refuses what is valid: {type(error).__name__}: {words}"
    if len(changes) == 1:
        (mutation,) = changes.values()
        if mutation.expected == "equal" and not mutation.may_refuse:
            return f"refuses what is valid: {type(error).__name__}: {words}"
    if isinstance(error, TypeError) and SIGNATURE.search(words):
        return None
    if users & changes.keys() and of_a_network(error):
        return None
    if not isinstance(error, REFUSALS):
        return f"raises {type(error).__name__}: {words}"
    if not ours(error):
        return f"{type(error).__name__} of torch or Python: {words}"
    if "\n" in words or not OWNER.match(words):
        return f"no sentence with an owner: {words}"
    said = {name for argument in changes for name in names(argument)}
    if any(is_relative(mutation) for mutation in changes.values()):
        said |= {name for argument in given for name in names(argument)}
    if not any(re.search(rf"[`'\"]{re.escape(x)}\b", words) for x in said):
        return f"does not name `{next(iter(changes))}`: {words}"
    return None


def is_relative(mutation: Mutation) -> bool:
    """Whether another argument may make it valid."""
    return mutation.relative or mutation.what in SHAPES | {"on another device"}


def of_a_network(error: BaseException) -> bool:
    """Whether the user's own network refused what it reads: it is called with it as it came."""
    files = [code.co_filename for code, _ in frames(error)]
    foreign = any(re.search("torch/nn/modules|gymnasium", file) for file in files[2:])
    return foreign or "of_losses" in files[-1]


def ours(error: BaseException) -> bool:
    """Whether the library raised it, in so many words."""
    code, line = frames(error)[-1]
    raised = linecache.getline(code.co_filename, line).strip().startswith("raise")
    return "compiled_rl" in code.co_filename and raised


def frames(error: BaseException) -> list[tuple[CodeType, int]]:
    """Where it came through, the innermost last."""
    found, place = [], error.__traceback__
    while place is not None:
        found.append((place.tb_frame.f_code, place.tb_lineno))
        place = place.tb_next
    return found


def documented(function: Any) -> str:
    """What the docstrings say that a callable raises: its own, and those of the class it is of."""
    called = getattr(function, "stands_for", function)
    if not (inspect.isroutine(called) or inspect.isclass(called)):
        called = called.forward if isinstance(called, nn.Module) else called.__call__
    owner = called if inspect.isclass(called) else type(getattr(called, "__self__", None))
    texts = [x.__doc__ or "" for x in owner.__mro__] + [inspect.getdoc(called) or ""]
    return " ".join(text.partition("Raises:")[2] for text in texts)


def undocumented(function: Any, errors: Iterable[BaseException]) -> list[str]:
    """Errors of the library's own that no docstring names; a ``TypeError`` needs none."""
    kinds = {type(error).__name__ for error in errors if ours(error)} - {"TypeError"}
    return sorted(kind for kind in kinds if kind not in documented(function))


def owners(function: Any) -> Any:
    """What a refused call must leave as it was: the module whose method it is."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def snapshot(x: Any) -> Any:
    """A deep copy of all tensors in it, and of the containers that hold them."""
    if isinstance(x, Tensor):
        held = x if x.is_meta or x.is_sparse else x.detach().clone()
        return ("tensor", x.dtype, tuple(x.shape), x.requires_grad, x._version, held)
    if isinstance(x, nn.Module):
        tensors = {**dict(x.named_parameters()), **dict(x.named_buffers())}
        modes = {name: module.training for name, module in x.named_modules()}
        return ("module", snapshot(tensors), modes)
    if hasattr(x, "batch_size"):
        return ("tensordict", list(x.batch_size), snapshot(dict(x.items(True, True))))
    if isinstance(x, Mapping):
        return {key: snapshot(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [snapshot(value) for value in x]
    return x


def differs(a: Any, b: Any) -> Optional[str]:
    """Where two snapshots differ."""
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"keys {list(a)} became {list(b)}"
        return next((f"{k}: {d}" for k in a if (d := differs(a[k], b[k])) is not None), None)
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{len(a)} became {len(b)}"
        return next(
            (d for x, y in zip(a, b, strict=True) if (d := differs(x, y)) is not None), None
        )
    if isinstance(a, Tensor):
        if a.is_meta or a.is_sparse or torch.equal(a, b):
            return None
        return None if bits(a, b) else f"{a} became {b}"
    return None if a is b or a == b or a != a else f"{a!r} became {b!r}"


def bits(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def tensors(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, nn.Module):
        return list(x.state_dict().values())
    values = list(x.values()) if hasattr(x, "values") and callable(x.values) else x
    if isinstance(values, list | tuple):
        return [t for value in values for t in tensors(value)]
    return []


def unlike(got: Any, expected: Any, coarse: torch.dtype) -> Optional[str]:
    """Whether two answers differ by more than the coarser dtype rounds."""
    a, b = tensors(got), tensors(expected)
    if len(a) != len(b):
        return f"returns {len(a)} tensors for {len(b)}"
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return f"returns shape {list(x.shape)} for {list(y.shape)}"
        rounds = max(ROUNDS.get(dtype, 1e-6) for dtype in (x.dtype, y.dtype, coarse))
        x, y = x.detach().double(), y.detach().double()
        if not torch.allclose(x, y, rtol=rounds, atol=rounds, equal_nan=True):
            return f"returns another number: {shown(x)} for {shown(y)}"
    return None


def shown(x: Any) -> str:
    return " ".join(repr(x).split())[:160]
