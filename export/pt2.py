"""Export to ``.pt2``, torch's own file: a graph of torch's operators, which any machine may run."""

import io
from pathlib import Path
from typing import Optional, Unpack

import torch
from torch.export.pt2_archive._package import load_pt2 as read_archive

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import Dynamic
from compiled_rl.export.models import TorchModel, reading
from compiled_rl.export.options import Options
from compiled_rl.export.portable import check_portable
from compiled_rl.export.program import portable_program
from compiled_rl.export.signature import Example, Target
from compiled_rl.export.subject import Subject
from compiled_rl.export.verify import Report


def to_pt2(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Dynamic = ("batch",),
    max_time: Optional[int] = None,
    **options: Unpack[Options],
) -> Report:
    """Export a policy, a network or a function to a ``.pt2`` file that computes the same.

    .. code-block:: python

        torch.export.load(path).module()(*tensors.values())        # without this package
        load_pt2(path)(**tensors)                                  # held to its contract

    The file is verified on zeros and on fresh inputs at batch 1, 3 and 64, up to the longest time,
    before it is given its name; its contract is inside it and in a ``.contract.json`` beside it. A
    failure leaves no file, and an older file of that name as it was.

    A recurrence over time becomes as many doublings as ``max_time`` needs; beyond, they would be
    wrong without a word, so the file refuses longer inputs.

    Args:
        target: as in ``to_onnx``.
        example: as in ``to_onnx``.
        path: where to write, ending in ``.pt2``; missing folders are made.
        dynamic: the names of the leading axes that may have any size, ``("batch",)``,
            ``("batch", "time")`` or ``("time", "batch")``; inputs of a lower rank have fewer of
            them. Or by input the name of each axis, None where it is fixed. The axis ``"time"`` is
            the one that is bounded.
        max_time: the longest time, at least 2; needed where ``dynamic`` has a time axis. Not
            more than will be run: every doubling pads by its distance, however short the input.
        **options: see ``Options``.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        ExportError: the target cannot be exported, or the file does not compute the same.
    """
    return make(_PT2, target, example, path, dynamic, max_time, options)


def load_pt2(path: str | Path) -> TorchModel:
    """What ``to_pt2`` wrote, as a function of named tensors; no code in the file is run.

    ``torch.export.load`` unpickles what a file asks it to. Here, the file is refused if it holds
    anything but tensors and a graph of torch's operators.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or no such program.
    """
    with reading("load_pt2", path):
        content = Path(path).read_bytes()
        check_portable(content)
        contents = read_archive(io.BytesIO(content))
        (program,) = contents.exported_programs.values()
        return TorchModel(program.module(), contents.extra_files)


def _translate(subject: Subject) -> Translation:
    program = portable_program(subject)

    def write(path: Path, texts: dict[str, str]) -> None:
        torch.export.save(program, path, extra_files=texts)

    return Translation(write, {})


_PT2 = Form("to_pt2", "pt2", ".pt2", lambda target: True, _translate, load_pt2)
