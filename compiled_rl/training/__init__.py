"""The update step, rollouts and checkpoints."""

from compiled_rl.training.checkpoint import load_checkpoint, save_checkpoint
from compiled_rl.training.rollout import Collector, Environments
from compiled_rl.training.update import UpdateStep, make_update

__all__ = [
    "Collector",
    "Environments",
    "UpdateStep",
    "load_checkpoint",
    "make_update",
    "save_checkpoint",
]
