"""A run of several processes goes on with another number of them, and one that dies ends all."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from compiled_rl.training import load_checkpoint, save_checkpoint
from tests.distributed import cases, spawned
from tests.export.learning import step_of

CASE, HALF = "ClipPPOLoss, normalised", cases.UPDATES // 2
ROOT = Path(__file__).parents[2]


def _first_half(path: str) -> None:
    loss, batch = cases.made(CASE, torch.float64)
    step = step_of(loss, process_group=dist.group.WORLD)
    for k, each in enumerate(cases.batches(loss, batch, masks=1)[:HALF]):
        step(cases.part(each, k)[0])
    if dist.get_rank() == 0:
        save_checkpoint(path, step.state_dict())


def _second_half(path: str) -> float:
    (loss, batch), (whole, _) = cases.made(CASE, torch.float64), cases.made(CASE, torch.float64)
    step, alone = step_of(loss, process_group=dist.group.WORLD), step_of(whole)
    step.load_state_dict(load_checkpoint(path))
    for k, each in enumerate(cases.batches(whole, batch, masks=1)):
        alone(each)
        if k >= HALF:
            step(cases.part(each, k)[0])
    return cases.states_apart(step, alone)


@pytest.mark.slow
def test_any_number_of_processes_goes_on(tmp_path):
    path = str(tmp_path / "run.pt")
    spawned.run(_first_half, 2, path)
    for processes in (1, 2, 4):
        assert max(spawned.run(_second_half, processes, path)) < 1e-10
    loss, _ = cases.made(CASE, torch.float64)
    step_of(loss).load_state_dict(load_checkpoint(path))  # without a group, too


def _die_in_the_middle(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", timedelta(seconds=20)
    dist.init_process_group("gloo", store, patience, rank=rank, world_size=2)
    loss, batch = cases.made(CASE, torch.float64)
    step = step_of(loss, process_group=dist.group.WORLD)
    for k, each in enumerate(cases.batches(loss, batch, masks=0)):
        if rank == 0:
            save_checkpoint(Path(folder, "run.pt"), step.state_dict() | {"k": k})
        elif k == HALF:
            os.kill(os.getpid(), signal.SIGKILL)
        step(cases.part(each, k)[0])


@pytest.mark.slow
def test_the_others_end_with_an_error_when_one_is_killed(tmp_path):
    context = mp.start_processes(
        _die_in_the_middle, (str(tmp_path),), 2, join=False, start_method=spawned.START
    )
    codes = []
    for process in context.processes:
        process.join(240)
        codes.append(process.exitcode)
    assert codes == [1, -signal.SIGKILL]
    assert load_checkpoint(tmp_path / "run.pt")["k"] == HALF


@pytest.mark.slow
def test_torchrun_ends_and_the_last_checkpoint_is_whole(tmp_path):
    path = tmp_path / "run.pt"
    example = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    example += ["-m", "examples.ppo_distributed", "--no-compile", "--timeout", "60"]
    command = [sys.executable, *example, "--steps", "10000000", "--checkpoint", str(path)]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_for(path, 600)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said, _ = job.communicate(timeout=240)
    finally:
        job.kill()
    assert job.returncode == 1
    assert b"SIGKILL" in said or b"Signal 9" in said
    state = load_checkpoint(path)
    assert state["taken"] % (5 * 8 * 128) == 0
    until = ["--steps", str(state["taken"] + 1), "--checkpoint", str(path), "--resume"]
    resumed = subprocess.run(
        [sys.executable, *example, *until],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1].startswith("mean return ")


def _wait_for(path: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.1)
