"""The update step, target networks, rollouts and checkpoints."""

from compiled_rl.functional.processes import SplitBatch
from compiled_rl.training.checkpoint import load_checkpoint, save_checkpoint
from compiled_rl.training.epochs import UpdateEpochs
from compiled_rl.training.named import NamedUpdate
from compiled_rl.training.pure import Update
from compiled_rl.training.rollout import Collector, Environments
from compiled_rl.training.targets import HardUpdate, SoftUpdate
from compiled_rl.training.update import UpdateStep
from compiled_rl.training.updater import TargetNetUpdater

__all__ = [
    "Collector",
    "Environments",
    "HardUpdate",
    "NamedUpdate",
    "SoftUpdate",
    "SplitBatch",
    "TargetNetUpdater",
    "Update",
    "UpdateEpochs",
    "UpdateStep",
    "load_checkpoint",
    "save_checkpoint",
]
