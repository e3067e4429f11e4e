"""What every file keeps of itself, under which names, and what fits it; needs numpy alone."""

import base64
import io
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO
from zipfile import ZipFile

import numpy as np

CONTRACT_KEY = "compiled_rl.contract"
MINIBATCHES = "minibatches"  # the input of a file of epochs that has the rows of each update
STATE_KEY = "compiled_rl.state"  # of what the caller keeps, the values to begin with

# What an archive may grow to when it is unpacked: weights do not shrink, moments begin as zeros.
_GROWTH, _SMALL = 16, 1 << 26


def contract_of(path: Path) -> Path:
    """Where the contract of an artefact is: ``gae.onnx`` and ``gae.pt2`` may be side by side."""
    return path.with_name(path.name + ".contract.json")


def text_of(arrays: dict[str, np.ndarray]) -> str:
    """Arrays by name as a text: an ``.npz`` file in base64."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(file.getvalue()).decode()


def arrays_of(text: str) -> dict[str, np.ndarray]:
    """The arrays of such a text; none of an empty one.

    Raises:
        ValueError: it is another text.
    """
    return read_arrays(io.BytesIO(base64.b64decode(text, validate=True))) if text else {}


def read_arrays(file: str | Path | IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file.

    Unlike ``np.load``, nothing is allocated for what a header announces and the file has not.

    Raises:
        ValueError: an array is no plain numbers, or the file is larger inside than it can be.
        Exception: of ``zipfile``, where the file is no archive.
    """
    with ZipFile(file) as archive:
        check_growth(archive)
        return {x.removesuffix(".npy"): _array(archive.read(x)) for x in archive.namelist()}


def check_growth(archive: ZipFile) -> None:
    """Refuse an archive that unpacks to far more than it is, or that has a name twice."""
    assert archive.fp is not None
    packed = archive.fp.seek(0, io.SEEK_END)
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _SMALL + _GROWTH * packed:
        raise ValueError(f"{packed} bytes must not unpack to {unpacked}")
    if len(set(archive.namelist())) != len(archive.namelist()):
        raise ValueError("every name in an archive must be there once")


def _array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array must have the format 1.0, got {version}")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "biuf" or prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"an array of {dtype} and shape {list(shape)} must be as many numbers")
    numbers = np.frombuffer(content, dtype, offset=file.tell())
    return numbers.reshape(shape, order="F" if columns_first else "C").copy()


def fits(promised: Sequence[int | str | None], shape: Sequence[int], sizes: dict[str, int]) -> bool:
    """Whether a shape is the promised one; an axis that has a name has one size everywhere.

    Args:
        promised: a size, the name of an axis, or None, which is any size.
        shape: of a tensor or an array.
        sizes: of the axes that were seen before; those of this shape are added.
    """
    return len(shape) == len(promised) and all(
        size == (sizes.setdefault(axis, size) if isinstance(axis, str) else axis or size)
        for axis, size in zip(promised, shape, strict=True)
    )
