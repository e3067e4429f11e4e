"""The kernels where a process is not alone, or where Numba or its cache is missing."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from compiled_rl.functional import gae
from compiled_rl.kernels import threads
from tests.kernels.inputs import draw

LARGE = (64, 8192)  # enough for several threads


def advantage(seed: int) -> torch.Tensor:
    return gae(*draw("gae", *LARGE, dtype=torch.float32, seed=seed)).advantage


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_how_many_threads_are_useful(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert threads.useful(100_000) == 1
    assert threads.useful(300_000) == 2
    assert threads.useful(10**9) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert threads.useful(10**9) == 1


def test_large_work_is_shared(two_threads, monkeypatch):
    names = set()
    walk = threads._walk

    def noting(*arguments):
        names.add(threading.current_thread().name.split("_")[0])
        walk(*arguments)

    monkeypatch.setattr(threads, "_walk", noting)
    advantage(0)
    assert names == {"MainThread", "compiled"}


def test_in_many_threads_at_once(two_threads):
    expected = [advantage(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for one, other in zip(pool.map(advantage, range(6)), expected, strict=True):
            assert torch.equal(one, other)


def digest(inputs) -> bytes:
    return hashlib.sha256(gae(*inputs).advantage.numpy().tobytes()).digest()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(two_threads):
    # The child may call nothing of torch that runs on torch's own threads: those would hang.
    inputs = draw("gae", *LARGE, dtype=torch.float32)
    expected = digest(inputs)  # our threads exist in the parent
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send_bytes(digest(inputs)), daemon=True)
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        assert ours.recv_bytes() == expected
    finally:
        child.kill()


class Advantages(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, seed: int) -> torch.Tensor:
        return advantage(seed)


def test_in_the_workers_of_a_data_loader(two_threads):
    expected = torch.stack([advantage(seed) for seed in range(4)])
    loader = torch.utils.data.DataLoader(Advantages(), batch_size=2, num_workers=2, timeout=60)
    assert torch.equal(torch.cat(list(loader)), expected)


# ---- Numba absent, or without a cache ------------------------------------------------------------

SETUP = """
import sys, warnings, torch
from compiled_rl.functional import gae
from compiled_rl.kernels import linear_recurrence
assert "numba" not in sys.modules, "importing the kernels must not import Numba"
def run():
    torch.manual_seed(0)
    x, decay = torch.randn(3, 20), torch.rand(3, 20)
    flag, half = decay > 0.8, torch.tensor(0.5)
    return [linear_recurrence(x, decay), *gae(x, x, x, flag, flag, half, half)]
"""
NUMBA_BLOCKED = """
sys.modules["numba"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for z in run() + run():
        print(z.double().sum().item())
assert len(caught) == 1, [str(w.message) for w in caught]
assert "pip install numba" in str(caught[0].message)
"""
CACHE_BLOCKED = """
from numba.core import caching
def refuse(self):
    raise OSError("read-only")
for locator in caching.CacheImpl._locator_classes:
    locator.ensure_cache_path = refuse
warnings.simplefilter("error")
for z in run() + run():
    print(z.double().sum().item())
from compiled_rl.kernels import cpu
assert cpu.works(torch.float32)
"""


def printed_by(script: str, **environment: str) -> list[float]:
    result = subprocess.run(
        [sys.executable, "-c", SETUP + script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [float(line) for line in result.stdout.split()]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(NUMBA_BLOCKED, id="numba"),
        pytest.param(CACHE_BLOCKED, id="cache", marks=pytest.mark.slow),
    ],
)
def test_blocked(script, tmp_path):
    namespace: dict = {}
    body = SETUP.replace('assert "numba"', 'assert True or "numba"')
    exec(body, namespace)
    expected = [z.double().sum().item() for z in namespace["run"]()] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actual = printed_by(script, NUMBA_CACHE_DIR=str(tmp_path))
    assert actual == pytest.approx(expected, abs=1e-4)
