"""Every loss on plain networks and by keyword, for a process that cannot import TensorDict."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from compiled_rl import Policy, ValueHead, losses
from compiled_rl.modules import Categorical, Normal, VDNMixer

N, AGENTS = 6, 2
OLD = {"loc": torch.zeros(N, 2), "scale": torch.ones(N, 2)}
torch.manual_seed(0)  # every process records the same
RECORDED = {"action": torch.rand(N, 2), "action_log_prob": torch.zeros(N)}


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.linear(torch.cat([observation, action], -1)).squeeze(-1)


class Gaussian(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.linear(observation)
        return loc, torch.ones_like(loc)


def policy() -> Policy:
    return Policy(Gaussian(), Normal)


def transitions() -> dict[str, Tensor]:
    return {
        "observation": torch.randn(N, 4),
        "next_observation": torch.randn(N, 4),
        "next_reward": torch.randn(N),
        "next_done": torch.zeros(N, dtype=torch.bool),
        "next_terminated": torch.zeros(N, dtype=torch.bool),
    }


def of_a_team() -> dict[str, Tensor]:
    """Of two agents: what they see is theirs, rewards and flags are the team's."""
    seen = torch.randn(N, AGENTS, 4)
    team = {key: x.unsqueeze(-1) for key, x in transitions().items() if "observation" not in key}
    keys = ("observation", "next_observation", "agents_observation", "next_agents_observation")
    return team | dict.fromkeys(keys, seen)


PLAYED = of_a_team() | {"agents_action": torch.randint(3, (N, AGENTS))}
ACTED = of_a_team() | {
    "action": torch.rand(N, AGENTS, 2),
    "action_log_prob": torch.zeros(N, AGENTS),
}
INDEX = {"action": torch.randint(3, (N,))}
CASES: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "A2CLoss": (lambda make: make(policy(), ValueHead(4)), RECORDED),
    "ClipPPOLoss": (lambda make: make(policy(), ValueHead(4)), RECORDED),
    "DDPGLoss": (lambda make: make(nn.Linear(4, 2), Critic()), RECORDED),
    "DQNLoss": (lambda make: make(nn.Linear(4, 3), action_space="categorical"), INDEX),
    "DiscreteSACLoss": (
        lambda make: make(
            Policy(nn.Linear(4, 3), Categorical),
            nn.Linear(4, 3),
            action_space="categorical",
            num_actions=3,
        ),
        INDEX,
    ),
    "DistributionalDQNLoss": (
        lambda make: make(
            nn.Sequential(nn.Linear(4, 15), nn.Unflatten(-1, (5, 3))),
            gamma=0.9,
            action_space="categorical",
            support=torch.linspace(-1, 1, 5),
        ),
        INDEX,
    ),
    "IPPOLoss": (lambda make: make(policy(), nn.Linear(4, 1)), ACTED),
    "KLPENPPOLoss": (lambda make: make(policy(), ValueHead(4)), RECORDED | OLD),
    "MAPPOLoss": (lambda make: make(policy(), nn.Linear(4, 1)), ACTED),
    "PPOLoss": (lambda make: make(policy(), ValueHead(4)), RECORDED),
    "QMixerLoss": (
        lambda make: make(nn.Linear(4, 3), VDNMixer(AGENTS), action_space="categorical"),
        PLAYED,
    ),
    "ReinforceLoss": (lambda make: make(policy(), ValueHead(4)), RECORDED),
    "SACLoss": (lambda make: make(policy(), Critic(), target_entropy=-1.0), RECORDED),
    "TD3Loss": (lambda make: make(nn.Linear(4, 2), Critic(), bounds=(-1.0, 1.0)), RECORDED),
}


def main() -> None:
    """Build and call them all, and print their names."""
    for name in [name for name in losses.__all__ if name in CASES]:
        build, recorded = CASES[name]
        loss = build(getattr(losses, name))
        data = transitions() | recorded
        outputs = loss(**{key: x for key, x in data.items() if key in keywords(loss)})
        total = outputs if isinstance(outputs, Tensor) else outputs[0]
        assert total.isfinite().all(), name
        print(name)
    edge = [name for name in sys.modules if name.startswith("compiled_rl.adapters.torchrl")]
    assert not edge, edge


def keywords(loss: Any) -> set[str]:
    return {key if isinstance(key, str) else "_".join(key) for key in loss.in_keys}
