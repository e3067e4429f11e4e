"""Double DQN on CartPole-v1: act a while, learn from what is remembered, in one file."""

import torch
import typer
from torch import nn

from compiled_rl import DQNLoss, QPolicy, UpdateStep
from compiled_rl.functional import linear_schedule
from compiled_rl.training import Environments, SoftUpdate
from examples.common import is_solved, make_envs, mean_return
from examples.replay import Replay, evaluate

NAME, ENVS, ROUND, UPDATES, BATCH = "CartPole-v1", 8, 32, 128, 128


def make_loss(seed: int) -> DQNLoss:
    """The values of both actions."""
    torch.manual_seed(seed)
    hidden = [nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    network = nn.Sequential(*hidden, nn.Linear(128, 2))
    loss = DQNLoss(network, action_space="categorical", double_dqn=True, loss_function="smooth_l1")
    return loss.make_value_estimator(gamma=0.99)


def main(steps: int = 100_000, seed: int = 0, compile: bool = True) -> float:
    """Train until the environment is solved or the steps are used up; print the mean return."""
    loss = make_loss(seed)
    optimizer = torch.optim.Adam(loss.parameters(), lr=5e-4)
    update = UpdateStep(
        loss,
        optimizer,
        max_grad_norm=10.0,
        mode="compiled" if compile else "eager",
        target_updater=SoftUpdate(loss, tau=0.01),
    )
    policy, generator = QPolicy(loss.value_network), torch.Generator().manual_seed(seed)
    envs, replay = Environments(make_envs(NAME, ENVS), seed), Replay(steps)
    for taken in range(0, steps, ENVS * ROUND):
        done = torch.tensor(taken / steps)
        optimizer.param_groups[0]["lr"] = float(linear_schedule(done, 5e-4, 0.0))
        epsilon = linear_schedule(done / 0.2, 1.0, 0.02)
        for _ in range(ROUND):
            action = policy.act(envs.observation, epsilon=epsilon, generator=generator)
            replay.add({"action": action, **envs.step(action)})
        for _ in range(UPDATES):
            metrics = update(replay.sample(BATCH, generator))
        if taken // (ENVS * ROUND) % 20 == 19:
            reached = f"return {mean_return(envs):6.1f}"
            print(f"{taken:7,} steps  {reached}  loss {float(metrics['loss']):.3f}")
        if is_solved(NAME, envs):
            break
    reached = evaluate(NAME, policy)
    print(f"{reached:.1f} in the mean of 50 episodes, after {taken + ENVS * ROUND:,} steps")
    return reached


if __name__ == "__main__":
    typer.run(main)
