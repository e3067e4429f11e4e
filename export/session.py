"""Open a file in ONNX Runtime: an intact file, on the providers that were asked for."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Optional

from compiled_rl.export.errors import CorruptedError, InstallationError, said
from compiled_rl.extras import needed_by

with needed_by(__name__):
    import onnxruntime

CPU = "CPUExecutionProvider"
Provider = str | tuple[str, dict[str, Any]]
Providers = Optional[Sequence[Provider]]

# With TF32, which is the runtime's default, float32 has three digits.
_PREFERRED: tuple[Provider, ...] = (("CUDAExecutionProvider", {"use_tf32": 0}), CPU)
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


def open_session(owner: str, path: Path, providers: Providers = None) -> Any:
    """A session of the file.

    Args:
        owner: the class for which it is opened, for the words of an error.
        path: of the ``.onnx`` file.
        providers: names, or names with options, in the order in which they are tried; None: CUDA,
            without TF32, where the session gets it, else the CPU.

    Raises:
        InstallationError: two distributions of ONNX Runtime have overwritten each other.
        CorruptedError: the file is no model that can be run.
        ValueError: a provider is not there.
    """
    _check_installation(owner)
    asked = _names(owner, providers)
    _check_providers(owner, asked, onnxruntime.get_available_providers())
    session = _session(owner, path, _preferred() if providers is None else list(providers))
    _check_providers(owner, asked, session.get_providers())
    return session


def _session(owner: str, path: Path, providers: list[Provider]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # waking a second thread costs more than a small network
    again = int(providers != [CPU])  # on the CPU, which would print that it is what is tried again
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=providers, enable_fallback=again
        )
    except Exception as error:
        raise CorruptedError(
            f"{owner}: {path} is not a model that can be run: {said(error)}"
        ) from None


def _preferred() -> list[Provider]:
    available = onnxruntime.get_available_providers()
    return [item for item in _PREFERRED if _name(item) in available]


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _names(owner: str, providers: Providers) -> list[str]:
    """Of the providers that were asked for, without their options."""
    if isinstance(providers, str):
        raise ValueError(f"{owner}: `providers` must be a sequence of names, got {providers!r}")
    return [_name(item) for item in providers or ()]


def _check_providers(owner: str, asked: list[str], got: list[str]) -> None:
    """Refuse a provider without which the session would be slower than asked for."""
    missing = [name for name in asked if name not in got]
    if missing:
        raise ValueError(
            f"{owner}: `providers` must be of those that ONNX Runtime gets here, {got}, "
            f"got {missing}; onnxruntime-gpu has CUDA and TensorRT, if their libraries are found"
        )


def _check_installation(owner: str) -> None:
    """Both distributions are the module ``onnxruntime``: together they are a mixture of files."""
    together = all(_is_installed(name) for name in _DISTRIBUTIONS)
    if together or not hasattr(onnxruntime, "InferenceSession"):
        found = "both installed" if together else "what is left of them is empty"
        raise InstallationError(
            f"{owner}: one of onnxruntime and onnxruntime-gpu must be installed, {found}; run "
            "`pip uninstall -y onnxruntime onnxruntime-gpu` and install the one that you want"
        )


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def failed(error: Exception) -> ValueError:
    """What a session says of a call, in one sentence."""
    return ValueError(f"ONNX Runtime must run the file on these inputs, got: {said(error)}")
