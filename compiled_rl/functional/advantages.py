"""Advantages over time: what followed, less what was expected."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.functional.returns import (
    discounted_return,
    n_step_return,
    td0_return,
    td1_return,
    td_lambda_return,
)
from compiled_rl.functional.scalars import coefficient, where_valid, widened
from compiled_rl.functional.sequences import bootstrap_value
from compiled_rl.kernels import fusable, fused, linear_recurrence
from compiled_rl.kernels.checks import (
    check_device,
    check_each_step,
    check_floating,
    check_integer,
    check_steps,
    check_tensor,
)


class AdvantageOutput(NamedTuple):
    """An advantage and the value target that goes with it, both of the value's shape."""

    advantage: Tensor
    value_target: Tensor


def discounted_advantage(
    reward: Tensor,
    value: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> AdvantageOutput:
    """Reward to go less a baseline: ``discounted_return - value``.

        return[t]    = reward[t] + gamma * (0 if done[t] else return[t + 1])
        advantage[t] = return[t] - value[t]

    Args:
        reward: ``[*B, T]``; for this and the rest see ``discounted_return``.
        value: the baseline at the state left, ``[*B, T]``.
        done: bool ``[*B, T]``.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target``, the return, both ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, ``done`` is not bool, or a value not floating point.

    Reference: Williams 1992, Simple statistical gradient-following algorithms, section 4.
    """
    tensors = {"reward": reward, "value": value, "done": done}
    check_steps("discounted_advantage", tensors, mask, time_dim)
    target = discounted_return(reward, done, gamma, mask, time_dim)
    return AdvantageOutput(target - where_valid(mask, value), target)


def n_step_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    n_steps: int,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> AdvantageOutput:
    """``n_step_return - value``.

        return(1)[t] = reward[t] + gamma * (0 if terminated[t] else next_value[t])
        return(n)[t] = reward[t] + gamma * return(n - 1)[t + 1]
        advantage[t] = return(n)[t] - value[t]

    Args:
        reward: ``[*B, T]``; for this and the rest see ``n_step_return``.
        value: critic at the state left, ``[*B, T]``.
        next_value: critic at the state entered, ``[*B, T]``; never read where terminated.
        terminated: bool ``[*B, T]``.
        done: bool ``[*B, T]``.
        n_steps: how many rewards, at least 1.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target``, the return, both ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, a value not floating point, or
            ``n_steps`` less than 1.

    Reference: Mnih et al. 2016, arXiv:1602.01783, section 4.
    """
    tensors = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
    }
    check_steps("n_step_advantage", tensors, mask, time_dim)
    target = n_step_return(reward, next_value, terminated, done, n_steps, gamma, mask, time_dim)
    return AdvantageOutput(target - where_valid(mask, value), target)


def td0_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
) -> AdvantageOutput:
    """The temporal difference: ``td0_return - value``.

        return[t]    = reward[t] + gamma * (0 if terminated[t] else next_value[t])
        advantage[t] = return[t] - value[t]

    Args:
        reward: any shape; for this and the rest see ``td0_return``.
        value: critic at the state left, the reward's shape.
        next_value: critic at the state entered, the reward's shape; never read where terminated.
        terminated: bool, the reward's shape.
        gamma: discount in [0, 1], or one a step, the reward's shape.
        mask: valid steps, bool, the reward's shape.

    Returns:
        ``advantage`` and ``value_target``, the return, both of the reward's shape.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 6.5.
    """
    tensors = {"reward": reward, "value": value, "next_value": next_value, "terminated": terminated}
    check_each_step("td0_advantage", tensors, mask)
    target = td0_return(reward, next_value, terminated, gamma, mask)
    return AdvantageOutput(target - where_valid(mask, value), target)


def td1_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> AdvantageOutput:
    """``td1_return - value``.

        return[t]    = reward[t] + gamma * (0 if terminated[t] else
                       next_value[t] if done[t] or t is last else return[t + 1])
        advantage[t] = return[t] - value[t]

    Args:
        reward: ``[*B, T]``; for this and the rest see ``td1_return``.
        value: critic at the state left, ``[*B, T]``.
        next_value: critic at the state entered, ``[*B, T]``; never read where terminated.
        terminated: bool ``[*B, T]``.
        done: bool ``[*B, T]``.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target``, the return, both ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 12.2 at lambda 1.
    """
    tensors = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
    }
    check_steps("td1_advantage", tensors, mask, time_dim)
    target = td1_return(reward, next_value, terminated, done, gamma, mask, time_dim)
    return AdvantageOutput(target - where_valid(mask, value), target)


def td_lambda_advantage(
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
    """``td_lambda_return - value``.

        bootstrap[t] = 0 if terminated[t] else next_value[t]
        after[t]     = bootstrap[t] if done[t] or t is last else return[t + 1]
        return[t]    = reward[t] + gamma * ((1 - lmbda) * bootstrap[t] + lmbda * after[t])
        advantage[t] = return[t] - value[t]

    It is ``gae`` where ``next_value[t]`` is ``value[t + 1]``; where it is not, as with a target
    network, ``gae`` corrects by ``value[t + 1]`` and this by ``next_value[t]``.

    Args:
        reward: ``[*B, T]``; for this and the rest see ``td_lambda_return``.
        value: critic at the state left, ``[*B, T]``.
        next_value: critic at the state entered, ``[*B, T]``; never read where terminated.
        terminated: bool ``[*B, T]``.
        done: bool ``[*B, T]``.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        lmbda: trace decay in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target``, the return, both ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 12.3.
    """
    tensors = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
    }
    check_steps("td_lambda_advantage", tensors, mask, time_dim)
    target = td_lambda_return(reward, next_value, terminated, done, gamma, lmbda, mask, time_dim)
    return AdvantageOutput(target - where_valid(mask, value), target)


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
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        lmbda: trace decay in [0, 1], or one a step, ``[*B, T]``; 0 is one-step TD, 1 is Monte
            Carlo with a baseline.
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
    tensors = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
    }
    check_steps("gae", tensors, mask, time_dim)
    dtype, reward = reward.dtype, widened(reward)
    discount = coefficient("gae", "gamma", gamma, reward, mask)
    trace_decay = coefficient("gae", "lmbda", lmbda, reward, mask)
    value = where_valid(mask, value)
    bootstrap = bootstrap_value(next_value, terminated, mask)
    delta = where_valid(mask, reward) + discount * bootstrap - value
    level = discount * trace_decay
    decay = torch.where(done | terminated, torch.zeros_like(level), level)
    advantage = linear_recurrence(delta, decay, mask, time_dim)
    return AdvantageOutput(advantage.to(dtype), (advantage + value).to(dtype))


def multi_agent_gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    lmbda: float = 0.95,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
    agent_dim: int = -2,
) -> AdvantageOutput:
    """``gae`` for each agent ``i``, where a team may share its reward and its flags.

        delta[i, t]     = reward[i, t] + gamma * (0 if terminated[i, t] else next_value[i, t])
                          - value[i, t]
        advantage[i, t] = delta[i, t] + gamma * lmbda * (0 if done[i, t] else advantage[i, t + 1])

    Whatever is shared has the values' shape without the agent axis; each agent then has it. A size
    of one never stands for all agents.

    Args:
        reward: ``[*B, n, T]``, or ``[*B, T]`` if the team shares it.
        value: each agent's critic at the state left, ``[*B, n, T]``.
        next_value: each agent's critic at the state entered, ``[*B, n, T]``; never read where
            terminated.
        terminated: the task itself ended, bool ``[*B, n, T]`` or ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, n, T]`` or ``[*B, T]``.
        gamma: discount in [0, 1], or one a step, ``[*B, n, T]``.
        lmbda: trace decay in [0, 1], or one a step, ``[*B, n, T]``.
        mask: valid steps, bool ``[*B, n, T]`` or ``[*B, T]``.
        time_dim: the time axis of ``value``.
        agent_dim: the agent axis of ``value``.

    Returns:
        ``advantage`` and ``value_target = advantage + value``, both ``[*B, n, T]``.

    Raises:
        ValueError: a tensor has neither of its two shapes, the two axes are the same, there is no
            agent, a flag is not bool, or a value not floating point.

    Reference: Schulman et al. 2015, arXiv:1506.02438, eq. 16; Yu et al. 2021, arXiv:2103.01955.
    """
    check_agents(value, time_dim, agent_dim)
    reward = for_each_agent("reward", reward, value, agent_dim)
    terminated = for_each_agent("terminated", terminated, value, agent_dim)
    done = for_each_agent("done", done, value, agent_dim)
    if mask is not None:
        mask = for_each_agent("mask", mask, value, agent_dim)
    tensors = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
    }
    check_steps("multi_agent_gae", tensors, mask, time_dim)
    return gae(reward, value, next_value, terminated, done, gamma, lmbda, mask, time_dim)


def check_agents(value: Tensor, time_dim: int, agent_dim: int) -> None:
    """Refuse values without a time axis and, beside it, an agent axis."""
    check_floating("multi_agent_gae", "value", value)
    check_integer("multi_agent_gae", "time_dim", time_dim)
    check_integer("multi_agent_gae", "agent_dim", agent_dim)
    axes = value.dim()
    if axes < 2 or not -axes <= agent_dim < axes or (agent_dim - time_dim) % axes == 0:
        raise ValueError(
            "multi_agent_gae: `agent_dim` must be an axis of `value` other than `time_dim`, "
            f"got {agent_dim} and {time_dim} for the shape {list(value.shape)}"
        )
    if value.size(agent_dim) == 0:
        raise ValueError(
            f"multi_agent_gae: `value` must have at least one agent, got {list(value.shape)}"
        )


def for_each_agent(name: str, x: Tensor, value: Tensor, agent_dim: int) -> Tensor:
    """``x`` with the agents' axis, along which what is shared is repeated without a copy."""
    check_tensor("multi_agent_gae", name, x)
    check_device("multi_agent_gae", name, x, "value", value)
    if x.shape == value.shape:
        return x
    if x.shape != value.select(agent_dim, 0).shape:
        raise ValueError(
            f"multi_agent_gae: `{name}` must have the shape of `value`, with or without the agent "
            f"axis {agent_dim}, got {list(x.shape)} and {list(value.shape)}"
        )
    return x.unsqueeze(agent_dim).expand_as(value)
