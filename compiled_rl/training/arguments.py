"""What an update step refuses when it is made."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, get_args

import torch
from torch import Generator

from compiled_rl.losses import LossModule
from compiled_rl.modules.arguments import check_count
from compiled_rl.training.compiled import Mode
from compiled_rl.training.updater import TargetNetUpdater


def check_loss(loss: Any) -> None:
    """A loss of declared fields that reduces."""
    if not isinstance(loss, LossModule):
        raise TypeError(f"UpdateStep: `loss` must be a LossModule, got a {type(loss).__name__}")
    if not getattr(loss, "minimised", ()):
        raise ValueError(
            "UpdateStep: `loss` must declare `fields` with an output `loss...`, got a "
            f"{type(loss).__name__} with none; train it by `forward`, `backward` and `step`"
        )
    if loss.reduction == "none":
        raise ValueError("UpdateStep: `loss` must reduce to scalars, got reduction 'none'")


def check_options(max_grad_norm: Any, mode: Any, accumulate: Any, autocast: Any) -> None:
    """A positive bound, a known mode, a count, and a dtype that is coarser than float32."""
    number = isinstance(max_grad_norm, Real) and not isinstance(max_grad_norm, bool)
    if max_grad_norm is not None and not (number and max_grad_norm > 0):
        raise ValueError(f"UpdateStep: `max_grad_norm` must be positive, got {max_grad_norm!r}")
    if mode not in get_args(Mode):
        raise ValueError(f"UpdateStep: `mode` must be in {get_args(Mode)}, got {mode!r}")
    check_count("UpdateStep", "accumulate", accumulate)
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"UpdateStep: `autocast` must be torch.bfloat16 or None, got {autocast!r}")


def check_updater(loss: LossModule, updater: Any) -> None:
    """An updater of this loss whose rule is pure."""
    if updater is None:
        return
    if not isinstance(updater, TargetNetUpdater):
        raise TypeError(
            "UpdateStep: `target_updater` must be a SoftUpdate or a HardUpdate, "
            f"got a {type(updater).__name__}"
        )
    if not updater.is_pure:
        raise TypeError(
            "UpdateStep: `target_updater` must have a pure rule, as SoftUpdate and HardUpdate do, "
            f"got a {type(updater).__name__} without; call its `step()` after the update"
        )
    if updater.loss_module is not loss:
        raise ValueError("UpdateStep: `target_updater` must be made of this loss, not of another")


def check_generator(generator: Any) -> None:
    """A generator, or none."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            "UpdateStep: `generator` must be a torch.Generator or None, "
            f"got a {type(generator).__name__}"
        )


def check_outputs(loss: LossModule, minimise: Any) -> None:
    """Some of the losses that are given."""
    given = [name for name in loss.minimised if name in loss.output_names]
    if minimise is None:
        if not given:
            raise ValueError(
                f"UpdateStep: the outputs selected of `loss` must have one of {loss.minimised}, "
                f"got {loss.output_names}"
            )
        return
    named = list(minimise) if isinstance(minimise, Sequence) else []
    unfit = isinstance(minimise, str) or not named
    if unfit or any(name not in given or named.count(name) > 1 for name in named):
        raise ValueError(
            f"UpdateStep: `minimise` must name some of {given}, each once, got {minimise!r}"
        )
