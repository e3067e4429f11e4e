"""Double DQN on CartPole-v1: act a while, learn from what is remembered, in one file."""

import torch
import typer
from torch import Generator, Tensor, nn

from compiled_rl import DQNLoss, QPolicy, SoftUpdate, UpdateStep
from compiled_rl.functional import linear_schedule
from compiled_rl.training import Environments

from .common import is_solved, make_envs, mean_return
from .replay import Replay, evaluate

NAME, ENVS, ROUND, UPDATES, BATCH, LEARNING_RATE = "CartPole-v1", 8, 32, 128, 128, 1e-3


def make_loss(seed: int) -> DQNLoss:
    """The values of both actions."""
    torch.manual_seed(seed)
    hidden = [nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    network = nn.Sequential(*hidden, nn.Linear(128, 2))
    loss = DQNLoss(network, action_space="categorical", double_dqn=True)
    return loss.make_value_estimator(gamma=0.99)


def act(
    envs: Environments, replay: Replay, policy: QPolicy, epsilon: Tensor, generator: Generator
) -> None:
    """Take a round of steps, most of them the best by the values, and remember them."""
    for _ in range(ROUND):
        action = policy.act(envs.observation, epsilon=epsilon, generator=generator)
        replay.add({"action": action, **envs.step(action)})


def main(steps: int = 100_000, seed: int = 0, compile: bool = True) -> float:
    """Train until it is solved or the steps are used up; print the mean of fifty episodes."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss = make_loss(seed)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE)
    update = UpdateStep(
        loss,
        optimizer,
        max_grad_norm=10.0,
        mode="default" if compile else "eager",
        target_updater=SoftUpdate(loss, tau=0.005),
    )
    policy, generator = QPolicy(loss.value_network), Generator().manual_seed(seed)
    envs, replay, taken = Environments(make_envs(NAME, ENVS), seed), Replay(steps), 0
    for taken in range(ENVS * ROUND, steps + 1, ENVS * ROUND):
        done = torch.tensor(taken / steps)
        optimizer.param_groups[0]["lr"] = float(linear_schedule(done, LEARNING_RATE, 0.0))
        act(envs, replay, policy, linear_schedule(done / 0.2, 1.0, 0.02), generator)
        for _ in range(UPDATES):
            metrics = update(replay.sample(BATCH, generator))
        if taken // (ENVS * ROUND) % 20 == 0:
            reached = f"return {mean_return(envs):6.1f}"
            print(f"{taken:7,} steps  {reached}  loss {float(metrics['loss']):.3f}")
        if is_solved(NAME, envs):
            break
    reached = evaluate(NAME, policy)
    print(f"mean return {reached:.1f} of 50 episodes, after {taken:,} steps")
    return reached


if __name__ == "__main__":
    typer.run(main)
