"""Run an exported file with ONNX Runtime alone: numpy in, numpy out, no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compiled_rl.export.names import CONTRACT_KEY


class OnnxModel:
    """An exported file as a function of named arrays.

    Args:
        path: of the ``.onnx`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no ONNX model.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"OnnxModel: `path` must be a file, got {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # waking a second thread costs more than a small network
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ValueError(f"OnnxModel: {path} is not a model that can be run: {error}") from None
        self.inputs = [x.name for x in self.session.get_inputs()]
        self.outputs = [x.name for x in self.session.get_outputs()]

    @property
    def contract(self) -> dict[str, Any]:
        """What the file says of itself: names, shapes, dtypes, versions, verification."""
        stored = self.session.get_modelmeta().custom_metadata_map
        contract: dict[str, Any] = json.loads(stored.get(CONTRACT_KEY, "{}"))
        return contract

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            ValueError: the arrays' names are not the inputs, or a dtype or shape does not fit.
        """
        if sorted(arrays) != sorted(self.inputs):
            raise ValueError(f"OnnxModel: the inputs are {self.inputs}, got {list(arrays)}")
        for expected in self.session.get_inputs():
            _check(expected, arrays[expected.name])
        return dict(zip(self.outputs, self.session.run(self.outputs, arrays), strict=True))


def _check(expected: Any, array: Any) -> None:
    """Refuse an array that the session would refuse without naming it."""
    dtype = _DTYPES.get(expected.type)
    fixed = [(a, b) for a, b in zip(expected.shape, np.shape(array), strict=False)]
    fits = len(expected.shape) == np.ndim(array)
    fits = fits and all(a == b for a, b in fixed if isinstance(a, int))
    if getattr(array, "dtype", None) != dtype or not fits:
        raise ValueError(
            f"OnnxModel: `{expected.name}` must be a {dtype} array of shape {expected.shape}, "
            f"got {getattr(array, 'dtype', type(array).__name__)} of shape {list(np.shape(array))}"
        )


_DTYPES = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    "tensor(float16)": np.dtype("float16"),
    "tensor(bool)": np.dtype("bool"),
    "tensor(uint8)": np.dtype("uint8"),
    "tensor(int8)": np.dtype("int8"),
    "tensor(int16)": np.dtype("int16"),
    "tensor(int32)": np.dtype("int32"),
    "tensor(int64)": np.dtype("int64"),
}
