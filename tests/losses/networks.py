"""Networks and data for the loss tests: plain, and TensorDict wrappers of the same networks."""

import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torchrl.modules import IndependentNormal

from compiled_rl import Policy
from compiled_rl.modules import Categorical, Normal, StateDependentScale

OBSERVATION, ACTION = 4, 3


def mlp(out: int, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(OBSERVATION, 16), nn.Tanh(), nn.Linear(16, out), *last)


def plain_networks(kind: str) -> tuple[Policy, nn.Module]:
    torch.manual_seed(0)
    if kind == "normal":
        actor = Policy(mlp(2 * ACTION, StateDependentScale()), Normal)
    else:
        actor = Policy(mlp(ACTION), Categorical)
    return actor, mlp(1)


def tensordict_networks(
    actor: Policy, critic: nn.Module
) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """The same modules, wrapped as TorchRL's users wrap theirs."""
    distributions = {"Normal": IndependentNormal, "Categorical": torch.distributions.Categorical}
    names = list(actor.family.param_names)
    wrapped = ProbabilisticTensorDictSequential(
        TensorDictModule(actor.network, in_keys=["observation"], out_keys=names),
        ProbabilisticTensorDictModule(
            in_keys=names,
            out_keys=["action"],
            distribution_class=distributions[type(actor.family).__name__],
            return_log_prob=True,
        ),
    )
    return wrapped, TensorDictModule(critic, in_keys=["observation"], out_keys=["state_value"])


def make_data(
    actor: Policy, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> TensorDict:
    """A batch in TorchRL's layout: values, rewards and flags with a trailing one."""
    torch.manual_seed(seed)
    observation = torch.randn(*shape, OBSERVATION, dtype=dtype)
    sample = actor.act(observation)
    done = torch.rand(*shape, 1) < 0.2
    column = (*shape, 1)
    return TensorDict(
        {
            "observation": observation,
            "action": sample.action,
            "action_log_prob": sample.log_prob + 0.2 * torch.randn(shape, dtype=dtype),
            "advantage": torch.randn(column, dtype=dtype),
            "value_target": torch.randn(column, dtype=dtype),
            "state_value": torch.randn(column, dtype=dtype),
            "next": {
                "observation": torch.randn(*shape, OBSERVATION, dtype=dtype),
                "reward": torch.randn(column, dtype=dtype),
                "done": done,
                "terminated": done & (torch.rand(*shape, 1) < 0.5),
            },
        },
        shape,
    )


def as_keywords(data: TensorDict) -> dict[str, Tensor]:
    return {
        key if isinstance(key, str) else "_".join(key): x
        for key, x in data.items(include_nested=True, leaves_only=True)
    }
