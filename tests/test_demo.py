"""The demo, small, as a newcomer runs it; and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiled_rl.export import OnnxModel
from compiled_rl.training import load_checkpoint, save_checkpoint
from examples.ppo_cartpole import train

ROOT = Path(__file__).parents[1]
ARTEFACTS = {
    *(
        f"{name}.{end}"
        for name in ("policy", "value", "gae")
        for end in ("onnx", "onnx.contract.json")
    ),
    "checkpoint.pt",
    "learning_curve.png",
}


def heed_interrupts() -> None:
    """What runs in the background of a shell ignores them, and its children do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(out: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "examples.demo", "--out", str(out), *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        preexec_fn=heed_interrupts,
    )


def test_the_demo_end_to_end(tmp_path):
    process = start(tmp_path, "--steps", "1024", "--no-compile")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert {path.name for path in tmp_path.iterdir()} == ARTEFACTS
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    for name in ("policy.onnx", "value.onnx", "gae.onnx"):
        assert name in output
        contract = json.loads((tmp_path / f"{name}.contract.json").read_text())
        assert max(row["max_error"] for row in contract["verification"]) < 1e-3
        assert contract["versions"] == OnnxModel(tmp_path / name).contract["versions"]
    assert float(output.split("mean return")[-1]) >= 8


def test_an_interrupt_before_the_first_rollout_leaves_what_was_there(tmp_path):
    kept = tmp_path / "checkpoint.pt"
    kept.write_bytes(b"of an earlier run")
    process = start(tmp_path)
    while "Training" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert kept.read_bytes() == b"of an earlier run"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}


@pytest.mark.slow
def test_a_solved_run_stays_solved_when_it_is_resumed(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    train(2048, 0, False, checkpoint, lambda _: None)
    state = load_checkpoint(checkpoint)
    state["history"][-1] = [1024, 490.0]
    state["returns"] = [490.0] * 20
    save_checkpoint(checkpoint, state)
    _, history = train(2048, 0, False, checkpoint, lambda _: None, resume=True)
    assert [list(row) for row in history] == state["history"]


def test_resuming_from_nothing_is_refused(tmp_path):
    process = start(tmp_path, "--resume")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "there is no" in output


def test_an_interrupt_leaves_a_checkpoint_to_go_on_from(tmp_path):
    process = start(tmp_path, "--steps", "1000000", "--no-compile")
    while "Training" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(3)  # several rollouts
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Go on from" in output
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}
    before = load_checkpoint(tmp_path / "checkpoint.pt")["history"]
    again = start(tmp_path, "--resume", "--steps", str(before[-1][0] + 512), "--no-compile")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    after = load_checkpoint(tmp_path / "checkpoint.pt")["history"]
    assert after[: len(before)] == before
    assert len(after) > len(before)
