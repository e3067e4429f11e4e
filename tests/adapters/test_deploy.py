"""What is deployed of modules that are called by keys."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl import modules as rl
from torchrl.data import Bounded

from compiled_rl import ClipPPOLoss, Policy, QPolicy, ValueHead
from compiled_rl.adapters.deploy import plain_policy, to_policy
from compiled_rl.modules import Categorical, Normal, Reads, SampledPolicy


def actor(**options) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), rl.NormalParamExtractor())
    module = TensorDictModule(network, ["observation"], ["loc", "scale"])
    options = {"distribution_class": rl.IndependentNormal, **options}
    return rl.ProbabilisticActor(module, in_keys=["loc", "scale"], **options)


def test_what_is_called_by_name_already_is_left_as_it_is():
    policy = Policy(nn.Linear(4, 3), Categorical)
    for module in (
        nn.Linear(4, 3),
        SampledPolicy(policy),
        ClipPPOLoss(policy, ValueHead(4)),
    ):
        assert plain_policy(module) is None

    class Own(Policy):
        def forward(self, obs):
            return super().forward(obs)

    assert plain_policy(Own(nn.Linear(4, 3), Categorical)) is None


def test_names():
    network = Reads(nn.Bilinear(4, 2, 3), "observation", ("task", "goal"))
    x, goal = torch.randn(5, 4), torch.randn(5, 2)
    for module, output in (
        (Policy(network, Categorical), "action"),
        (QPolicy(network), "action"),
        (network, "output"),
    ):
        plain = plain_policy(module)
        assert plain.input_names == ("observation", "task_goal")
        torch.testing.assert_close(plain(x, task_goal=goal), {output: module(x, goal)})


def test_the_parameters_are_the_actors():
    module = actor()
    plain = plain_policy(module)
    assert {id(p) for p in plain.parameters()} == {id(p) for p in module.parameters()}
    x = torch.randn(5, 4)
    before = plain(x)["action"]
    with torch.no_grad():
        next(module.parameters()).add_(1)
    assert not torch.equal(plain(x)["action"], before)


def test_the_state_goes_round():
    memory = rl.LSTMModule(input_size=4, hidden_size=8, in_key="observation", out_key="read")
    head = TensorDictModule(nn.Linear(8, 2), ["read"], ["action"])
    plain = plain_policy(TensorDictSequential(memory, head))
    states = ("recurrent_state_h", "recurrent_state_c")
    assert plain.state_names == {name: f"next_{name}" for name in states}
    assert plain.input_names == ("observation", *states, "is_init")


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("python_based", [True, False])
def test_one_step_in_whatever_mode(mode, python_based):
    options = {"in_key": "observation", "out_key": "read", "python_based": python_based}
    memory = rl.LSTMModule(input_size=4, hidden_size=8, **options)
    data = {
        "observation": torch.randn(5, 4),
        "recurrent_state_h": torch.randn(5, 1, 8),
        "recurrent_state_c": torch.randn(5, 1, 8),
        "is_init": torch.rand(5, 1) < 0.5,
    }
    expected = memory(TensorDict(data, [5]))
    with rl.set_recurrent_mode(mode):
        outputs = plain_policy(memory)(**data)
    assert list(outputs) == ["read", "next_recurrent_state_h", "next_recurrent_state_c"]
    torch.testing.assert_close(outputs["read"], expected["read"])
    torch.testing.assert_close(
        outputs["next_recurrent_state_c"], expected["next", "recurrent_state_c"]
    )


def test_hooks_that_are_not_known_are_refused():
    module = actor()
    module.module[-1].register_forward_hook(print)
    with pytest.raises(
        TypeError, match="ProbabilisticModule must have no hooks to be deployed, got"
    ):
        plain_policy(module)


def test_an_actor_as_a_policy():
    module = actor()
    policy = to_policy(module)
    assert isinstance(policy.family, Normal)
    x = torch.randn(5, 4)
    torch.testing.assert_close(policy(x), plain_policy(module)(x)["action"])


def test_what_is_more_than_a_policy_is_refused():
    memory = rl.GRUModule(input_size=4, hidden_size=4, in_key="observation", out_key="read")
    split = TensorDictModule(rl.NormalParamExtractor(), ["read"], ["loc", "scale"])
    remembers = rl.ProbabilisticActor(
        TensorDictSequential(memory, split), ["loc", "scale"], distribution_class=rl.TanhNormal
    )
    projects = actor(spec=Bounded(-1, 1, (2,)), safe=True)
    for module in (remembers, projects):
        with pytest.raises(TypeError, match="to_policy: `actor` must neither remember nor project"):
            to_policy(module)
    with pytest.raises(TypeError, match="must be a Policy or a ProbabilisticTensorDictSequential"):
        to_policy(nn.Linear(4, 2))
