"""Returns of one policy from the data of another: corrected by bounded ratios of probability."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.advantages import AdvantageOutput
from compiled_rl.functional.returns import lambda_return
from compiled_rl.functional.scalars import as_scalar, coefficient, scalar, where_valid, widened
from compiled_rl.functional.sequences import bootstrap_value, cuts, following
from compiled_rl.kernels import fusable, fused, linear_recurrence
from compiled_rl.kernels.checks import check_steps


def vtrace(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    gamma: float = 0.99,
    lmbda: float = 1.0,
    rho_thresh: float = 1.0,
    c_thresh: float = 1.0,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> AdvantageOutput:
    """V-trace: value targets and a policy-gradient advantage for the policy of ``log_prob``.

        ratio[t]     = exp(log_prob[t] - behavior_log_prob[t])
        rho[t]       = min(ratio[t], rho_thresh)
        c[t]         = lmbda * min(ratio[t], c_thresh)
        delta[t]     = rho[t] * (reward[t] + gamma * (0 if terminated[t] else next_value[t])
                                 - value[t])
        error[t]     = delta[t] + gamma * (0 if done[t] else c[t] * error[t + 1])
        target[t]    = value[t] + error[t]
        after[t]     = 0 if terminated[t] else
                       next_value[t] if done[t] or t is last else target[t + 1]
        advantage[t] = rho[t] * (reward[t] + gamma * after[t] - value[t])

    Both log-probabilities are those of the recorded action. A log-ratio of any size is bounded
    before its exponential.

    Args:
        reward: ``[*B, T]``.
        value: critic at the state left, ``[*B, T]``.
        next_value: critic at the state entered, ``[*B, T]``; never read where terminated.
        terminated: the task itself ended, bool ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``; a terminated step is done.
        log_prob: of the policy to learn about, ``[*B, T]``, in nats.
        behavior_log_prob: of the policy that acted, ``[*B, T]``, in nats.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        lmbda: trace decay in [0, 1], or one a step, ``[*B, T]``.
        rho_thresh: bound of the ratio in the errors, positive; it decides what is learned.
        c_thresh: bound of the ratio in the trace, positive; it decides how fast.
        mask: valid steps, bool ``[*B, T]``; others come out as zero and cut the trace.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target``, both ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Espeholt et al. 2018, arXiv:1802.01561, eq. 1 and section 4.2.
    """
    if not torch.jit.is_scripting():
        log_probs = (log_prob, behavior_log_prob)
        inputs = (reward, value, next_value, terminated, done, *log_probs)
        scalars = (gamma, lmbda, rho_thresh, c_thresh)
        if fusable(inputs, scalars, mask):
            return AdvantageOutput(*fused("vtrace", inputs, scalars, mask, time_dim))
    tensors = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
        "log_prob": log_prob,
        "behavior_log_prob": behavior_log_prob,
    }
    check_steps("vtrace", tensors, mask, time_dim)
    dtype, reward = reward.dtype, widened(reward)
    discount = coefficient("vtrace", "gamma", gamma, reward, mask)
    trace_decay = coefficient("vtrace", "lmbda", lmbda, reward, mask)
    reward, value = where_valid(mask, reward), where_valid(mask, value)
    log_ratio = _log_ratio(log_prob, behavior_log_prob, mask)
    rho = bounded_ratio(log_ratio, scalar("vtrace", "rho_thresh", rho_thresh, reward, "positive"))
    trace = trace_decay * bounded_ratio(
        log_ratio, scalar("vtrace", "c_thresh", c_thresh, reward, "positive")
    )
    bootstrap = bootstrap_value(next_value, terminated, mask)
    cut = cuts(terminated, done, mask, time_dim)
    delta = rho * (reward + discount * bootstrap - value)
    error = linear_recurrence(delta, discount * where_valid(~cut, trace), mask, time_dim)
    target = value + error
    after = torch.where(cut, bootstrap, following(target, time_dim))
    advantage = where_valid(mask, rho * (reward + discount * after - value))
    return AdvantageOutput(advantage.to(dtype), target.to(dtype))


def retrace(
    reward: Tensor,
    action_value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    gamma: float = 0.99,
    lmbda: float = 0.95,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> Tensor:
    """Retrace(lambda): targets for the value of the recorded actions, from any policy's data.

        c[t]      = lmbda * min(1, exp(log_prob[t] - behavior_log_prob[t]))
        delta[t]  = reward[t] + gamma * (0 if terminated[t] else next_value[t]) - action_value[t]
        error[t]  = delta[t] + gamma * (0 if done[t] else c[t + 1] * error[t + 1])
        target[t] = action_value[t] + error[t]

    The trace that reaches step ``t`` is that of the *next* action: the recorded one is what the
    target is about.

    Args:
        reward: ``[*B, T]``.
        action_value: critic at the state left and the recorded action, ``[*B, T]``.
        next_value: the critic's mean over the policy's actions at the state entered, ``[*B, T]``;
            never read where terminated.
        terminated: the task itself ended, bool ``[*B, T]``.
        done: the episode ended for any reason, bool ``[*B, T]``; a terminated step is done.
        log_prob: of the policy to learn about, ``[*B, T]``, in nats.
        behavior_log_prob: of the policy that acted, ``[*B, T]``, in nats.
        gamma: discount in [0, 1], or one a step, ``[*B, T]``.
        lmbda: trace decay in [0, 1], or one a step, ``[*B, T]``.
        mask: valid steps, bool ``[*B, T]``; others come out as zero and cut the trace.
        time_dim: the time axis.

    Returns:
        The target of ``action_value``, ``[*B, T]``.

    Raises:
        ValueError: the tensors' shapes differ, a flag is not bool, or a value not floating point.

    Reference: Munos et al. 2016, arXiv:1606.02647, eq. 3 and 4.
    """
    tensors = {
        "reward": reward,
        "action_value": action_value,
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
        "log_prob": log_prob,
        "behavior_log_prob": behavior_log_prob,
    }
    check_steps("retrace", tensors, mask, time_dim)
    dtype, reward = reward.dtype, widened(reward)
    discount = coefficient("retrace", "gamma", gamma, reward, mask)
    trace_decay = coefficient("retrace", "lmbda", lmbda, reward, mask)
    action_value = where_valid(mask, action_value)
    log_ratio = _log_ratio(log_prob, behavior_log_prob, mask)
    trace = trace_decay * bounded_ratio(log_ratio, as_scalar(1.0, reward))
    bootstrap = bootstrap_value(next_value, terminated, mask)
    delta = where_valid(mask, reward) + discount * bootstrap - action_value
    cut = cuts(terminated, done, mask, time_dim)
    decay = discount * where_valid(~cut, following(trace, time_dim))
    return (action_value + linear_recurrence(delta, decay, mask, time_dim)).to(dtype)


def upgo_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
) -> Tensor:
    """Upgoing return: follow the trajectory as long as it does better than expected.

        bootstrap[t] = 0 if terminated[t] else next_value[t]
        one_step[t]  = reward[t] + gamma * bootstrap[t]
        goes_on[t]   = not done[t] and t is not last and one_step[t + 1] >= next_value[t]
        return[t]    = reward[t] + gamma * (return[t + 1] if goes_on[t] else bootstrap[t])

    The comparison has no gradient.

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

    Reference: Vinyals et al. 2019, Grandmaster level in StarCraft II, methods.
    """
    tensors = {"reward": reward, "next_value": next_value, "terminated": terminated, "done": done}
    check_steps("upgo_return", tensors, mask, time_dim)
    gained = where_valid(mask, widened(reward))
    discount = coefficient("upgo_return", "gamma", gamma, gained, mask)
    bootstrap = bootstrap_value(next_value, terminated, mask)
    one_step = gained + discount * bootstrap
    goes_on = (following(one_step, time_dim) >= bootstrap).to(gained.dtype)
    return lambda_return(reward, next_value, terminated, done, discount, goes_on, mask, time_dim)


def _log_ratio(log_prob: Tensor, behavior_log_prob: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Zero under the mask; in the dtype to compute in."""
    return where_valid(mask, widened(log_prob)) - where_valid(mask, behavior_log_prob)


def bounded_ratio(log_ratio: Tensor, bound: Tensor) -> Tensor:
    """``min(exp(log_ratio), bound)``, whose exponential never overflows, even without a bound."""
    largest = 709.0 if log_ratio.dtype == torch.float64 else 88.0
    return torch.exp(torch.clamp(log_ratio, max=torch.log(bound).clamp(max=largest)))
