"""Returns and off-policy targets against published numbers, the peer's loops and identities."""

import math

import pytest
import torch
from torch import Tensor
from torchrl.objectives.value.functional import (
    td0_return_estimate,
    td1_return_estimate,
    td_lambda_return_estimate,
    vtrace_advantage_estimate,
)

from compiled_rl.functional import (
    discounted_advantage,
    discounted_return,
    gae,
    multi_agent_gae,
    n_step_return,
    retrace,
    td0_return,
    td1_return,
    td_lambda_advantage,
    td_lambda_return,
    upgo_return,
    vtrace,
)

DOUBLE = torch.float64


def table(rows) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


def rollout(batch: int = 5, time: int = 37, seed: int = 0):
    """Reward, value, next value, terminated, done; consistent, as one critic would give them."""
    generator = torch.Generator().manual_seed(seed)
    reward = torch.randn(batch, time, generator=generator, dtype=DOUBLE)
    states = torch.randn(batch, time + 1, generator=generator, dtype=DOUBLE)
    done = torch.rand(batch, time, generator=generator) < 0.2
    terminated = done & (torch.rand(batch, time, generator=generator) < 0.5)
    entered = torch.randn(batch, time, generator=generator, dtype=DOUBLE)
    next_value = torch.where(done, entered, states[:, 1:])
    return reward, states[:, :-1], next_value, terminated, done


def log_probs(like: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, *like.shape, generator=generator, dtype=DOUBLE).unbind())


# One trajectory with gamma 0.9 and lmbda 0.8, computed by hand: TD(0), TD(1), TD(lambda), V-trace.
BY_HAND = {
    "none done": (
        (None, None),
        [1.585, 2.675, 3.765],
        [5.84965, 5.3885, 3.765],
        [4.605976, 4.8458, 3.765],
        [4.223499, 3.531666, 3.765],
        [3.678499, 2.904372, 3.065],
    ),
    "truncated": (
        (1, None),
        [1.585, 2.675, 3.765],
        [3.4075, 2.675, 3.765],
        [3.043, 2.675, 3.765],
        [2.717696, 1.858551, 3.765],
        [2.172696, 1.258551, 3.065],
    ),
    "terminated": (
        (1, 1),
        [1.585, 2.0, 3.765],
        [2.8, 2.0, 3.765],
        [2.557, 2.0, 3.765],
        [2.349229, 1.449143, 3.765],
        [1.804229, 0.849143, 3.065],
    ),
}


@pytest.mark.parametrize("flags", BY_HAND)
def test_golden_numbers_of_the_flags(flags):
    (done_at, ended_at), td0, td1, td_lambda, target, advantage = BY_HAND[flags]
    done, ended = [
        torch.arange(3) == at if at is not None else torch.zeros(3, dtype=torch.bool)
        for at in (done_at, ended_at)
    ]
    reward, value, next_value = table([1, 2, 3]), table([0.5, 0.6, 0.7]), table([0.65, 0.75, 0.85])
    ratio = (table([-0.5, -1, -2]), table([-1, -0.5, -2]))
    corrected = vtrace(reward, value, next_value, ended, done, *ratio, 0.9)
    for got, wanted in [
        (td0_return(reward, next_value, ended, 0.9), td0),
        (td1_return(reward, next_value, ended, done, 0.9), td1),
        (td_lambda_return(reward, next_value, ended, done, 0.9, 0.8), td_lambda),
        (corrected.value_target, target),
        (corrected.advantage, advantage),
    ]:
        torch.testing.assert_close(got, table(wanted), atol=1e-6, rtol=0)


def test_golden_numbers_of_rlax_with_a_discount_a_step():
    reward = table([[1, 0, -1, 0, 1], [0.5, 0.8, -0.7, 0, 2.1]])
    gamma = table([[0.5, 0.9, 1, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]])
    next_value = table([[3, 1, 5, -5, 3], [-1.7, 1.2, 2.3, 2.2, 2.7]])
    expected = table(
        [
            [1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4],
            [0.7866317, 0.9913063, 0.1101501, 2.834, 3.99],
        ]
    )
    never = torch.zeros(2, 5, dtype=torch.bool)
    got = td_lambda_return(reward, next_value, never, never, gamma, 0.75)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gamma", [0.99, 1.0, 0.0])
@pytest.mark.parametrize("lmbda", [0.95, 1.0, 0.0])
def test_equal_to_the_loops_of_torchrl(gamma, lmbda):
    reward, _, next_value, ended, done = rollout()
    columns = [x.unsqueeze(-1) for x in (next_value, reward, done, ended)]
    pairs = [
        (td1_return(reward, next_value, ended, done, gamma), td1_return_estimate(gamma, *columns)),
        (
            td_lambda_return(reward, next_value, ended, done, gamma, lmbda),
            td_lambda_return_estimate(gamma, lmbda, *columns),
        ),
        (
            td0_return(reward, next_value, ended, gamma),
            td0_return_estimate(gamma, columns[0], columns[1], columns[3]),
        ),
    ]
    for got, theirs in pairs:
        # Its loops multiply a python float by a bool, which is float32.
        torch.testing.assert_close(got, theirs.squeeze(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rho", "c"), [(1.0, 1.0), (1.3, 0.7), (2.0, 1.0)])
def test_equal_to_the_vtrace_of_torchrl(rho, c):
    reward, value, next_value, ended, done = rollout()
    new, old = log_probs(reward)
    theirs = vtrace_advantage_estimate(
        0.9,
        *[x.unsqueeze(-1) for x in (new, old, value, next_value, reward, done, ended)],
        rho_thresh=rho,
        c_thresh=c,
    )
    ours = vtrace(reward, value, next_value, ended, done, new, old, 0.9, 1.0, rho, c)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected.squeeze(-1), rtol=1e-6, atol=1e-6)


def test_the_ends_of_lambda():
    reward, _, next_value, ended, done = rollout()
    inputs = (reward, next_value, ended, done)
    torch.testing.assert_close(
        td_lambda_return(*inputs, 0.9, 0.0), td0_return(reward, next_value, ended, 0.9)
    )
    torch.testing.assert_close(td_lambda_return(*inputs, 0.9, 1.0), td1_return(*inputs, 0.9))


def test_gae_and_td_lambda_are_one_where_the_values_are_one_critics():
    inputs = rollout()
    torch.testing.assert_close(gae(*inputs, 0.9, 0.8), td_lambda_advantage(*inputs, 0.9, 0.8))


def test_n_steps_from_one_to_all():
    reward, _, next_value, ended, done = rollout(time=9)
    inputs = (reward, next_value, ended, done)
    torch.testing.assert_close(
        n_step_return(*inputs, 1, 0.9), td0_return(reward, next_value, ended, 0.9)
    )
    torch.testing.assert_close(n_step_return(*inputs, 9, 0.9), td1_return(*inputs, 0.9))
    for beyond in (50, 10**18):  # which takes no longer
        torch.testing.assert_close(n_step_return(*inputs, beyond, 0.9), td1_return(*inputs, 0.9))


def test_rewards_to_go_are_a_monte_carlo_return_where_every_episode_ends():
    reward, value, next_value, _, done = rollout()
    done[:, -1] = True
    expected = td1_return(reward, next_value, done, done, 0.9)
    torch.testing.assert_close(discounted_return(reward, done, 0.9), expected)
    torch.testing.assert_close(discounted_advantage(reward, value, done, 0.9)[0], expected - value)


@pytest.mark.parametrize("threshold", [1.0, 7.0])
def test_on_policy_vtrace_is_the_whole_return(threshold):
    reward, value, next_value, ended, done = rollout()
    same, _ = log_probs(reward)
    inputs = (reward, value, next_value, ended, done, same, same)
    target = vtrace(*inputs, 0.9, 1.0, threshold, threshold).value_target
    torch.testing.assert_close(target, td1_return(reward, next_value, ended, done, 0.9))


def test_on_policy_vtrace_with_lambda_is_the_lambda_return():
    reward, value, next_value, ended, done = rollout()
    same, _ = log_probs(reward)
    target = vtrace(reward, value, next_value, ended, done, same, same, 0.9, 0.8).value_target
    expected = td_lambda_return(reward, next_value, ended, done, 0.9, 0.8)
    torch.testing.assert_close(target, expected)


def test_on_policy_retrace_is_the_lambda_return():
    reward, value, next_value, ended, done = rollout()
    same, _ = log_probs(reward)
    target = retrace(reward, value, next_value, ended, done, same, same, 0.9, 0.8)
    torch.testing.assert_close(target, td_lambda_return(reward, next_value, ended, done, 0.9, 0.8))


def test_retrace_that_trusts_nothing_is_the_one_step_return():
    reward, value, next_value, ended, done = rollout()
    new, old = log_probs(reward)
    target = retrace(reward, value, next_value, ended, done, new - 1e4, old, 0.9)
    torch.testing.assert_close(target, td0_return(reward, next_value, ended, 0.9))


@pytest.mark.parametrize("differentiable", [False, True], ids=["fused", "composed"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_log_ratios_of_any_size_are_bounded(size, differentiable):
    reward, value, next_value, ended, done = rollout()
    new, old = log_probs(reward)
    new = (new + size).requires_grad_(differentiable)
    inputs = (reward, value, next_value, ended, done, new, old)
    outputs = [*vtrace(*inputs, 0.9, 1.0, 1.5, 1.0), retrace(*inputs, 0.9)]
    # Both ratios are at their bounds, or nothing.
    bounded = torch.full_like(old, math.log(1.5) if size > 0 else -1e3)
    same = (*inputs[:5], bounded, torch.zeros_like(old))
    expected = [*vtrace(*same, 0.9, 1.0, 1.5, 1.0), retrace(*same, 0.9)]
    for got, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted)
    if differentiable:
        (grad,) = torch.autograd.grad(sum(x.sum() for x in outputs), new)
        assert grad.isfinite().all()


def test_thresholds_may_be_infinite():
    reward, value, next_value, ended, done = rollout(time=6)
    new, old = log_probs(reward)
    inputs = (reward, value, next_value, ended, done, new, old)
    unbounded = vtrace(*inputs, 0.9, 1.0, float("inf"), float("inf"))
    torch.testing.assert_close(unbounded, vtrace(*inputs, 0.9, 1.0, 1e9, 1e9))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_without_a_bound_the_largest_ratio_is_finite(dtype):
    reward, value, next_value, ended, done = rollout(time=1)
    new = torch.full_like(reward, 1e4)
    reals = [1e-3 * x.to(dtype) for x in (reward, value, next_value)]
    inputs = (*reals, ended, done, new.to(dtype), torch.zeros_like(new, dtype=dtype))
    bounds = (0.9, 1.0, float("inf"), float("inf"))
    fused = vtrace(*inputs, *bounds)
    composed = vtrace(inputs[0].requires_grad_(), *inputs[1:], *bounds)
    for a, b in zip(fused, composed, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=0)


def test_upgo_follows_what_does_better_and_leaves_what_does_worse():
    never = torch.zeros(1, 4, dtype=torch.bool)
    reward, next_value = table([[1, 1, 1, 1]]), table([[0, 10, 0, 5]])
    # From the state after step 1, worth 10, only 1 + 0.5 * 0 was made: the return stops there.
    expected = table([[1 + 0.5 * (1 + 0.5 * 10), 1 + 0.5 * 10, 1 + 0.5 * (1 + 0.5 * 5), 3.5]])
    torch.testing.assert_close(upgo_return(reward, next_value, never, never, 0.5), expected)


def test_upgo_goes_on_where_a_step_is_exactly_as_good_as_expected():
    never = torch.zeros(1, 2, dtype=torch.bool)
    # From the state after the first step, worth 2, exactly 1 + 0.5 * 2 is made.
    reward, next_value = table([[1, 1]]), table([[2, 2]]).requires_grad_()
    (grad,) = torch.autograd.grad(
        upgo_return(reward, next_value, never, never, 0.5)[0, 0], next_value
    )
    torch.testing.assert_close(grad, table([[0, 0.25]]))


def test_upgo_is_the_whole_return_where_nothing_was_expected():
    reward, _, next_value, _, done = rollout()
    hopeless = next_value - 1e3 * (~done).to(DOUBLE)
    ended = done.clone()
    ended[:, -1] = True
    got = upgo_return(reward, hopeless, ended, done, 0.9)
    torch.testing.assert_close(got, discounted_return(reward, ended, 0.9))


TEAM = {"time_dim": -1, "agent_dim": -2}


def team(agents: int = 3):
    reward, value, next_value, ended, done = rollout()
    values = [torch.stack([x + i for i in range(agents)], 1) for x in (value, next_value)]
    return reward, *values, ended, done


def test_a_team_shares_what_has_no_agent_axis():
    reward, value, next_value, ended, done = team()
    shared = multi_agent_gae(reward, value, next_value, ended, done, **TEAM)
    for i in range(3):
        alone = gae(reward, value[:, i], next_value[:, i], ended, done)
        torch.testing.assert_close(shared.advantage[:, i], alone.advantage)
    own = [x.unsqueeze(1).repeat(1, 3, 1) for x in (reward, ended, done)]
    given = multi_agent_gae(own[0], value, next_value, *own[1:], **TEAM)
    torch.testing.assert_close(given, shared)


@pytest.mark.parametrize("name", ["reward", "terminated", "done", "mask"])
def test_a_size_of_one_never_stands_for_a_team(name):
    values = dict(zip(("reward", "value", "next_value", "terminated", "done"), team(), strict=True))
    values["mask"] = torch.ones_like(values["done"])
    values[name] = values[name].unsqueeze(1)
    with pytest.raises(ValueError, match=rf"`{name}` must have the shape of `value`, with or with"):
        multi_agent_gae(**values, **TEAM)


@pytest.mark.parametrize("axes", [(-1, -1), (2, -1), (-1, 3)])
def test_time_and_agents_are_two_axes(axes):
    with pytest.raises(ValueError, match="`agent_dim` must be an axis of `value` other than"):
        multi_agent_gae(*team(), time_dim=axes[0], agent_dim=axes[1])


def test_a_team_has_agents():
    reward, value, next_value, ended, done = team()
    none = (reward, value[:, :0], next_value[:, :0], ended, done)
    with pytest.raises(ValueError, match="`value` must have at least one agent, got"):
        multi_agent_gae(*none, **TEAM)
