"""What every file keeps of itself, under which names, and what fits it; needs numpy alone."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CONTRACT_KEY = "compiled_rl.contract"
MINIBATCHES = "minibatches"  # the input of a file of epochs that has the rows of each update
STATE_KEY = "compiled_rl.state"  # of what the caller keeps, the values to begin with


def contract_of(path: Path) -> Path:
    """Where the contract of an artefact is: ``gae.onnx`` and ``gae.pt2`` may be side by side."""
    return path.with_name(path.name + ".contract.json")


def text_of(arrays: dict[str, np.ndarray]) -> str:
    """Arrays by name as a text: an ``.npz`` file in base64."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(file.getvalue()).decode()


def arrays_of(text: str) -> dict[str, np.ndarray]:
    """The arrays of such a text; none of an empty one."""
    if not text:
        return {}
    with np.load(io.BytesIO(base64.b64decode(text))) as file:
        return dict(file)


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
