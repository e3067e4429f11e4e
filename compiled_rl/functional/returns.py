"""Returns and advantages over time: each a few lines on ``linear_recurrence``."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.functional.scalars import as_scalar, where_valid
from compiled_rl.kernels import fusable, fused, linear_recurrence
from compiled_rl.kernels.checks import check_coefficient, check_steps


class AdvantageOutput(NamedTuple):
    """An advantage and the value target that goes with it, both of the reward's shape."""

    advantage: Tensor
    value_target: Tensor


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    lmbda: float = 0.95,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> AdvantageOutput:
    """Generalised advantage estimation.

        delta[t]     = reward[t] + gamma * (0 if terminated[t] else next_value[t]) - value[t]
        advantage[t] = delta[t] + gamma * lmbda * (0 if done[t] else advantage[t + 1])

    A truncated step (done, not terminated) still bootstraps from ``next_value``: pass the value
    of the state that the step entered, not of the state after the reset.

    Args:
        reward: ``[*B, T]``.
        value: critic at the state left, ``[*B, T]``.
        next_value: critic at the state entered, ``[*B, T]``; never read where terminated.
        terminated: the task itself ended, bool ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``; a terminated step is done.
        gamma: discount in [0, 1].
        lmbda: trace decay in [0, 1]; 0 is one-step TD, 1 is Monte Carlo with a baseline.
        mask: valid steps, bool ``[*B, T]``; others come out as zero and cut the trace.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target = advantage + value``, both ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """
    if not torch.jit.is_scripting():
        inputs = (reward, value, next_value, terminated, done)
        if fusable(inputs, (gamma, lmbda), mask):
            return AdvantageOutput(*fused("gae", inputs, (gamma, lmbda), mask, time_dim))
    names = ["reward", "value", "next_value", "terminated", "done"]
    check_steps("gae", names, [reward, value, next_value, terminated, done], mask, time_dim)
    discount, trace_decay = as_scalar(gamma, reward), as_scalar(lmbda, reward)
    check_coefficient("gae", "gamma", discount, "reward", reward)
    check_coefficient("gae", "lmbda", trace_decay, "reward", reward)
    reward, value = where_valid(mask, reward), where_valid(mask, value)
    bootstrap = where_valid(mask, next_value).masked_fill(terminated, 0.0)
    delta = reward + discount * bootstrap - value
    level = discount * trace_decay
    decay = torch.where(done | terminated, torch.zeros_like(level), level)
    advantage = linear_recurrence(delta, decay, mask, time_dim)
    return AdvantageOutput(advantage, advantage + value)
