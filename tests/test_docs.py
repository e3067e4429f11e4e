"""The conversions of docs/estimators.md against loops as the other libraries write them."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives.value.functional import generalized_advantage_estimate

from compiled_rl import functional
from compiled_rl.functional import gae, td_lambda_return
from tests.pages import blocks, read, run

PAGE = read("docs/estimators.md")
GAMMA, LMBDA, T, N = 0.9, 0.8, 9, 4


@pytest.fixture(scope="module")
def page():
    """What the page's code blocks define."""
    return run(blocks(PAGE))


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_torchrl(page):
    torch.manual_seed(0)
    done = torch.rand(N, T, 1) < 0.3
    step = {
        "reward": random(N, T, 1),
        "done": done,
        "terminated": done & (torch.rand(N, T, 1) < 0.5),
    }
    step["state_value"] = random(N, T, 1)
    data = TensorDict({"state_value": random(N, T, 1), "next": step}, [N, T])
    columns = [data["state_value"], *[step[k] for k in ("state_value", "reward", "done")]]
    expected = generalized_advantage_estimate(GAMMA, LMBDA, *columns, step["terminated"])
    got = gae(**page["from_torchrl"](data), gamma=GAMMA, lmbda=LMBDA, time_dim=-2)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def cleanrl(rewards, values, dones, next_value, next_done):
    """One flag, of the state before the step, and a loop from the end."""
    advantages, last = torch.zeros_like(rewards), 0
    for t in reversed(range(T)):
        over = next_done if t == T - 1 else dones[t + 1]
        following = next_value if t == T - 1 else values[t + 1]
        delta = rewards[t] + GAMMA * following * (1 - over) - values[t]
        advantages[t] = last = delta + GAMMA * LMBDA * (1 - over) * last
    return advantages


def test_cleanrl(page):
    torch.manual_seed(1)
    dones, next_done = (torch.rand(T, N) < 0.3).double(), (torch.rand(N) < 0.3).double()
    stored = (random(T, N), random(T, N), dones, random(N), next_done)
    got = gae(**page["from_cleanrl"](*stored), gamma=GAMMA, lmbda=LMBDA, time_dim=0)
    torch.testing.assert_close(got.advantage, cleanrl(*stored))


def test_stable_baselines(page):
    """A truncation is in the reward already: our two flags give the same from the raw one."""
    torch.manual_seed(2)
    done = torch.rand(T, N) < 0.4
    terminated = done & (torch.rand(T, N) < 0.5)
    raw, values, entered = random(T, N), random(T + 1, N), random(T, N)
    next_value = torch.where(done, entered, values[1:])
    rewards = raw + GAMMA * torch.where(done & ~terminated, entered, 0.0)
    starts = torch.cat([torch.zeros(1, N, dtype=torch.bool), done[:-1]])
    stored = (rewards, values[:-1], starts.double(), values[-1], done[-1].double())
    got = gae(**page["from_sb3"](*stored), gamma=GAMMA, lmbda=LMBDA, time_dim=0)
    torch.testing.assert_close(got.advantage, cleanrl(*stored))
    ours = gae(raw, values[:-1], next_value, terminated, done, GAMMA, LMBDA, time_dim=0)
    torch.testing.assert_close(ours, got)


def test_rlax(page):
    torch.manual_seed(3)
    rewards, values = random(T, N), random(T + 1, N)
    discounts = GAMMA * (torch.rand(T, N) > 0.2).double()
    given = page["from_rlax"](rewards, discounts, values)
    advantage, total, lambda_return = torch.zeros(T, N).double(), 0.0, values[-1]
    returns = torch.zeros_like(advantage)
    for t in reversed(range(T)):
        delta = rewards[t] + discounts[t] * values[t + 1] - values[t]
        advantage[t] = total = delta + discounts[t] * LMBDA * total
        mixed = (1 - LMBDA) * values[t + 1] + LMBDA * lambda_return
        returns[t] = lambda_return = rewards[t] + discounts[t] * mixed
    torch.testing.assert_close(gae(**given, lmbda=LMBDA, time_dim=0).advantage, advantage)
    given.pop("value")
    torch.testing.assert_close(td_lambda_return(**given, lmbda=LMBDA, time_dim=0), returns)


def test_the_page_names_every_return():
    for name in functional.__all__:
        if name.endswith("_return") or name in ("gae", "multi_agent_gae", "vtrace", "retrace"):
            assert f"`{name}`" in PAGE
