"""The kinds of files, and how each is opened and used."""

import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.fuzz_files.mutations import changed, damaged, packed, repacked

Results = dict[str, np.ndarray]
Mutate = Callable[[bytes, Sequence[bytes], random.Random], bytes]


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        name: for the table.
        file: in the folder of ``make_files``.
        use: opens a file and gives what it computes, or holds.
        inside: changes what the file says of itself, with its checksums right again; None: it
            says nothing.
        native: whether it is machine code, which is only run as it was made.
        rate: of the mutations that are tried, since some files take long to open.
    """

    name: str
    file: str
    use: Callable[[Path], Results]
    inside: Mutate | None
    native: bool = False
    rate: float = 1.0

    @property
    def is_archive(self) -> bool:
        """Whether it is a zip archive."""
        return not self.file.endswith(".onnx")

    @property
    def has_contract(self) -> bool:
        """Whether one is written beside it."""
        return self.file not in ("learned.npz", "checkpoint.pt")


# ---- What is done with a file --------------------------------------------------------------------


def use_policy(path: Path) -> Results:
    from compiled_rl.export import OnnxPolicy

    policy = OnnxPolicy(path)
    once, again = (policy(np.ones((3, 4), np.float32)) for _ in range(2))
    return {"once": once, "again": again}


def use_trainer(path: Path) -> Results:
    from compiled_rl.export import OnnxTrainer

    trainer = OnnxTrainer(path)
    metrics = trainer(**_batch(path))
    return {**metrics, **trainer.state}


def use_learned(path: Path) -> Results:
    trainer = _trainer(path.with_name("update.onnx").resolve())
    trainer.load(path)
    return {**trainer.state, "updates": np.array(trainer.updates)}


@cache
def _trainer(path: Path) -> Any:
    """One for all: what is refused changes nothing."""
    from compiled_rl.export import OnnxTrainer

    return OnnxTrainer(path)


def use_checkpoint(path: Path) -> Results:
    from compiled_rl.training import load_checkpoint

    return {k: np.asarray(x) for k, x in load_checkpoint(path).items()}


def use_torch(path: Path) -> Results:
    import torch

    from compiled_rl.export import load_artefact

    outputs = load_artefact(path)(observation=torch.ones(3, 4))
    return {name: x.detach().numpy() for name, x in outputs.items()}


def _batch(path: Path) -> Results:
    with np.load(path.with_name("batch.npz")) as file:
        return dict(file)


# ---- What a file says of itself ------------------------------------------------------------------


def onnx_inside(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    """An ONNX file with another contract, or another state."""
    import onnx

    model = onnx.load_from_string(content)
    prop = draw.choice(model.metadata_props)
    if prop.value.startswith("{"):
        prop.value = changed(prop.value, draw).encode("utf-8", "replace").decode()
    else:
        prop.value = damaged(prop.value.encode(), [], draw).decode("latin-1")
    return model.SerializeToString()


def archive_inside(content: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    """An archive with another contract."""
    import io
    from zipfile import ZipFile

    with ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in records if name.endswith("compiled_rl.contract")]
    records[name] = changed(records[name].decode(), draw).encode("utf-8", "replace")
    return packed(records)


KINDS = (
    Kind("ONNX policy", "policy.onnx", use_policy, onnx_inside),
    Kind("ONNX update", "update.onnx", use_trainer, onnx_inside, rate=0.3),
    Kind("trainer's state", "learned.npz", use_learned, None),
    Kind("checkpoint", "checkpoint.pt", use_checkpoint, None),
    Kind("pt2", "policy.pt2", use_torch, archive_inside, rate=0.15),
    Kind("TorchScript", "policy.pt", use_torch, archive_inside, rate=0.3),
    Kind("AOTInductor", "policy.aoti.pt2", use_torch, archive_inside, True, 0.3),
)


def remember(observation: Any, h_in: Any) -> Any:
    """A policy with a memory, as small as they are."""
    h_out = (observation + h_in).tanh()
    return h_out.argmax(-1), h_out


def make_files(folder: Path, whole: bool) -> None:
    """One file of each kind, small, with its contract.

    Args:
        folder: where to write.
        whole: with what takes long to make: machine code, and epochs in place of a step.
    """
    import torch
    from torch import nn

    from compiled_rl import Policy, ReinforceLoss, UpdateEpochs, UpdateStep, ValueHead
    from compiled_rl.export import OnnxTrainer, to_aotinductor, to_onnx, to_pt2, to_torchscript
    from compiled_rl.modules import Categorical
    from compiled_rl.training import save_checkpoint

    torch.manual_seed(0)
    policy = Policy(nn.Linear(4, 2), Categorical)
    observation = torch.randn(2, 4)
    names = {"output_names": ["action", "h_out"]}
    seen = {"observation": observation, "h_in": torch.zeros(2, 4)}
    to_onnx(remember, seen, folder / "policy.onnx", **names)
    to_pt2(policy, observation, folder / "policy.pt2")
    to_torchscript(policy, observation, folder / "policy.pt")
    if whole:
        to_aotinductor(policy, observation, folder / "policy.aoti.pt2")

    loss = ReinforceLoss(policy, ValueHead(4))
    step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1), mode="eager")
    batch = {"observation": torch.randn(6, 4), "action": torch.randint(2, (6,))}
    batch |= {k: torch.randn(6) for k in ("advantage", "value_target")}
    learns = UpdateEpochs(step, epochs=1, minibatch_size=3) if whole else step
    to_onnx(learns, batch, folder / "update.onnx")
    np.savez(folder / "batch.npz", **{name: x.numpy() for name, x in batch.items()})
    trainer = OnnxTrainer(folder / "update.onnx")
    trainer(**_batch(folder / "update.onnx"))
    trainer.save(folder / "learned.npz")
    save_checkpoint(folder / "checkpoint.pt", {"x": torch.randn(4, 4), "y": [1, 2.5], "z": "text"})


# ---- What happens to it --------------------------------------------------------------------------


class Mode(NamedTuple):
    """One way in which a file and the contract beside it come to disagree, or not.

    Attributes:
        name: for the table.
        mutate: of the file's bytes, or of the contract's beside it.
        of_contract: whether it is the contract beside it that changes.
        beside: the contract after it: kept as it was, gone, or sealed again with the new digest.
    """

    name: str
    mutate: Mutate
    of_contract: bool = False
    beside: str = "kept"


def contract_changed(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """The contract beside a file, as text or as JSON."""
    if draw.random() < 0.5:
        return damaged(content, others, draw)
    return changed(content.decode(), draw).encode("utf-8", "surrogatepass")


def modes_of(kind: Kind) -> list[Mode]:
    """What can be done to a file of this kind."""
    modes = []
    if kind.has_contract:
        modes += [Mode("file", damaged), Mode("contract beside it", contract_changed, True)]
    if kind.native:
        return modes
    modes.append(Mode("file alone", damaged, beside="gone"))
    if kind.is_archive:
        modes.append(Mode("repacked, checksums right", repacked, beside="gone"))
    if kind.inside:
        modes.append(Mode("contract inside it", kind.inside, beside="gone"))
    if kind.has_contract and not kind.is_archive:
        modes.append(Mode("file, sealed again", damaged, beside="sealed"))
    return modes


def sealed(contract: bytes, digest: str) -> bytes:
    """A contract with another digest."""
    return json.dumps({**json.loads(contract), "sha256": digest}).encode()
