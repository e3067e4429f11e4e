"""A2C on CartPole-v1: the loss estimates the advantage itself, in the graph of the update."""

import torch
import typer
from torch import nn

from compiled_rl import A2CLoss, ObservationNormalizer, Policy, UpdateStep, ValueHead
from compiled_rl.modules import Categorical
from compiled_rl.training import Collector

from .common import Progress, is_solved, layers, make_envs, mean_return, to_zero

NAME, ENVS, ROLLOUT = "CartPole-v1", 8, 32


def make_loss(seed: int) -> A2CLoss:
    """Policy and critic of two layers each, on one running normaliser."""
    torch.manual_seed(seed)
    normalizer = ObservationNormalizer(4)
    policy = Policy(nn.Sequential(normalizer, *layers(4), nn.Linear(64, 2)), Categorical)
    critic = nn.Sequential(normalizer, *layers(4), ValueHead(64))
    loss = A2CLoss(policy, critic, entropy_coeff=0.01, critic_coeff=0.5, loss_critic_type="l2")
    return loss.make_value_estimator("gae", gamma=0.99, lmbda=0.95, time_dim=0)


def main(steps: int = 300_000, seed: int = 0, compile: bool = True) -> Progress:
    """Train until the environment is solved or the steps are used up; print the mean return."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss = make_loss(seed)
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=2e-3, eps=1e-5),
        max_grad_norm=0.5,
        mode="default" if compile else "eager",
        rule=to_zero(steps / (ENVS * ROLLOUT), learning_rate=2e-3),
    )
    collector = Collector(make_envs(NAME, ENVS), loss.actor_network, seed)
    for taken in range(ENVS * ROLLOUT, steps + ENVS * ROLLOUT, ENVS * ROLLOUT):
        rollout = collector.collect(ROLLOUT)
        metrics = update(rollout)
        loss.actor_network.network[0].update(rollout["observation"].flatten(0, 1))
        if taken // (ENVS * ROLLOUT) % 40 == 0:
            reached = f"return {mean_return(collector):6.1f}"
            print(f"{taken:7,} steps  {reached}  critic {float(metrics['loss_critic']):.3f}")
        if is_solved(NAME, collector):
            break
    print(f"mean return {mean_return(collector):.1f} after {taken:,} steps")
    return Progress(taken, mean_return(collector))


if __name__ == "__main__":
    typer.run(main)
