"""The benchmark of whole trainings: same work, finite returns, and a split that adds up."""

import math
import time

import pytest
import torch

from benchmarks import cleanrl_ppo as cleanrl
from benchmarks.end_to_end import CONTENDERS, PARTS, networks, ours_loss, per_frame, rows, run

SHORT = cleanrl.Config(frames=2_048)


@pytest.fixture(scope="module")
def short():
    start = time.perf_counter()
    results = run({name: CONTENDERS[name] for name in ("cleanrl", "ours, eager")}, SHORT)
    return results, time.perf_counter() - start


def test_every_contender_learns_from_finished_episodes(short):
    for result in short[0].values():
        assert math.isfinite(result.mean_return)
        assert 9 <= result.mean_return <= 500


def test_the_split_adds_up(short):
    results, wall = short
    iterations = [x for result in results.values() for x in result.iterations]
    assert len(iterations) == 2 * SHORT.iterations
    assert all(list(x) == list(PARTS) and min(x.values()) > 0 for x in iterations)
    assert sum(sum(x.values()) for x in iterations) < wall


def test_the_rows_are_of_whole_frames_and_their_parts(short):
    results = short[0]
    made = {(row.what, row.contender): row.median_us for row in rows(results, SHORT)}
    for name, result in results.items():
        assert sum(per_frame(result.steady, SHORT).values()) == pytest.approx(
            made["frame", name], rel=1e-6
        )  # of two iterations the median is the mean
        assert made["frame", name] > made["frame: environment", name]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)  # the coefficients are made in it, too
    yield
    torch.set_default_dtype(torch.float32)


def recorded(size: int = 128) -> cleanrl.Batch:
    """Of another policy and another critic, so that some ratios and values are clipped."""
    return cleanrl.Batch(
        observation=torch.randn(size, 4),
        action=torch.randint(2, (size,)),
        log_prob=-0.7 + 0.3 * torch.randn(size),
        advantage=torch.randn(size),
        value_target=torch.randn(size),
        value=0.3 * torch.randn(size),
    )


def test_the_loss_is_cleanrls(double):
    config = cleanrl.Config()
    policy, critic = networks(seed=0)
    agent = cleanrl.Agent()
    agent.actor, agent.critic = policy.network, critic[0]
    batch = recorded()
    theirs, (_, clipped) = cleanrl.ppo_loss(agent, batch, config)
    loss = ours_loss(policy, critic, config)
    data = batch._asdict() | {"action_log_prob": batch.log_prob, "state_value": batch.value}
    outputs = loss({name: x for name, x in data.items() if name not in ("log_prob", "value")})
    ours = sum(x for name, x in outputs.items() if name.startswith("loss_"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    assert outputs["clip_fraction"].item() == pytest.approx(clipped)
    assert 0 < outputs["value_clip_fraction"] < 1
    parameters = list(agent.parameters())
    gradients = zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    )
    for mine, its in gradients:
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-8)
