"""PPO on CartPole-v1 by several processes, each with environments of its own.

    torchrun --nproc-per-node 2 -m examples.ppo_distributed

They train one policy: what each collects is its part of every batch. A checkpoint goes on with as
many processes as there are then. If one dies, all end with an error, and the last checkpoint stays.
"""

from datetime import timedelta
from pathlib import Path

import gymnasium as gym
import torch
import torch.distributed as dist
import typer

from compiled_rl import UpdateStep
from compiled_rl.training import (
    Collector,
    SplitBatch,
    UpdateEpochs,
    load_checkpoint,
    save_checkpoint,
)

from .common import EPISODES, estimate, make_envs, to_zero
from .ppo_cartpole import ENVS, EPOCHS, MINIBATCH, NAME, ROLLOUT, make_loss

EVERY = 5  # rollouts between two checkpoints


def mean_return(collector: Collector, group: dist.ProcessGroup) -> float:
    """Of the last episodes of all processes; zero before each has had some."""
    found: list[list[float]] = [[] for _ in range(group.size())]
    dist.all_gather_object(found, collector.finished_returns[-EPISODES // group.size() :], group)
    returns = [x for each in found for x in each]
    return sum(returns) / len(returns) if len(returns) >= EPISODES else 0.0


def train(
    group: dist.ProcessGroup, steps: int, seed: int, compile: bool, checkpoint: Path, resume: bool
) -> float:
    """Train until the environment is solved or the steps of all processes are used up."""
    rank, processes = group.rank(), group.size()
    loss = make_loss(seed)
    envs = make_envs(NAME, ENVS // processes)
    collector = Collector(envs, loss.actor_network, seed + rank)
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=1e-3, eps=1e-5),
        max_grad_norm=0.5,
        mode="default" if compile else "eager",
        rule=to_zero(steps * EPOCHS / MINIBATCH, learning_rate=1e-3, clip_epsilon=0.2),
        process_group=group,
    )
    learn = UpdateEpochs(update, epochs=EPOCHS, minibatch_size=MINIBATCH // processes)
    taken, reached = 0, 0.0
    if resume:
        state = load_checkpoint(checkpoint)  # each process reads it
        update.load_state_dict(state["update"])
        taken = state["taken"]
    while taken < steps and reached < gym.spec(NAME).reward_threshold:
        batch = estimate(loss, collector.collect(ROLLOUT))
        learn(batch)
        with SplitBatch(group):
            loss.actor_network.network[0].update(batch["observation"])
        taken, reached = taken + ENVS * ROLLOUT, mean_return(collector, group)
        if rank == 0:
            print(f"{taken} steps, mean return {reached:.1f}", flush=True)
            if taken // (ENVS * ROLLOUT) % EVERY == 0:
                save_checkpoint(checkpoint, {"update": update.state_dict(), "taken": taken})
    if rank == 0:
        save_checkpoint(checkpoint, {"update": update.state_dict(), "taken": taken})
    return reached


def main(
    steps: int = 100_000,
    seed: int = 0,
    compile: bool = True,
    checkpoint: Path = Path("runs/ppo_distributed.pt"),
    resume: bool = False,
    timeout: float = 60.0,
) -> None:
    """Train, or go on; TIMEOUT is how many seconds a process waits for another."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    group = dist.group.WORLD
    reached = train(group, steps, seed, compile, checkpoint, resume)
    if group.rank() == 0:
        print(f"mean return {reached:.1f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
