"""Prove again, later or elsewhere, that a file computes what eager computes."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from compiled_rl.export.artefact import speaking_as
from compiled_rl.export.errors import ExportError
from compiled_rl.export.options import Options
from compiled_rl.export.signature import Example, Target, at_rest
from compiled_rl.export.stored import read_contract
from compiled_rl.export.subject import Subject, subject_of
from compiled_rl.export.trials import draw_trials
from compiled_rl.export.verify import Model, Report, verify, verify_bound
from compiled_rl.files import existing

_LOADERS = {
    "onnx": ("compiled_rl.export.onnx", "OnnxTensors"),
    "pt2": ("compiled_rl.export.pt2", "load_pt2"),
    "aotinductor": ("compiled_rl.export.aotinductor", "load_aotinductor"),
    "torchscript": ("compiled_rl.export.torchscript", "load_torchscript"),
    "tensorrt": ("compiled_rl.export.tensorrt", "load_tensorrt"),
}


def verify_artefact(
    path: str | Path, target: Target, example: Example, seed: int = 1, **options: Unpack[Options]
) -> Report:
    """Compare every output of a file with eager's, in the runtime that runs it, on fresh inputs.

    Args:
        path: what ``to_onnx``, ``to_pt2``, ``to_aotinductor`` or ``to_torchscript`` wrote. Which
            axes may change, and how far, its contract says.
        target: what it was made of, or must compute the same as.
        example: as it was given there.
        seed: of the inputs that are drawn; 0 are those that the file was made with.
        **options: as they were given there; see ``Options``.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or none that can be run.
        ExportError: it does not compute the same.
    """
    path = existing("verify_artefact", path)
    contract = read_contract("verify_artefact", path)
    model = load_artefact(path)
    with speaking_as("verify_artefact"), at_rest(target):
        subject = subject_as(contract, target, example, options)
        trials = draw_trials(subject, seed)
        checks = verify(model, subject, trials, options.get("tolerance"))
        verify_bound(model, subject)
    return Report(path, path.stat().st_size, checks)


def load_artefact(path: str | Path) -> Model:
    """A file as a function of named tensors, whichever form its contract says that it has.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or none that can be run.
    """
    home, name = _LOADERS[read_contract("load_artefact", path)["format"]]
    model: Model = getattr(import_module(home), name)(path)
    return model


def subject_as(
    contract: Mapping[str, Any], target: Target, example: Example, options: Options
) -> Subject:
    """The target with the axes of a contract.

    Raises:
        ExportError: its inputs are others.
    """
    fixed = subject_of(target, example, {}, None, False, options)
    shapes = {entry["name"]: entry["shape"] for entry in contract["inputs"]}
    ranks = {name: x.dim() for name, x in fixed.example.items()}
    if ranks != {name: len(shape) for name, shape in shapes.items()}:
        raise ExportError(
            f"the target must have the inputs of the file, {shapes}, got "
            f"{ {name: list(x.shape) for name, x in fixed.example.items()} }"
        )
    dynamic = {
        name: [axis if isinstance(axis, str) else None for axis in shape]
        for name, shape in shapes.items()
    }
    return subject_of(target, example, dynamic, contract["max"].get("time"), False, options)
