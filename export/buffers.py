"""The arrays of one call of a session, used again at the next."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from compiled_rl.export.session import CPU, failed

Arrays = dict[str, np.ndarray]


class Buffers:
    """Inputs that are written to and a session that reads them where they are.

    On the CPU alone they are bound to the session, and so are the outputs if their shapes are
    known; other providers copy what is bound when it is bound, and not when it is run.

    Args:
        session: of ONNX Runtime.
        inputs: by name, C-contiguous.
        promised: the outputs as the contract has them: name, dtype and shape.
        sizes: of the axes that have names.
    """

    def __init__(
        self,
        session: Any,
        inputs: Arrays,
        promised: Sequence[Mapping[str, Any]],
        sizes: Mapping[str, int],
    ) -> None:
        self.inputs = inputs
        self._session = session
        self._names = [x.name for x in session.get_outputs()]
        outputs = _outputs(promised, sizes, {x.name: x.shape for x in session.get_outputs()})
        is_bound = session.get_providers() == [CPU] and outputs and list(outputs) == self._names
        self._outputs: Optional[Arrays] = outputs if is_bound else None
        self._binding = _binding(session, inputs, outputs or {}) if is_bound else None

    def fit(self, given: Mapping[str, Any]) -> bool:
        """Whether arrays have the dtypes and shapes of the buffers."""
        for name, array in given.items():
            buffer = self.inputs[name]
            if getattr(array, "dtype", None) != buffer.dtype or array.shape != buffer.shape:
                return False
        return True

    def run(self, instead: Arrays) -> Arrays:
        """The outputs by name, until the next call.

        Args:
            instead: of some inputs, the arrays that are read in place of the buffers.

        Raises:
            ValueError: the runtime refuses them.
        """
        try:
            if self._outputs is None or instead:
                arrays = self._session.run(self._names, {**self.inputs, **instead})
                return dict(zip(self._names, arrays, strict=True))
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise failed(error) from None
        return self._outputs


def _outputs(
    promised: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, int],
    found: Mapping[str, Sequence[int | str | None]],
) -> Optional[Arrays]:
    """Arrays for the outputs; None, where an axis is neither the graph's size nor an input's."""
    outputs: Arrays = {}
    for x in promised:
        axes = zip(x["shape"], found[x["name"]], strict=True)
        shape = [sizes.get(axis) if isinstance(axis, str) else real for axis, real in axes]
        shape = [size if isinstance(size, int) else None for size in shape]
        if None in shape:
            return None
        outputs[x["name"]] = np.empty(shape, x["dtype"])  # type: ignore[arg-type]
    return outputs


def _binding(session: Any, inputs: Arrays, outputs: Arrays) -> Any:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding


def draw(generator: np.random.Generator, kind: str, buffer: np.ndarray) -> None:
    """Fill a buffer with standard normal noise, or with uniform noise in [0, 1)."""
    source: Any = generator.random if kind == "uniform" else generator.standard_normal
    source(out=buffer, dtype=buffer.dtype)
