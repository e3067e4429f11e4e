"""PPO with an adaptive KL penalty on CartPole-v1: collect, estimate, update, in one file."""

import torch
import typer
from torch import nn

from compiled_rl import KLPENPPOLoss, ObservationNormalizer, Policy, UpdateStep, ValueHead
from compiled_rl.modules import Categorical
from compiled_rl.training import Collector, UpdateEpochs

from .common import (
    RECORDED,
    Progress,
    estimate,
    is_solved,
    layers,
    make_envs,
    mean_return,
    to_zero,
)

NAME, ENVS, ROLLOUT, EPOCHS, MINIBATCH = "CartPole-v1", 8, 64, 10, 128


def make_loss(seed: int) -> KLPENPPOLoss:
    """Policy and critic of two layers each, on one running normaliser."""
    torch.manual_seed(seed)
    normalizer = ObservationNormalizer(4)
    policy = Policy(nn.Sequential(normalizer, *layers(4), nn.Linear(64, 2)), Categorical)
    critic = nn.Sequential(normalizer, *layers(4), ValueHead(64))
    options = {"entropy_coeff": 0.0, "normalize_advantage": True}
    loss = KLPENPPOLoss(policy, critic, dtarg=0.01, adapt_beta=False, **options)
    return loss.make_value_estimator(gamma=0.99, lmbda=0.95)


def main(steps: int = 100_000, seed: int = 0, compile: bool = True) -> Progress:
    """Train until the environment is solved or the steps are used up; print the mean return."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss = make_loss(seed)
    collector = Collector(make_envs(NAME, ENVS), loss.actor_network, seed)
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=1e-3, eps=1e-5),
        max_grad_norm=0.5,
        mode="default" if compile else "eager",
        generator=collector.generator,
        rule=to_zero(steps * EPOCHS / MINIBATCH, learning_rate=1e-3),
    )
    learn = UpdateEpochs(update, epochs=EPOCHS, minibatch_size=MINIBATCH)
    for taken in range(ENVS * ROLLOUT, steps + ENVS * ROLLOUT, ENVS * ROLLOUT):
        batch = estimate(loss, collector.collect(ROLLOUT), (*RECORDED, "logits"))
        kl = learn(batch)["kl"].unflatten(0, (EPOCHS, -1))[-1].mean()  # of the last epoch
        loss.adapt(kl)  # once for all epochs, as in the paper
        loss.actor_network.network[0].update(batch["observation"])
        reached = f"return {mean_return(collector):6.1f}  beta {float(loss.beta):.3g}"
        print(f"{taken:7,} steps  {reached}  kl {float(kl):.4f}")
        if is_solved(NAME, collector):
            break
    print(f"mean return {mean_return(collector):.1f} after {taken:,} steps")
    return Progress(taken, mean_return(collector))


if __name__ == "__main__":
    typer.run(main)
