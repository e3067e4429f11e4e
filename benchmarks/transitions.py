"""What the benchmarks of off-policy losses learn from: networks, transitions, losses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl import modules

import compiled_rl
from benchmarks.workload import ACTION, LEARNING_RATE, OBSERVATION, mlp
from compiled_rl import Policy
from compiled_rl.modules import QMixer, StateDependentScale, TanhNormal

CHOICES = 4  # of actions, in DQN
AGENTS, AGENT_CHOICES, STATE, EMBEDDING = 4, 5, 32, 32  # in QMIX


class Critic(nn.Module):
    """The value of an action."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(1, inputs=OBSERVATION + ACTION)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.network(torch.cat([observation, action], -1))


def deterministic() -> tuple[nn.Module, ...]:
    """An actor and a critic."""
    torch.manual_seed(0)
    return mlp(ACTION, nn.Tanh()), Critic()


def stochastic() -> tuple[nn.Module, ...]:
    """A tanh-normal policy and a critic."""
    torch.manual_seed(0)
    return Policy(mlp(2 * ACTION, StateDependentScale()), TanhNormal), Critic()


def action_values() -> tuple[nn.Module, ...]:
    """The values of all actions."""
    torch.manual_seed(0)
    return (mlp(CHOICES),)


def team() -> tuple[nn.Module, ...]:
    """The values of all actions of each agent, and their mixer."""
    torch.manual_seed(0)
    return mlp(AGENT_CHOICES), QMixer((STATE,), EMBEDDING, AGENTS)


def wrapped(*networks: nn.Module) -> tuple[nn.Module, ...]:
    """The same networks as TorchRL's users wrap them."""
    first, *critics = networks
    if not critics:
        return (modules.QValueActor(first, in_keys=["observation"], action_space="one_hot"),)
    actor = _wrapped_policy(first) if isinstance(first, Policy) else modules.Actor(first)
    return actor, modules.ValueOperator(critics[0], in_keys=["observation", "action"])


def wrapped_team(network: nn.Module, mixer: nn.Module) -> tuple[nn.Module, ...]:
    """Likewise, with TorchRL's mixer."""
    theirs = modules.QMixer((STATE,), EMBEDDING, AGENTS, device=None)
    theirs.load_state_dict(mixer.state_dict())
    keys = {name: ("agents", name) for name in ("action_value", "action", "chosen_action_value")}
    actor = modules.SafeSequential(
        TensorDictModule(network, [("agents", "observation")], [keys["action_value"]]),
        modules.QValueModule(
            "categorical",
            action_value_key=keys["action_value"],
            out_keys=[keys["action"], keys["action_value"], keys["chosen_action_value"]],
        ),
    )
    reads = [keys["chosen_action_value"], "state"]
    return actor, TensorDictModule(theirs, reads, ["chosen_action_value"])


def _wrapped_policy(policy: Policy) -> nn.Module:
    return modules.ProbabilisticActor(
        TensorDictModule(policy.network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=modules.TanhNormal,
        return_log_prob=True,
    )


def continuous(size: int) -> TensorDict:
    """What some policy did, whose actions are numbers."""
    torch.manual_seed(1)
    data = _steps(size, {"observation": (OBSERVATION,)})
    return data.set("action", torch.rand(size, ACTION) * 2 - 1)


def one_hot(size: int) -> TensorDict:
    """Whose actions are one of some."""
    torch.manual_seed(1)
    data = _steps(size, {"observation": (OBSERVATION,)})
    chosen = nn.functional.one_hot(torch.randint(CHOICES, (size,)), CHOICES)
    return data.set("action", chosen)


def of_team(size: int) -> TensorDict:
    """What some team did."""
    torch.manual_seed(1)
    data = _steps(size, {("agents", "observation"): (AGENTS, OBSERVATION), "state": (STATE,)})
    return data.set(("agents", "action"), torch.randint(AGENT_CHOICES, (size, AGENTS)))


def _steps(size: int, observed: Mapping[Any, tuple[int, ...]]) -> TensorDict:
    """Transitions without actions; ``observed`` are the shapes of what is seen."""
    done = torch.rand(size, 1) < 0.1
    data = TensorDict({}, [size])
    for key, shape in observed.items():
        data[key] = torch.randn(size, *shape)
        data["next", *((key,) if isinstance(key, str) else key)] = torch.randn(size, *shape)
    entered = {"reward": torch.randn(size, 1), "done": done, "terminated": done}
    data["next"].update(entered)
    return data


class Subject(NamedTuple):
    """A loss, which both libraries call by the same name, and what has an optimiser each."""

    name: str
    networks: Callable[[], tuple[nn.Module, ...]]
    parts: tuple[str, ...]
    arguments: Mapping[str, Any] = {}
    data: Callable[[int], TensorDict] = continuous
    wrap: Callable[..., tuple[nn.Module, ...]] = wrapped
    max_grad_norm: Optional[float] = None  # on-policy losses have one, and no frozen copies

    def plain(self) -> nn.Module:
        """Ours of plain networks."""
        return getattr(compiled_rl, self.name)(*self.networks(), **self.arguments)

    def wrapped(self, library: Any) -> nn.Module:
        """That of a library, of wrapped networks."""
        return getattr(library, self.name)(*self.wrap(*self.networks()), **self.arguments)

    def optimizers(self, loss: nn.Module) -> list[torch.optim.Optimizer]:
        """An Adam a part, found by the names of our parameters, with which theirs begin, too."""
        named = list(loss.named_parameters())
        groups = [[p for name, p in named if name.startswith(part)] for part in self.parts]
        return [torch.optim.Adam(group, lr=LEARNING_RATE) for group in groups]


SUBJECTS = [
    Subject("DDPGLoss", deterministic, ("actor_", "value_"), {"delay_actor": True}),
    Subject("TD3Loss", deterministic, ("actor_", "qvalue_"), {"bounds": (-1.0, 1.0)}),
    Subject(
        "SACLoss",
        stochastic,
        ("actor_", "qvalue_", "log_alpha"),
        {"target_entropy": -float(ACTION)},
    ),
    Subject("DQNLoss", action_values, ("value_",), {"action_space": "one_hot"}, one_hot),
    Subject(
        "QMixerLoss",
        team,
        ("",),  # one optimiser for both networks
        {"action_space": "categorical"},
        of_team,
        wrapped_team,
    ),
]
