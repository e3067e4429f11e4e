"""Every loss: what it is trained on, as one batch and as the parts of several processes."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from compiled_rl import losses
from compiled_rl.adapters import keyword
from compiled_rl.modules import PopArtValueNorm, RunningValueNorm
from compiled_rl.training import UpdateStep
from tests.export.learning import loss_and_batch, step_of
from tests.losses.without_tensordict import CASES, N, keywords, transitions

UPDATES = 20
SIZES = {  # of the parts: even, ragged, one row, none, and all of it elsewhere
    1: [(6,)],
    2: [(3, 3), (4, 2), (5, 1), (6, 0), (0, 6)],
    4: [(2, 1, 2, 1), (3, 3, 0, 0), (0, 6, 0, 0), (1, 1, 1, 3)],
}
Batch = dict[str, Tensor]


# What a loss is made with, anew each time.
PREPARED: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    **{name: (name, dict) for name in CASES},
    "A2CLoss, estimated": ("A2CLoss", dict),
    "ClipPPOLoss, normalised": ("ClipPPOLoss", lambda: {"normalize_advantage": True}),
    "ClipPPOLoss, sum": ("ClipPPOLoss", lambda: {"reduction": "sum"}),
    "KLPENPPOLoss, adapted": ("KLPENPPOLoss", lambda: {"dtarg": 1e-3}),  # beta goes up and down
    "MAPPOLoss, PopArt": ("MAPPOLoss", lambda: {"value_norm": PopArtValueNorm()}),
    "MAPPOLoss, running": ("MAPPOLoss", lambda: {"value_norm": RunningValueNorm()}),
}


def made(case: str, dtype: torch.dtype) -> tuple[losses.LossModule, Batch]:
    name, options = PREPARED[case]
    loss, batch = loss_and_batch(name, **options())
    if case.endswith("estimated"):
        loss.make_value_estimator("gae", gamma=0.9, lmbda=0.8, average_gae=True)
        batch = {name: x for name, x in batch.items() if name in ("action", "action_log_prob")}
        batch |= transitions()
        batch = {name: torch.stack([x, x.roll(1), x], 1) for name, x in batch.items()}
    return loss.to(dtype), _cast(batch, dtype)


def batches(loss: Any, batch: Batch, masks: int) -> list[Batch]:
    """One for each update, with what is drawn at random.

    Every so many, ``masks``, is masked, and weighted where it can be; none where that is 0.
    """
    return [_batch(loss, batch, masks > 0 and k % masks == 0, k) for k in range(UPDATES)]


def _batch(loss: Any, batch: Batch, masked: bool, seed: int) -> Batch:
    generator = Generator().manual_seed(seed)
    dtype = next(loss.parameters()).dtype
    moved = {
        name: x * (0.5 + torch.rand(x.shape, generator=generator, dtype=dtype))
        if x.is_floating_point()
        else x[torch.randperm(N, generator=generator)]
        for name, x in batch.items()
    }
    if masked:
        moved["shifted_valid"] = torch.rand(N, generator=generator) < 0.6
        if "priority_weight" in keywords(loss):
            like = batch["next_reward"]
            moved["priority_weight"] = torch.rand(like.shape, generator=generator, dtype=dtype)
    drawn = loss.draw_noise(loss.inputs(moved, {}), generator)
    return moved | _cast({keyword(key): x for key, x in drawn.items()}, dtype)


def part(batch: Batch, k: int) -> tuple[Batch, slice]:
    """What this process has of the batch of update ``k``, and which rows they are."""
    processes, rank = dist.get_world_size(), dist.get_rank()
    sizes = SIZES[processes][k % len(SIZES[processes])]
    ends = list(itertools.accumulate(sizes, initial=0))
    rows = slice(ends[rank], ends[rank + 1])
    return {name: x[rows] for name, x in batch.items()}, rows


def difference(case: str, dtype: torch.dtype, masks: int, mode: str = "eager") -> float:
    """How far a split batch is from the whole one in this process, after and in every update."""
    (loss, batch), (whole, _) = made(case, dtype), made(case, dtype)
    split = step_of(loss, process_group=dist.group.WORLD, mode=mode)
    alone = step_of(whole, mode=mode)  # a compiled Adam corrects its bias in float32
    worst = 0.0
    for k, each in enumerate(batches(whole, batch, masks)):
        own, rows = part(each, k)
        found, expected = split(own), alone(each)
        for name, x in expected.items():
            worst = max(worst, _apart(*_comparable(found[name], x, each, rows)))
    return max(worst, states_apart(split, alone))


def _comparable(mine: Tensor, x: Tensor, batch: Batch, rows: slice) -> tuple[Tensor, Tensor]:
    """Of a metric of samples, or of several critics and samples, this process's valid ones."""
    if x.dim() == 0:
        return mine, x
    axis = 0 if x.shape[0] == N else 1
    valid = batch.get("shifted_valid", torch.ones(N, dtype=torch.bool))[rows]
    return mine.movedim(axis, 0)[valid], x.movedim(axis, 0)[rows][valid]


def states_apart(step: UpdateStep, other: UpdateStep) -> float:
    """The largest difference of all that moves, as ``_apart`` measures it."""
    found, expected = step.state_dict(), other.state_dict()
    pairs = [(found["loss"][name], x) for name, x in expected["loss"].items()]
    for mine, theirs in zip(found["optimizers"], expected["optimizers"], strict=True):
        for index, slots in theirs["state"].items():
            pairs += [(mine["state"][index][name], x) for name, x in slots.items()]
    return max(_apart(x, y) for x, y in pairs)


def _apart(x: Tensor, y: Tensor) -> float:
    """The largest difference; relative to what is above one, as a ``beta`` that has doubled."""
    assert x.shape == y.shape, (x.shape, y.shape)
    assert x.dtype == y.dtype, (x.dtype, y.dtype)
    distance = (x.double() - y.double()).abs() / y.double().abs().clamp(min=1)
    return float(distance.max()) if x.numel() else 0.0


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    return {k: x.to(dtype) if x.is_floating_point() else x for k, x in batch.items()}
