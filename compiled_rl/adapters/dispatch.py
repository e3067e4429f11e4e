"""One way in and one way out, for keyword tensors, a mapping, or a TensorDict."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional

from torch import Tensor

from compiled_rl.adapters.fields import Key, keyword
from compiled_rl.kernels.checks import check_device, check_tensor

Data = dict[Key, Tensor]

# An entry that a loss makes where a TensorDict came, which says by its rank which axis time is. It
# is a tensor so that it passes through whatever the data do, into a compiled update, too.
TIME: Key = "_time"


def read(
    owner: str, keys: tuple[Key, ...], source: Any, tensors: Mapping[str, Optional[Tensor]]
) -> Data:
    """The entries of ``keys`` that were given, by key; the three forms differ in ``get`` alone.

    Raises:
        TypeError: a keyword is unknown, an entry is no tensor, or tensors came both by keyword and
            in a container.
        ValueError: an entry is of complex numbers, or on another device than the first.
    """
    names = {key: keyword(key) for key in keys}
    if source is None:
        get = _keyword_getter(owner, names, tensors)
    elif tensors:
        raise TypeError(
            f"{owner}: expected keyword tensors or one container, "
            f"got a {type(source).__name__} and the keywords {sorted(tensors)}"
        )
    elif is_tensordict(source):
        get = _tensordict_getter(source)
    elif isinstance(source, Mapping):
        get = _mapping_getter(source)
    else:
        raise TypeError(
            f"{owner}: `tensordict`: expected keyword tensors, a mapping or a TensorDict, "
            f"got a {type(source).__name__}"
        )
    found = {key: get(key) for key in keys}
    data = {key: x for key, x in found.items() if x is not None}
    first = next(iter(data), "")
    for key, x in data.items():
        check_tensor(owner, names[key], x)
        check_device(owner, names[key], x, names[first], data[first])
    return data


def by_position(
    owner: str, keys: tuple[Key, ...], first: tuple[Any, ...], tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """The tensors by keyword, of which the first came in the order of ``keys``.

    Raises:
        TypeError: one of the first is no tensor, is given by keyword, too, or has no key.
    """
    names = [keyword(key) for key in keys]
    if len(first) > len(names):
        raise TypeError(f"{owner}: expected at most {len(names)} tensors, got {len(first)}")
    for name, x in zip(names, first, strict=False):
        if not isinstance(x, Tensor | None):
            raise TypeError(f"{owner}: `{name}` must be a tensor, got a {type(x).__name__}")
        if name in tensors:
            raise TypeError(f"{owner}: `{name}` must be given once, got it by position and keyword")
    return {**dict(zip(names, first, strict=False)), **tensors}


def write(
    owner: str,
    source: Any,
    outputs: dict[str, Tensor],
    out_keys: tuple[str, ...],
    nested: Mapping[str, Key],
) -> Any:
    """The outputs in the form of the input: as ``returned`` of ``out_keys``, a dict, a TensorDict.

    ``nested`` are the outputs that a TensorDict holds under another key than their name.
    """
    if source is None:
        return returned(owner, out_keys, [outputs[key] for key in out_keys])
    if not is_tensordict(source):
        return outputs
    from compiled_rl.adapters.tensordict import to_tensordict

    return to_tensordict({nested.get(name, name): x for name, x in outputs.items()})


def write_into(
    owner: str, source: Any, outputs: dict[Key, Tensor], out_keys: tuple[str, ...]
) -> Any:
    """The outputs by key: in the TensorDict that came, in a dict, or the first as ``returned``."""
    if source is None:
        return returned(owner, out_keys, list(outputs.values())[: len(out_keys)])
    if not is_tensordict(source):
        return outputs
    for key, x in outputs.items():
        source.set(key, x)
    return source


def returned(owner: str, out_keys: tuple[str, ...], values: list[Tensor]) -> Any:
    """What a keyword call returns: a named tuple, or of one output the tensor itself."""
    return values[0] if len(values) == 1 else output_type(owner, out_keys)(*values)


def is_tensordict(source: Any) -> bool:
    """Whether it is a TensorDict, told without importing tensordict: a mapping with a batch."""
    return hasattr(source, "batch_size")


def output_type(owner: str, out_keys: tuple[str, ...]) -> Any:
    """The named tuple in which a keyword call returns its outputs; one class for equal keys."""
    if (owner, out_keys) not in _OUTPUT_TYPES:
        made = _named_tuple(f"{owner}Output", out_keys)
        made.__reduce__ = lambda output: (_output, (owner, out_keys, tuple(output)))
        _OUTPUT_TYPES[owner, out_keys] = made
    return _OUTPUT_TYPES[owner, out_keys]


# mypy knows named tuples with literal names only.
_named_tuple: Any = namedtuple


def _output(owner: str, out_keys: tuple[str, ...], values: tuple[Tensor, ...]) -> Any:
    """A named tuple that was pickled."""
    return output_type(owner, out_keys)(*values)


_OUTPUT_TYPES: dict[tuple[str, tuple[str, ...]], Any] = {}


def given(data: Iterable[Key]) -> str:
    """The keys that are there, for an error's last words."""
    return str([keyword(key) for key in data if key != TIME])


def _keyword_getter(
    owner: str, names: Mapping[Key, str], tensors: Mapping[str, Optional[Tensor]]
) -> Callable[[Key], Optional[Tensor]]:
    known = list(names.values())
    for name in tensors:
        if name not in known:
            raise TypeError(f"{owner}: `{name}` is not an input; the inputs are {known}")
    return lambda key: tensors.get(names[key])


def _mapping_getter(source: Mapping[Any, Tensor]) -> Callable[[Key], Optional[Tensor]]:
    def get(key: Key) -> Any:
        """By the key itself, by its keyword, or through nested mappings."""
        if key in source or keyword(key) in source:
            return source[key] if key in source else source[keyword(key)]
        inside: Any = source
        for part in key if isinstance(key, tuple) else ():
            inside = inside.get(part) if isinstance(inside, Mapping) else None
        return None if inside is source else inside

    return get


def _tensordict_getter(source: Any) -> Callable[[Key], Optional[Tensor]]:
    return lambda key: source.get(key, None)
