"""The examples run, small: networks learn, frozen copies follow. Slow tests train."""

import copy
import math

import pytest
import torch

from compiled_rl.functional import gae
from examples import (
    a2c_cartpole,
    ddpg_pendulum,
    dqn_cartpole,
    klpen_cartpole,
    ppo_cartpole,
    ppo_half_cheetah,
    ppo_recurrent_cartpole,
    sac_pendulum,
    td3_pendulum,
)
from examples.common import Progress, to_zero
from examples.ppo_recurrent_cartpole import RecurrentCollector, estimate, sequences

SOLVABLE = {  # steps of two rollouts
    ppo_cartpole: 2_048,
    klpen_cartpole: 2_048,
    ppo_recurrent_cartpole: 4_096,
    a2c_cartpole: 512,
}
OF_FIXED_LENGTH = {
    ppo_half_cheetah: 2_048,
    ddpg_pendulum: 1_020,
    td3_pendulum: 1_020,
    sac_pendulum: 1_020,
    dqn_cartpole: 512,
}


@pytest.fixture
def made(request, monkeypatch):
    """The losses that an example makes, each with the state that it had."""
    losses = []
    example = request.getfixturevalue("example")
    make_loss = example.make_loss

    def recorded(seed):
        loss = make_loss(seed)
        losses.append((loss, copy.deepcopy(loss.state_dict())))
        return loss

    monkeypatch.setattr(example, "make_loss", recorded)
    return losses


def check_all_moved(made) -> None:
    ((loss, before),) = made
    for name, x in loss.state_dict().items():
        if name.endswith("weight"):
            assert not torch.equal(x, before[name]), name


@pytest.mark.parametrize("example", SOLVABLE, ids=lambda example: example.__name__)
def test_networks_learn(example, made, tmp_path):
    options = {"checkpoint": tmp_path / "checkpoint.pt"} if example is ppo_cartpole else {}
    reached = example.main(SOLVABLE[example], compile=False, **options)
    assert isinstance(reached, Progress)
    assert reached.steps == SOLVABLE[example]
    assert reached.mean_return > 0
    check_all_moved(made)


@pytest.mark.parametrize("example", OF_FIXED_LENGTH, ids=lambda example: example.__name__)
def test_networks_learn_and_copies_follow(example, made):
    assert math.isfinite(example.main(OF_FIXED_LENGTH[example], compile=False))
    check_all_moved(made)
    targets = [name for name in made[0][1] if name.startswith("target_")]
    assert bool(targets) == (example is not ppo_half_cheetah)


def test_no_steps_are_no_error():
    assert math.isfinite(dqn_cartpole.main(steps=10, compile=False))


def test_numbers_go_to_zero():
    rule = to_zero(8, learning_rate=4.0, clip_epsilon=0.2)
    for updates, share in ((0, 1), (2, 0.75), (8, 0), (9, 0)):
        moved = rule({"updates": torch.tensor(updates)}, {})
        assert float(moved["learning_rate"]) == 4 * share
        assert float(moved["clip_epsilon"]) == pytest.approx(0.2 * share)


# ---- Memory --------------------------------------------------------------------------------------


def collected(steps: int):
    loss = ppo_recurrent_cartpole.make_loss(0)
    collector = RecurrentCollector(loss.actor_network.network.network, seed=0)
    return loss, collector, collector.collect(steps)


def test_velocities_are_not_seen():
    _, collector, rollout = collected(3)
    states = torch.tensor([list(env.unwrapped.state) for env in collector.envs.envs])
    torch.testing.assert_close(rollout["next_observation"][-1], states[:, [0, 2]].float())


def test_sequences_go_on_from_what_was_remembered():
    loss, _, rollout = collected(64)
    assert rollout["next_done"].any()
    outputs = loss(sequences(loss.critic_network, rollout))
    assert float(outputs["max_ratio"]) == pytest.approx(1, abs=1e-5)
    assert float(outputs["kl_approx"]) == pytest.approx(0, abs=1e-6)
    rollout["hidden"] = torch.zeros_like(rollout["hidden"])
    assert float(loss(sequences(loss.critic_network, rollout))["max_ratio"]) > 1.001


@torch.no_grad()
def test_states_entered_are_valued_with_the_memory_of_their_episode():
    loss, collector, rollout = collected(64)
    after = collector.collect(1)
    seen = [
        torch.cat([rollout[name], after[name]]).transpose(0, 1)
        for name in ("observation", "is_init")
    ]
    value = loss.critic_network(*seen, torch.zeros(len(seen[0]), 64)).T
    ends = rollout["next_terminated"], rollout["next_done"]
    assert torch.equal(*ends)  # else the state behind is of another episode
    expected = gae(rollout["next_reward"], value[:-1], value[1:], *ends, time_dim=0)
    for name, x in estimate(loss.critic_network, rollout).items():
        torch.testing.assert_close(x, getattr(expected, name))
