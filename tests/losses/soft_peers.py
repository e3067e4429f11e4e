"""SAC's policies, critics, data and noise, for our losses and TorchRL's alike."""

from typing import Any, NamedTuple, Optional

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl import objectives as torchrl
from torchrl.modules import (
    IndependentNormal,
    MaskedCategorical,
    NormalParamExtractor,
    OneHotCategorical,
    TanhNormal,
)

from compiled_rl import losses
from tests.losses.parity import TOLERANCE

OBSERVATION, ACTION, HIDDEN = 4, 3, 8
POLICIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tanh_normal": (TanhNormal, {"low": -1.5, "high": 0.5}),
    "normal": (IndependentNormal, {}),
    "categorical": (Categorical, {}),
    "one_hot": (OneHotCategorical, {}),
    "masked": (MaskedCategorical, {}),
}
DISCRETE = ("categorical", "one_hot", "masked")


class Critic(nn.Module):
    """Values of what it is given, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs)
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layers(torch.cat(inputs, -1))


class Networks(NamedTuple):
    actor: ProbabilisticTensorDictSequential
    critics: list[TensorDictModule]
    value: TensorDictModule


def soft_networks(policy: str = "tanh_normal", critics: int = 2) -> Networks:
    torch.manual_seed(0)
    discrete = policy in DISCRETE
    names = ["logits"] if discrete else ["loc", "scale"]
    last = [] if discrete else [NormalParamExtractor()]
    size = ACTION * len(names)
    distribution, options = POLICIES[policy]
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(
            nn.Sequential(
                nn.Linear(OBSERVATION, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, size), *last
            ),
            ["observation"],
            names,
        ),
        ProbabilisticTensorDictModule(
            in_keys=[*names, "mask"] if policy == "masked" else names,
            out_keys=["action"],
            distribution_class=distribution,
            distribution_kwargs=options,
            return_log_prob=True,
        ),
    )
    return Networks(
        actor,
        [_critic(discrete) for _ in range(critics)],
        TensorDictModule(Critic(OBSERVATION, 1), ["observation"], ["state_value"]),
    )


def _critic(discrete: bool) -> TensorDictModule:
    if discrete:
        return TensorDictModule(Critic(OBSERVATION, ACTION), ["observation"], ["action_value"])
    network = Critic(OBSERVATION + ACTION, 1)
    return TensorDictModule(network, ["observation", "action"], ["state_action_value"])


def transitions(
    shape: tuple[int, ...], policy: str = "tanh_normal", dtype: torch.dtype = torch.float32
) -> TensorDict:
    """Steps of another policy, ended or terminated here and there."""
    torch.manual_seed(1)
    column, done = (*shape, 1), torch.rand(*shape, 1) < 0.4
    data = TensorDict(
        {
            "observation": torch.randn(*shape, OBSERVATION, dtype=dtype),
            "action": _actions(policy, shape, dtype),
            "next": {
                "observation": torch.randn(*shape, OBSERVATION, dtype=dtype),
                "reward": torch.randn(column, dtype=dtype),
                "done": done,
                "terminated": done & (torch.rand(column) < 0.5),
            },
        },
        shape,
    )
    if policy == "masked":
        for place in (data, data["next"]):
            allowed = torch.rand(*shape, ACTION) < 0.7
            allowed[..., 0] = True
            place["mask"] = allowed
    return data


def _actions(policy: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if policy not in DISCRETE:
        return 2 * torch.rand(*shape, ACTION, dtype=dtype) - 1.5
    index = torch.randint(ACTION, shape)
    return nn.functional.one_hot(index, ACTION) if policy == "one_hot" else index


def noises(loss: Any, data: TensorDictBase, seed: int) -> dict[Any, Tensor]:
    """What TorchRL's loss draws after the seed, in its order, under the keys of ours."""
    torch.manual_seed(seed)
    zeros = torch.zeros(*data.batch_size, ACTION, dtype=data["observation"].dtype)
    keys = [key for key in loss.in_keys if "noise" in str(key)]
    # The target first, then the policy.
    order = sorted(keys, key=lambda key: key == "action_noise")
    return {key: torch.normal(zeros, torch.ones_like(zeros)) for key in order}


def both(
    name: str, networks: Networks, dtype: torch.dtype, v1: bool = False, **arguments: Any
) -> tuple[Any, Any]:
    """Our loss and TorchRL's on networks of the same weights."""
    for network in (networks.actor, *networks.critics, networks.value):
        network.to(dtype)
    positional = [networks.actor, networks.critics, *([networks.value] if v1 else [])]
    arguments = {"num_qvalue_nets": len(networks.critics), **arguments}
    made = (getattr(losses, name), getattr(torchrl, name))
    ours, theirs = (loss(*positional, **arguments) for loss in made)
    for loss in (ours, theirs):
        loss.make_value_estimator(gamma=0.9)
    return ours.to(dtype), theirs.to(dtype)


def move_targets(ours: Any, theirs: Any) -> None:
    """Away from the networks that they are copies of, by the same on both sides."""
    for name in ("qvalue", "value"):
        copy = getattr(ours, f"target_{name}_network", None)
        if copy is not None:
            for x in copy.buffers():
                x.add_(0.1)
            getattr(theirs, f"target_{name}_network_params").data.apply_(lambda x: x.add_(0.1))


def their_gradients(x: Tensor, theirs: Any) -> dict[str, Optional[Tensor]]:
    """By the names that the parameters have in ours."""
    named = {
        name.replace("_network_params.", "_network.").replace(
            "qvalue_network.", "qvalue_network.network."
        ): parameter
        for name, parameter in theirs.named_parameters()
    }
    grads = torch.autograd.grad(x.sum(), list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, grads, strict=True))


def our_gradients(x: Tensor, ours: Any) -> dict[str, Optional[Tensor]]:
    named = dict(ours.named_parameters())
    grads = torch.autograd.grad(x.sum(), list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, grads, strict=True))


def assert_soft_parity(ours: Any, theirs: Any, data: TensorDictBase) -> None:
    """Every output, every gradient, and the priorities written into the data."""
    noise = noises(ours, data, seed=2)
    dtype = data["observation"].dtype
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    my_data, their_data = data.clone(), data.clone()
    mine = ours(my_data.update(noise))
    torch.manual_seed(2)
    expected = theirs(their_data)
    torch.testing.assert_close(my_data["td_error"], their_data["td_error"], **close)
    for name, x in expected.items():
        torch.testing.assert_close(mine[name], x, **close, msg=lambda m, n=name: f"{n}: {m}")
        if x.requires_grad:
            a, b = our_gradients(mine[name], ours), their_gradients(x, theirs)
            assert {k for k, g in a.items() if g is not None} == {
                k for k, g in b.items() if g is not None
            }, name
            torch.testing.assert_close(
                a, {k: b[k] for k in a}, **close, msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert not mine[name].requires_grad, name
