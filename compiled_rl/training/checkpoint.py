"""Checkpoints that a kill at any moment leaves whole."""

from pathlib import Path
from pickle import PickleError
from typing import IO, Any
from zipfile import ZipFile

import torch

from compiled_rl.files import existing, replaced


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write ``state`` (state dicts, numbers, strings) to ``path``, whole or not at all.

    The bytes go to another file in the same folder, which then takes the name in one step.

    Args:
        path: of the checkpoint; missing folders are made.
        state: tensors, numbers and strings, by name and in containers.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        TypeError: ``path`` is no name of a file, or ``state`` no dict.
        ValueError: ``state`` holds what ``load_checkpoint`` would not read.
    """
    if not isinstance(state, dict):
        raise TypeError(f"save_checkpoint: `state` must be a dict, got a {type(state).__name__}")
    with replaced("save_checkpoint", path) as file:
        _write(state, file)


def _write(state: dict[str, Any], file: IO[bytes]) -> None:
    """Write what can be read again, which is tried; what a full disk raises stays what it is."""
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True, map_location="meta")
    except (PickleError, AttributeError, TypeError) as error:
        raise ValueError(
            f"save_checkpoint: `state` must hold tensors, numbers and strings, got: {_said(error)}"
        ) from None


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, to the CPU; no code in the file is run.

    Args:
        path: of the checkpoint.

    Returns:
        The state.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``path`` is no name of a file.
        ValueError: the file is damaged, or holds more than tensors, numbers and strings.
    """
    path = existing("load_checkpoint", path)
    try:
        _check_records(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(
            f"load_checkpoint: {path} must be a checkpoint of tensors, numbers and strings, got: "
            f"{_said(error)}"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"load_checkpoint: {path} must hold a dict, got {type(state).__name__}")
    return state


def _said(error: Exception) -> str:
    """What torch said, without its advice to load without `weights_only`, which runs the file."""
    said = " ".join(str(error).rpartition("WeightsUnpickler error: ")[2].split())
    return f"{type(error).__name__} {said:.200}"


def _check_records(path: Path) -> None:
    """Refuse records that are damaged, which torch does not look at, or larger than the file."""
    with ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"records must not be packed, got {unpacked} bytes of them")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its record {damaged} is damaged")
