"""Files that someone made, or an accident damaged: nothing is run, and one sentence refuses."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from compiled_rl.cli import app
from compiled_rl.export import (
    OnnxModel,
    OnnxPolicy,
    OnnxTrainer,
    load_pt2,
    load_torchscript,
    session,
)
from compiled_rl.export.errors import CorruptedError
from compiled_rl.export.names import STATE_KEY, contract_of, read_arrays, text_of
from compiled_rl.export.promises import Port, check_promises, check_state
from compiled_rl.training import load_checkpoint
from tests.fuzz_files.kinds import KINDS, make_files, modes_of
from tests.fuzz_files.mutations import packed
from tests.fuzz_files.trial import outcome_of

Records = dict[str, bytes]


class Touch:
    """What leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_files(folder, whole=False)
    return folder


@pytest.fixture
def marker(tmp_path) -> Iterator[Path]:
    """The file that code in another file would write, and that must not be there."""
    path = tmp_path / "was_run"
    yield path
    assert not path.exists()


# ---- Nothing is run ------------------------------------------------------------------------------


def pickled(marker: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"x": Touch(marker)}, file)
    return file.getvalue()


def test_a_checkpoint_is_not_unpickled(marker, tmp_path):
    (tmp_path / "c.pt").write_bytes(pickled(marker))
    with pytest.raises(ValueError, match=r"c.pt must be a checkpoint of tensors, .*open"):
        load_checkpoint(tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes(pickle.dumps({"x": Touch(marker)}))
    with pytest.raises(ValueError, match=r"c.pt must be a checkpoint of tensors, .*not a zip"):
        load_checkpoint(tmp_path / "c.pt")


def test_the_state_of_a_trainer_is_not_unpickled(files, marker, tmp_path):
    trainer = OnnxTrainer(files / "update.onnx")
    with np.load(files / "learned.npz") as file:
        state = dict(file)
    np.savez(tmp_path / "s.npz", **{**state, "updates": np.array(Touch(marker), object)})
    with pytest.raises(CorruptedError, match=r"s.npz is not a trainer's state: an array of object"):
        trainer.load(tmp_path / "s.npz")
    (tmp_path / "s.npz").write_bytes(pickle.dumps(Touch(marker)))
    with pytest.raises(CorruptedError, match=r"s.npz is not a trainer's state: File is not a zip"):
        trainer.load(tmp_path / "s.npz")


def test_the_state_in_a_model_is_not_unpickled(files, marker, tmp_path):
    model = onnx.load(files / "update.onnx")
    (state,) = [x for x in model.metadata_props if x.key == STATE_KEY]
    state.value = text_of({"learning_rate": np.array([Touch(marker)], object)})
    onnx.save(model, tmp_path / "u.onnx")
    with pytest.raises(CorruptedError, match=r"u.onnx is corrupted, .*an array of object"):
        OnnxTrainer(tmp_path / "u.onnx")


def edited(records: Records, name: str, edit: Callable[[dict], None]) -> None:
    """JSON in an archive, after an edit."""
    document = json.loads(records[name])
    edit(document)
    records[name] = json.dumps(document).encode()


def config_of(records: Records, folder: str) -> str:
    return next(x for x in records if x.endswith(f"data/{folder}/model_{folder}_config.json"))


def program_of(records: Records) -> str:
    return next(x for x in records if x.endswith("models/model.json"))


def root_of(records: Records) -> str:
    return program_of(records).removesuffix("models/model.json")


def as_weight(records: Records, marker: Path) -> None:
    def edit(config: dict) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    edited(records, config_of(records, "weights"), edit)
    records[f"{root_of(records)}data/weights/weight_0"] = pickled(marker)


def as_constant(records: Records, marker: Path) -> None:
    about = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }
    edited(records, config_of(records, "constants"), lambda x: x["config"].update(c=about))
    records[f"{root_of(records)}data/constants/opaque_obj_0"] = pickle.dumps(Touch(marker))


def as_old_weights(records: Records, marker: Path) -> None:
    records[f"{root_of(records)}data/weights/model.pt"] = pickled(marker)


def as_example(records: Records, marker: Path) -> None:
    records[f"{root_of(records)}data/sample_inputs/model.pt"] = pickled(marker)


def as_size(records: Records, marker: Path) -> None:
    text = records[program_of(records)].decode()
    start = text.index("Symbol('s")
    end = text.index('"', start)
    code = f"open('{marker}', 'w') and {text[start:end]}"
    records[program_of(records)] = text.replace(text[start:end], code, 1).encode()


def as_guard(records: Records, marker: Path) -> None:
    code = f"open('{marker}', 'w')"
    edited(records, program_of(records), lambda x: x["guards_code"].append(code))


def as_name(records: Records, marker: Path) -> None:
    text = records[program_of(records)].decode()
    records[program_of(records)] = text.replace(
        '"tensors_0"', json.dumps(f"tensors_0=open('{marker}', 'w')")
    ).encode()


def as_structure(records: Records, marker: Path) -> None:
    """An import, of a module that the attacker has put beside."""
    (marker.parent / "planted.py").write_text(f"open({str(marker)!r}, 'w')")
    context = {"__enum__": True, "fqn": "planted:E", "name": "A"}

    def edit(program: dict) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        protocol, tree = json.loads(signature["in_spec"])
        tree["children_spec"][1]["context"] = json.dumps([context])
        signature["in_spec"] = json.dumps([protocol, tree])

    edited(records, program_of(records), edit)


def as_operator(records: Records, marker: Path) -> None:
    """TorchScript's operator that writes a file, in place of the first one."""

    def edit(program: dict) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        (given, *_) = node["inputs"]
        path = {"name": "filename", "arg": {"as_string": str(marker)}, "kind": 1}
        node |= {"target": "torch.ops.aten.save.default", "inputs": [given, path]}

    edited(records, program_of(records), edit)


def as_function(records: Records, marker: Path) -> None:
    """Whatever can be reached from the module ``torch``."""

    def edit(program: dict) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        path = {"name": "", "arg": {"as_string": f"touch {marker}"}, "kind": 1}
        node |= {"target": "torch.os.system", "inputs": [path]}

    edited(records, program_of(records), edit)


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (as_weight, "its weights must be tensors as they are, got a pickle"),
        (as_constant, "it must hold a program of operators alone, got the record"),
        (as_old_weights, "it must hold a program of operators alone, got the record"),
        (as_example, "Weights only load failed"),
        (as_size, "a size must be an expression of sizes"),
        (as_guard, "a size must be an expression of sizes"),
        (as_name, "a name must be of letters"),
        (as_structure, "a structure must have names for keys"),
    ],
)
def test_a_program_runs_no_code(files, marker, tmp_path, monkeypatch, attack, sentence):
    """Torch's own loader does run each of these, so that the test can fail."""
    path = attacked(files, marker, tmp_path, attack)
    with pytest.raises(CorruptedError, match=sentence):
        load_pt2(path)
    assert not marker.exists()
    monkeypatch.syspath_prepend(str(tmp_path))
    with contextlib.suppress(Exception):
        torch.export.load(path).module()(torch.zeros(3, 4))
    assert marker.exists()
    marker.unlink()


@pytest.mark.parametrize("attack", [as_operator, as_function])
def test_a_program_calls_operators_of_tensors_alone(files, marker, tmp_path, attack):
    path = attacked(files, marker, tmp_path, attack)
    with pytest.raises(CorruptedError, match="an operator must be one of torch's of tensors, got"):
        load_pt2(path)


def attacked(files: Path, marker: Path, folder: Path, attack: Callable) -> Path:
    """The program after an attack, in an archive that is whole."""
    with ZipFile(files / "policy.pt2") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    attack(records, marker)
    (folder / "policy.pt2").write_bytes(packed(records))
    return folder / "policy.pt2"


class Restored(torch.nn.Module):
    """A module that would write a file while it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.training = path, False

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return observation

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        torch.save(torch.zeros(1), self.path)


def test_torchscript_runs_nothing_while_it_is_loaded(files, marker, tmp_path):
    texts = {"compiled_rl.contract": ""}
    torch.jit.load(str(files / "policy.pt"), _extra_files=texts)
    torch.jit.save(torch.jit.script(Restored(str(marker))), tmp_path / "r.pt", _extra_files=texts)
    with pytest.raises(CorruptedError, match="it must run nothing while it is loaded"):
        load_torchscript(tmp_path / "r.pt")
    assert not marker.exists()
    torch.jit.load(tmp_path / "r.pt")
    assert marker.exists()
    marker.unlink()


# ---- Damaged, and changed ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.native], ids=lambda x: x.name)
def test_mutations_are_refused_or_change_nothing(files, kind):
    """A few; ``make fuzz`` tries thousands, in processes that may be brought down."""
    expected = kind.use(files / kind.file)
    for mode in modes_of(kind):
        for index in range(max(4, round(20 * kind.rate))):
            outcome, why = outcome_of(files, kind, mode, index, expected)
            assert outcome != "failed", f"{mode.name}, {index}: {why}"


def copy(files: Path, name: str, to: Path) -> Path:
    for path in (files / name, contract_of(files / name)):
        shutil.copy(path, to)
    return to / name


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt2", "policy.pt"])
def test_a_contract_that_says_something_else_is_refused(files, tmp_path, name):
    """It has the right digest, and is what another program would go by."""
    path = copy(files, name, tmp_path)
    contract = json.loads(contract_of(path).read_text())
    contract["inputs"][0]["meaning"] = "what the agent said"
    contract_of(path).write_text(json.dumps(contract))
    sentence = refused(1, "inspect", path)
    assert f"{name}.contract.json is corrupted: it must say what" in sentence


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "it must not be nested so deep"),
        ('{"sha256": NaN}', "a number must be finite, got NaN"),
        ("[]", "it must be a JSON object, got a list"),
        ("{}", "'sha256' is missing"),
        ('{"sha256": "\udc80"}', "codec can't decode"),
    ],
)
def test_a_contract_that_is_none(files, tmp_path, text, why):
    path = copy(files, "policy.onnx", tmp_path)
    contract_of(path).write_text(text, errors="surrogateescape")
    with pytest.raises(CorruptedError, match=rf"contract.json is corrupted, it is no .*{why}"):
        OnnxPolicy(path)


def entry(name: str, **said: object) -> dict:
    return {"name": name, "dtype": "float32", "shape": ["batch"], **said}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"inputs": [entry("y")]}, "the inputs must be ['x', 'rows'], as the graph has them"),
        ({"outputs": [entry("kl", shape=[2])]}, "`kl` must be float32 of shape ['batch', 3]"),
        ({"outputs": [entry("kl", shape=["batch", 4])]}, "`kl` must be float32 of shape"),
        ({"outputs": [entry("kl", dtype="float64")]}, "`kl` must be float32 of shape"),
        ({"outputs": [entry("kl", shape=["batch", True])]}, "an axis must be a size, a name or"),
        ({"inputs": [entry("x", noise="uniform"), entry("rows", noise=1)]}, "`noise` must be of"),
        ({"state": {"x": "z"}}, "the state must lead from inputs to outputs, got x to z"),
        ({"state": {"x": "kl"}}, "the state x must be followed by its like"),
        ({"schedule": {"epochs": 0, "minibatch_size": 1}}, "`epochs` must be a whole number"),
        ({"schedule": {"epochs": 1, "minibatch_size": "2"}}, "`minibatch_size` must be a whole"),
        ({"schedule": {"epochs": 1, "minibatch_size": 2}}, "must have the input `minibatches`"),
    ],
)
def test_a_contract_of_another_graph_is_refused(said, sentence):
    inputs = [Port("x", "float32", ["batch"]), Port("rows", "float32", ["batch"])]
    outputs = [Port("kl", "float32", ["batch", 3])]
    contract = {"inputs": [entry("x"), entry("rows")], "state": {}}
    contract |= {"outputs": [entry("kl", shape=["batch", 3])], "schedule": None}
    check_promises(contract, inputs, outputs, {})
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        check_promises({**contract, **said}, inputs, outputs, {})


def test_a_stored_state_fits_its_inputs():
    contract = {"inputs": [entry("x", shape=[3])], "outputs": [], "state": {"x": None}}
    check_state(contract, {"x": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"x must have the shape \[3\], got \[4\]"):
        check_state(contract, {"x": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="x must be a state of float32, got float64"):
        check_state(contract, {"x": np.zeros(3)})


def test_a_contract_as_large_as_a_disk(files, tmp_path):
    path = copy(files, "policy.onnx", tmp_path)
    os.truncate(contract_of(path), 1 << 40)
    with pytest.raises(CorruptedError, match="it must be at most 67108864 bytes"):
        OnnxPolicy(path)


def test_what_a_header_announces_is_not_allocated(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    (tmp_path / "a.npz").write_bytes(packed({"x.npy": header.getvalue() + bytes(8)}))
    with pytest.raises(
        ValueError, match=r"an array of float64 and shape \[1000000000000\] must be"
    ):
        read_arrays(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    with ZipFile(tmp_path / "bomb.npz", "w", ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", bytes(1 << 27))
    with pytest.raises(ValueError, match="bytes must not unpack to 134217728"):
        read_arrays(tmp_path / "bomb.npz")
    with pytest.raises(ValueError, match=r"bomb.npz must be a checkpoint .*must not be packed"):
        load_checkpoint(tmp_path / "bomb.npz")


@pytest.mark.parametrize("owner", [OnnxModel, OnnxPolicy, OnnxTrainer])
def test_the_digest_is_compared_before_the_runtime_reads(files, tmp_path, monkeypatch, owner):
    path = copy(files, "update.onnx", tmp_path)
    with path.open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(session, "open_session", None)
    with pytest.raises(CorruptedError, match="its SHA-256 must be"):
        owner(path)


# ---- The command line ----------------------------------------------------------------------------


def refused(code: int, *arguments: object) -> str:
    """The one sentence on stderr of a command that ends with this code."""
    done = CliRunner().invoke(app, [str(x) for x in arguments])
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("compiled-rl: ")
    return sentence


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt2", "policy.pt"])
@pytest.mark.parametrize("command", ["inspect", "bench", "verify", "play"])
def test_a_file_that_is_cut_off_is_one_sentence(files, tmp_path, name, command):
    """Nothing vouches for it: what reads it has to see it."""
    content = (files / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) // 2])
    (tmp_path / "recipe.py").write_text("import torch\ndef make(): return abs, torch.zeros(2, 4)")
    more = {"verify": ["--against", f"{tmp_path}/recipe.py:make"], "play": ["--env", "CartPole-v1"]}
    assert name in refused(1, command, path, *more.get(command, []))


def test_two_onnx_runtimes_are_one_sentence(files, monkeypatch):
    monkeypatch.setattr(session, "version", lambda name: "1.31.1")
    sentence = refused(2, "play", files / "policy.onnx", "--env", "CartPole-v1")
    assert "both installed; run `pip uninstall" in sentence


# ---- Half a write --------------------------------------------------------------------------------


def test_a_disk_that_is_full_leaves_the_older_state(files, tmp_path, monkeypatch):
    trainer = OnnxTrainer(files / "update.onnx")
    trainer.save(tmp_path / "state.npz")
    before = (tmp_path / "state.npz").read_bytes()

    def full(file: io.BufferedWriter, **_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(tmp_path / "state.npz")
    assert (tmp_path / "state.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


class Interrupted(dict):
    """Outputs of which the third that is read is where the user presses Ctrl-C."""

    reads = 0

    def __getitem__(self, name: str) -> np.ndarray:
        self.reads += 1
        if self.reads == 3:
            raise KeyboardInterrupt
        return super().__getitem__(name)


def test_an_interrupt_leaves_a_whole_state(files, monkeypatch):
    whole, other = OnnxTrainer(files / "update.onnx"), OnnxTrainer(files / "update.onnx")
    with np.load(files / "batch.npz") as file:
        batch = dict(file)
    whole(**batch)
    move = OnnxTrainer._move
    monkeypatch.setattr(
        OnnxTrainer, "_move", lambda self, outputs, n: move(self, Interrupted(outputs), n)
    )
    with pytest.raises(KeyboardInterrupt):
        other(**batch)
    assert other.updates == whole.updates == 1
    for name, x in whole.state.items():
        np.testing.assert_array_equal(other.state[name], x)
