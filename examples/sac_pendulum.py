"""SAC on Pendulum-v1: one step of the environment, one update, and the temperature is learned."""

import torch
import typer
from torch import Generator, nn

from compiled_rl import Policy, SACLoss, SoftUpdate, UpdateStep
from compiled_rl.modules import StateDependentScale, TanhNormal
from compiled_rl.training import Collector

from .common import ActionValue, layers, make_envs, mean_return
from .replay import Replay, evaluate

NAME, BATCH, WARM_UP = "Pendulum-v1", 256, 1_000
ENDS = ("next_terminated", "next_done")
LEARNED = ("observation", "action", "next_observation", "next_reward", *ENDS)


def make_loss(seed: int) -> SACLoss:
    """A policy whose bounds say how many numbers an action is, and two critics."""
    torch.manual_seed(seed)
    family = TanhNormal(low=torch.tensor([-2.0]), high=torch.tensor([2.0]))
    policy = Policy(nn.Sequential(*layers(3), nn.Linear(64, 2), StateDependentScale()), family)
    loss = SACLoss(policy, [ActionValue(4), ActionValue(4)], loss_function="l2")
    return loss.make_value_estimator(gamma=0.99)


def main(steps: int = 20_000, seed: int = 0, compile: bool = True) -> float:
    """Train, and print the mean return of fifty episodes without noise."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss = make_loss(seed)
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=1e-3),
        target_updater=SoftUpdate(loss, tau=0.005),
        mode="default" if compile else "eager",
    )
    collector = Collector(make_envs(NAME, 1), loss.actor_network, seed)
    replay, generator = Replay(steps), Generator().manual_seed(seed)
    for taken in range(1, steps + 1):
        rows = collector.collect(1)
        replay.add({name: rows[name][0] for name in LEARNED})
        if taken <= WARM_UP:
            continue
        metrics = update(replay.sample(BATCH, generator))
        if taken % 2_000 == 0:
            print(
                f"{taken:7,} steps  return {mean_return(collector):8.1f}  "
                f"alpha {metrics['alpha']:.3f}  entropy {metrics['entropy']:.2f}"
            )
    reached = evaluate(NAME, loss.actor_network)
    print(f"mean return {reached:.1f} of 50 episodes")
    return reached


if __name__ == "__main__":
    typer.run(main)
