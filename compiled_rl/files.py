"""Paths that a caller gives, and files that are written whole or not at all; needs no torch."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def as_path(owner: str, path: Any) -> Path:
    """Refuse what is no name of a file.

    Raises:
        TypeError: it is neither a string nor a path.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(
            f"{owner}: `path` must be the name of a file, a string or a Path, "
            f"got a {type(path).__name__}"
        )
    return Path(path)


def existing(owner: str, path: Any) -> Path:
    """A file that is there.

    Raises:
        FileNotFoundError: it is not.
        TypeError: it is neither a string nor a path.
    """
    found = as_path(owner, path)
    if not found.is_file():
        raise FileNotFoundError(f"{owner}: `path` must be a file, got {path!s}")
    return found


@contextmanager
def replaced(owner: str, path: Any) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the name ``path`` in one step once the block has ended.

    Until then, and after a failure, what had the name keeps it. Missing folders are made.

    Raises:
        IsADirectoryError: there is a folder of that name.
        TypeError: it is neither a string nor a path.
    """
    path = as_path(owner, path)
    if path.is_dir():
        raise IsADirectoryError(f"{owner}: `path` must be a file, got the folder {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
