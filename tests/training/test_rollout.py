"""Rollouts: every row is a transition, and a time limit does not look like a failure."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from torch import nn

from compiled_rl import ClipPPOLoss, Policy
from compiled_rl.functional import gae
from compiled_rl.modules import ActionRescaler, Categorical, Normal, StateIndependentScale
from compiled_rl.training import Collector

LIMIT, FAILURE = 3, 5


class Counter(gym.Env):
    """Observes how many steps the episode has taken; the reward is one a step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        self.count += 1
        return self._observe(), 1.0, self.count >= FAILURE, False, {}

    def _observe(self):
        return np.array([self.count], dtype=np.float32)


def counters(limit: int, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: TimeLimit(Counter(), limit)] * 2, autoreset_mode=mode)


def make_policy(inputs: int = 1) -> Policy:
    torch.manual_seed(0)
    return Policy(nn.Linear(inputs, 2), Categorical)


def test_every_row_is_a_transition():
    rollout = Collector(counters(LIMIT), make_policy()).collect(8)
    before, after = (rollout[name].squeeze(-1) for name in ("observation", "next_observation"))
    assert rollout["next_done"].shape == (8, 2)
    assert (after == before + 1).all()  # never the state after the reset
    assert (before[1:] == torch.where(rollout["next_done"][:-1], 0, after[:-1])).all()


def test_a_time_limit_is_done_but_not_terminated():
    truncated = Collector(counters(LIMIT), make_policy()).collect(6)
    assert truncated["next_done"].sum() == 4
    assert not truncated["next_terminated"].any()
    failed = Collector(counters(100), make_policy()).collect(10)
    assert failed["next_terminated"].sum() == 4
    assert torch.equal(failed["next_terminated"], failed["next_done"])


def test_truncation_bootstraps_from_the_state_entered():
    """With the value of a state its count, the state entered is worth LIMIT, a fresh one 0."""
    rollout = Collector(counters(LIMIT), make_policy()).collect(LIMIT)
    value, next_value = (rollout[name].squeeze(-1) for name in ("observation", "next_observation"))
    flags = rollout["next_terminated"], rollout["next_done"]
    target = gae(rollout["next_reward"], value, next_value, *flags, 0.9, 1.0, time_dim=0)
    last = 1 + 0.9 * LIMIT
    expected = torch.tensor([1 + 0.9 * (1 + 0.9 * last), 1 + 0.9 * last, last])
    torch.testing.assert_close(target.value_target, expected.unsqueeze(-1).expand(3, 2))


def test_the_loss_makes_the_same_of_a_rollout():
    policy, critic = make_policy(), nn.Identity()
    loss = ClipPPOLoss(policy, critic, reduction="none", loss_critic_type="l1")
    loss.make_value_estimator(gamma=0.9, lmbda=1.0)
    rollout = Collector(counters(LIMIT), policy).collect(LIMIT)
    columns = {
        name: x.T.unsqueeze(-1) if name.startswith("next_") and x.dim() == 2 else x.transpose(0, 1)
        for name, x in rollout.items()
    }
    last = 1 + 0.9 * LIMIT
    targets = torch.tensor([1 + 0.9 * (1 + 0.9 * last), 1 + 0.9 * last, last])
    expected = (targets - torch.arange(3.0)).expand(2, 3)
    torch.testing.assert_close(loss(columns)["loss_critic"], expected)


class Recorder(Counter):
    """Takes a continuous action and keeps what it was sent; ends after ``length`` steps."""

    action_space = gym.spaces.Box(-2.0, 6.0, (1,), np.float32)

    def __init__(self, length: int):
        self.length = length
        self.sent = []

    def step(self, action):
        self.sent.append(action.copy())
        observation, reward, _, _, info = super().step(action)
        return observation + 10 * self.length, reward, self.count >= self.length, False, info


def test_what_is_sent_is_rescaled_and_what_is_stored_is_not():
    envs = SyncVectorEnv([lambda: Recorder(2)], autoreset_mode=AutoresetMode.SAME_STEP)
    rescale = ActionRescaler(torch.tensor([-2.0]), torch.tensor([6.0]))
    network = nn.Sequential(nn.Linear(1, 1), StateIndependentScale(1))
    policy = Policy(network, Normal, rescale)
    rollout = Collector(envs, policy).collect(30)
    sent = torch.tensor(np.stack(envs.envs[0].sent))
    torch.testing.assert_close(sent, rescale(rollout["action"]).squeeze(1))
    assert not torch.allclose(sent, rollout["action"].squeeze(1))
    params = policy.params(rollout["observation"])
    expected = policy.family.log_prob(params, rollout["action"]).detach()
    torch.testing.assert_close(rollout["action_log_prob"], expected)


def test_every_environment_has_its_own_last_state():
    lengths = (2, 4)
    envs = SyncVectorEnv(
        [lambda n=n: Recorder(n) for n in lengths],
        autoreset_mode=AutoresetMode.SAME_STEP,
        copy=False,  # its buffers are reused
    )
    network = nn.Sequential(nn.Linear(1, 1), StateIndependentScale(1))
    rollout = Collector(envs, Policy(network, Normal)).collect(8)
    after, done = rollout["next_observation"].squeeze(-1), rollout["next_done"]
    for k, n in enumerate(lengths):
        assert done[:, k].tolist() == [t % n == 0 for t in range(1, 9)]
        assert after[:, k].tolist() == [10 * n + (t % n or n) for t in range(1, 9)]


def test_a_failure_at_the_time_limit_is_a_failure():
    rollout = Collector(counters(FAILURE), make_policy()).collect(FAILURE)
    assert rollout["next_terminated"][-1].all()


def test_an_environment_that_hides_the_last_state_is_refused():
    class Hides(SyncVectorEnv):
        def step(self, actions):
            *rest, _ = super().step(actions)
            return *rest, {}

    envs = Hides([Counter], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="`envs` must report `final_obs`"):
        Collector(envs, make_policy()).collect(FAILURE)


def test_stored_actions_are_worth_what_was_stored():
    policy = make_policy(4)
    envs = gym.make_vec(
        "CartPole-v1",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    rollout = Collector(envs, policy, seed=1).collect(40)
    params = policy.params(rollout["observation"])
    expected = policy.family.log_prob(params, rollout["action"])
    torch.testing.assert_close(rollout["action_log_prob"], expected.detach())
    again = Collector(envs, policy, seed=1).collect(40)
    torch.testing.assert_close(again, rollout, rtol=0, atol=0)


def test_returns_of_finished_episodes():
    collector = Collector(counters(LIMIT), make_policy())
    collector.collect(7)
    assert collector.finished_returns == [LIMIT] * 4


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_another_autoreset_mode_is_refused(mode):
    with pytest.raises(ValueError, match=f"autoreset mode SAME_STEP, got {mode.name}"):
        Collector(counters(LIMIT, mode), make_policy())


def test_the_distribution_that_acted_is_recorded():
    policy = make_policy()
    rollout = Collector(counters(LIMIT), policy).collect(4)
    log_prob = policy.family.log_prob((rollout["logits"],), rollout["action"])
    torch.testing.assert_close(log_prob, rollout["action_log_prob"])
