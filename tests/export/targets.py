"""What the tests export."""

from pathlib import Path

import torch
from torch import nn

from compiled_rl import ObservationNormalizer, Policy, ValueHead
from compiled_rl.functional import gae
from compiled_rl.modules import (
    ActionRescaler,
    Categorical,
    Normal,
    OneHotCategorical,
    StateDependentScale,
    StateIndependentScale,
)

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])


def body(out: int) -> list[nn.Module]:
    normalizer = ObservationNormalizer(4)
    normalizer.update(torch.randn(100, 4) * 3 + 1)
    return [normalizer, nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, out)]


def targets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "categorical": Policy(nn.Sequential(*body(3)), Categorical),
        "one-hot": Policy(nn.Sequential(*body(3)), OneHotCategorical),
        "normal": Policy(
            nn.Sequential(*body(2), StateIndependentScale(2)), Normal, ActionRescaler(LOW, HIGH)
        ),
        "state-dependent": Policy(nn.Sequential(*body(4), StateDependentScale()), Normal),
        "value": nn.Sequential(*body(16), ValueHead(16)),
    }


class Critic(nn.Module):
    """A network and an estimator on it: a recurrence inside a module."""

    def __init__(self):
        super().__init__()
        self.value = ValueHead(4)

    def forward(self, observation, next_observation, reward, done):
        value, next_value = self.value(observation), self.value(next_observation)
        return gae(reward, value, next_value, done, done)


def rollout(batch: int, time: int) -> dict[str, torch.Tensor]:
    return {
        "observation": torch.randn(batch, time, 4),
        "next_observation": torch.randn(batch, time, 4),
        "reward": torch.randn(batch, time),
        "done": torch.rand(batch, time) < 0.3,
    }


def sequence(batch: int, time: int) -> dict[str, torch.Tensor]:
    done = torch.rand(batch, time) < 0.3
    return {
        "reward": torch.randn(batch, time),
        "value": torch.randn(batch, time),
        "next_value": torch.randn(batch, time),
        "terminated": done & (torch.rand(batch, time) < 0.5),
        "done": done,
    }


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
