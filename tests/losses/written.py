"""Losses as TorchRL's users write them, on the ``LossModule`` of any library."""

from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, TensorDictSequential
from torch import Tensor, nn
from torchrl.objectives import LossModule, distance_loss
from torchrl.objectives.utils import _vmap_func

GAMMA, CRITICS = 0.9, 3

# What these losses import; `compiled_rl` has the same names.
PEER = SimpleNamespace(LossModule=LossModule, distance_loss=distance_loss, _vmap_func=_vmap_func)


def twin_loss(library: Any) -> type:
    """TD3 without its noise: several critics, made of one or of a list, which ``vmap`` calls."""

    class TwinLoss(library.LossModule):
        actor_network: TensorDictModule
        actor_network_params: TensorDictParams
        target_actor_network_params: TensorDictParams
        qvalue_network: TensorDictModule
        qvalue_network_params: TensorDictParams
        target_qvalue_network_params: TensorDictParams

        def __init__(self, actor_network: Any, qvalue_network: Any) -> None:
            super(type(self), self).__init__()
            self.convert_to_functional(actor_network, "actor_network", create_target_params=True)
            self.convert_to_functional(
                qvalue_network,
                "qvalue_network",
                CRITICS,
                create_target_params=True,
                compare_against=list(actor_network.parameters()),
            )
            self._make_vmap()

        def _make_vmap(self) -> None:
            self._vmap_qvalue_network = library._vmap_func(
                self.qvalue_network, (None, 0), randomness=self.vmap_randomness
            )

        def _qvalue(self, tensordict: TensorDictBase, params: TensorDictBase) -> TensorDictBase:
            with params.to_module(self.qvalue_network):
                return self.qvalue_network(tensordict)

        def _target(self, tensordict: TensorDictBase) -> Tensor:
            entered = tensordict.get("next").select("observation")
            with self.target_actor_network_params.to_module(self.actor_network):
                entered = self.actor_network(entered)
            valued = self._vmap_qvalue_network(entered, self.target_qvalue_network_params)
            next_value = valued.get("state_action_value").amin(0)
            alive = (~tensordict.get(("next", "terminated"))).to(next_value.dtype)
            return tensordict.get(("next", "reward")) + GAMMA * alive * next_value

        def qvalue_loss(self, tensordict: TensorDictBase) -> Tensor:
            recorded = tensordict.select("observation", "action")
            call = torch.vmap(self._qvalue, (None, 0), randomness=self.vmap_randomness)
            value = call(recorded, self.qvalue_network_params).get("state_action_value")
            with torch.no_grad():
                target = self._target(tensordict).expand_as(value)
            return library.distance_loss(value, target, loss_function="l2").mean(1).sum()

        def actor_loss(self, tensordict: TensorDictBase) -> Tensor:
            with self.actor_network_params.to_module(self.actor_network):
                acted = self.actor_network(tensordict.select("observation"))
            valued = self._vmap_qvalue_network(acted, self.qvalue_network_params.detach())
            return -valued.get("state_action_value")[0].mean()

        def forward(self, tensordict: TensorDictBase) -> TensorDict:
            losses = {
                "loss_qvalue": self.qvalue_loss(tensordict),
                "loss_actor": self.actor_loss(tensordict),
            }
            return TensorDict(losses, batch_size=[])

    return TwinLoss


def trunk_loss(library: Any) -> type:
    """An actor, a state value and several critics on one trunk, which is the actor's to learn."""

    class TrunkLoss(library.LossModule):
        actor_network: TensorDictModule
        actor_network_params: TensorDictParams
        target_actor_network_params: TensorDictParams
        value_network: TensorDictModule
        value_network_params: TensorDictParams
        target_value_network_params: TensorDictParams
        qvalue_network: TensorDictModule
        qvalue_network_params: TensorDictParams
        target_qvalue_network_params: TensorDictParams

        def __init__(self, actor_network: Any, value_network: Any, qvalue_network: Any) -> None:
            super(type(self), self).__init__()
            self.convert_to_functional(actor_network, "actor_network")
            of_the_actor = list(actor_network.parameters())
            self.convert_to_functional(
                value_network,
                "value_network",
                create_target_params=True,
                compare_against=of_the_actor,
            )
            self.convert_to_functional(
                qvalue_network, "qvalue_network", expand_dim=2, compare_against=of_the_actor
            )

        def forward(self, tensordict: TensorDictBase) -> TensorDict:
            observed = tensordict.select("observation")
            with self.actor_network_params.to_module(self.actor_network):
                acted = self.actor_network(observed.clone()).select("observation", "action")
            with self.value_network_params.to_module(self.value_network):
                value = self.value_network(observed.clone()).get("state_value")
            with self.target_value_network_params.to_module(self.value_network):
                target = self.value_network(observed.clone()).get("state_value")

            def call(inputs: TensorDictBase, params: TensorDictBase) -> TensorDictBase:
                with params.to_module(self.qvalue_network):
                    return self.qvalue_network(inputs)

            vmapped = torch.vmap(call, (None, 0))
            recorded = vmapped(
                tensordict.select("observation", "action"), self.qvalue_network_params
            )
            ours = vmapped(acted, self.target_qvalue_network_params)
            reward = tensordict.get(("next", "reward"))
            bootstrapped = (reward + GAMMA * target).detach()
            losses = {
                "loss_actor": -ours.get("state_action_value").mean(),
                "loss_value": library.distance_loss(value, bootstrapped, "l2").mean(),
                "loss_qvalue": (recorded.get("state_action_value") - bootstrapped).abs().mean(),
            }
            return TensorDict(losses, batch_size=[])

    return TrunkLoss


class Critic(nn.Module):
    """Reads several tensors, of those sizes, without a ``torch.cat``.

    Of what differs between the members of a stack, PyTorch 2.13 compiles that anew for every size
    of a batch, under ``torch.vmap``.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(size, 6) for size in sizes)
        self.last = nn.Linear(6, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        first = [layer(x) for layer, x in zip(self.first, inputs, strict=True)]
        return self.last(sum(first[1:], first[0]).tanh())


def actor() -> TensorDictModule:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2), nn.Tanh())
    return TensorDictModule(net, ["observation"], ["action"])


def qvalue() -> TensorDictModule:
    return TensorDictModule(Critic(4, 2), ["observation", "action"], ["state_action_value"])


def on_a_trunk() -> tuple[TensorDictSequential, ...]:
    """An actor, a state value and a value of actions, that read one trunk's features."""
    trunk = TensorDictModule(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), ["observation"], ["hidden"])
    heads = (
        TensorDictModule(nn.Linear(5, 2), ["hidden"], ["action"]),
        TensorDictModule(nn.Linear(5, 1), ["hidden"], ["state_value"]),
        TensorDictModule(Critic(5, 2), ["hidden", "action"], ["state_action_value"]),
    )
    return tuple(TensorDictSequential(trunk, head) for head in heads)


def transitions(size: int = 7, dtype: torch.dtype = torch.float32) -> TensorDict:
    torch.manual_seed(1)
    following = {
        "observation": torch.randn(size, 4, dtype=dtype),
        "reward": torch.randn(size, 1, dtype=dtype),
        "terminated": torch.rand(size, 1) < 0.3,
    }
    data = {
        "observation": torch.randn(size, 4, dtype=dtype),
        "action": torch.rand(size, 2, dtype=dtype) * 2 - 1,
        "next": following,
    }
    return TensorDict(data, [size])
