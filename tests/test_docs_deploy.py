"""The steps of docs/deploy.md run, in order, as someone would copy them."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import pages
from tests.clients.conftest import HERE, need, run

PAGE = pages.read("docs/deploy.md")


def blocks(language: str) -> list[str]:
    return pages.blocks(PAGE, language)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A folder in which the Python and the commands of the page were run."""
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "robot.py").write_text(blocks("python")[0])
    for line in blocks("bash")[0].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "compiled-rl"
        command = [sys.executable, "-m", "compiled_rl.cli", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def test_the_python_runs_in_order(shipped, monkeypatch):
    monkeypatch.chdir(shipped)
    names = pages.run(blocks("python")[1:])
    assert len(blocks("python")) == 5
    np.testing.assert_allclose(names["torque"], expected(shipped), rtol=1e-5, atol=1e-6)
    assert names["report"].max_error < 1e-5
    assert names["action"].shape == (3,)
    assert names["metrics"]["loss_objective"].shape == (12,)
    assert names["trainer"].updates == 12
    assert (shipped / "ship" / "learned.npz").exists()
    (bias,) = [x for name, x in names["explore"].held.items() if name.endswith("bias")]
    assert not np.array_equal(bias, names["actor"].network.bias.detach().numpy())


@pytest.mark.slow
def test_the_host(shipped):
    for program in ("cmake", "make", "g++"):
        need(program)
    (shipped / "host.cpp").write_text(blocks("cpp")[0])
    (shipped / "CMakeLists.txt").write_text(blocks("cmake")[0])
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    run("cmake", "-S", shipped, "-B", shipped / "build", prefix)
    run("cmake", "--build", shipped / "build")
    check(shipped, run(shipped / "build" / "host", shipped / "ship" / "robot.pt"))


@pytest.mark.slow
def test_the_browser(shipped):
    need("node")
    if not (HERE / "node_modules" / "onnxruntime-web").exists():
        pytest.skip("onnxruntime-web is not installed: make slow installs it")
    (shipped / "page.mjs").write_text(blocks("js")[0])
    shutil.copytree(HERE / "node_modules", shipped / "node_modules", symlinks=True)
    done = subprocess.run(["node", "page.mjs"], cwd=shipped, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    check(shipped, done.stdout)


def check(folder: Path, printed: str) -> None:
    got = np.array([[float(x) for x in printed.split()]])
    np.testing.assert_allclose(got, expected(folder), rtol=1e-4, atol=1e-5)


def expected(folder: Path) -> np.ndarray:
    names = pages.run([(folder / "robot.py").read_text()])
    with torch.no_grad():
        return names["policy"].eval()(torch.zeros(1, 4)).numpy()
