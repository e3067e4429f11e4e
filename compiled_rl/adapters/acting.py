"""The modes in which the losses that a user writes are computed."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

from compiled_rl.extras import needed_by

with needed_by(__name__):
    from tensordict.nn import InteractionType, set_interaction_type

DETERMINISTIC = InteractionType.DETERMINISTIC


def acting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a loss in the mode ``deterministic_sampling_mode`` of it, sequences over time."""

    @wraps(function)
    def within(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.check_targets_follow()
        with set_interaction_type(self.deterministic_sampling_mode), over_time():
            return function(self, *args, **kwargs)

    within.__module__ = __name__  # it is this library's now, and a subclass leaves it as it is
    return within


def over_time() -> AbstractContextManager[Any]:
    """What makes TorchRL's recurrent modules run over time; where there are none, nothing."""
    torchrl: Any = sys.modules.get("torchrl.modules")
    if torchrl is None:
        return nullcontext()
    mode: AbstractContextManager[Any] = torchrl.set_recurrent_mode(True)
    return mode
