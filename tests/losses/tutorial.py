"""The loss that TorchRL's DDPG tutorial writes by hand, on the ``LossModule`` of any library."""

from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.data import Bounded, Composite
from torchrl.modules import (
    ActorCriticWrapper,
    DdpgMlpActor,
    DdpgMlpQNet,
    ProbabilisticActor,
    TanhDelta,
    ValueOperator,
)
from torchrl.objectives import LossModule, ValueEstimators, default_value_kwargs, distance_loss
from torchrl.objectives.value import TD0Estimator, TD1Estimator, TDLambdaEstimator

OBSERVATION, ACTION = 5, 2

# What the tutorial imports; `compiled_rl` has the same names.
PEER = SimpleNamespace(
    LossModule=LossModule,
    ValueEstimators=ValueEstimators,
    default_value_kwargs=default_value_kwargs,
    distance_loss=distance_loss,
    TD0Estimator=TD0Estimator,
    TD1Estimator=TD1Estimator,
    TDLambdaEstimator=TDLambdaEstimator,
)


def ddpg_loss(library: Any) -> type:
    """The class, written against what ``library`` has."""
    kinds = library.ValueEstimators

    class DDPGLoss(library.LossModule):
        default_value_estimator = kinds.TD0

        def __init__(self, actor_network: Any, value_network: Any) -> None:
            super(type(self), self).__init__()
            self.convert_to_functional(actor_network, "actor_network", create_target_params=True)
            self.convert_to_functional(
                value_network,
                "value_network",
                create_target_params=True,
                compare_against=list(actor_network.parameters()),
            )
            self.actor_in_keys = actor_network.in_keys
            self.actor_critic = ActorCriticWrapper(actor_network, value_network)
            self.loss_function = "l2"

        def make_value_estimator(self, value_type: Any, **hyperparams: Any) -> None:
            hp = dict(library.default_value_kwargs(value_type))
            if hasattr(self, "gamma"):
                hp["gamma"] = self.gamma
            hp.update(hyperparams)
            made = {
                kinds.TD0: library.TD0Estimator,
                kinds.TD1: library.TD1Estimator,
                kinds.TDLambda: library.TDLambdaEstimator,
            }
            if value_type not in made:
                raise NotImplementedError(f"{value_type}")
            self._value_estimator = made[value_type](value_network=self.actor_critic, **hp)
            self._value_estimator.set_keys(value="state_action_value")

        def loss_actor(self, tensordict: TensorDictBase) -> Tensor:
            acted = tensordict.select(*self.actor_in_keys)
            with self.actor_network_params.to_module(self.actor_network):
                acted = self.actor_network(acted)
            with self.value_network_params.detach().to_module(self.value_network):
                acted = self.value_network(acted)
            return -acted.get("state_action_value")

        def loss_value(self, tensordict: TensorDictBase) -> tuple[Tensor, ...]:
            valued = tensordict.clone()
            with self.value_network_params.to_module(self.value_network):
                self.value_network(valued)
            pred_val = valued.get("state_action_value").squeeze(-1)
            params = {"0": self.target_actor_network_params, "1": self.target_value_network_params}
            target_params = TensorDict(
                {"module": params},
                batch_size=self.target_actor_network_params.batch_size,
                device=self.target_actor_network_params.device,
            )
            with target_params.to_module(self.actor_critic):
                target_value = self.value_estimator.value_estimate(tensordict).squeeze(-1)
            loss_value = library.distance_loss(
                pred_val, target_value, loss_function=self.loss_function
            )
            return loss_value, (pred_val - target_value).pow(2), pred_val, target_value

        def forward(self, tensordict: TensorDictBase) -> TensorDict:
            loss_value, td_error, pred_val, target_value = self.loss_value(tensordict)
            td_error = td_error.detach().unsqueeze(tensordict.ndimension())
            tensordict.set("td_error", td_error, inplace=True)
            outputs = {
                "loss_actor": self.loss_actor(tensordict).mean(),
                "loss_value": loss_value.mean(),
                "pred_value": pred_val.mean().detach(),
                "target_value": target_value.mean().detach(),
                "pred_value_max": pred_val.max().detach(),
                "target_value_max": target_value.max().detach(),
            }
            return TensorDict(outputs, batch_size=[])

    return DDPGLoss


def networks(
    dtype: torch.dtype = torch.float32, **distribution_kwargs: Any
) -> tuple[ProbabilisticActor, ValueOperator]:
    """The tutorial's, narrower; equal at every call."""
    torch.manual_seed(0)
    narrow = {"depth": 2, "num_cells": [16, 8]}
    spec = Composite(action=Bounded(-1.0, 1.0, (ACTION,)))
    source = ["observation_vector"]
    actor = ProbabilisticActor(
        TensorDictModule(DdpgMlpActor(ACTION, mlp_net_kwargs=narrow), source, ["param"]),
        distribution_class=TanhDelta,
        distribution_kwargs=distribution_kwargs,
        in_keys=["param"],
        spec=spec,
    )
    critic_net = DdpgMlpQNet({"out_features": 16}, {"num_cells": [8]})
    critic = ValueOperator(critic_net, in_keys=[*source, "action"])
    critic(actor(TensorDict({"observation_vector": torch.randn(1, OBSERVATION)}, [1])))
    return actor.to(dtype), critic.to(dtype)


def trajectories(shape: tuple[int, ...] = (4, 6), dtype: torch.dtype = torch.float32) -> TensorDict:
    """Of which some end, some of those because the task does."""
    torch.manual_seed(1)
    done = torch.rand(*shape, 1) < 0.25
    following = {
        "observation_vector": torch.randn(*shape, OBSERVATION, dtype=dtype),
        "reward": torch.randn(*shape, 1, dtype=dtype),
        "done": done,
        "terminated": done & (torch.rand(*shape, 1) < 0.5),
    }
    data = {
        "observation_vector": torch.randn(*shape, OBSERVATION, dtype=dtype),
        "action": torch.rand(*shape, ACTION, dtype=dtype) * 2 - 1,
        "next": following,
    }
    return TensorDict(data, shape)
