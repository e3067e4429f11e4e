"""Ship what was trained: files that prove themselves, and a runtime without torch.

An export goes through ``signature`` and ``subject`` (what is exported, under which names and axes),
``artefact`` (all or nothing), a file for each form (``onnx``, ``pt2``, ...) on top of ``program``,
``verify`` and ``contract``. ``training`` makes subjects of training steps. ``runtime``, ``trainer``
and what they import need numpy and onnxruntime only. A file that is opened is held to its digest by
``vouched``, to its contract by ``stored`` and ``promises``, and to tensors alone by ``portable``.
``again``, ``recipe`` and ``latency`` are for the command line. Imported lazily.
"""

from importlib import import_module

from compiled_rl.extras import needed_by

_HOME = {
    "to_onnx": "compiled_rl.export.onnx",
    "to_pt2": "compiled_rl.export.pt2",
    "to_aotinductor": "compiled_rl.export.aotinductor",
    "to_torchscript": "compiled_rl.export.torchscript",
    "to_tensorrt": "compiled_rl.export.tensorrt",
    "CorruptedError": "compiled_rl.export.errors",
    "ExportError": "compiled_rl.export.errors",
    "InstallationError": "compiled_rl.export.errors",
    "Contract": "compiled_rl.export.schema",
    "Deployment": "compiled_rl.export.options",
    "Options": "compiled_rl.export.options",
    "Report": "compiled_rl.export.verify",
    "OnnxTrainer": "compiled_rl.export.trainer",
    "OnnxModel": "compiled_rl.export.runtime",
    "OnnxPolicy": "compiled_rl.export.runtime",
    "TorchModel": "compiled_rl.export.models",
    "load_artefact": "compiled_rl.export.again",
    "verify_artefact": "compiled_rl.export.again",
    "load_pt2": "compiled_rl.export.pt2",
    "load_aotinductor": "compiled_rl.export.aotinductor",
    "load_torchscript": "compiled_rl.export.torchscript",
    "load_tensorrt": "compiled_rl.export.tensorrt",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'compiled_rl.export' has no attribute '{name}'")
    with needed_by(f"compiled_rl.export.{name}"):
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
