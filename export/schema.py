"""The published schema of a contract: what is in the file, and in the JSON beside it."""

import json
from typing import Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Number = float | list[float]
Format = Literal["onnx", "pt2", "aotinductor", "torchscript", "tensorrt"]
Shape = list[int | str | None]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Entry(_Strict):
    """An input or an output of the file."""

    name: str
    dtype: str = Field(description="as numpy writes it")
    shape: Shape = Field(description="a size, the name of an axis, or null: neither")
    meaning: Optional[str] = None
    low: Optional[Number] = Field(
        default=None, description="smallest value, one or one a component"
    )
    high: Optional[Number] = Field(
        default=None, description="largest value, one or one a component"
    )
    components: Optional[list[str]] = Field(default=None, description="names along the last axis")
    noise: Optional[Literal["normal", "uniform"]] = Field(
        None, description="drawn by the caller: standard normal, or uniform in [0, 1)"
    )


class Normalizer(_Strict):
    """An observation normaliser that the graph holds: ``(x - mean) / sqrt(var + epsilon)``."""

    mean: Any
    var: Any
    epsilon: float
    clip: float


class Measured(_Strict):
    """One size at which the file was compared with eager."""

    sizes: dict[str, int]
    max_error: float = Field(description="largest absolute difference")
    ties: int = Field(default=0, description="values that differ by more, where rounding decides")


class Schedule(_Strict):
    """How a file that holds several updates is called."""

    epochs: int = Field(ge=1)
    minibatch_size: int = Field(ge=1, description="in rows")
    target_kl: Optional[float] = Field(
        default=None, description="an epoch above it is the last one"
    )
    kl: Optional[str] = Field(default=None, description="the metric that is held to it")


class Contract(_Strict):
    """What a file promises: names, shapes, state, units, versions, and how it was proven."""

    schema_version: Literal[1] = 1
    format: Format
    target: str = Field(description="what was exported: a class or a function")
    algorithm: Optional[str] = None
    inputs: list[Entry]
    outputs: list[Entry]
    dynamic: list[str] = Field(description="the names of the axes that may have any size")
    max: dict[str, int] = Field(description="the largest size of each axis that has one")
    state: dict[str, Optional[str]] = Field(
        description="inputs that the caller keeps, and the output that replaces each; null: none"
    )
    schedule: Optional[Schedule] = None
    control_rate: Optional[float] = Field(default=None, gt=0, description="in Hz")
    action_scale: Optional[Number] = None
    action_offset: Optional[Number] = None
    normalizer: Optional[Normalizer] = None
    versions: dict[str, Any]
    verification: list[Measured] = []
    sha256: Optional[str] = Field(default=None, description="of the file; beside it only")


def first_of(error: ValidationError) -> str:
    """Where a contract is none first, and why."""
    (first, *_) = error.errors()
    return f"at {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


if __name__ == "__main__":
    print(json.dumps(Contract.model_json_schema(), indent=2))
