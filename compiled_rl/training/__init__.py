"""The update step, rollouts and checkpoints."""

from compiled_rl.training.update import UpdateStep, make_update

__all__ = ["UpdateStep", "make_update"]
