"""Teams of agents as TorchRL's users make them, and what they recorded."""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, set_interaction_type
from tensordict.nn.probabilistic import InteractionType
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import (
    IndependentNormal,
    MultiAgentMLP,
    NormalParamExtractor,
    ProbabilisticActor,
)

AGENTS, OBSERVATION, ACTION, STATE = 3, 5, 2, 4
KEYS: dict[str, Any] = {
    "action": ("agents", "action"),
    "sample_log_prob": ("agents", "action_log_prob"),
    "value": ("agents", "state_value"),
}


class OfState(nn.Module):
    """A critic of the team's state: one value an agent, or one for all."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.each = each
        self.net = nn.Sequential(
            nn.Linear(STATE, 8), nn.Tanh(), nn.Linear(8, AGENTS if each else 1)
        )

    def forward(self, state: Tensor) -> Tensor:
        value: Tensor = self.net(state)
        return value.unsqueeze(-1) if self.each else value


def mlp(out: int, centralized: bool, share_params: bool) -> MultiAgentMLP:
    sizes = {"n_agent_inputs": OBSERVATION, "n_agent_outputs": out, "n_agents": AGENTS}
    kind = {"centralized": centralized, "share_params": share_params}
    return MultiAgentMLP(**sizes, **kind, depth=1, num_cells=8, activation_class=nn.Tanh)


def team_actor(discrete: bool = False, share_params: bool = True) -> ProbabilisticActor:
    torch.manual_seed(0)
    net = mlp(4 if discrete else 2 * ACTION, False, share_params)
    names = [("agents", "logits")] if discrete else [("agents", "loc"), ("agents", "scale")]
    last = [] if discrete else [NormalParamExtractor()]
    module = TensorDictModule(nn.Sequential(net, *last), [("agents", "observation")], names)
    return ProbabilisticActor(
        module,
        in_keys=names,
        out_keys=[("agents", "action")],
        distribution_class=Categorical if discrete else IndependentNormal,
        return_log_prob=True,
    )


def team_critic(kind: str = "central", share_params: bool = True) -> TensorDictModule:
    """``central``: of all observations; ``local``: of its own; ``state`` or ``team``: of that."""
    torch.manual_seed(1)
    if kind in ("state", "team"):
        return TensorDictModule(OfState(kind == "state"), ["state"], [KEYS["value"]])
    net = mlp(1, kind == "central", share_params)
    return TensorDictModule(net, [("agents", "observation")], [KEYS["value"]])


def team_steps(
    actor: ProbabilisticActor,
    shape: tuple[int, ...] = (4, 5),
    dtype: torch.dtype = torch.float32,
    given: bool = True,
) -> TensorDict:
    """Steps ``[*B, T]`` of a policy that was not quite this one, of agents that share rewards."""
    torch.manual_seed(2)
    each = (*shape, AGENTS)

    def seen() -> dict[str, Any]:
        observation = {"observation": torch.randn(*each, OBSERVATION, dtype=dtype)}
        state = torch.randn(*shape, STATE, dtype=dtype)
        return {"agents": TensorDict(observation, each), "state": state}

    data = TensorDict(seen(), shape)
    with torch.no_grad(), set_interaction_type(InteractionType.RANDOM):
        actor(data)
    data["agents", "action_log_prob"] += 0.2 * torch.randn(each, dtype=dtype)
    done = torch.rand(*shape, 1) < 0.2
    flags = {"done": done, "terminated": done & (torch.rand(*shape, 1) < 0.5)}
    reward = 3 * torch.randn(*shape, 1, dtype=dtype) + 2
    data["next"] = TensorDict({**seen(), **flags, "reward": reward}, shape)
    if given:
        data["agents", "state_value"] = torch.randn(*each, 1, dtype=dtype)
        data["advantage"] = torch.randn(*each, 1, dtype=dtype)
        data["value_target"] = 3 * torch.randn(*each, 1, dtype=dtype) + 2
    return data


def for_each_agent(data: TensorDictBase) -> TensorDictBase:
    """The same data with rewards and flags of every agent, where an estimator finds the team's."""
    data = data.clone()
    for name in ("reward", "done", "terminated"):
        data["next", name] = data["next", name].unsqueeze(-2).expand(*data.shape, AGENTS, 1)
    return data
