"""PPO on HalfCheetah-v5: continuous actions, rescaled to the actuators by the policy itself."""

import torch
import typer
from torch import nn

from compiled_rl import ClipPPOLoss, ObservationNormalizer, Policy, UpdateStep, ValueHead
from compiled_rl.modules import ActionRescaler, Normal, StateIndependentScale
from compiled_rl.training import Collector, UpdateEpochs

from .common import estimate, layers, make_envs, mean_return, to_zero

NAME, ENVS, ROLLOUT, EPOCHS, MINIBATCH = "HalfCheetah-v5", 8, 256, 10, 256
OBSERVATION, ACTION = 17, 6


def make_loss(seed: int) -> ClipPPOLoss:
    """Policy and critic of two layers each, on one running normaliser."""
    torch.manual_seed(seed)
    normalizer = ObservationNormalizer(OBSERVATION)
    mean = nn.Linear(64, ACTION)
    nn.init.orthogonal_(mean.weight, 0.01)  # the first actions are small
    network = nn.Sequential(
        normalizer, *layers(OBSERVATION), mean, StateIndependentScale(ACTION, 0.6)
    )
    policy = Policy(network, Normal, ActionRescaler(-torch.ones(ACTION), torch.ones(ACTION)))
    critic = nn.Sequential(normalizer, *layers(OBSERVATION), ValueHead(64))
    loss = ClipPPOLoss(policy, critic, entropy_coeff=0.0, normalize_advantage=True)
    return loss.make_value_estimator(gamma=0.99, lmbda=0.95)


def main(steps: int = 1_000_000, seed: int = 0, compile: bool = True) -> float:
    """Train for so many steps; print and return the mean return of the last 20 episodes."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss = make_loss(seed)
    collector = Collector(make_envs(NAME, ENVS), loss.actor_network, seed)
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=3e-4, eps=1e-5),
        max_grad_norm=0.5,
        mode="default" if compile else "eager",
        generator=collector.generator,
        rule=to_zero(steps * EPOCHS / MINIBATCH, learning_rate=3e-4),
    )
    learn = UpdateEpochs(update, epochs=EPOCHS, minibatch_size=MINIBATCH)
    for taken in range(ENVS * ROLLOUT, steps + ENVS * ROLLOUT, ENVS * ROLLOUT):
        batch = estimate(loss, collector.collect(ROLLOUT))
        metrics = learn(batch)
        loss.actor_network.network[0].update(batch["observation"])
        if taken // (ENVS * ROLLOUT) % 20 == 0:
            reached = f"return {mean_return(collector):7.1f}"
            print(f"{taken:9,} steps  {reached}  kl {float(metrics['kl_approx'].mean()):.4f}")
    print(f"mean return {mean_return(collector):.1f}")
    return mean_return(collector)


if __name__ == "__main__":
    typer.run(main)
