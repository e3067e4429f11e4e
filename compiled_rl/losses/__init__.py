"""Loss modules, one file an algorithm family."""

from compiled_rl.losses.base import LossModule
from compiled_rl.losses.ppo import ClipPPOLoss

__all__ = ["ClipPPOLoss", "LossModule"]
