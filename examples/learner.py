"""Make the files with which a device learns CartPole-v1: to act, to estimate, to update."""

from pathlib import Path

import torch
import typer
from torch import nn

from compiled_rl import GAE, ClipPPOLoss, Policy, SampledPolicy, UpdateStep, ValueHead
from compiled_rl.export import to_onnx
from compiled_rl.modules import Categorical
from compiled_rl.training import UpdateEpochs

from .common import layers

ENVS, ROLLOUT = 8, 128


def make_loss(seed: int) -> ClipPPOLoss:
    """Policy and critic of two layers each, untrained."""
    torch.manual_seed(seed)
    policy = Policy(nn.Sequential(*layers(4), nn.Linear(64, 2)), Categorical)
    critic = nn.Sequential(*layers(4), ValueHead(64))
    return ClipPPOLoss(policy, critic, entropy_coeff=0.0, normalize_advantage=True)


def make_files(folder: Path, seed: int) -> None:
    """What is learned is an input of the first three files; the last one moves it."""
    loss = make_loss(seed)
    actor, critic = loss.actor_network, loss.critic_network
    observation = torch.randn(ENVS, 4)
    to_onnx(actor, observation, folder / "policy.onnx", parameters=loss)
    to_onnx(SampledPolicy(actor), observation, folder / "explore.onnx", parameters=loss)

    rows, flag = (ENVS, ROLLOUT), torch.zeros(ENVS, ROLLOUT, dtype=torch.bool)
    rollout = {
        "observation": torch.randn(*rows, 4),
        "next_observation": torch.randn(*rows, 4),
        "next_reward": torch.ones(rows),
        "next_done": flag,
        "next_terminated": flag,
    }
    estimate = GAE(gamma=0.99, lmbda=0.95, value_network=critic, time_dim=1)
    to_onnx(estimate, rollout, folder / "estimate.onnx", ("batch", "time"), parameters=loss)

    steps = 16
    batch = {
        "observation": torch.randn(steps, 4),
        "action": torch.randint(2, (steps,)),
        "action_log_prob": torch.full((steps,), 0.5).log(),
        "advantage": torch.randn(steps),
        "value_target": torch.randn(steps),
    }
    adam = torch.optim.Adam(loss.parameters(), lr=1e-3, eps=1e-5)
    step = UpdateStep(loss, adam, mode="eager", max_grad_norm=0.5)
    epochs = UpdateEpochs(step, epochs=10, minibatch_size=256)
    to_onnx(epochs, batch, folder / "update.onnx")


def main(folder: Path = Path("runs/learner"), seed: int = 0) -> None:
    """Write the four files to FOLDER, each with its contract."""
    make_files(folder, seed)
    for path in sorted(folder.glob("*.onnx")):
        print(f"{path}  {path.stat().st_size / 1024:.1f} KiB")


if __name__ == "__main__":
    typer.run(main)
