"""What the off-policy examples share: past transitions, and playing without noise."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from compiled_rl.training import Environments

from .common import make_envs


class Replay:
    """The last ``capacity`` transitions, each as likely to be drawn as any other.

    A transition at a time limit is ``next_done`` and not ``next_terminated``, and its
    ``next_observation`` is the state that it entered: no two rows are ever read as neighbours.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added = 0
        self._rows: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, transitions: dict[str, Tensor]) -> None:
        """Write transitions, each field ``[n, ...]``, over the oldest."""
        count = len(next(iter(transitions.values())))
        where = torch.arange(self.added, self.added + count) % self.capacity
        for name, x in transitions.items():
            if name not in self._rows:
                self._rows[name] = x.new_empty((self.capacity, *x.shape[1:]))
            self._rows[name][where] = x
        self.added += count

    def sample(self, count: int, generator: Generator) -> dict[str, Tensor]:
        """Draw ``count`` transitions, with replacement, each field ``[count, ...]``."""
        index = torch.randint(len(self), (count,), generator=generator)
        return {name: x[index] for name, x in self._rows.items()}


@torch.no_grad()
def evaluate(
    name: str, policy: Callable[[Tensor], Tensor], episodes: int = 50, seed: int = 10_000
) -> float:
    """The mean return of a policy's deterministic actions, of ``episodes`` episodes at once."""
    envs = Environments(make_envs(name, episodes), seed)
    running = torch.ones(episodes, dtype=torch.bool)
    total = torch.zeros(episodes)
    while running.any():
        row = envs.step(policy(envs.observation))
        total += torch.where(running, row["next_reward"], 0.0)
        running &= ~row["next_done"]
    envs.envs.close()
    return float(total.mean())
