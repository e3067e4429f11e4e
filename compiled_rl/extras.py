"""The libraries that most of this package works without, and one sentence where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

_ONNX = "'compiled_rl[onnx]'"  # or [onnx-gpu], which brings the same modules
_EXAMPLES = "'compiled_rl[examples]'"
_INSTALLED_BY = {
    "tensordict": "tensordict",
    "numpy": "numpy",
    "numba": "numba",
    "pydantic": "pydantic",
    "onnx": _ONNX,
    "onnx_ir": _ONNX,
    "onnxscript": _ONNX,
    "onnxruntime": _ONNX,
    "torch_tensorrt": "'compiled_rl[tensorrt]'",
    "typer": "'compiled_rl[cli]'",
    "rich": "'compiled_rl[cli]'",
    "gymnasium": _EXAMPLES,
    "mujoco": _EXAMPLES,
    "matplotlib": _EXAMPLES,
    "torchrl": "'compiled_rl[torchrl]'",
}


def what_is_missing(owner: str, error: ModuleNotFoundError) -> str:
    """The sentence: who needs what, and how it is installed; else that of the error."""
    library = (error.name or "").partition(".")[0]
    if library not in _INSTALLED_BY:
        return str(error)
    return f"{owner}: {library} must be installed, got none; pip install {_INSTALLED_BY[library]}"


@contextmanager
def needed_by(owner: str) -> Iterator[None]:
    """Import what ``owner`` needs.

    Raises:
        ModuleNotFoundError: it is not installed; with how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sentence = what_is_missing(owner, error)
        raise ModuleNotFoundError(sentence, name=error.name) from None
