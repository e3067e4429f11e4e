"""TD3 on Pendulum-v1: critics learn at every step, the actor and the targets at every other."""

import torch
import typer
from torch import Generator

from compiled_rl import SoftUpdate, TD3Loss, UpdateStep
from compiled_rl.training import Environments

from .common import ActionValue, make_envs
from .ddpg_pendulum import BATCH, NAME, TORQUE, WARM_UP, explore, make_actor
from .replay import Replay, evaluate

DELAY = 2  # updates of the critics to one of the actor


def make_loss(seed: int) -> TD3Loss:
    """An actor and two critics, of which frozen copies value the states entered."""
    torch.manual_seed(seed)
    critics = [ActionValue(4), ActionValue(4)]
    loss = TD3Loss(make_actor(), critics, bounds=(-TORQUE, TORQUE), loss_function="l2")
    return loss.make_value_estimator(gamma=0.99)


def main(steps: int = 20_000, seed: int = 0, compile: bool = True) -> float:
    """Train, and print the mean return of fifty episodes without noise."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss, mode = make_loss(seed), "default" if compile else "eager"
    generator = Generator().manual_seed(seed)
    adam = torch.optim.Adam(loss.qvalue_network.parameters(), lr=1e-3)
    learn_critics = UpdateStep(loss, adam, minimise=["loss_qvalue"], generator=generator, mode=mode)
    learn_actor = UpdateStep(
        loss,
        torch.optim.Adam(loss.actor_network.parameters(), lr=1e-3),
        minimise=["loss_actor"],
        target_updater=SoftUpdate(loss, tau=0.005),
        mode=mode,
    )
    envs, replay = Environments(make_envs(NAME, 1), seed), Replay(steps)
    for taken in range(1, steps + 1):
        action = explore(loss.actor_network, envs.observation, generator)
        replay.add({"action": action, **envs.step(action)})
        if taken <= WARM_UP:
            continue
        batch = replay.sample(BATCH, generator)
        metrics = learn_critics(batch)
        if taken % DELAY == 0:
            learn_actor(batch)
        if taken % 2_000 == 0:
            episode = f"return {envs.finished_returns[-1]:8.1f}"
            print(f"{taken:7,} steps  {episode}  critics {metrics['loss_qvalue']:.3f}")
    reached = evaluate(NAME, loss.actor_network)
    print(f"mean return {reached:.1f} of 50 episodes")
    return reached


if __name__ == "__main__":
    typer.run(main)
