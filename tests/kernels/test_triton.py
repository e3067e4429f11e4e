"""The Triton kernels against scalar loops.

On a machine without a GPU they run on CPU tensors in Triton's interpreter, which must be switched
on before anything imports Triton: in a process of its own, that ``test_in_the_interpreter`` starts
on this same file. That they compile for a device is tested on any machine.
"""

import math
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from benchmarks import estimators_cuda as benchmark
from compiled_rl.kernels import cuda, operators
from compiled_rl.kernels.doubling import plain_recurrence
from compiled_rl.kernels.table import KERNELS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
on_device = pytest.mark.skipif(
    find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()),
    reason="no GPU: see test_in_the_interpreter",
)
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}
# The real inputs of an estimator, and values for its scalars.
ESTIMATORS = {
    "gae": (["reward", "value", "next_value"], (0.97, 0.9)),
    "td_lambda_return": (["reward", "next_value"], (0.97, 0.9)),
    "vtrace": (
        ["reward", "value", "next_value", "log_prob", "behavior_log_prob"],
        (0.97, 0.9, 1.3, 1.1),
    ),
}
LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "reversed axes": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "expanded batch": lambda x: x[:1].expand(x.shape),
    "expanded time": lambda x: x[:, :1].expand(x.shape),
    "expanded scalar": lambda x: x.flatten()[0].expand(x.shape),
    "stepped": lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, 2)[:, ::2, ::3],
    "not collapsible": lambda x: torch.cat([x, x, x], 2)[:, :, : x.shape[2]],
}


@pytest.fixture(autouse=True, scope="module")
def tree_scan():
    """In the interpreter, a scan composes as a device does: in a tree, all lanes at once.

    Its own goes from element to element, which would not tell whether an operator is associative,
    and takes 100 us for each.
    """
    if not INTERPRETED:
        yield
        return
    from triton.runtime.interpreter import ScanOps

    own, ScanOps.generic_scan = ScanOps.generic_scan, _tree_scan
    yield
    ScanOps.generic_scan = own


def _tree_scan(self, tensors):
    import numpy as np

    values = [x.handle.data for x in tensors]
    index = np.arange(values[0].shape[self.axis])[None, :]
    distance = 1
    while distance < values[0].shape[self.axis]:
        before = [np.roll(x, distance, self.axis) for x in values]
        operands = [
            self.to_tensor(x, like.dtype)
            for x, like in zip(before + values, tensors * 2, strict=True)
        ]
        combined = [x.handle.data for x in self.combine_fn.fn(*operands)]
        values = [np.where(index < distance, x, y) for x, y in zip(values, combined, strict=True)]
        distance *= 2
    return [self.to_tensor(x, like.dtype) for x, like in zip(values, tensors, strict=True)]


# ---- oracles: every step as its own sum over the steps that follow -------------------------------


def rows(x: Tensor, time_dim: int) -> list[list]:
    moved = x.detach().cpu().movedim(time_dim, -1)
    moved = moved if x.dtype == torch.bool else moved.double()
    return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1]).tolist()


def tensor(values: list[list[float]], like: Tensor, time_dim: int) -> Tensor:
    shape = like.movedim(time_dim, -1).shape
    return torch.tensor(values, dtype=torch.float64).reshape(shape).movedim(-1, time_dim)


def summed(own: list[float], decay: list[float], last: list[bool], t: int) -> float:
    """``own`` of step t and of those after it, each times the decays on the way, up to a last."""
    total, weight = 0.0, 1.0
    for k in range(t, len(own)):
        total += weight * own[k]
        if last[k]:
            break
        weight *= decay[k]
    return total


def oracle(name, data, scalars, mask, time_dim) -> tuple[Tensor, ...]:
    columns = {key: rows(x, time_dim) for key, x in data.items()}
    valid = rows(mask if mask is not None else torch.ones_like(data["done"]), time_dim)
    results = [
        _row(name, {key: column[b] for key, column in columns.items()}, scalars, valid[b])
        for b in range(len(valid))
    ]
    outputs = 1 if name == "td_lambda_return" else 2
    return tuple(
        tensor([row[k] for row in results], data["reward"], time_dim) for k in range(outputs)
    )


def _row(name, d, scalars, valid) -> list[list[float]]:
    gamma, lmbda, *thresholds = scalars
    steps = range(len(valid))
    following = [t + 1 < len(valid) and valid[t + 1] for t in steps]
    last = [d["terminated"][t] or d["done"][t] or not following[t] for t in steps]
    bootstrap = [0.0 if d["terminated"][t] else d["next_value"][t] for t in steps]
    decay = [gamma * lmbda] * len(valid)
    if name == "td_lambda_return":
        weight = [1.0 if last[t] else 1 - lmbda for t in steps]
        own = [d["reward"][t] + gamma * weight[t] * bootstrap[t] for t in steps]
        return [[summed(own, decay, last, t) if valid[t] else 0.0 for t in steps]]
    value, rho = d["value"], [1.0] * len(valid)
    if name == "vtrace":
        ratio = [
            math.exp(min(300.0, d["log_prob"][t] - d["behavior_log_prob"][t])) if valid[t] else 0.0
            for t in steps
        ]
        rho = [min(x, thresholds[0]) for x in ratio]
        decay = [gamma * lmbda * min(x, thresholds[1]) for x in ratio]
    own = [rho[t] * (d["reward"][t] + gamma * bootstrap[t] - value[t]) for t in steps]
    gain = [summed(own, decay, last, t) if valid[t] else 0.0 for t in steps]
    target = [value[t] + gain[t] if valid[t] else 0.0 for t in steps]
    if name == "gae":
        return [gain, target]
    reached = [bootstrap[t] if last[t] else target[t + 1] for t in steps]
    advantage = [rho[t] * (d["reward"][t] + gamma * reached[t] - value[t]) for t in steps]
    return [[advantage[t] if valid[t] else 0.0 for t in steps], target]


# ---- inputs --------------------------------------------------------------------------------------


def experience(name: str, shape, dtype=torch.float64, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    data = {
        key: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for key in ESTIMATORS[name][0]
    }
    # Drawn independently: some terminated steps are not flagged as done.
    flags = {key: torch.rand(shape, generator=generator) < 0.1 for key in ("terminated", "done")}
    return {key: x.to(DEVICE) for key, x in (data | flags).items()}


def validity(shape) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(9)) < 0.8).to(DEVICE)


def fused(name, data, scalars=None, mask=None, time_dim=-1) -> tuple[Tensor, ...]:
    first = [key for key in ("reward", "value", "next_value") if key in data]
    log_probs = [key for key in ("log_prob", "behavior_log_prob") if key in data]
    names = [*first, "terminated", "done", *log_probs]
    scalars = scalars or ESTIMATORS[name][1]
    return cuda.fused(KERNELS[name], [data[key] for key in names], scalars, mask, time_dim)


def assert_close(actual: Tensor, expected: Tensor, like: Tensor) -> None:
    assert actual.dtype == like.dtype
    assert actual.stride() == torch.empty_like(like).stride()
    tolerance = TOLERANCE[like.dtype]
    torch.testing.assert_close(actual.cpu().double(), expected, atol=tolerance, rtol=tolerance)


def assert_fused(name, data, scalars=None, mask=None, time_dim=-1, clean=None) -> None:
    """Right numbers, those of ``clean`` where it is given."""
    scalars = scalars or ESTIMATORS[name][1]
    expected = oracle(name, clean or data, scalars, mask, time_dim)
    actual = fused(name, data, scalars, mask, time_dim)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, data["reward"])


def operands(shape, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    decay = torch.rand(shape, generator=generator, dtype=torch.float64) * 1.2 - 0.2
    return x.to(DEVICE, dtype), decay.to(DEVICE, dtype)


def assert_recurrence(x: Tensor, decay: Tensor, time_dim: int) -> None:
    for reverse in (True, False):
        expected = []
        for xs, ds in zip(rows(x, time_dim), rows(decay, time_dim), strict=True):
            order, carried = range(len(xs))[:: -1 if reverse else 1], 0.0
            ys = [0.0] * len(xs)
            for t in order:
                ys[t] = carried = xs[t] + (ds[t] * carried if t != order[0] else 0.0)
            expected.append(ys)
        y = cuda.linear_recurrence(x, decay, time_dim, reverse)
        assert_close(y, tensor(expected, x, time_dim), x)


# ---- numbers -------------------------------------------------------------------------------------


@on_device
@pytest.mark.parametrize("length", [0, 1, 2, 31, 32, 33, 300])
@pytest.mark.parametrize("batch", [0, 1, 3, 70])
def test_sizes(batch, length):
    assert_recurrence(*operands((batch, length)), 1)
    assert_recurrence(*operands((length, batch)), 0)
    for name in ESTIMATORS:
        batch_first, time_first = (batch, length, 1), (length, batch)
        assert_fused(name, experience(name, batch_first), None, None, -2)
        assert_fused(name, experience(name, time_first), None, validity(time_first), 0)


@on_device
@pytest.mark.parametrize(("shape", "time_dim"), [((9001,), 0), ((2, 9001), 1), ((9001, 3), 0)])
def test_rows_of_many_tiles(shape, time_dim):
    assert_recurrence(*operands(shape), time_dim)
    for name in ESTIMATORS:
        assert_fused(name, experience(name, shape), None, validity(shape), time_dim)


@on_device
@pytest.mark.parametrize("time_dim", range(3))
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, mixed, time_dim):
    shape, laid_out = (3, 7, 6), LAYOUTS[layout]
    x, decay = operands(shape)
    assert_recurrence(laid_out(x), decay if mixed else laid_out(decay), time_dim)
    for name in ESTIMATORS:
        data = experience(name, shape)
        data = {
            key: laid_out(x) if k % 2 or not mixed else x for k, (key, x) in enumerate(data.items())
        }
        mask = laid_out(validity(shape)) if mixed else None
        assert_fused(name, data, None, mask, time_dim)


@on_device
@pytest.mark.parametrize("time_dim", range(4))
def test_four_dimensions_that_do_not_merge(time_dim):
    def laid_out(x):
        return x.permute(3, 1, 0, 2)[:2, ::2, :, 1:]

    x, decay = operands((3, 6, 7, 5))
    assert_recurrence(laid_out(x), laid_out(decay), time_dim)
    for name in ESTIMATORS:
        data = {key: laid_out(x) for key, x in experience(name, (3, 6, 7, 5)).items()}
        assert_fused(name, data, None, None, time_dim)


@on_device
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes(dtype):
    assert_recurrence(*operands((6, 37), dtype), 1)
    for name, (_, scalars) in ESTIMATORS.items():
        assert_fused(name, experience(name, (6, 37), dtype), None, validity((6, 37)))
        for kind in (torch.float32, torch.float64):
            given = tuple([torch.tensor(x, dtype=kind, device=DEVICE) for x in scalars])
            exact = tuple([x.item() for x in given])
            data = experience(name, (6, 37), dtype)
            expected = oracle(name, data, exact, None, -1)
            for one, other in zip(fused(name, data, given), expected, strict=True):
                assert_close(one, other, data["reward"])


@on_device
def test_half_precision_is_computed_in_single():
    x, decay = torch.ones(1, 4000), torch.full((1, 4000), 0.991)
    assert_recurrence(x.to(DEVICE, torch.bfloat16), decay.to(DEVICE, torch.bfloat16), -1)


@on_device
@pytest.mark.parametrize("scalars", [(0.0, 0.9), (1.0, 1.0), (0.97, 0.0), (0.97, 1e-9)])
def test_scalars_at_their_bounds(scalars):
    for name in ESTIMATORS:
        given = scalars if name != "vtrace" else (*scalars, 1.0, 0.0)
        assert_fused(name, experience(name, (3, 40)), given, validity((3, 40)))


# ---- what must not spread ------------------------------------------------------------------------


@on_device
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("time_dim", [0, 1])
def test_what_is_masked_or_terminated_is_not_used(bad, time_dim):
    for name in ESTIMATORS:
        clean, mask = experience(name, (40, 40)), validity((40, 40))
        dirty = {
            key: x if x.dtype == torch.bool else torch.where(mask, x, bad)
            for key, x in clean.items()
        }
        dirty["next_value"] = torch.where(clean["terminated"], bad, dirty["next_value"])
        assert_fused(name, dirty, None, mask, time_dim, clean)


@on_device
@pytest.mark.parametrize("name", ESTIMATORS)
def test_nan_stays_in_its_episode(name):
    """A diverged value must be seen, but not in the episodes before it."""
    clean, dirty = experience(name, (2, 40)), experience(name, (2, 40))
    for data in (clean, dirty):
        data["done"][:, 20] = True
    dirty["reward"][:, 25] = math.nan
    for one, other in zip(fused(name, dirty), fused(name, clean), strict=True):
        assert (one[:, :21] == other[:, :21]).all()
        assert one[:, 25].isnan().all()


@on_device
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("shape", "time_dim"), [((5, 9), 1), ((10, 9), 0), ((3, 5000), 1)])
def test_decay_is_not_read_where_the_recurrence_starts(bad, shape, time_dim):
    for reverse in (True, False):
        x, decay = operands(shape)
        decay.select(time_dim, -1 if reverse else 0).fill_(bad)
        assert cuda.linear_recurrence(x, decay, time_dim, reverse).isfinite().all()


@on_device
def test_overflow_stays_in_its_episode():
    x, decay = torch.ones(1, 5000, device=DEVICE), torch.full((1, 5000), 0.9, device=DEVICE)
    decay[:, 4000:4010], decay[:, 3999] = 1e30, 0.0
    y = cuda.linear_recurrence(x, decay, 1, True)
    assert y[:, 4000].isinf().all()
    assert y[:, :4000].isfinite().all()


@on_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_ratio", [1e4, -1e4])
def test_vtrace_takes_any_log_ratio(log_ratio, dtype):
    data = experience("vtrace", (3, 40), dtype)
    data["log_prob"] = torch.full_like(data["log_prob"], log_ratio)
    assert_fused("vtrace", data)
    one = {key: x[:, :1] for key, x in data.items()}
    assert_fused("vtrace", one, (0.97, 0.9, 1e37, 1e37))
    data["log_prob"][:, 7] = math.nan
    assert fused("vtrace", data)[0][:, 7].isnan().all()


@on_device
def test_vtrace_without_thresholds():
    scalars = (0.97, 0.9, math.inf, math.inf)
    assert_fused("vtrace", experience("vtrace", (3, 40)), scalars, validity((3, 40)))
    data = experience("vtrace", (3, 40), torch.float32)
    data["log_prob"] = torch.full_like(data["log_prob"], 1e4)
    data["value"], data["reward"], data["next_value"] = [torch.zeros_like(data["value"])] * 3
    assert all((x == 0).all() for x in fused("vtrace", data, scalars))


@on_device
def test_inputs_are_not_written():
    for name in ESTIMATORS:
        data, before = experience(name, (5, 9)), experience(name, (5, 9))
        fused(name, data)
        assert all((data[key] == before[key]).all() for key in data)


@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no GPU")
def test_the_device_is_never_waited_for():
    data = {name: experience(name, (5, 9)) for name in ESTIMATORS}
    torch.cuda.set_sync_debug_mode("error")
    try:
        for name in ESTIMATORS:
            fused(name, data[name])
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- the host ------------------------------------------------------------------------------------


@pytest.mark.parametrize("along", [False, True])
def test_tiles(along):
    sizes = [1, 2, 3, 31, 32, 33, 128, 1000, 4096, 65536]
    for batch, time in product(sizes, sizes):
        lanes, steps = cuda._tile(batch, time, along)
        assert lanes & (lanes - 1) == 0 == steps & (steps - 1)
        assert lanes * steps <= 4096
        assert lanes < 2 * batch
        assert steps < 2 * time


def test_axes_merge_where_all_tensors_allow():
    ones = torch.ones(4, 5, 6, 7)
    merged = cuda.plan(ones.shape, (ones.stride(), ones.stride()), -1)
    assert merged.extent == (120, 7, ())
    apart = cuda.plan(ones.shape, (ones[:, :1].expand(4, 5, 6, 7).stride(), ones.stride()), -1)
    assert apart.extent == (120, 7, (6, 5))


# ---- other processes -----------------------------------------------------------------------------


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: x for key, x in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # a minute and a half: it interprets every kernel
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_in_the_interpreter():
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    result = python("-m", "pytest", *options, __file__, TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr


COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from compiled_rl.kernels import blocks, cuda
from compiled_rl.kernels.table import KERNELS

class Absent:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 80, 32)

class Compile:
    def __getitem__(self, grid):
        def launch(*args, **options):
            texts.append(walk.warmup(*args, grid=grid, **options).asm["ptx"])
        return launch

texts, walk, blocks.walk = [], blocks.walk, Compile()
cuda.works = lambda: True
triton.runtime.driver.set_active(Absent())
real, flag = torch.zeros(64, 64), torch.zeros(64, 64, dtype=torch.bool)
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    x = real.to(dtype)
    for time_dim in (0, 1):
        cuda.linear_recurrence(x, x, time_dim, False)
        cuda.fused(KERNELS["gae"], (x, x, x, flag, flag), (0.9, 0.9), None, time_dim)
        cuda.fused(KERNELS["td_lambda_return"], (x, x, flag, flag), (0.9, 0.9), flag, time_dim)
        cuda.fused(KERNELS["vtrace"], (x, x, x, flag, flag, x, x), (0.9,) * 4, flag, time_dim)
x = torch.zeros(3, 5, 7)[:, ::2]
cuda.linear_recurrence(x, x, 2, True)
assert len(texts) == 25
wide = ["ld.global.v4.b32" in text or "ld.global.v2.b64" in text for text in texts]
assert all(wide[:-1]), wide
"""


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
def test_all_compile_for_a_device_with_wide_loads(tmp_path):
    """The interpreter accepts what the compiler does not; it needs no device for it."""
    result = python("-c", COMPILED, TRITON_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr


UNABLE = """
import sys, warnings
sys.modules["triton"] = None
from compiled_rl.kernels import cuda, operators
from compiled_rl.kernels.doubling import plain_recurrence
from compiled_rl.kernels.table import KERNELS
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not cuda.works() and not cuda.works()
assert ["Triton cannot run here" in str(w.message) for w in caught] == [True], caught
"""


@pytest.mark.parametrize("missing", ["Triton", "a device"])
def test_where_triton_cannot_run_there_is_one_warning(missing):
    script = UNABLE if missing == "Triton" else UNABLE.replace('sys.modules["triton"] = None', "")
    result = python("-c", script, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr


@on_device
@pytest.mark.parametrize("time_first", [True, False])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_benchmark_compares_the_same_numbers(name, time_first):
    data = benchmark.experience(3, 40, time_first, DEVICE)
    time_dim = 0 if time_first else 1
    ours = benchmark.fused(name, data, time_dim)()
    for call in benchmark.theirs(name, data, time_dim).values():
        theirs = call() if name != "td_lambda_return" else [call()]
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other.squeeze(-1), atol=1e-5, rtol=1e-5)


def test_the_benchmark_counts_bytes():
    data = benchmark.experience(3, 40, True, "cpu")
    counted = [benchmark.traffic(name, data) for name in ("gae", "td_lambda_return", "vtrace")]
    assert counted == [120 * (5 * 4 + 2), 120 * (3 * 4 + 2), 120 * (7 * 4 + 2)]


@on_device
def test_works_also_while_a_graph_is_traced():
    cuda.works.cache_clear()
    with FakeTensorMode():
        assert cuda.works()


@pytest.mark.parametrize("name", [*KERNELS, "linear_recurrence"])
def test_operators_are_registered_for_the_device(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"compiled_rl::{name}", "CUDA")


@pytest.mark.parametrize("works", [True, False])
def test_the_plain_form_runs_where_triton_does_not(works, monkeypatch):
    monkeypatch.setattr(cuda, "works", lambda: works)
    assert operators.has_fused(False, True, torch.bfloat16) == works
    assert not operators.has_fused(False, True, torch.int32)
    assert not operators.has_fused(False, False, torch.float32)
    if not works:
        x = torch.randn(3, 5)
        expected = plain_recurrence(x, x, -1, True)
        torch.testing.assert_close(cuda.linear_recurrence(x, x, -1, True), expected)
