"""Exporters and readers with arguments that they must refuse before they begin.

A valid call takes seconds, or needs a file.
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compiled_rl import export, training
from tests.fuzz.call import WORDS, Call, Made

NO_PATH = {"None", "an object", "an empty dict", "a number", "bytes"}
SUFFIXES = {"to_onnx": ".onnx", "to_pt2": ".pt2", "to_aotinductor": ".pt2", "to_torchscript": ".pt"}
WAYS = {
    "target": {"None", "a string", "an object", "an empty dict", "a number"},
    "example": {"None", "a string", "an object", "a number"},
    "path": {"None", "an object", "an empty dict"},
    "dynamic": {"an object", "a number", "None inside"},
    "opset": {"a string", "an object", "a float", "-1", "0", "1000", "True"},
    "max_time": {"a string", "an object", "a float", "-1", "0", "True"},
}


def of_exporter(name: str, suffix: str) -> Call:
    function = getattr(export, name)

    def make() -> Made:
        path = Path("runs") / "fuzz" / f"never-written{suffix}"
        given: dict[str, Any] = {"target": nn.Linear(3, 2), "example": torch.ones(2, 3)}
        given |= {"path": path, "dynamic": ["batch"]}
        return function, given

    return Call(f"export.{name}", make, only=WAYS)


def of_reader(function: Any, **others: Any) -> Call:
    """What reads a file, which there is not: a file that is damaged is another fuzzer's."""

    def make() -> Made:
        return function, {"path": "runs/fuzz/nothing", **others}

    folder = "training" if function is training.load_checkpoint else "export"
    constructs = "()" if inspect.isclass(function) else ""
    return Call(f"{folder}.{function.__name__}{constructs}", make, only={"path": NO_PATH | WORDS})


def of_checkpoint() -> Call:
    def make() -> Made:
        return training.save_checkpoint, {"path": Path("runs/fuzz/never-written"), "state": {}}

    ways = {"path": NO_PATH, "state": {"None", "a string", "an object", "a number", "a list"}}
    return Call("training.save_checkpoint", make, only=ways)


def calls() -> list[Call]:
    files = [of_exporter(name, suffix) for name, suffix in SUFFIXES.items()]
    readers = [
        export.load_artefact, export.load_pt2, export.load_aotinductor, export.load_torchscript,
        export.load_tensorrt, export.OnnxModel, export.OnnxPolicy, export.OnnxTrainer,
        training.load_checkpoint,
    ]  # fmt: skip
    verified = of_reader(export.verify_artefact, target=nn.Linear(3, 2), example=torch.ones(2, 3))
    return [*files, *map(of_reader, readers), verified, of_checkpoint()]
