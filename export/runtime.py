"""Run an exported file with ONNX Runtime alone: numpy in, numpy out, no torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from compiled_rl.export.buffers import Buffers, draw
from compiled_rl.export.errors import CorruptedError, said
from compiled_rl.export.names import CONTRACT_KEY, STATE_KEY, arrays_of, fits
from compiled_rl.export.promises import Port, check_promises
from compiled_rl.export.session import Providers, failed, open_session
from compiled_rl.export.vouched import check_same, contract_beside, parsed
from compiled_rl.files import existing

Arrays = dict[str, np.ndarray]
_IS_INIT = "is_init"


class Expected(NamedTuple):
    """What an input or an output of the file must be.

    Attributes:
        shape: a size, the name of an axis, which has one size in all inputs, or None.
    """

    name: str
    dtype: np.dtype
    shape: list[int | str | None]

    def check(self, owner: str, array: Any, sizes: dict[str, int]) -> None:
        """Refuse an array that the session would refuse without naming it, or broadcast.

        Args:
            owner: the class that was called, for the words of the error.
            array: what was given.
            sizes: of the axes that were seen before; those of this array are added.
        """
        given = getattr(array, "dtype", type(array).__name__)
        if given == self.dtype and fits(self.shape, array.shape, sizes):
            return
        hint = f"; convert it with `.astype(np.{self.dtype})`" if given != self.dtype else ""
        raise ValueError(
            f"{owner}: `{self.name}` must be a {self.dtype} array of shape {self.shape} with "
            f"{sizes}, got {given} of shape {list(np.shape(array))}{hint}"
        )


class _OnnxFile:
    """An open file and what it says of itself.

    Attributes:
        contract: names, shapes, dtypes, versions, verification; empty in a file of another hand.
        stored: what is stored of the state to begin with.
    """

    def __init__(self, path: str | Path, providers: Providers) -> None:
        owner = type(self).__name__
        path = existing(owner, path)
        beside = contract_beside(path)  # which the file is held to before the runtime reads it
        self.session = open_session(owner, path, providers)
        self.expected = {x.name: _expected(x) for x in self.session.get_inputs()}
        self.inputs = list(self.expected)
        self.outputs = [x.name for x in self.session.get_outputs()]
        self.providers: list[str] = self.session.get_providers()
        self.contract, self.stored = self._read(path)
        check_same(path, self.contract, beside)

    def _read(self, path: Path) -> tuple[dict[str, Any], Arrays]:
        """The contract and the state that the file holds, if they are of this graph."""
        try:
            texts = self.session.get_modelmeta().custom_metadata_map
            contract = parsed(texts.get(CONTRACT_KEY, "{}"))
            stored = arrays_of(texts.get(STATE_KEY, ""))
            if contract or stored:
                outputs = [_expected(x) for x in self.session.get_outputs()]
                check_promises(contract, _ports(self.expected.values()), _ports(outputs), stored)
        except Exception as error:  # whatever a structure that is none leads to
            raise CorruptedError(
                f"{type(self).__name__}: {path} is corrupted, its contract is of no such graph: "
                f"{said(error)}"
            ) from None
        return contract, stored

    def _check(self, arrays: Mapping[str, Any]) -> dict[str, int]:
        """Hold arrays to the file; the sizes of the axes that have names."""
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            self.expected[name].check(type(self).__name__, array, sizes)
        return sizes


class OnnxModel(_OnnxFile):
    """An exported file as a function of named arrays.

    Args:
        path: of the ``.onnx`` file; if its contract is beside it, its SHA-256 is compared.
        providers: of ONNX Runtime, in the order in which they are tried; None: CUDA, without
            TF32, where the session gets it, else the CPU. ``self.providers`` says which it got.

    Raises:
        FileNotFoundError: there is no such file.
        InstallationError: two distributions of ONNX Runtime have overwritten each other.
        CorruptedError: the file is damaged, or no ONNX model.
        ValueError: a provider is not there.
    """

    def __init__(self, path: str | Path, *, providers: Providers = None) -> None:
        super().__init__(path, providers)

    def __call__(self, /, **arrays: np.ndarray) -> Arrays:
        """The outputs by name.

        Raises:
            ValueError: the arrays' names are not the inputs, or a dtype or shape does not fit.
        """
        if sorted(arrays) != sorted(self.inputs):
            raise ValueError(f"OnnxModel: the inputs are {self.inputs}, got {list(arrays)}")
        self._check(arrays)
        try:
            outputs = self.session.run(self.outputs, arrays)
        except Exception as error:
            raise failed(error) from None
        return dict(zip(self.outputs, outputs, strict=True))


class OnnxPolicy(_OnnxFile):
    """An exported policy that acts: it remembers, draws its noise and holds its parameters.

    .. code-block:: python

        policy = OnnxPolicy("policy.onnx")
        action = policy(observation)                 # [environments, ...], float32
        policy.reset(terminated | truncated)         # these environments begin anew

    What the contract names as state is carried from call to call, and is zero where an episode
    begins; an input ``is_init`` is told so. Noise is drawn. Parameters that are inputs are held at
    the values that the file has, until ``load``. Any of these may be given by name, for one call: a
    state that was saved, for instance, from which an episode then goes on.

    On the CPU, arrays are bound to buffers once for a number of environments and used at every
    call; what is returned is a copy. On other providers the runtime moves the arrays at each call.
    One object is for one thread.

    Args:
        path: of the ``.onnx`` file; if its contract is beside it, its SHA-256 is compared.
        providers: as in ``OnnxModel``. TensorRT is ``("TensorrtExecutionProvider",
            "CUDAExecutionProvider")``; with options it is a pair, ``("TensorrtExecutionProvider",
            {"trt_fp16_enable": True, "trt_engine_cache_enable": True,
            "trt_engine_cache_path": "engines"})``.
        seed: of the noise.

    Attributes:
        observations: the inputs that a call must be given, in order.
        held: the parameters, by input name.

    Raises:
        FileNotFoundError: there is no such file.
        InstallationError: two distributions of ONNX Runtime have overwritten each other.
        CorruptedError: the file is damaged, or no ONNX model.
        ValueError: a provider is not there.
    """

    def __init__(self, path: str | Path, *, providers: Providers = None, seed: int = 0) -> None:
        super().__init__(path, providers)
        contract, stored = self.contract, self.stored
        state: dict[str, Optional[str]] = contract.get("state", {})
        self.held = {name: np.array(stored[name], order="C") for name in state if name in stored}
        self._carried = {k: out for k, out in state.items() if out and k not in stored}
        self._noise = {x["name"]: x["noise"] for x in contract.get("inputs", ()) if "noise" in x}
        kept = {*self.held, *self._carried, *self._noise, _IS_INIT}
        self.observations = [name for name in self.inputs if name not in kept]
        self._returned = [name for name in self.outputs if name not in state.values()]
        self._promised = contract.get("outputs", ())
        self._generator = np.random.default_rng(seed)
        self._buffers: Optional[Buffers] = None

    def __call__(self, *observations: np.ndarray, **named: np.ndarray) -> np.ndarray | Arrays:
        """The action; by name, where there are other outputs beside it that are no state.

        Args:
            observations: in the order of ``self.observations``, environments first.
            named: observations by name, and of the other inputs those that are to be used for this
                call instead of what is carried, drawn or held.

        Raises:
            ValueError: the arrays are not the observations, a dtype or shape does not fit, or the
                number of environments is another while their state is carried.
        """
        given = dict(zip(self.observations, observations, strict=False))
        if named or len(observations) != len(self.observations):
            given |= named
            self._check_names(observations, named, given)
        buffers = self._buffers
        if buffers is None or not buffers.fit(given):
            buffers = self._buffers = self._sized(given)
        instead = {name: x for name, x in named.items() if name in self.held} if named else {}
        outputs = self._run(buffers, given, instead)
        if len(self._returned) == 1:
            return outputs[self._returned[0]].copy()
        return {name: outputs[name].copy() for name in self._returned}

    def reset(self, mask: Optional[np.ndarray] = None) -> None:
        """Begin new episodes: the state is zero, and ``is_init`` is true at the next call.

        Args:
            mask: which environments, bool ``[environments]``, such as ``terminated | truncated``;
                None: all of them, and the next call may be of another number.

        Raises:
            ValueError: the mask has another dtype or shape.
        """
        if mask is None or self._buffers is None:
            self._buffers = None
            return
        inputs = self._buffers.inputs
        rows, mask = len(inputs[self.observations[0]]), np.asarray(mask)
        if mask.dtype != bool or mask.shape != (rows,):
            raise ValueError(
                f"OnnxPolicy.reset: `mask` must be a bool array of shape [{rows}], "
                f"got {mask.dtype} of shape {list(mask.shape)}"
            )
        for name in self._carried:
            np.moveaxis(inputs[name], self._row_axis(name), 0)[mask] = 0
        if _IS_INIT in inputs:
            inputs[_IS_INIT][mask] = True

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Hold other parameters from now on.

        Args:
            arrays: by input name; there may be others, which are not read, and some may be missing,
                which stay: the whole state of a training step will do.

        Raises:
            ValueError: it has no parameter of the file, or one of another dtype or shape.
        """
        new = {name: arrays[name] for name in self.held if name in arrays}
        if not new:
            raise ValueError(
                f"OnnxPolicy.load: `arrays` must have some of the parameters {list(self.held)}, "
                f"got {list(arrays)}"
            )
        self._check(new)
        for name, array in new.items():
            np.copyto(self.held[name], array)

    def _check_names(
        self, observations: tuple[np.ndarray, ...], named: Arrays, given: Arrays
    ) -> None:
        once = len(given) == len(observations) + len(named)
        if not once or not set(self.observations) <= set(given) <= set(self.inputs):
            raise ValueError(
                f"OnnxPolicy: the observations are {self.observations}, got {len(observations)} in "
                f"order and {list(named)} by name"
            )

    def _run(self, buffers: Buffers, given: Mapping[str, np.ndarray], instead: Arrays) -> Arrays:
        inputs = buffers.inputs
        for name, array in given.items():
            if name not in instead:
                inputs[name][...] = array
        for name, kind in self._noise.items():
            if name not in given:
                draw(self._generator, kind, inputs[name])
        outputs = buffers.run(instead)
        for name, output in self._carried.items():
            inputs[name][...] = outputs[output]
        if _IS_INIT in inputs:
            inputs[_IS_INIT].fill(False)
        return outputs

    def _sized(self, given: Mapping[str, np.ndarray]) -> Buffers:
        """Buffers of the sizes of what is given; every episode begins, or goes on from a state."""
        sizes = self._check(given)
        if self._buffers is not None and self._carried:
            before = self._check({k: self._buffers.inputs[k] for k in given})
            raise ValueError(
                f"OnnxPolicy: the sizes must be {before} as at the call before, whose state is "
                f"carried, got {sizes}; call reset() to begin anew"
            )
        inputs = {
            name: self.held[name] if name in self.held else _zeros(x, given.get(name), sizes)
            for name, x in self.expected.items()
        }
        if _IS_INIT in inputs:
            inputs[_IS_INIT].fill(given.keys().isdisjoint(self._carried))
        return Buffers(self.session, inputs, self._promised, sizes)

    def _row_axis(self, name: str) -> int:
        """Which axis of a state is that of the environments."""
        rows, shape = self.expected[self.observations[0]].shape[0], self.expected[name].shape
        if rows not in shape:
            raise ValueError(
                f"OnnxPolicy.reset: `mask` must go with a state that has the axis {rows!r}, got "
                f"{shape} for `{name}`"
            )
        return shape.index(rows)


def _expected(x: Any) -> Expected:
    return Expected(x.name, _DTYPES.get(x.type, np.dtype("O")), list(x.shape))


def _ports(expected: Iterable[Expected]) -> list[Port]:
    return [Port(x.name, str(x.dtype), x.shape) for x in expected]


def _zeros(x: Expected, given: Optional[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
    """A buffer of the given array's shape, or of the sizes that the others have."""
    if given is not None:
        return np.zeros(given.shape, x.dtype)
    unknown = [axis for axis in x.shape if not isinstance(axis, int) and axis not in sizes]
    if unknown:
        raise ValueError(
            f"OnnxPolicy: `{x.name}` must be given, got none, and no other input has its axes "
            f"{unknown}"
        )
    shape = [axis if isinstance(axis, int) else sizes[str(axis)] for axis in x.shape]
    return np.zeros(shape, x.dtype)


_DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    "tensor(float16)": np.dtype("float16"),
    "tensor(bool)": np.dtype("bool"),
    "tensor(uint8)": np.dtype("uint8"),
    "tensor(uint16)": np.dtype("uint16"),
    "tensor(uint32)": np.dtype("uint32"),
    "tensor(uint64)": np.dtype("uint64"),
    "tensor(int8)": np.dtype("int8"),
    "tensor(int16)": np.dtype("int16"),
    "tensor(int32)": np.dtype("int32"),
    "tensor(int64)": np.dtype("int64"),
}
