"""Export to TensorRT, through torch-tensorrt: an engine for one kind of GPU, in a ``.pt2`` file."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional, Unpack

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.export.pt2_archive._package import load_pt2 as read_archive

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import TIME, Axes, Dynamic, Range, check_example
from compiled_rl.export.errors import ExportError
from compiled_rl.export.models import TorchModel, reading
from compiled_rl.export.options import Options
from compiled_rl.export.program import portable_program
from compiled_rl.export.signature import Example, Target
from compiled_rl.export.subject import Subject
from compiled_rl.export.verify import Report

_DEVICE = "cuda"
_BATCH = (1, 64, 4096)
Shapes = Optional[Mapping[str, Sequence[int]]]


def to_tensorrt(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Dynamic = ("batch",),
    max_time: Optional[int] = None,
    *,
    shapes: Shapes = None,
    fp16: bool = False,
    **options: Unpack[Options],
) -> Report:
    """Build a TensorRT engine of a policy, a network or a function that computes the same.

    .. code-block:: python

        import torch_tensorrt
        torch.export.load(path).module()(*tensors.values())         # without this package
        load_tensorrt(path)(**tensors)                              # held to its contract

    The program is that of ``to_pt2``, built by torch-tensorrt for the GPU that is there and for
    sizes within ``shapes``; it refuses others. Operators that TensorRT has not are left to torch.
    The file is verified like every other, on that GPU, at the three sizes of each axis. TF32 is
    off, since with it float32 has three digits.

    Not tried on a GPU: this package is tested up to the call of torch-tensorrt 2.13, of which only
    the signatures were read. ``OnnxPolicy`` with ``TensorrtExecutionProvider`` is another way.

    Args:
        target: as in ``to_onnx``, with its parameters on the CPU.
        example: as in ``to_onnx``, on the CPU.
        path: where to write, ending in ``.pt2``; missing folders are made.
        dynamic: as in ``to_pt2``.
        max_time: as in ``to_pt2``.
        shapes: by dynamic axis its smallest, usual and largest size. TensorRT is fastest at the
            usual. Left out, ``"batch"`` is ``(1, 64, 4096)``, and ``"time"`` is from 1 to
            ``max_time``, which is also usual.
        fp16: whether TensorRT may compute in half precision; inputs and outputs stay as they are,
            and the tolerance, if none is given, is 1e-2.
        **options: see ``Options``.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size; a latency includes the
        way to the GPU and back.

    Raises:
        ExportError: there is no GPU or no torch-tensorrt, the target cannot be exported, or the
            file does not compute the same.
    """
    _check_machine()
    if fp16:
        options = {"tolerance": 1e-2, **options}
    form = _TENSORRT._replace(
        fitted=partial(_fitted, shapes=shapes),
        translate=partial(_translate, fp16=fp16),
    )
    return make(form, target, example, path, dynamic, max_time, options)


def load_tensorrt(path: str | Path) -> TorchModel:
    """What ``to_tensorrt`` wrote, as a function of named tensors, which may be on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such program, or made for another GPU or another TensorRT.
    """
    with reading("load_tensorrt", path):
        import torch_tensorrt  # noqa: F401, which registers what is in the file

        contents = read_archive(str(path))
        (program,) = contents.exported_programs.values()
        return TorchModel(partial(_run, program.module()), contents.extra_files)


def shape_specification(subject: Subject, shapes: Shapes = None) -> list[dict[str, Any]]:
    """What torch-tensorrt is told of each input: ``min_shape opt_shape max_shape dtype``.

    Raises:
        ExportError: ``shapes`` does not fit the axes.
    """
    axes = subject.axes
    ranges = _ranges(axes, shapes)
    rows = [{name: sizes[k] for name, sizes in ranges.items()} for k in range(3)]
    return [
        {
            **{
                f"{kind}_shape": tuple(axes.sized(name, x, row))
                for kind, row in zip(("min", "opt", "max"), rows, strict=True)
            },
            "dtype": x.dtype,
        }
        for name, x in subject.example.items()
    ]


def _ranges(axes: Axes, shapes: Shapes) -> dict[str, Range]:
    """The sizes of every axis that may change."""
    usual: dict[str, Sequence[int]] = {"batch": _BATCH}
    if axes.max_time is not None:
        usual[TIME] = (1, axes.max_time, axes.max_time)
    given = {**{name: x for name, x in usual.items() if name in axes.names}, **(shapes or {})}
    if set(given) != set(axes.names):
        raise ExportError(f"`shapes` must be of the axes {list(axes.names)}, got {list(given)}")
    ranges = {name: _range(name, given[name]) for name in axes.names}
    if axes.max_time is not None and ranges[TIME][2] != axes.max_time:
        raise ExportError(
            f"`shapes` of `{TIME}` must end at `max_time`, {axes.max_time}, got {ranges[TIME]}"
        )
    return ranges


def _range(name: str, given: Sequence[int]) -> Range:
    sizes = tuple(given) if isinstance(given, Sequence) else ()
    is_one = len(sizes) == 3 and all(isinstance(size, int) for size in sizes)
    if not is_one or not 1 <= sizes[0] <= sizes[1] <= sizes[2] or sizes[0] == sizes[2]:
        raise ExportError(
            f"`shapes` of `{name}` must be a smallest, a usual and a larger size, from 1 on, "
            f"got {given!r}; an axis of one size is not in `dynamic`"
        )
    return sizes[0], sizes[1], sizes[2]


def _fitted(subject: Subject, shapes: Shapes) -> Subject:
    """The subject for those sizes alone."""
    axes = subject.axes._replace(ranges=_ranges(subject.axes, shapes))
    return subject._replace(axes=axes, example=check_example(subject.example, axes))


def _gpu() -> Optional[str]:
    """The name of the GPU for which an engine would be built, if there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _check_machine() -> None:
    if _gpu() is None:
        raise ExportError("to_tensorrt: a GPU must be there, for which to build, got none")
    try:
        import torch_tensorrt  # noqa: F401
    except Exception as error:  # of a library that is missing, too
        raise ExportError(
            f"to_tensorrt: torch-tensorrt must be installed, the extra `tensorrt`, got: {error}"
        ) from error


def _translate(subject: Subject, fp16: bool) -> Translation:
    import tensorrt
    import torch_tensorrt

    program = move_to_device_pass(portable_program(subject), _DEVICE)
    specification = shape_specification(subject, subject.axes.ranges)
    half = {"enable_autocast": True, "autocast_low_precision_type": torch.float16}
    compiled = torch_tensorrt.dynamo.compile(
        program,
        arg_inputs=[_input(x) for x in specification],
        min_block_size=1,
        disable_tf32=True,
        **(half if fp16 else {}),
    )
    largest = [torch.zeros(x["max_shape"], dtype=x["dtype"], device=_DEVICE) for x in specification]

    def write(path: Path, texts: dict[str, str]) -> None:
        torch_tensorrt.save(
            compiled,
            str(path),
            arg_inputs=largest,  # a size of one would be taken for a constant
            dynamic_shapes=subject.axes.dynamic_shapes(),
            extra_files=texts,
        )

    versions = {
        "torch_tensorrt": torch_tensorrt.__version__,
        "tensorrt": tensorrt.__version__,
        "gpu": _gpu(),
        "fp16": fp16,
    }
    return Translation(write, versions)


def _input(specification: Mapping[str, Any]) -> Any:
    """The same as torch-tensorrt's ``Input``; one that has one shape is static."""
    import torch_tensorrt

    if specification["min_shape"] != specification["max_shape"]:
        return torch_tensorrt.Input(**specification)
    return torch_tensorrt.Input(shape=specification["min_shape"], dtype=specification["dtype"])


def _run(module: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """What the module returns, where the first tensor is."""
    outputs = module(*[x.to(_DEVICE) for x in tensors])
    return tuple(x.to(tensors[0].device) for x in outputs)


_TENSORRT = Form(
    "to_tensorrt",
    "tensorrt",
    ".pt2",
    lambda target: True,
    partial(_translate, fp16=False),
    load_tensorrt,
)
