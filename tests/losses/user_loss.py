"""A loss as users of TorchRL write theirs, on the ``LossModule`` of any library."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.objectives import LossModule, ValueEstimators, default_value_kwargs
from torchrl.objectives.value import TD0Estimator, TDLambdaEstimator

PEER = SimpleNamespace(
    LossModule=LossModule,
    ValueEstimators=ValueEstimators,
    default_value_kwargs=default_value_kwargs,
    TD0Estimator=TD0Estimator,
    TDLambdaEstimator=TDLambdaEstimator,
)


def value_loss(library: Any) -> type:
    """A loss of a value network with keys, coefficients, an estimator, dispatch, weights, masks."""
    kinds = library.ValueEstimators

    class ValueLoss(library.LossModule):
        @dataclass
        class _AcceptedKeys:
            value: NestedKey = "state_value"
            reward: NestedKey = "reward"
            done: NestedKey = "done"
            terminated: NestedKey = "terminated"
            priority_weight: NestedKey = "priority_weight"

        default_keys = _AcceptedKeys
        default_value_estimator = kinds.TD0
        out_keys = ["loss_value", "loss_norm", "mode"]  # noqa: RUF012
        value_network: TensorDictModule
        value_network_params: Any
        target_value_network_params: Any

        def __init__(self, value_network: Any, coeff: Any = 0.1, reduction: str = "mean") -> None:
            self._in_keys = None
            super().__init__()
            self.convert_to_functional(value_network, "value_network", create_target_params=True)
            self.register_coeff_buffer("coeff", coeff)
            self.register_coeff_buffer("absent", None)
            self.reduction = reduction
            self.modes: list[Any] = []

        def _set_in_keys(self) -> None:
            keys = self.tensor_keys
            names = (keys.reward, keys.done, keys.terminated)
            self._in_keys = ["observation", ("next", "observation"), *[("next", n) for n in names]]

        @property
        def in_keys(self) -> Any:
            if self._in_keys is None:
                self._set_in_keys()
            return self._in_keys

        @in_keys.setter
        def in_keys(self, values: Any) -> None:
            self._in_keys = values

        def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> None:
            value_type = self.default_value_estimator if value_type is None else value_type
            made = {kinds.TD0: library.TD0Estimator, kinds.TDLambda: library.TDLambdaEstimator}
            hp = dict(library.default_value_kwargs(value_type)) | hyperparams
            self._value_estimator = made[value_type](value_network=self.value_network, **hp)
            self.value_type = value_type
            names = ("value", "reward", "done", "terminated")
            self._value_estimator.set_keys(**{n: getattr(self.tensor_keys, n) for n in names})

        def norm_loss(self, tensordict: TensorDictBase) -> Tensor:
            self.modes.append(exploration_type())
            norms = [x.square().sum() for x in self.value_network_params.values(True, True)]
            return self.coeff * torch.stack(norms).sum()

        @dispatch
        def forward(self, tensordict: TensorDictBase) -> TensorDict:
            target = self.value_estimator.value_estimate(
                tensordict, target_params=self.target_value_network_params
            )
            copied = tensordict.select("observation")
            with self.value_network_params.to_module(self.value_network):
                value = self.value_network(copied).get(self.tensor_keys.value)
            weights = self._maybe_get_priority_weight(tensordict)
            error = (value - target).square().squeeze(-1)
            mode = exploration_type()
            return TensorDict(
                {
                    "loss_value": self._reduce_loss(error, tensordict, weights=weights),
                    "loss_norm": self.norm_loss(tensordict),
                    "mode": torch.tensor(float(mode == ExplorationType.DETERMINISTIC)),
                },
                [],
            )

    return ValueLoss


def network(key: str = "state_value") -> TensorDictModule:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return TensorDictModule(body, ["observation"], [key])


def rollout(*shape: int) -> TensorDict:
    torch.manual_seed(1)
    done = torch.rand(*shape, 1) < 0.3
    return TensorDict(
        {
            "observation": torch.randn(*shape, 4),
            "priority_weight": torch.rand(shape) + 0.1,
            "next": {
                "observation": torch.randn(*shape, 4),
                "reward": torch.randn(*shape, 1),
                "done": done,
                "terminated": done & (torch.rand(*shape, 1) < 0.5),
            },
        },
        shape,
    )
