"""Checkpoints that a kill at any moment leaves whole."""

import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write ``state`` (state dicts, numbers, strings) to ``path``, whole or not at all.

    The bytes go to another file in the same folder, which then takes the name in one step.

    Args:
        path: of the checkpoint; missing folders are made.
        state: what ``torch.save`` can write and ``load_checkpoint`` may read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote; no code in the file is run.

    Args:
        path: of the checkpoint.

    Returns:
        The state.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds more than tensors, numbers and strings.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"load_checkpoint: `path` must be a file, got {path}")
    try:
        _check_records(Path(path))
        state = torch.load(path, weights_only=True)
    except Exception as error:
        # torch recommends to load without `weights_only`, which runs what is in the file.
        said = " ".join(str(error).rpartition("WeightsUnpickler error: ")[2].split())
        raise ValueError(
            f"load_checkpoint: {path} must be a checkpoint of tensors, numbers and strings, got: "
            f"{type(error).__name__} {said:.200}"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"load_checkpoint: {path} must hold a dict, got {type(state).__name__}")
    return state


def _check_records(path: Path) -> None:
    """Refuse records that are damaged, which torch does not look at, or larger than the file."""
    with ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"records must not be packed, got {unpacked} bytes of them")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its record {damaged} is damaged")
