"""Losses, batches and steps that the tests export: every loss of the library."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from compiled_rl import SoftUpdate, UpdateStep, losses
from tests.losses.without_tensordict import AGENTS, CASES, N, keywords, transitions

ESTIMATED = ("A2CLoss", "ClipPPOLoss", "KLPENPPOLoss", "PPOLoss", "ReinforceLoss")
OF_AGENTS = ("IPPOLoss", "MAPPOLoss")
RATE = 1e-3


def loss_and_batch(name: str, **options: Any) -> tuple[losses.LossModule, dict[str, Tensor]]:
    """A loss on small networks, and what it needs by keyword; advantages are recorded."""
    torch.manual_seed(0)
    build, recorded = CASES[name]
    loss = build(partial(getattr(losses, name), **options))
    shape = (N, AGENTS, 1) if name in OF_AGENTS else (N,)
    estimates = {key: torch.randn(shape) for key in ("advantage", "value_target")}
    data = transitions() | recorded
    if name in (*ESTIMATED, *OF_AGENTS):
        data = {key: x for key, x in data.items() if not key.startswith("next")} | estimates
    return loss, {key: x.clone() for key, x in data.items() if key in keywords(loss)}


def step_of(
    loss: losses.LossModule, optimizer: Any = torch.optim.Adam, **options: Any
) -> UpdateStep:
    """A step, whose target networks follow where there are some."""
    delayed = any(name.startswith("target_") for name, _ in loss.named_buffers())
    updater = SoftUpdate(loss, tau=0.1) if delayed else None
    made = optimizer(loss.parameters(), lr=RATE)
    options = {"mode": "eager", "max_grad_norm": 0.5, **options}
    return UpdateStep(loss, made, target_updater=updater, **options)
