"""Runtimes that are not ours: what they are given, and how they are called."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

import numpy as np
import pytest
import torch
from torch import Tensor

from compiled_rl import Policy
from compiled_rl.export import to_onnx
from compiled_rl.functional import gae
from tests.export.targets import sequence, targets

HERE = Path(__file__).parent
BATCHES = (1, 3, 64)  # of the programs in C++, too
Arrays = dict[str, np.ndarray]

bound_gae = partial(gae, gamma=0.9, lmbda=0.8)


@pytest.fixture(scope="session")
def policy() -> Policy:
    return targets()["normal"].eval()


@pytest.fixture(scope="session")
def policy_onnx(policy, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    return to_onnx(policy, torch.randn(2, 4), path).path


@pytest.fixture(scope="session")
def gae_onnx(tmp_path_factory) -> Path:
    """Generalised advantage estimation, exported at a batch of 2 and a time of 8."""
    path = tmp_path_factory.mktemp("gae") / "gae.onnx"
    return to_onnx(bound_gae, sequence(2, 8), path, ("batch", "time")).path


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Callable[[str], Path]:
    """Makes one of the programs in C++ against this torch's own libraries."""
    for program in ("cmake", "make", "g++", *(["nvcc"] if torch.version.cuda else [])):
        need(program)
    folder = tmp_path_factory.mktemp("build")

    def build(client: str) -> Path:
        prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
        run("cmake", "-S", HERE, "-B", folder, prefix)
        run("cmake", "--build", folder, "--target", client)
        return folder / client

    return build


def check_program(program: Path, file: Path, policy: Policy) -> None:
    """A program in C++ prints eager's actions, one line for each batch."""
    lines = run(program, file).splitlines()
    for batch, line in zip(BATCHES, lines, strict=True):
        observation = torch.linspace(-1, 1, batch * 4).view(batch, 4)
        got = torch.tensor([float(x) for x in line.split()]).view(batch, -1)
        torch.testing.assert_close(got, policy(observation), rtol=1e-5, atol=1e-5)


def check_outputs(got: Arrays, expected: Mapping[str, Tensor]) -> None:
    """A runtime's outputs are eager's, in dtype and shape as well."""
    assert list(got) == list(expected)
    for name, x in expected.items():
        torch.testing.assert_close(
            torch.from_numpy(got[name]), x, rtol=1e-5, atol=1e-5, equal_nan=True
        )


def run_web(
    model: Path, calls: Sequence[Arrays], state: Optional[Mapping[str, Optional[str]]] = None
) -> list[Arrays]:
    """The outputs of every call of an ONNX file in onnxruntime-web.

    Args:
        model: the file.
        calls: the inputs of each call.
        state: inputs that need be given once, and the outputs that become them in the next call;
            None for one that stays as it was. As ``state`` of a training step's contract.
    """
    need("node")
    if not (HERE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed; `make slow` does so where npm can")
    with TemporaryDirectory() as folder:
        given, returned = Path(folder, "calls.json"), Path(folder, "outputs.json")
        written = [{name: _written(x) for name, x in call.items()} for call in calls]
        given.write_text(json.dumps({"calls": written, "state": state or {}}, allow_nan=False))
        run("node", HERE / "run.mjs", model, given, returned)
        results = json.loads(returned.read_text())
    return [{name: _read(x) for name, x in result.items()} for result in results]


def _written(x: np.ndarray) -> dict:
    return {"dtype": str(x.dtype), "dims": x.shape, "data": x.ravel().tolist()}


def _read(x: dict) -> np.ndarray:
    return np.array(x["data"], x["dtype"]).reshape(x["dims"])


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
