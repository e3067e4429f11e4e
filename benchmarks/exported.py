"""How fast are exported files, and how small?

- A policy: 64x64, tanh, 17 observations that it normalises, 6 actions that it rescales, a normal
  family; its deterministic action. ``eager`` is the ``Policy``, ``compiled`` is ``torch.compile``
  of it, at one size; ``torchscript`` is what ``load_torchscript`` runs, frozen; ``aotinductor``
  likewise. ``onnxruntime`` is ``session.run``, ``bound`` is on memory that is bound once,
  and ``OnnxPolicy`` is what a user calls: an array in, an array of its own out. ``torchrl`` is a
  ``ProbabilisticActor`` of the same network on a TensorDict that is there already; it does not
  rescale, which is a transform of TorchRL's environments.
- A training step, loss to Adam, as in ``updates.py``. ``onnxruntime`` is ``OnnxTrainer``, numpy in
  and out; ``aotinductor`` is the call of ``load_aotinductor``, ``unchecked`` its program alone;
  both are given at each call what the call before returned.
- An epoch of PPO: 2048 samples in 32 minibatches of 64. The file holds all of it, as one loop.
- The files: bytes, and seconds of exporting, verification included.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
import typer
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import IndependentNormal, ProbabilisticActor

from benchmarks.contenders import CONTENDERS, SUBJECTS, quiet, step_of
from benchmarks.first_update import Measured
from benchmarks.timing import Clock, Row, measure, one_thread, ratio, save, show
from benchmarks.transitions import Subject
from benchmarks.workload import ACTION, OBSERVATION, OPTIONS, Step, mlp
from compiled_rl import ObservationNormalizer, Policy, UpdateEpochs
from compiled_rl.export import (
    OnnxPolicy,
    OnnxTrainer,
    TorchModel,
    load_aotinductor,
    load_torchscript,
    to_aotinductor,
    to_onnx,
    to_pt2,
    to_torchscript,
)
from compiled_rl.export.latency import onnx_contenders
from compiled_rl.modules import ActionRescaler, Normal, StateIndependentScale

POLICY, EPOCH = "policy", "ClipPPOLoss, epoch"
POLICY_BATCHES, BATCHES = (1, 64, 4096), (64, 256)
SAMPLES, MINIBATCH, EXAMPLE = 2048, 64, 8
EXPORTERS: dict[str, tuple[Callable[..., Any], str]] = {
    "onnx": (to_onnx, ".onnx"),
    "pt2": (to_pt2, ".pt2"),
    "torchscript": (to_torchscript, ".pt"),
    "aotinductor": (to_aotinductor, ".package.pt2"),
}
LEARNED = {
    subject.name: subject for subject in SUBJECTS if subject.name in ("ClipPPOLoss", "SACLoss")
}
Files = dict[str, Path]


class Bound(NamedTuple):
    """How many times as fast as another a contender must be."""

    what: str
    shapes: tuple[int, ...]
    faster: str
    slower: str
    times: float


BOUNDS = [
    Bound(POLICY, (1,), "onnxruntime", "eager", 4.0),
    Bound(POLICY, (1,), "onnxruntime", "torchrl", 40.0),
    *[
        Bound(name, BATCHES, faster, "ours, eager", 4.0)
        for name in LEARNED
        for faster in ("onnxruntime", "aotinductor")
    ],
]


def main(quick: bool = False, json: Optional[Path] = None, busy: bool = False) -> None:
    """Print medians and ratios; ``--quick`` asks the policy only, at batch 1.

    With ``--busy``, only the thread's own time is counted: for a machine that others use, too.
    """
    clock = time.thread_time if busy else time.perf_counter
    one_thread()
    quiet()
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # TorchScript says so each time
    torch.compile(lambda x: x + 1)(torch.ones(8))  # what a process's first compilation takes
    rows: list[Row] = []
    files: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        made = export(POLICY, policy(), torch.randn(EXAMPLE, OBSERVATION), Path(folder), files)
        for size in POLICY_BATCHES[: 1 if quick else None]:
            rows += _of_policy(made, size, 20 if quick else 200, clock)
        show("a policy, one thread", rows, against="eager")
        for subject in LEARNED.values() if not quick else ():
            rows += _of_step(subject, Path(folder), files, clock)
        if not quick:
            rows += _of_epoch(LEARNED["ClipPPOLoss"], Path(folder), files, clock)
    _show_files(files)
    _show_bounds(rows)
    save(json, [*rows, *files])


def export(
    name: str,
    target: Any,
    example: Any,
    folder: Path,
    files: list[Measured],
    forms: tuple[str, ...] = tuple(EXPORTERS),
) -> Files:
    """Write a target in several forms; their bytes and seconds are added to ``files``."""
    paths: Files = {}
    for form in forms:
        write, suffix = EXPORTERS[form]
        start = time.perf_counter()
        report = write(target, example, folder / f"{name}{suffix}")
        seconds = time.perf_counter() - start
        files.append(Measured(f"{name}, export", form, "file", seconds, "s"))
        files.append(Measured(f"{name}, size", form, "file", report.bytes, "B"))
        paths[form] = report.path
    return paths


def policy() -> Policy:
    """The same at every call."""
    torch.manual_seed(0)
    normalizer = ObservationNormalizer(OBSERVATION)
    normalizer.update(3 * torch.randn(1000, OBSERVATION) + 1)
    network = nn.Sequential(normalizer, mlp(ACTION, StateIndependentScale(ACTION)))
    high = torch.linspace(1, 2, ACTION)
    return Policy(network, Normal, ActionRescaler(-high, high)).eval()


def torchrl_actor(own: Policy) -> ProbabilisticActor:
    """The network of a policy as TorchRL's users wrap it."""
    module = TensorDictModule(own.network, ["observation"], ["loc", "scale"])
    keys = ["loc", "scale"]
    return ProbabilisticActor(module, in_keys=keys, distribution_class=IndependentNormal)


def policy_contenders(files: Files, observation: Tensor) -> dict[str, Step]:
    """Those that act without compiling first, by the files that there are."""
    own, array = policy(), observation.numpy()
    data = TensorDict({"observation": observation}, observation.shape[:1])
    contenders: dict[str, Step] = {
        "torchrl": partial(torchrl_actor(own), data),
        "eager": partial(own, observation),
    }
    if "torchscript" in files:
        program: Any = load_torchscript(files["torchscript"]).program
        contenders["torchscript"] = partial(torch.jit.freeze(program.eval()), observation)
    if "aotinductor" in files:
        contenders["aotinductor"] = partial(
            load_aotinductor(files["aotinductor"]).program, observation
        )
    contenders |= onnx_contenders(files["onnx"], {"observation": array}, 1)
    return {**contenders, "OnnxPolicy": partial(OnnxPolicy(files["onnx"]), array)}


def _of_policy(files: Files, size: int, samples: int, clock: Clock) -> list[Row]:
    torch._dynamo.reset()  # or the second size would be a graph of any size
    observation = torch.randn(size, OBSERVATION)
    contenders = policy_contenders(files, observation)
    compiled = torch.compile(policy(), fullgraph=True, options=OPTIONS)
    contenders["compiled"] = partial(compiled, observation)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return measure(POLICY, str(size), contenders, samples, clock)


def _of_step(subject: Subject, folder: Path, files: list[Measured], clock: Clock) -> list[Row]:
    step, example = step_of(subject, subject.plain(), mode="eager"), _batch(subject, EXAMPLE)
    made = export(subject.name, step, example, folder, files, ("onnx", "aotinductor"))
    rows: list[Row] = []
    for size in BATCHES:
        torch._dynamo.reset()
        rows += measure(subject.name, str(size), step_contenders(subject, made, size), 60, clock)
    show(f"{subject.name}, a training step, one thread", rows, against="ours, eager")
    return rows


def step_contenders(subject: Subject, files: Files, size: int) -> dict[str, Step]:
    """Those that take training steps on a batch: of ``updates.py``, and of files."""
    contenders: dict[str, Step] = {}
    for name in ("torchrl", "plain", "ours, eager", "ours"):
        contender, device = CONTENDERS[name], torch.device("cpu")
        update = contender.update(subject, device)
        contenders[name] = partial(update, contender.batch(subject, size, device))
    batch = _batch(subject, size)
    contenders["onnxruntime"] = _trained(OnnxTrainer(files["onnx"]), batch)
    if "aotinductor" in files:
        model = load_aotinductor(files["aotinductor"])
        contenders["aotinductor"] = _carried(model, model, batch)
        contenders["aotinductor, unchecked"] = _carried(model, partial(_unchecked, model), batch)
    return contenders


def _batch(subject: Subject, size: int) -> dict[str, Tensor]:
    return dict(subject.data(size).flatten_keys("_").items())


def _trained(trainer: OnnxTrainer, batch: Mapping[str, Tensor]) -> Step:
    given = {name: x.numpy() for name, x in batch.items() if name in trainer.model.inputs}
    return partial(trainer, **given)


def _carried(model: TorchModel, run: Callable[..., Any], batch: Mapping[str, Tensor]) -> Step:
    """Steps of a file: what one returns, the next is given; noise is drawn."""
    state, size = dict(model.state), len(batch["observation"])
    data = {name: x for name, x in batch.items() if name in model.inputs}
    moved = {name: output for name, output in model.contract["state"].items() if output}
    noise = {
        x["name"]: [size if isinstance(axis, str) else axis for axis in x["shape"]]
        for x in model.contract["inputs"]
        if "noise" in x
    }

    def step() -> None:
        drawn = {name: torch.randn(shape) for name, shape in noise.items()}
        outputs = run(**state, **data, **drawn)
        state.update({name: outputs[output] for name, output in moved.items()})

    return step


def _unchecked(model: TorchModel, **tensors: Tensor) -> dict[str, Tensor]:
    outputs = model.program(*[tensors[name] for name in model.inputs])
    return dict(zip(model.outputs, outputs, strict=True))


def _of_epoch(subject: Subject, folder: Path, files: list[Measured], clock: Clock) -> list[Row]:
    torch._dynamo.reset()
    made = export(
        EPOCH, _epoch(subject, "eager"), _batch(subject, EXAMPLE), folder, files, ("onnx",)
    )
    batch = _batch(subject, SAMPLES)
    contenders: dict[str, Step] = {
        "plain": partial(
            _plain_epoch, CONTENDERS["plain"].update(subject, torch.device("cpu")), batch
        ),
        "ours, eager": partial(_epoch(subject, "eager"), batch),
        "ours": partial(_epoch(subject, "default"), batch),
        "onnxruntime": _trained(OnnxTrainer(made["onnx"]), batch),
    }
    rows = measure(EPOCH, f"{SAMPLES // MINIBATCH}x{MINIBATCH}", contenders, 30, clock)
    show("an epoch of PPO, one thread", rows, against="ours, eager")
    return rows


def _epoch(subject: Subject, mode: str) -> UpdateEpochs:
    step = step_of(subject, subject.plain(), mode=mode)
    return UpdateEpochs(step, epochs=1, minibatch_size=MINIBATCH)


def _plain_epoch(update: Callable[[Any], object], batch: Mapping[str, Tensor]) -> None:
    for rows in torch.randperm(SAMPLES).split(MINIBATCH):
        update({name: x[rows] for name, x in batch.items()})


def _show_files(files: list[Measured]) -> None:
    table = Table("target", "form", title="files")
    cells = {(row.what, row.contender): row.value for row in files}
    table.add_column("bytes", justify="right")
    table.add_column("seconds to export", justify="right")
    for row in [row for row in files if row.unit == "B"]:
        name = row.what.removesuffix(", size")
        seconds = cells[f"{name}, export", row.contender]
        table.add_row(name, row.contender, f"{row.value:,}", f"{seconds:.1f}")
    Console().print(table)


def _show_bounds(rows: list[Row]) -> None:
    """What must be how many times as fast as what, and whether it is."""
    measured = {(row.what, row.shape) for row in rows}
    for bound in BOUNDS:
        for size in map(str, bound.shapes):
            if (bound.what, size) in measured:
                of_what = [row for row in rows if row.what == bound.what]
                speed = ratio(of_what, size, bound.slower, bound.faster)
                met = "met" if speed >= bound.times else "missed"
                sentence = f"{bound.what} at {size}: {bound.faster} is {speed:.2f} times as fast as"
                Console().print(f"{sentence} {bound.slower}; {bound.times:g} is {met}")


if __name__ == "__main__":
    typer.run(main)
