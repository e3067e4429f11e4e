"""A graph's sums over processes, made few: what they give stays, and one waits for the other."""

import warnings
from collections.abc import Iterator
from threading import Thread
from typing import Optional

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx

from compiled_rl.functional import effective_sample_size, explained_variance, reduce, standardize
from compiled_rl.functional.processes import _SPLIT, SplitBatch, over_processes
from compiled_rl.training.collectives import OneOfAKind
from tests.distributed import cases
from tests.export.learning import step_of

ALL_REDUCE = torch.ops._c10d_functional.all_reduce.default


@pytest.fixture
def alone(tmp_path) -> Iterator[dist.ProcessGroup]:
    """A group of this process."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def sums(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target is ALL_REDUCE]


def statistics(x: Tensor, y: Tensor, mask: Tensor) -> list[Tensor]:
    scaled = standardize(x, mask)
    metrics = [explained_variance(x, y, mask), effective_sample_size(x - y, mask)]
    return [scaled, reduce(scaled * y, mask), reduce(y.to(torch.float32), mask), *metrics]


def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return *torch.randn(2, 7, dtype=torch.float64), torch.rand(7) < 0.7


def test_those_of_one_depth_become_one(alone):
    with SplitBatch(alone):
        traced = make_fx(statistics, tracing_mode="fake")(*inputs(0))
    before = len(sums(traced.graph))
    OneOfAKind()(traced.graph)
    traced.graph.lint()
    traced.recompile()
    left = sorted(f"{node.args[1]} {node.meta['val'].dtype}" for node in sums(traced.graph))
    assert before == 20
    # A mean, what rounding left of it, what is off it, and what is scaled by it.
    deep = ["sum torch.float64"] * 4
    assert left == ["max torch.float64", "sum torch.float32", *deep, "sum torch.int64"]
    for k in (0, 1):
        for x, expected in zip(traced(*inputs(k)), statistics(*inputs(k)), strict=True):
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


def test_what_waits_for_another_stays_behind_it(alone):
    def chained(x: Tensor) -> Tensor:
        first = over_processes(x.sum())
        return over_processes((x - first).sum()) + over_processes(x.sum() * 2)

    with SplitBatch(alone):
        traced = make_fx(chained, tracing_mode="fake")(torch.ones(3))
    OneOfAKind()(traced.graph)
    one, other = sums(traced.graph)
    assert (one.meta["val"].numel(), other.meta["val"].numel()) == (2, 1)
    traced.recompile()
    assert float(traced(torch.ones(3))) == 0.0


def test_sizes_may_be_symbols(alone):
    """As the number of agents is, of which each has statistics of its own."""

    def of_agents(x: Tensor) -> Tensor:
        return over_processes(x.sum(0)) * over_processes(x.sum()) + over_processes(x.square().sum())

    with SplitBatch(alone), warnings.catch_warnings():
        warnings.simplefilter("error")
        traced = make_fx(of_agents, tracing_mode="symbolic")(torch.ones(3, 2))
        OneOfAKind()(traced.graph)
    assert len(sums(traced.graph)) == 1
    traced.recompile()
    for agents in (2, 5):
        x = torch.randn(4, agents)
        torch.testing.assert_close(traced(x), x.sum(0) * x.sum() + x.square().sum())


def test_other_threads_do_not_notice(alone):
    found: list[Optional[str]] = []
    with SplitBatch(alone):
        thread = Thread(target=lambda: found.append(_SPLIT.group))
        thread.start()
        thread.join()
        assert alone.group_name == _SPLIT.group
    assert found == [None]
    assert _SPLIT.group is None


# Sums and what is left of them, of one update.
COUNTS = {
    "DQNLoss": [3, 2],
    "DDPGLoss": [7, 3],
    "SACLoss": [11, 3],
    "A2CLoss": [17, 2],
    "ClipPPOLoss": [28, 3],
    "ClipPPOLoss, normalised": [32, 7],
    "IPPOLoss": [32, 7],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COUNTS)
def test_an_update_takes_few(alone, monkeypatch, case):
    counts = counted(alone, monkeypatch, case)
    assert counts == COUNTS[case]


def counted(group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch, case: str) -> list[int]:
    """Of the whole graph, which is not compiled further."""
    counts: list[list[int]] = []

    def count(module: fx.GraphModule, _: object) -> fx.GraphModule:
        before = len(sums(module.graph))
        OneOfAKind()(module.graph)
        module.recompile()
        counts.append([before, len(sums(module.graph))])
        return module

    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, options, **others: compile_(
            function, backend=aot_autograd(fw_compiler=count), fullgraph=True
        ),
    )
    loss, batch = cases.made(case, torch.float64)
    step = step_of(loss, process_group=group, mode="default")
    step(cases.batches(loss, batch, masks=0)[0])
    (found,) = counts
    return found
