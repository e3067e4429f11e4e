"""The off-policy examples' memory, and how they measure a policy."""

import gymnasium
import pytest
import torch

from compiled_rl.training import Environments
from examples.replay import Replay, evaluate
from tests.training.test_rollout import FAILURE, LIMIT, counters


def numbered(*numbers: int) -> dict[str, torch.Tensor]:
    x = torch.tensor(numbers)
    return {"observation": x.unsqueeze(-1).float(), "action": x}


def test_the_oldest_transitions_are_written_over():
    replay = Replay(5)
    for numbers in ((0, 1, 2), (3, 4, 5), (6, 7, 8)):
        replay.add(numbered(*numbers))
    assert len(replay) == 5
    drawn = replay.sample(200, torch.Generator().manual_seed(0))
    assert set(drawn["action"].tolist()) == {4, 5, 6, 7, 8}
    assert torch.equal(drawn["observation"].squeeze(-1), drawn["action"].float())


def test_what_was_not_added_yet_is_not_drawn():
    replay = Replay(100)
    replay.add(numbered(1, 2, 3))
    drawn = replay.sample(90, torch.Generator().manual_seed(0))
    never, *often = drawn["action"].bincount().tolist()
    assert never == 0
    assert min(often) > 10


@pytest.mark.parametrize(("limit", "terminated"), [(LIMIT, False), (FAILURE, True)])
def test_transitions_end_where_their_episode_does(limit, terminated):
    envs, replay = Environments(counters(limit)), Replay(100)
    action = torch.zeros(2, dtype=torch.long)
    for _ in range(2 * limit):
        replay.add({"action": action, **envs.step(action)})
    drawn = replay.sample(300, torch.Generator().manual_seed(0))
    before, after = drawn["observation"].squeeze(-1), drawn["next_observation"].squeeze(-1)
    assert (after == before + 1).all()
    assert torch.equal(drawn["next_done"], after == limit)
    assert torch.equal(drawn["next_terminated"], drawn["next_done"] & terminated)


def test_a_return_is_that_of_the_first_episode_of_each_environment():
    """Each ends when it falls over, at its own time, and counts no more then."""
    mean = evaluate("CartPole-v1", lambda x: (x[:, 2] > 0.05).long(), episodes=5, seed=3)
    returns = [episode(3 + k) for k in range(5)]
    assert len(set(returns)) > 1
    assert mean == pytest.approx(sum(returns) / 5)


def episode(seed: int) -> float:
    """The return of one episode of the same policy, in an environment of its own."""
    env, total, ended = gymnasium.make("CartPole-v1"), 0.0, False
    observation, _ = env.reset(seed=seed)
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(int(observation[2] > 0.05))
        total, ended = total + float(reward), terminated or truncated
    return total
