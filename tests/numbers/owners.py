"""Every loss and every value estimator, on networks that give what a test says.

An observation is the policy's parameters and the critic's value side by side, each times a weight:
so a test chooses what the networks give, and a gradient of every one of them reaches a weight.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Generator, Tensor, nn

from compiled_rl import Policy, estimators, losses
from compiled_rl.adapters.fields import Key
from compiled_rl.estimators import ValueEstimatorBase
from compiled_rl.losses import DeclaredLoss, OffPolicyLoss
from compiled_rl.modules import (
    Categorical,
    MaskedCategorical,
    Normal,
    QMixer,
    Reads,
    TanhNormal,
    TruncatedNormal,
    VDNMixer,
)

A, ATOMS, AGENTS, STATE = 3, 5, 2, 4  # numbers of an action or actions, and so on
LOC, SCALE, VALUE = slice(0, A), slice(A, 2 * A), 2 * A
Data = dict[Key, Tensor]


class Given(nn.Module):
    """Some numbers of what is observed, each times a weight, in parts."""

    def __init__(self, first: int, *sizes: int) -> None:
        super().__init__()
        self.first, self.sizes = first, sizes
        self.weight = nn.Parameter(torch.ones(sum(sizes)))

    def forward(self, observation: Tensor) -> Any:
        chosen = observation.narrow(-1, self.first, len(self.weight)) * self.weight
        return chosen if len(self.sizes) == 1 else chosen.split(self.sizes, -1)


class ActionValue(nn.Module):
    """The value that is observed, and the action's numbers times a weight each."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.value, self.slope = Given(VALUE, 1), nn.Parameter(torch.full((A,), slope))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        total: Tensor = self.value(observation) + (self.slope * action).sum(-1, keepdim=True)
        return total


class Atoms(nn.Module):
    """The logits of atoms of each action: those of its values, and its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.values = Given(0, A)
        self.atoms = nn.Parameter(torch.linspace(-1, 1, ATOMS).unsqueeze(-1))

    def forward(self, observation: Tensor) -> Tensor:
        logits: Tensor = self.values(observation).unsqueeze(-2) + self.atoms
        return logits


class Row(NamedTuple):
    """A loss of a kind of actions: how it is made, and what it is shown."""

    make: Callable[[], DeclaredLoss]
    data: Callable[..., Data]  # of a shape


def normal_like(shape: tuple[int, ...], *sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, *sizes, generator=Generator().manual_seed(seed + len(shape)))


def observations(shape: tuple[int, ...], seed: int) -> Tensor:
    """Parameters of a policy, of which those in the place of scales are positive, and a value."""
    x = normal_like(shape, VALUE + 1, seed=seed)
    x[..., SCALE] = x[..., SCALE].abs() / 2 + 0.5
    return x


def entered(shape: tuple[int, ...]) -> Data:
    """The reward, the flags and the state that a step entered."""
    draws = torch.rand(2, *shape, 1, generator=Generator().manual_seed(7))
    done = draws[0] < 0.3
    return {
        ("next", "observation"): observations(shape, 1),
        ("next", "reward"): normal_like(shape, 1, seed=2),
        ("next", "done"): done,
        ("next", "terminated"): done & (draws[1] < 0.5),
    }


# ---- of an actor and a critic --------------------------------------------------------------------

FAMILIES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "normal": (Normal, (A, A)),
    "tanh-normal": (TanhNormal, (A, A)),
    "truncated-normal": (TruncatedNormal, (A, A)),
    "categorical": (Categorical, (A,)),
    "masked": (MaskedCategorical, (A,)),
}
ON_POLICY = ("A2CLoss", "PPOLoss", "ClipPPOLoss", "KLPENPPOLoss", "ReinforceLoss")


class Allowed(nn.Module):
    """Logits, and which actions are allowed: those whose scale would be above the least."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = Given(0, A)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        found = observation[..., SCALE]
        return self.logits(observation), found > found.min(-1, keepdim=True).values


def policy(family: str) -> Policy:
    kind, sizes = FAMILIES[family]
    return Policy(Allowed() if family == "masked" else Given(0, *sizes), kind())


def on_policy(name: str, family: str, **arguments: Any) -> DeclaredLoss:
    made = getattr(losses, name)(policy(family), Given(VALUE, 1), **arguments)
    return made.eval() if name == "KLPENPPOLoss" else made  # else a call would move its beta


def recorded(family: str, shape: tuple[int, ...]) -> Data:
    """Steps of a policy that was not quite this one."""
    observation, (kind, _) = observations(shape, 0), FAMILIES[family]
    with torch.no_grad():
        params = policy(family).params(observation)
        params = params if isinstance(params, tuple) else (params,)
        noise = kind().draw_noise(params, Generator().manual_seed(3))
        action, log_prob = kind().sample_with_log_prob(params, noise)
    data = {
        "observation": observation,
        "action": action,
        "action_log_prob": log_prob + 0.1 * normal_like(shape, seed=4),
        "advantage": normal_like(shape, 1, seed=5),
        "value_target": normal_like(shape, 1, seed=6),
        "state_value": normal_like(shape, 1, seed=8),
        **dict(zip(kind().param_names, params, strict=True)),
    }
    noises = normal_like(shape, A, 1, seed=9)  # of one sample
    return data | {"entropy_noise": noises, "kl_noise": noises.sigmoid()} | entered(shape)


# ---- of action values ----------------------------------------------------------------------------


def transitions(shape: tuple[int, ...], discrete: bool = False) -> Data:
    data = {"observation": observations(shape, 0)} | entered(shape)
    chosen = torch.randint(A, shape, generator=Generator().manual_seed(3))
    data["action"] = chosen if discrete else normal_like(shape, A, seed=3).tanh()
    data["action_noise"] = normal_like(shape, A, seed=4)
    data["next", "action_noise"] = normal_like(shape, A, seed=5)
    data["priority_weight"] = normal_like(shape, 1, seed=6).abs()
    return data


def critics() -> list[nn.Module]:
    return [ActionValue(slope) for slope in (1.0, 0.7)]


def actor() -> nn.Module:
    return nn.Sequential(Given(0, A), nn.Tanh())


def team_steps(shape: tuple[int, ...]) -> Data:
    """Of agents that see each its own."""
    data = transitions(shape, discrete=True)
    for place, seed in (("", 0), ("next", 1)):
        key = (place, "agents", "observation") if place else ("agents", "observation")
        data[key] = observations((*shape, AGENTS), seed)
        data[("next", "state") if place else "state"] = normal_like(shape, STATE, seed=10 + seed)
    data["agents", "action"] = torch.randint(
        A, (*shape, AGENTS), generator=Generator().manual_seed(3)
    )
    return {key: x for key, x in data.items() if key not in ("action", "observation")}


def mixed(mixer: nn.Module) -> DeclaredLoss:
    torch.manual_seed(0)
    for x in mixer.parameters():
        nn.init.normal_(x, std=0.3)
    return losses.QMixerLoss(Given(0, A), mixer, action_space="categorical")


# ---- of teams of actors --------------------------------------------------------------------------

_OF_AGENTS = {"action": ("agents", "action"), "sample_log_prob": ("agents", "action_log_prob")}


def of_agents(name: str) -> DeclaredLoss:
    networks = [Reads(x, ("agents", "observation")) for x in (Given(0, A, A), Given(VALUE, 1))]
    loss: DeclaredLoss = getattr(losses, name)(Policy(networks[0], Normal()), networks[1])
    loss.set_keys(**_OF_AGENTS)
    return loss


def recorded_of_agents(shape: tuple[int, ...]) -> Data:
    each = recorded("normal", (*shape, AGENTS))
    seen = {
        ("agents", "observation"): each["observation"],
        ("agents", "action"): each["action"],
        ("agents", "action_log_prob"): each["action_log_prob"],
        ("next", "agents", "observation"): each["next", "observation"],
    }
    kept = {key: each[key] for key in ("advantage", "value_target")}
    return seen | kept | {key: x for key, x in entered(shape).items() if key[1] != "observation"}


_SOFT = {"target_entropy": -3.0}
LOSSES: dict[str, Row] = {
    f"{name} {family}": Row(partial(on_policy, name, family), partial(recorded, family))
    for name in ON_POLICY
    for family in FAMILIES
} | {
    "MAPPOLoss": Row(partial(of_agents, "MAPPOLoss"), recorded_of_agents),
    "IPPOLoss": Row(partial(of_agents, "IPPOLoss"), recorded_of_agents),
    "DDPGLoss": Row(lambda: losses.DDPGLoss(actor(), ActionValue(), delay_actor=True), transitions),
    "TD3Loss": Row(lambda: losses.TD3Loss(actor(), critics(), bounds=(-1.0, 1.0)), transitions),
    "SACLoss": Row(
        lambda: losses.SACLoss(Policy(Given(0, A, A), TanhNormal()), critics(), **_SOFT),
        transitions,
    ),
    "SACLoss normal": Row(
        lambda: losses.SACLoss(Policy(Given(0, A, A), Normal()), critics(), **_SOFT), transitions
    ),
    "DiscreteSACLoss": Row(
        lambda: losses.DiscreteSACLoss(
            Policy(Given(0, A), Categorical()), [Given(A, A), Given(A, A)], target_entropy=0.4
        ),
        partial(transitions, discrete=True),
    ),
    "DQNLoss": Row(
        lambda: losses.DQNLoss(Given(0, A), action_space="categorical"),
        partial(transitions, discrete=True),
    ),
    "DistributionalDQNLoss": Row(
        lambda: losses.DistributionalDQNLoss(
            Atoms(), gamma=0.9, support=torch.linspace(-2, 2, ATOMS), action_space="categorical"
        ),
        partial(transitions, discrete=True),
    ),
    "QMixerLoss": Row(lambda: mixed(QMixer((STATE,), 6, AGENTS)), team_steps),
    "QMixerLoss vdn": Row(lambda: mixed(VDNMixer(AGENTS)), team_steps),
}


# A loss that is another's with less of it is slow where its distribution is tried with that one.
_REPEATED = [f"{name} {x}" for name in ("PPOLoss", "ReinforceLoss") for x in FAMILIES][1:]
_REPEATED.remove("ReinforceLoss normal")


def over(names: Iterable[str]) -> Any:
    """Tests of losses by name."""
    marks = {x: [pytest.mark.slow] if x in _REPEATED else [] for x in names}
    return pytest.mark.parametrize("name", [pytest.param(x, marks=m) for x, m in marks.items()])


every_loss = over(LOSSES)
of_actors = over(
    name for name in LOSSES if name.split()[0] in (*ON_POLICY, "MAPPOLoss", "IPPOLoss")
)


def is_loss(name: str) -> bool:
    """Whether a public name is a loss and no base of some."""
    kind = getattr(losses, name)
    bases = (losses.LossModule, DeclaredLoss, OffPolicyLoss)
    return isinstance(kind, type) and issubclass(kind, losses.LossModule) and kind not in bases


def is_estimator(name: str) -> bool:
    """Likewise, a value estimator."""
    kind, base = getattr(estimators, name), ValueEstimatorBase
    return isinstance(kind, type) and issubclass(kind, base) and kind is not base


# ---- value estimators ----------------------------------------------------------------------------

ESTIMATORS: dict[str, Callable[..., ValueEstimatorBase]] = {
    "TD0Estimator": partial(estimators.TD0Estimator, gamma=0.9),
    "TD1Estimator": partial(estimators.TD1Estimator, gamma=0.9),
    "TDLambdaEstimator": partial(estimators.TDLambdaEstimator, gamma=0.9, lmbda=0.8),
    "GAE": partial(estimators.GAE, gamma=0.9, lmbda=0.8),
    "GAE average": partial(estimators.GAE, gamma=0.9, lmbda=0.8, average_gae=True),
    "MultiAgentGAE": partial(estimators.MultiAgentGAE, gamma=0.9, lmbda=0.8),
    "VTrace": partial(estimators.VTrace, gamma=0.9),
}


def estimator(name: str, **options: Any) -> ValueEstimatorBase:
    """One that lets gradients through to the data, with a critic."""
    options = {"differentiable": True, **options}
    return ESTIMATORS[name](value_network=Given(VALUE, 1), **options)


def sequences(name: str, shape: tuple[int, ...] = (3, 6)) -> Data:
    """What an estimator reads, ``[*B, T, ...]``."""
    agents = () if name != "MultiAgentGAE" else (AGENTS,)
    data = {"observation": observations((*shape, *agents), 0)} | entered(shape)
    data["next", "observation"] = observations((*shape, *agents), 1)
    if name == "VTrace":
        data |= {"log_prob": normal_like(shape, 1, seed=4)}
        data |= {"action_log_prob": normal_like(shape, 1, seed=5)}
    return data
