"""PPO on CartPole-v1: collect, estimate, update, and go on after an interrupt, in one file."""

from collections.abc import Callable
from pathlib import Path
from typing import Optional

import gymnasium as gym
import torch
import typer
from torch import nn

from compiled_rl import ClipPPOLoss, ObservationNormalizer, Policy, UpdateStep, ValueHead
from compiled_rl.modules import Categorical
from compiled_rl.training import Collector, UpdateEpochs, load_checkpoint, save_checkpoint

from .common import (
    EPISODES,
    Progress,
    estimate,
    is_solved,
    layers,
    make_envs,
    mean_return,
    to_zero,
)

NAME, ENVS, ROLLOUT, EPOCHS, MINIBATCH = "CartPole-v1", 8, 128, 10, 256


def make_loss(seed: int) -> ClipPPOLoss:
    """Policy and critic of two layers each, on one running normaliser."""
    torch.manual_seed(seed)
    normalizer = ObservationNormalizer(4)
    policy = Policy(nn.Sequential(normalizer, *layers(4), nn.Linear(64, 2)), Categorical)
    critic = nn.Sequential(normalizer, *layers(4), ValueHead(64))
    loss = ClipPPOLoss(policy, critic, entropy_coeff=0.0, normalize_advantage=True)
    return loss.make_value_estimator(gamma=0.99, lmbda=0.95)


def make_update(
    loss: ClipPPOLoss, steps: int, compile: bool, generator: torch.Generator
) -> UpdateStep:
    """Learning rate and clip bound go to zero while the steps are taken, in the same graph."""
    return UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=1e-3, eps=1e-5),
        max_grad_norm=0.5,
        mode="default" if compile else "eager",
        generator=generator,
        rule=to_zero(steps * EPOCHS / MINIBATCH, learning_rate=1e-3, clip_epsilon=0.2),
    )


def train(
    steps: int,
    seed: int,
    compile: bool,
    checkpoint: Optional[Path] = None,
    on_progress: Callable[[Progress], None] = print,
    resume: bool = False,
) -> tuple[ClipPPOLoss, list[Progress]]:
    """Train until the environment is solved or the steps are used up.

    A checkpoint is written at the end, and when training is interrupted after its first rollout.
    With ``resume``, training goes on from the one that is there.
    """
    loss = make_loss(seed)
    collector = Collector(make_envs(NAME, ENVS), loss.actor_network, seed)
    update = make_update(loss, steps, compile, collector.generator)
    learn = UpdateEpochs(update, epochs=EPOCHS, minibatch_size=MINIBATCH)
    history = _load(checkpoint, update, collector) if checkpoint and resume else []
    try:
        while not is_solved(NAME, collector) and (not history or history[-1].steps < steps):
            batch = estimate(loss, collector.collect(ROLLOUT))
            learn(batch)
            loss.actor_network.network[0].update(batch["observation"])
            taken = (history[-1].steps if history else 0) + ENVS * ROLLOUT
            history.append(Progress(taken, mean_return(collector)))
            on_progress(history[-1])
    finally:
        if checkpoint and history:
            _save(checkpoint, update, collector, history)
    return loss, history


def solved(history: list[Progress]) -> bool:
    """Whether the last 20 episodes reached the environment's threshold."""
    threshold = gym.spec(NAME).reward_threshold
    return bool(history) and history[-1].mean_return >= threshold


def _save(
    checkpoint: Path, update: UpdateStep, collector: Collector, history: list[Progress]
) -> None:
    state = {
        "update": update.state_dict(),
        "returns": collector.finished_returns[-EPISODES:],
        "history": [list(row) for row in history],
    }
    save_checkpoint(checkpoint, state)


def _load(checkpoint: Path, update: UpdateStep, collector: Collector) -> list[Progress]:
    state = load_checkpoint(checkpoint)
    update.load_state_dict(state["update"])
    collector.finished_returns += state["returns"]
    return [Progress(*row) for row in state["history"]]


def main(
    steps: int = 100_000,
    seed: int = 0,
    compile: bool = True,
    checkpoint: Path = Path("runs/ppo_cartpole.pt"),
    resume: bool = False,
) -> Progress:
    """Train, or go on; every rollout prints how far it is, and CHECKPOINT is what was trained."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    _, history = train(steps, seed, compile, checkpoint, resume=resume)
    return history[-1]


if __name__ == "__main__":
    typer.run(main)
