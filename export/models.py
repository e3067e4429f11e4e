"""Run a file of torch's own forms: named tensors in, named tensors out."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compiled_rl.export.errors import CorruptedError, said
from compiled_rl.export.names import CONTRACT_KEY, STATE_KEY, arrays_of, fits
from compiled_rl.export.promises import check_state
from compiled_rl.export.signature import flat
from compiled_rl.export.stored import checked_contract, read_contract
from compiled_rl.export.verify import dtype_name
from compiled_rl.files import existing


class TorchModel:
    """A loaded file as a function of named tensors, which are held to the file's contract first.

    A compiled package trusts its inputs: one of another shape or layout is read as if it fitted.

    Args:
        program: the file itself, positional tensors in the order of ``inputs``.
        texts: what is stored in the file beside it, the contract and perhaps a state.

    Attributes:
        state: of inputs that the caller keeps, such as parameters, the values to begin with.
    """

    def __init__(self, program: Callable[..., Any], texts: Mapping[str, str]) -> None:
        self.program = program
        self.contract = checked_contract(texts[CONTRACT_KEY])
        stored = arrays_of(texts.get(STATE_KEY, ""))
        check_state(self.contract, stored)
        self.state = {name: torch.from_numpy(x) for name, x in stored.items()}
        self.inputs = [x["name"] for x in self.contract["inputs"]]
        self.outputs = [x["name"] for x in self.contract["outputs"]]
        self._accepted: list[Any] = []

    def __call__(self, /, **tensors: Tensor) -> dict[str, Tensor]:
        """The outputs by name.

        Raises:
            ValueError: the tensors' names are not the inputs, a dtype or shape does not fit, an
                axis is longer than its bound, or the program refuses them.
        """
        kinds = [(name, x.dtype, x.shape) for name, x in tensors.items()]
        if kinds != self._accepted:  # to look at every one takes as long as a small network
            self._check(tensors)
            self._accepted = kinds
        try:
            outputs = flat(self.program(*[tensors[name].contiguous() for name in self.inputs]))
            return dict(zip(self.outputs, outputs.values(), strict=True))
        except Exception as error:
            raise ValueError(
                f"TorchModel: the program must run on these inputs, got: {said(error)}"
            ) from error

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold tensors to the contract."""
        if sorted(tensors) != sorted(self.inputs):
            raise ValueError(f"TorchModel: the inputs are {self.inputs}, got {list(tensors)}")
        sizes: dict[str, int] = {}
        for expected in self.contract["inputs"]:
            _check(expected, tensors[expected["name"]], sizes)
        for axis, limit in self.contract.get("max", {}).items():
            if sizes[axis] > limit:
                raise ValueError(f"TorchModel: `{axis}` must be at most {limit}, got {sizes[axis]}")


def _check(expected: Mapping[str, Any], x: Tensor, sizes: dict[str, int]) -> None:
    """Refuse a tensor that does not fit; an axis that has a name has one size in all inputs."""
    dtype, shape = expected["dtype"], expected["shape"]
    if dtype_name(x) != dtype or not fits(shape, x.shape, sizes):
        raise ValueError(
            f"TorchModel: `{expected['name']}` must be a {dtype} tensor of shape {shape} with "
            f"{sizes}, got {dtype_name(x)} of shape {list(x.shape)}"
        )


@contextmanager
def reading(function: str, path: str | Path) -> Iterator[None]:
    """Hold a file to its contract first, and leave out torch's remarks on old formats.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: it is damaged, or not what ``function`` reads.
    """
    existing(function, path)
    try:
        read_contract(function, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except CorruptedError as error:
        raise CorruptedError(f"{function}: {error}") from None
    except Exception as error:
        raise CorruptedError(
            f"{function}: {path} is not a file that can be run: {said(error)}"
        ) from None
