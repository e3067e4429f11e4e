"""Exporters with arguments that they must refuse before they begin: a valid call takes seconds."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from compiled_rl import export
from tests.fuzz.call import Call, Made

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


def calls() -> list[Call]:
    return [of_exporter(name, suffix) for name, suffix in SUFFIXES.items()]
