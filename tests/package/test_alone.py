"""With torch alone all but the edges works, and each edge says in one sentence what it needs."""

import re
import shutil

import pytest

import compiled_rl
from compiled_rl import losses, training
from tests.losses.without_tensordict import CASES
from tests.package.rooms import call, folder_of, linked_room, try_to

SENTENCE = re.compile(r"missing [\w.]+: (\w+) must be installed, got none; pip install (\S+)")
EDGES = {"tensordict", "numpy", "onnx", "pydantic"}
# Of each module with public names, those that torch alone does not bring.
TENSORDICT = {"_vmap_func", "add_random_module", "distance_loss"}
NUMPY = {"Collector", "Environments"}
# Of `compiled_rl.export`.
WITHOUT_NUMPY = {"CorruptedError", "Deployment", "ExportError", "InstallationError", "Options"}


def check_told(printed: str) -> None:
    """That ``tests.package.alone`` told what it should."""
    told = [line.split(maxsplit=1) for line in printed.splitlines()]
    assert {line[1] for line in told if line[0] == "step"} == set(CASES)
    assert {line[0] for line in told if len(line) == 1} == set(CASES)
    abstract = {"DeclaredLoss", "LossModule", "OffPolicyLoss"}
    assert set(CASES) == set(losses.__all__) - abstract
    assert len([line for line in told if line[0] == "estimator"]) == 6
    (warned,) = [line[1] for line in told if line[0] == "warned"]
    assert "numba must be installed, got none; pip install numba" in warned
    there = {line[1] for line in told if line[0] == "there"}
    top = {f"compiled_rl.{name}" for name in set(compiled_rl.__all__) - TENSORDICT}
    update = {f"compiled_rl.training.{name}" for name in set(training.__all__) - NUMPY}
    shipped = {f"compiled_rl.export.{name}" for name in WITHOUT_NUMPY}
    assert there == top | update | shipped
    missing = [line for line in printed.splitlines() if line.startswith("missing ")]
    places = len({*compiled_rl.__all__}) + len(training.__all__) + len(compiled_rl.export.__all__)
    assert len(missing) == places - len(there) + 2
    assert {SENTENCE.fullmatch(line)[1] for line in missing} == EDGES


@pytest.fixture
def room(tmp_path):
    def make(*requirements):
        return linked_room(tmp_path / "room", *requirements)

    yield make
    shutil.rmtree(tmp_path / "room")


def test_torch_alone(room):
    python = room("torch")
    check_told(call([python, "-m", "tests.package.alone"], folder_of(python)).stdout)


def test_each_command_says_what_it_needs(room, tmp_path):
    """In an environment without torch, which would be imported before."""
    python = room("numpy", "typer", "rich")
    (tmp_path / "a.onnx").write_bytes(b"")
    runtime = "from compiled_rl.export import OnnxPolicy"
    play = ("play", tmp_path / "a.onnx", "--env", "CartPole-v1")
    for command, sentence in (
        (("-m", "compiled_rl.cli", *play), "`play`: gymnasium must be installed, got none; pip"),
        (("-m", "compiled_rl.examples.demo"), "compiled_rl.examples: gymnasium must be installed"),
        (("-c", runtime), "compiled_rl.export.OnnxPolicy: onnxruntime must be installed, got none"),
    ):
        told = try_to([python, *command], folder_of(python))
        assert told.returncode
        assert sentence in told.stderr.splitlines()[-1]
        assert "[" in told.stderr.splitlines()[-1]  # the extra
