"""Checkpoints that a kill at any moment leaves whole."""

import os
from pathlib import Path
from typing import Any

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
        pickle.UnpicklingError: the file holds more than tensors, numbers and strings.
    """
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state
