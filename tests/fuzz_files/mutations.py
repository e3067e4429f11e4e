"""What happens to files: on the way, and at the hands of someone who knows their formats."""

import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any
from zipfile import ZIP_STORED, ZipFile

NESTED, LONG = 100_000, 1 << 20


def damaged(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """The bytes after an accident: flipped, cut off, written twice, or those of another file."""
    return draw.choice(ACCIDENTS)(content, others, draw)


def _flip(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 16])):
        made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    return bytes(made)


def _cut(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _drop(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _section(content, draw)
    return content[:start] + content[end:]


def _insert(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.randbytes(draw.randrange(1, 64)) + content[at:]


def _repeat(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _section(content, draw)
    return content[:end] + content[start:end] + content[end:]


def _zero(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    start, end = _section(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _swap(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    return draw.choice(others) if others else b""


def _splice(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """The beginning of a file and the end of another."""
    other = draw.choice(others) if others else content
    at = draw.randrange(min(len(content), len(other)))
    return content[:at] + other[at:]


ACCIDENTS = (_flip, _flip, _cut, _drop, _insert, _repeat, _zero, _swap, _splice)


def _section(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(content))
    return start, min(len(content), start + draw.choice([1, 4, 64, 1024]))


# ---- JSON ----------------------------------------------------------------------------------------


def changed(text: str, draw: random.Random) -> str:
    """JSON with something else at one place of it: gone, of another type, too much, too deep."""
    document = {"": json.loads(text)}
    parent, key = draw.choice(list(_places(document)))
    change = draw.choice(CHANGES)
    change(parent, key, draw)
    made = json.dumps(document.get(""))
    return made.replace(json.dumps(_DEEP), "[" * NESTED + "]" * NESTED)


def _places(value: Any) -> Any:
    """Every container with the key of something in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _remove(parent: Any, key: Any, _: random.Random) -> None:
    del parent[key]


def _replace(parent: Any, key: Any, draw: random.Random) -> None:
    parent[key] = draw.choice(VALUES)


def _near(parent: Any, key: Any, draw: random.Random) -> None:
    """A number or a text that is nearly the same."""
    value = parent[key]
    if isinstance(value, str):
        parent[key] = draw.choice([value + "x", value[:-1], value.upper(), "\u200b" + value])
    elif isinstance(value, int | float):
        parent[key] = value + draw.choice([1, -1, 0.5])
    else:
        parent[key] = [value]


def _rename(parent: Any, key: Any, draw: random.Random) -> None:
    if isinstance(parent, dict):
        parent[f"{key}{draw.choice(['_', '2', 'ä'])}"] = parent.pop(key)
    else:
        parent.append(parent[key])


def _exchange(parent: Any, key: Any, draw: random.Random) -> None:
    other = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key], parent[other] = parent[other], parent[key]


CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    *(_remove, _replace, _replace, _near, _rename, _exchange),
)
_DEEP = "a list in a list in a list"
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan")),
    *(float("inf"), "", "batch", "float64", "\x00", "💥", "../../etc", "x" * LONG, [], {}, [None]),
    *([[]], {"": None}, ["batch"], {"as_int": 10**12}, _DEEP),
)


# ---- Archives ------------------------------------------------------------------------------------


def repacked(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """A zip archive with one record damaged, renamed or gone, whose checksums are right again."""
    with ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(records))
    change = draw.randrange(6)
    if change == 0:
        del records[name]
    elif change == 1:
        other = draw.choice(list(records))
        records[name], records[other] = records[other], records[name]
    elif change == 2:
        records[f"{name}{draw.choice('0x')}"] = records.pop(name)
    elif change == 3 and records[name][:1] in (b"{", b"["):
        records[name] = changed(records[name].decode(), draw).encode("utf-8", "surrogatepass")
    elif records[name]:
        records[name] = damaged(records[name], others, draw)
    return packed(records)


def packed(records: dict[str, bytes]) -> bytes:
    """An archive of these records, not compressed."""
    file = io.BytesIO()
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return file.getvalue()
