"""What the examples share: environments, layers, batches, annealing, and the return so far."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from compiled_rl import LossModule, ValueHead
from compiled_rl.functional import linear_schedule
from compiled_rl.training import Environments

RECORDED = ("observation", "action", "action_log_prob")
EPISODES = 20  # a mean return is that of the last so many

Numbers = dict[str, Tensor]


class Progress(NamedTuple):
    """Where training is: steps taken, and the mean return of the last 20 episodes."""

    steps: int
    mean_return: float


def make_envs(
    name: str, count: int, wrappers: Sequence[Callable[[gym.Env], gym.Wrapper]] = ()
) -> VectorEnv:
    """Environments that reset in the step in which an episode ends, each in the wrappers."""
    return gym.make_vec(
        name,
        num_envs=count,
        vectorization_mode="sync",
        wrappers=wrappers,
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )


def layers(inputs: int, width: int = 64) -> list[nn.Module]:
    """Two hidden layers."""
    return [nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]


class ActionValue(nn.Module):
    """A critic of an observation and an action, of so many numbers together."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.network = nn.Sequential(*layers(inputs), ValueHead(64))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """The value of each action."""
        value: Tensor = self.network(torch.cat([observation, action], -1))
        return value


def estimate(
    loss: LossModule, rollout: dict[str, Tensor], recorded: tuple[str, ...] = RECORDED
) -> dict[str, Tensor]:
    """What was recorded of a rollout, with advantage and value target, flat."""
    target = loss.value_estimator(rollout, time_dim=0)
    batch = {name: rollout[name] for name in recorded}
    batch |= {name: target[name] for name in ("advantage", "value_target")}
    return {name: x.flatten(0, 1) for name, x in batch.items()}


def to_zero(updates: float, **start: float) -> Callable[[Numbers, Numbers], Numbers]:
    """A rule of ``UpdateStep``: numbers that go to zero in a straight line, in so many updates."""

    def rule(now: Numbers, _: Numbers) -> Numbers:
        done = now["updates"] / updates
        return {name: linear_schedule(done, first, 0.0) for name, first in start.items()}

    return rule


def mean_return(envs: Environments) -> float:
    """Of the last episodes; zero before the first has ended."""
    recent = envs.finished_returns[-EPISODES:]
    return sum(recent) / max(len(recent), 1)


def is_solved(name: str, envs: Environments) -> bool:
    """Whether the last episodes reached the threshold that the environment declares."""
    threshold = gym.spec(name).reward_threshold
    enough = len(envs.finished_returns) >= EPISODES
    return threshold is not None and enough and mean_return(envs) >= threshold
