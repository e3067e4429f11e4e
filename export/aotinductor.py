"""Export to a package compiled ahead of time by AOTInductor, for this machine's kind of CPU."""

import json
from pathlib import Path
from typing import Any, Optional, Unpack

import torch
from torch.export.pt2_archive._package import load_pt2 as read_archive
from torch.export.pt2_archive._package import package_pt2

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import Dynamic
from compiled_rl.export.models import TorchModel, reading
from compiled_rl.export.options import Options
from compiled_rl.export.program import portable_program
from compiled_rl.export.signature import Example, Target
from compiled_rl.export.subject import Subject
from compiled_rl.export.verify import Report


def to_aotinductor(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Dynamic = ("batch",),
    max_time: Optional[int] = None,
    **options: Unpack[Options],
) -> Report:
    """Compile a policy, a network or a function to a package that computes the same.

    .. code-block:: python

        torch._inductor.aoti_load_package(path)(*tensors.values())  # without this package; C++ too
        load_aotinductor(path)(**tensors)                           # held to its contract

    The program is that of ``to_pt2``, compiled; it runs on the operating system and instruction set
    that the contract names, and takes seconds to make. The package itself refuses a time beyond
    ``max_time``. It does not look at its inputs otherwise: called without ``load_aotinductor``,
    tensors must be contiguous and of the contract's dtypes and shapes, or what is read is not
    theirs.

    Args and returns: as ``to_pt2``.

    Raises:
        ExportError: the target cannot be exported, or the package does not compute the same.
    """
    return make(_AOTINDUCTOR, target, example, path, dynamic, max_time, options)


def load_aotinductor(path: str | Path) -> TorchModel:
    """What ``to_aotinductor`` wrote, as a function of named tensors.

    The package is a shared library, which this process becomes: load what you would run.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, no such package, or made for another machine.
    """
    with reading("load_aotinductor", path):
        contents = read_archive(str(path))
        (program,) = contents.aoti_runners.values()
        return TorchModel(program, contents.extra_files)


def _translate(subject: Subject) -> Translation:
    files = _compile(subject)
    (platform, *_) = [file for file in files if str(file).endswith("_metadata.json")]

    def write(path: Path, texts: dict[str, str]) -> None:
        package_pt2(str(path), aoti_files=files, extra_files=texts)

    return Translation(write, {"platform": json.loads(Path(platform).read_text())})


def _compile(subject: Subject) -> list[Any]:
    """The files of ``aoti_compile_and_package`` before it packs them, without the sources.

    They name the folders of this machine, as line tables do, and nothing that runs needs them.
    """
    program = portable_program(subject)
    options = {"aot_inductor.package": True, "aot_inductor.enable_line_tables": False}
    files: Any = torch._inductor.aot_compile(
        program.module(), tuple(subject.example.values()), options=options
    )
    return [file for file in files if not str(file).endswith(".cpp")]


_AOTINDUCTOR = Form(
    "to_aotinductor", "aotinductor", ".pt2", lambda target: True, _translate, load_aotinductor
)
