"""Returns over time: what a state is worth by what followed."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.scalars import coefficient, where_valid, widened
from compiled_rl.functional.sequences import bootstrap_value, cuts, following
from compiled_rl.kernels import fusable, fused, linear_recurrence
from compiled_rl.kernels.checks import check_each_step, check_integer, check_steps


def discounted_return(
    reward: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> Tensor:
    """The discounted sum of the rewards to come, without a bootstrap: reward to go.

        return[t] = reward[t] + gamma * (0 if done[t] else return[t + 1])

    What an episode would have earned after a time limit, or after the last step, is left out.

    Args:
        reward: ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``; others come out as zero and cut the sum.
        time_dim: the time axis.

    Returns:
        ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or the reward not floating
            point.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 3.9.
    """
    check_steps("discounted_return", {"reward": reward, "done": done}, mask, time_dim)
    nothing = torch.zeros([], dtype=reward.dtype, device=reward.device).expand_as(reward)
    return td_lambda_return(reward, nothing, done, done, gamma, 1.0, mask, time_dim)


def n_step_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    n_steps: int,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> Tensor:
    """The rewards of ``n_steps`` steps and the value of the state after them.

        return(1)[t] = reward[t] + gamma * (0 if terminated[t] else next_value[t])
        return(n)[t] = reward[t] + gamma * return(n - 1)[t + 1]

    Where fewer steps are left, up to a done step or the last one, those are taken. It costs
    ``n_steps`` passes: for the whole trajectory take ``td1_return``.

    Args:
        reward: ``[*B, T]``.
        next_value: value of the state entered, ``[*B, T]``; never read where terminated.
        terminated: the task itself ended, bool ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``; a terminated step is done.
        n_steps: how many rewards, at least 1; 1 is ``td0_return``.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``; others come out as zero and cut the sum.
        time_dim: the time axis.

    Returns:
        ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, a value not floating point, or
            ``n_steps`` less than 1.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 7.1.
    """
    tensors = {"reward": reward, "next_value": next_value, "terminated": terminated, "done": done}
    check_steps("n_step_return", tensors, mask, time_dim)
    check_integer("n_step_return", "n_steps", n_steps)
    discount = coefficient("n_step_return", "gamma", gamma, widened(reward), mask)
    if n_steps < 1:
        raise ValueError(f"n_step_return: `n_steps` must be at least 1, got {n_steps}")
    gained = where_valid(mask, widened(reward))
    bootstrap = bootstrap_value(next_value, terminated, mask)
    cut = cuts(terminated, done, mask, time_dim)
    result = gained + discount * bootstrap
    for _ in range(_rounds(n_steps, result, time_dim)):
        result = gained + discount * torch.where(cut, bootstrap, following(result, time_dim))
    return where_valid(mask, result).to(reward.dtype)


def _rounds(n_steps: int, x: Tensor, time_dim: int) -> int:
    """How often a reward is passed on: at most once a step, where their number is known."""
    if not torch.jit.is_scripting():
        if torch.compiler.is_compiling():
            return n_steps - 1
    return min(n_steps, x.shape[time_dim]) - 1


def td0_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
) -> Tensor:
    """The one-step bootstrapped return.

        return[t] = reward[t] + gamma * (0 if terminated[t] else next_value[t])

    A truncated step bootstraps: only ``terminated`` is asked. It looks at one step at a time, so
    there is no time axis to name.

    Args:
        reward: any shape.
        next_value: value of the state entered, the reward's shape; never read where terminated.
        terminated: the task itself ended, bool, the reward's shape.
        gamma: discount in [0, 1], or one a step, the reward's shape.
        mask: valid steps, bool, the reward's shape; others come out as zero.

    Returns:
        Of the reward's shape.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Sutton 1988, Learning to predict by the methods of temporal differences.
    """
    tensors = {"reward": reward, "next_value": next_value, "terminated": terminated}
    check_each_step("td0_return", tensors, mask)
    gained = where_valid(mask, widened(reward))
    discount = coefficient("td0_return", "gamma", gamma, gained, mask)
    result = gained + discount * bootstrap_value(next_value, terminated, mask)
    return where_valid(mask, result).to(reward.dtype)


def td1_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> Tensor:
    """The discounted rewards up to the end of the trajectory, bootstrapped there.

        return[t] = reward[t] + gamma * (0 if terminated[t] else
                                         next_value[t] if done[t] or t is last else return[t + 1])

    Args:
        reward: ``[*B, T]``.
        next_value: value of the state entered, ``[*B, T]``; never read where terminated.
        terminated: the task itself ended, bool ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``; a terminated step is done.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``; others come out as zero, and the step before one
            bootstraps.
        time_dim: the time axis.

    Returns:
        ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 12.2 at lambda 1.
    """
    tensors = {"reward": reward, "next_value": next_value, "terminated": terminated, "done": done}
    check_steps("td1_return", tensors, mask, time_dim)
    return td_lambda_return(reward, next_value, terminated, done, gamma, 1.0, mask, time_dim)


def td_lambda_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    lmbda: float = 0.95,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> Tensor:
    """The average of all n-step returns with weights that fall by ``lmbda``.

        bootstrap[t] = 0 if terminated[t] else next_value[t]
        after[t]     = bootstrap[t] if done[t] or t is last else return[t + 1]
        return[t]    = reward[t] + gamma * ((1 - lmbda) * bootstrap[t] + lmbda * after[t])

    It equals ``gae``'s value target where ``next_value[t]`` is ``value[t + 1]``.

    Args:
        reward: ``[*B, T]``.
        next_value: value of the state entered, ``[*B, T]``; never read where terminated.
        terminated: the task itself ended, bool ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``; a terminated step is done.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        lmbda: trace decay in [0, 1], or one a step, ``[*B, T]``; 0 is ``td0_return``, 1 is
            ``td1_return``.
        mask: valid steps, bool ``[*B, T]``; others come out as zero, and the step before one
            bootstraps.
        time_dim: the time axis.

    Returns:
        ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 12.3.
    """
    if not torch.jit.is_scripting():
        inputs = (reward, next_value, terminated, done)
        if fusable(inputs, (gamma, lmbda), mask):
            return fused("td_lambda_return", inputs, (gamma, lmbda), mask, time_dim)[0]
    tensors = {"reward": reward, "next_value": next_value, "terminated": terminated, "done": done}
    check_steps("td_lambda_return", tensors, mask, time_dim)
    discount = coefficient("td_lambda_return", "gamma", gamma, widened(reward), mask)
    trace_decay = coefficient("td_lambda_return", "lmbda", lmbda, widened(reward), mask)
    return lambda_return(
        reward, next_value, terminated, done, discount, trace_decay, mask, time_dim
    )


def lambda_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    discount: Tensor,
    trace_decay: Tensor,
    mask: Optional[Tensor],
    time_dim: int,
) -> Tensor:
    """The formula of ``td_lambda_return``, for coefficients that are tensors, 0-d or one a step."""
    bootstrap = bootstrap_value(next_value, terminated, mask)
    cut = cuts(terminated, done, mask, time_dim)
    weight = torch.where(cut, torch.zeros_like(trace_decay), trace_decay)
    x = where_valid(mask, widened(reward)) + discount * (1 - weight) * bootstrap
    return linear_recurrence(x, discount * weight, mask, time_dim).to(reward.dtype)
