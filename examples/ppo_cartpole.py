"""PPO on CartPole-v1: collect, estimate, update, in one file."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import torch
from torch import nn

from compiled_rl import ClipPPOLoss, ObservationNormalizer, Policy, UpdateStep, ValueHead
from compiled_rl.modules import Categorical
from compiled_rl.training import Collector, load_checkpoint, save_checkpoint
from examples.common import (
    EPISODES,
    estimate,
    is_solved,
    layers,
    make_envs,
    mean_return,
    minibatches,
)

NAME = "CartPole-v1"


class Config(NamedTuple):
    """What may be varied."""

    total_steps: int = 100_000
    seed: int = 0
    envs: int = 8
    rollout: int = 128
    epochs: int = 10
    minibatch: int = 256
    learning_rate: float = 1e-3
    gamma: float = 0.99
    lmbda: float = 0.95
    mode: str = "default"


class Progress(NamedTuple):
    """Where training is: steps taken, and the mean return of the last 20 episodes."""

    steps: int
    mean_return: float


def make_loss(config: Config) -> ClipPPOLoss:
    """Policy and critic of two layers each, on one running normaliser."""
    torch.manual_seed(config.seed)
    normalizer = ObservationNormalizer(4)
    policy = Policy(nn.Sequential(normalizer, *layers(4), nn.Linear(64, 2)), Categorical)
    critic = nn.Sequential(normalizer, *layers(4), ValueHead(64))
    loss = ClipPPOLoss(policy, critic, entropy_coeff=0.0, normalize_advantage=True)
    loss.make_value_estimator(gamma=config.gamma, lmbda=config.lmbda)
    return loss


def train(
    config: Config,
    checkpoint: Path,
    on_progress: Callable[[Progress], None] = print,
    resume: bool = False,
) -> tuple[ClipPPOLoss, list[Progress]]:
    """Train until the environment is solved or the steps are used up.

    A checkpoint is written at the end, and when training is interrupted after its first rollout.
    With ``resume``, training goes on from the one that is there.
    """
    loss = make_loss(config)
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.learning_rate, eps=1e-5)
    update = UpdateStep(loss, optimizer, max_grad_norm=0.5, mode=config.mode)
    collector = Collector(make_envs(NAME, config.envs), loss.actor_network, config.seed)
    history = _load(checkpoint, loss, optimizer, collector) if resume else []
    try:
        while not _finished(history, config, collector):
            _anneal(loss, optimizer, config, history)
            batch = estimate(loss, collector.collect(config.rollout))
            pieces = minibatches(batch, config.minibatch, config.epochs, collector.generator)
            for minibatch in pieces:
                update(minibatch)
            loss.actor_network.network[0].update(batch["observation"])
            history.append(_progress(history, config, collector))
            on_progress(history[-1])
    finally:
        if history:
            _save(checkpoint, loss, optimizer, collector, history)
    return loss, history


def solved(history: list[Progress]) -> bool:
    """Whether the last 20 episodes reached the environment's threshold."""
    threshold = gym.spec(NAME).reward_threshold
    return bool(history) and history[-1].mean_return >= threshold


def _anneal(
    loss: ClipPPOLoss,
    optimizer: torch.optim.Optimizer,
    config: Config,
    history: list[Progress],
) -> None:
    """Learning rate and clip bound go to zero linearly; neither recompiles the update."""
    left = 1 - (history[-1].steps if history else 0) / config.total_steps
    optimizer.param_groups[0]["lr"] = config.learning_rate * left
    loss.clip_epsilon = 0.2 * left


def _progress(history: list[Progress], config: Config, collector: Collector) -> Progress:
    before = history[-1].steps if history else 0
    return Progress(before + config.envs * config.rollout, mean_return(collector))


def _finished(history: list[Progress], config: Config, collector: Collector) -> bool:
    ended = bool(history) and history[-1].steps >= config.total_steps
    return ended or is_solved(NAME, collector)


def _save(
    checkpoint: Path,
    loss: ClipPPOLoss,
    optimizer: torch.optim.Optimizer,
    collector: Collector,
    history: list[Progress],
) -> None:
    state = {
        "loss": loss.state_dict(),
        "optimizer": optimizer.state_dict(),
        "returns": collector.finished_returns[-EPISODES:],
        "history": [list(row) for row in history],
    }
    save_checkpoint(checkpoint, state)


def _load(
    checkpoint: Path, loss: ClipPPOLoss, optimizer: torch.optim.Optimizer, collector: Collector
) -> list[Progress]:
    state = load_checkpoint(checkpoint)
    loss.load_state_dict(state["loss"])
    optimizer.load_state_dict(state["optimizer"])
    collector.finished_returns += state["returns"]
    return [Progress(*row) for row in state["history"]]


if __name__ == "__main__":
    train(Config(), Path("runs/ppo_cartpole.pt"))
