"""Policies, critics and data as TorchRL's users make them: several heads, trunks and keys."""

from typing import Any, NamedTuple, Optional

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import (
    CompositeDistribution,
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
    set_interaction_type,
)
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import (
    IndependentNormal,
    NormalParamExtractor,
    OneHotCategorical,
    TanhNormal,
    TruncatedNormal,
)

from compiled_rl import losses
from compiled_rl.adapters.fields import Key, keyword
from tests.losses.networks import as_keywords

LOSSES = ("A2CLoss", "PPOLoss", "ClipPPOLoss", "KLPENPPOLoss", "ReinforceLoss")

OBSERVATION, ACTION, HIDDEN = 4, 3, 8


class Head(NamedTuple):
    """The end of an actor: the keys of its parameters, how many there are, and what reads them."""

    params: tuple[Key, ...]
    last: tuple[nn.Module, ...]
    distribution: Any
    options: dict[str, Any]
    actions: tuple[Key, ...] = ("action",)
    log_probs: tuple[Key, ...] = ("action_log_prob",)


class TwoHeads(nn.Module):
    """A normal's location and scale, and a categorical's logits, of one vector."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, scale, logits = x.split(ACTION, -1)
        return loc, nn.functional.softplus(scale) + 0.1, logits


JOINT = {"move": IndependentNormal, "choose": Categorical}
NAMES = {"move": ("agent", "move"), "choose": ("agent", "choose")}
LOCATED = (("loc", "scale"), (NormalParamExtractor(),))
HEADS = {
    "normal": Head(*LOCATED, IndependentNormal, {}),
    "tanh_normal": Head(*LOCATED, TanhNormal, {"low": -1.5, "high": 0.5}),
    "truncated_normal": Head(*LOCATED, TruncatedNormal, {"low": -1.5, "high": 0.5}),
    "categorical": Head(("logits",), (), Categorical, {}),
    "one_hot": Head(("logits",), (), OneHotCategorical, {}),
    "composite": Head(
        (("params", "move", "loc"), ("params", "move", "scale"), ("params", "choose", "logits")),
        (TwoHeads(),),
        CompositeDistribution,
        {"distribution_map": JOINT, "name_map": NAMES},
        tuple(NAMES.values()),
        (("agent", "move_log_prob"), ("agent", "choose_log_prob")),
    ),
}


def networks(
    head: str = "normal",
    trunk: Optional[str] = None,
    observation: Key = "observation",
    value: Key = "state_value",
) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """An actor and a critic.

    ``trunk``: None, they share nothing; ``"twice"``, each calls the trunk that both have;
    ``"once"``, the critic reads what the actor's trunk gives.
    """
    torch.manual_seed(0)
    inputs = HIDDEN if trunk else OBSERVATION
    source = "hidden" if trunk else observation
    body = TensorDictModule(
        nn.Sequential(nn.Linear(OBSERVATION, HIDDEN), nn.Tanh()), [observation], ["hidden"]
    )
    parts = HEADS[head]
    size = ACTION * max(1, len(parts.params))
    policy = TensorDictModule(
        nn.Sequential(nn.Linear(inputs, size), *parts.last), [source], list(parts.params)
    )
    distribution = ProbabilisticTensorDictModule(
        in_keys=["params"] if head == "composite" else list(parts.params),
        out_keys=list(parts.actions),
        distribution_class=parts.distribution,
        distribution_kwargs=parts.options,
        return_log_prob=True,
    )
    critic = TensorDictModule(nn.Linear(inputs, 1), [source], [value])
    if trunk == "twice":
        critic = TensorDictSequential(body, critic)
    before = [body] if trunk else []
    return ProbabilisticTensorDictSequential(*before, policy, distribution), critic


def record(
    actor: ProbabilisticTensorDictSequential,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    observation: Key = "observation",
    value: Key = "state_value",
    **others: Tensor,
) -> TensorDict:
    """Steps of a policy that was not quite this one, with advantages and value targets.

    ``others`` is what it reads beside the observation.
    """
    torch.manual_seed(1)
    column, done = (*shape, 1), torch.rand(*shape, 1) < 0.2
    observations = torch.randn(*shape, OBSERVATION, dtype=dtype)
    data = TensorDict({observation: observations, **others}, shape)
    with torch.no_grad(), set_interaction_type(InteractionType.RANDOM):
        actor(data)
    data = data.exclude("hidden")
    for key, x in data.items(include_nested=True, leaves_only=True):
        if _says(key, "log_prob", "loc", "logits"):
            data[key] = x + 0.2 * torch.randn_like(x)
    data["advantage"] = torch.randn(column, dtype=dtype)
    data["value_target"] = torch.randn(column, dtype=dtype)
    data[value] = torch.randn(column, dtype=dtype)
    data["next"] = TensorDict({observation: torch.randn(*shape, OBSERVATION, dtype=dtype)}, shape)
    data["next", "reward"] = torch.randn(column, dtype=dtype)
    data["next", "done"] = done
    data["next", "terminated"] = done & (torch.rand(column) < 0.5)
    return data


def unestimated(data: TensorDictBase) -> TensorDictBase:
    """Without what a value estimator computes."""
    return data.exclude("advantage", "value_target", "state_value")


def _says(key: Key, *names: str) -> bool:
    return (key if isinstance(key, str) else key[-1]).endswith(names)


def make(name: str, head: str = "normal", trunk: Any = None, **arguments: Any) -> Any:
    return getattr(losses, name)(*networks(head, trunk), **arguments)


def sequences(loss: Any, estimated: bool = True, shape: tuple[int, ...] = (4, 5)) -> TensorDictBase:
    data = record(loss.actor_network, shape)
    return unestimated(data) if estimated else data


def total(outputs: Any) -> Tensor:
    return sum(x.sum() for name, x in outputs.items() if str(name).startswith("loss_"))


def keywords(loss: Any, data: TensorDictBase) -> dict[str, Tensor]:
    """What the loss reads of the data, by keyword."""
    known = [keyword(key) for key in loss.in_keys]
    return {name: x for name, x in as_keywords(data).items() if name in known}


def gradients(x: Tensor, network: nn.Module) -> tuple[Any, ...]:
    parameters = list(network.parameters())
    return torch.autograd.grad(x.sum(), parameters, retain_graph=True, allow_unused=True)
