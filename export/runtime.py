"""Run an exported file with ONNX Runtime alone: numpy in, numpy out, no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

CONTRACT_KEY = "compiled_rl.contract"


class OnnxModel:
    """An exported file as a function of named arrays.

    Args:
        path: of the ``.onnx`` file.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"OnnxModel: `path` must be a file, got {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # waking a second thread costs more than a small network
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
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
            ValueError: the arrays' names are not the inputs.
        """
        if sorted(arrays) != sorted(self.inputs):
            raise ValueError(f"OnnxModel: the inputs are {self.inputs}, got {list(arrays)}")
        return dict(zip(self.outputs, self.session.run(self.outputs, arrays), strict=True))
