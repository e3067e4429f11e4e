"""The off-policy losses as TorchRL's pages build them and call them: actors, specs, tuples."""

from typing import Any

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, OneHot
from torchrl.modules import (
    Actor,
    NormalParamExtractor,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    ValueOperator,
)

from compiled_rl import losses

N_OBS, N_ACT = 3, 4
SPEC = Bounded(-torch.ones(N_ACT), torch.ones(N_ACT), (N_ACT,))


class Joined(nn.Linear):
    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return super().forward(torch.cat([observation, action], -1))


def critic() -> ValueOperator:
    return ValueOperator(Joined(N_OBS + N_ACT, 1), in_keys=["observation", "action"])


def policy() -> ProbabilisticActor:
    net = nn.Sequential(nn.Linear(N_OBS, 2 * N_ACT), NormalParamExtractor())
    module = TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"])
    return ProbabilisticActor(
        module=module, in_keys=["loc", "scale"], spec=SPEC, distribution_class=TanhNormal
    )


def step(action: Tensor, *batch: int) -> dict[str, Tensor]:
    return {
        "observation": torch.randn(*batch, N_OBS),
        "action": action,
        "next_done": torch.zeros(*batch, 1, dtype=torch.bool),
        "next_terminated": torch.zeros(*batch, 1, dtype=torch.bool),
        "next_observation": torch.randn(*batch, N_OBS),
        "next_reward": torch.randn(*batch, 1),
    }


def make_ddpg() -> Any:
    return losses.DDPGLoss(Actor(spec=SPEC, module=nn.Linear(N_OBS, N_ACT)), critic())


def make_td3() -> Any:
    actor = Actor(spec=Composite(action=SPEC), module=nn.Linear(N_OBS, N_ACT))
    return losses.TD3Loss(actor, critic(), action_spec=actor.spec)


def make_sac() -> Any:
    return losses.SACLoss(policy(), critic())


def make_sac_with_a_value() -> Any:
    value = ValueOperator(nn.Linear(N_OBS, 1), in_keys=["observation"])
    return losses.SACLoss(policy(), critic(), value)


def make_dqn() -> Any:
    actor = QValueActor(nn.Linear(N_OBS, N_ACT), in_keys=["observation"], spec=OneHot(N_ACT))
    return losses.DQNLoss(actor, action_space=OneHot(N_ACT))


@pytest.mark.parametrize(
    ("make", "action", "outputs"),
    [
        (make_ddpg, SPEC.rand, 6),
        (make_td3, SPEC.rand, 6),
        (make_sac, SPEC.rand, 5),
        (make_sac_with_a_value, SPEC.rand, 6),
        (make_dqn, OneHot(N_ACT).rand, 1),
    ],
)
def test_built_on_its_actors_and_called_by_keyword(make, action, outputs):
    torch.manual_seed(42)
    loss = make()
    given = loss(**step(action((2,)), 2))
    first, *others = given if outputs > 1 else (given,)
    assert len(others) == outputs - 1
    first.backward()
    loss.select_out_keys(loss.minimised[0])
    loss(**step(action((2,)), 2)).backward()  # one output is the tensor itself
    assert loss.reset_out_keys().out_keys == tuple(type(given)._fields if others else ["loss"])


@pytest.mark.parametrize(("make", "outputs"), [(make_ddpg, 6), (make_td3, 6), (make_sac, 5)])
def test_a_step_without_a_batch(make, outputs):
    given = make()(**step(SPEC.rand()))
    assert len(given) == outputs
    given[0].backward()


def test_automatic_target_entropy_is_minus_the_size_of_the_action():
    assert make_sac().target_entropy == -N_ACT
