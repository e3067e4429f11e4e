"""DDPG on Pendulum-v1: one noisy step of the environment, one update, targets that follow."""

import torch
import typer
from torch import Generator, Tensor, nn

from compiled_rl import DDPGLoss, SoftUpdate, UpdateStep
from compiled_rl.modules import ActionRescaler
from compiled_rl.training import Environments

from .common import ActionValue, layers, make_envs
from .replay import Replay, evaluate

NAME, BATCH, WARM_UP, NOISE, TORQUE = "Pendulum-v1", 128, 1_000, 0.2, torch.tensor([2.0])


def make_actor() -> nn.Module:
    """From the observation to a torque, in units of the environment."""
    return nn.Sequential(*layers(3), nn.Linear(64, 1), nn.Tanh(), ActionRescaler(-TORQUE, TORQUE))


def make_loss(seed: int) -> DDPGLoss:
    """An actor and a critic, of which frozen copies value the states entered."""
    torch.manual_seed(seed)
    loss = DDPGLoss(make_actor(), ActionValue(4), delay_actor=True)
    return loss.make_value_estimator(gamma=0.99)


@torch.no_grad()
def explore(actor: nn.Module, observation: Tensor, generator: Generator) -> Tensor:
    """The actor's action with noise, within the bounds."""
    noise = NOISE * TORQUE * torch.randn(len(observation), 1, generator=generator)
    return (actor(observation) + noise).clamp(-TORQUE, TORQUE)


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
    envs, replay = Environments(make_envs(NAME, 1), seed), Replay(steps)
    generator = Generator().manual_seed(seed)
    for taken in range(1, steps + 1):
        action = explore(loss.actor_network, envs.observation, generator)
        replay.add({"action": action, **envs.step(action)})
        if taken <= WARM_UP:
            continue
        metrics = update(replay.sample(BATCH, generator))
        if taken % 2_000 == 0:
            critic = (
                f"value {metrics['pred_value'].mean():7.1f}  critic {metrics['loss_value']:.3f}"
            )
            print(f"{taken:7,} steps  return {envs.finished_returns[-1]:8.1f}  {critic}")
    reached = evaluate(NAME, loss.actor_network)
    print(f"mean return {reached:.1f} of 50 episodes")
    return reached


if __name__ == "__main__":
    typer.run(main)
