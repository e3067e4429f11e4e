"""What every file keeps of itself, and under which names; runtimes need no more than numpy."""

import base64
import io
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
