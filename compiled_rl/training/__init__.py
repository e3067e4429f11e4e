"""The update step, target networks, rollouts and checkpoints.

What steps environments is imported when it is first used: it needs numpy, which no update does.
"""

from typing import TYPE_CHECKING

from compiled_rl.extras import needed_by
from compiled_rl.functional.processes import SplitBatch
from compiled_rl.training.checkpoint import load_checkpoint, save_checkpoint
from compiled_rl.training.epochs import UpdateEpochs
from compiled_rl.training.named import NamedUpdate
from compiled_rl.training.pure import Update
from compiled_rl.training.targets import HardUpdate, SoftUpdate
from compiled_rl.training.update import UpdateStep
from compiled_rl.training.updater import TargetNetUpdater

if TYPE_CHECKING:
    from compiled_rl.training.rollout import Collector, Environments
else:

    def __getattr__(name: str) -> object:
        if name not in ("Collector", "Environments"):
            raise AttributeError(f"module 'compiled_rl.training' has no attribute '{name}'")
        with needed_by(f"compiled_rl.training.{name}"):
            from compiled_rl.training import rollout
        return getattr(rollout, name)


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
