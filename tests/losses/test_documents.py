"""The examples of the two documents on A2C and KL-penalty PPO: networks of TorchRL, losses of ours.

The examples' own names are looked up in ``peer``, which knows what TorchRL calls them now. Every
example of the five documents, and its test:

| document | example | test |
|---|---|---|
| A2CLoss | a call with a TensorDict | ``test_a2c_of_a_tensordict`` |
| A2CLoss | a call by keyword | ``test_a2c_of_keywords`` |
| A2CLoss | ``select_out_keys`` | ``test_a2c_with_selected_outputs`` |
| three | ``make_value_estimator`` | ``test_the_value_estimator_of_a_dqn_loss_is_made_again`` |
| KLPENPPOLoss | a common module | ``test_a_common_module_is_called_twice_or_once`` |
| LossModule | ``_AcceptedKeys`` | ``test_documents_written.py::test_the_keys_of_a_written_loss`` |
| LossModule | ``named_parameters``, ``parameters`` | the same, ``test_the_parameters_of_a_loss`` |
| LossModule | ``set_keys(priority_key=...)`` | the same, ``test_the_keys_of_a_dqn_loss`` |
| QMixerLoss | a loss of four agents | the same, ``test_a_qmixer_loss`` |
| tutorial | the loss, its data, the sum of its losses | ``tutorial.py``, ``test_tutorial.py`` |
| tutorial | environments to training loop | ``test_tutorial_script.py`` |
| tutorial | pixels, ``dm_control``, the plot of the rewards | none: another simulator, a picture |
"""

from typing import Any

import pytest
import torch
import torchrl.data
import torchrl.modules
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor, nn

from compiled_rl import losses
from compiled_rl.estimators import TD0Estimator, TD1Estimator, ValueEstimators

RENAMED = {
    "BoundedTensorSpec": "Bounded",
    "CompositeSpec": "Composite",
    "UnboundedContinuousTensorSpec": "Unbounded",
    "ActorCriticOperator": "ActorValueOperator",
}
N_ACT, N_OBS = 4, 3
BATCH = [2]


def peer(name: str) -> Any:
    """A name of TorchRL's, as the documents have it."""
    now = RENAMED.get(name, name)
    return getattr(torchrl.modules, now, None) or getattr(torchrl.data, now)


@pytest.fixture
def spec() -> Any:
    torch.manual_seed(42)
    return peer("BoundedTensorSpec")(-torch.ones(N_ACT), torch.ones(N_ACT), (N_ACT,))


@pytest.fixture
def a2c(spec: Any) -> losses.A2CLoss:
    net = nn.Sequential(nn.Linear(N_OBS, 2 * N_ACT), peer("NormalParamExtractor")())
    module = peer("SafeModule")(net, in_keys=["observation"], out_keys=["loc", "scale"])
    actor = peer("ProbabilisticActor")(
        module=module,
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=peer("TanhNormal"),
    )
    value = peer("ValueOperator")(module=nn.Linear(N_OBS, 1), in_keys=["observation"])
    return losses.A2CLoss(actor, value, loss_critic_type="l2")


def keywords(spec: Any) -> dict[str, Tensor]:
    return {
        "observation": torch.randn(*BATCH, N_OBS),
        "action": spec.rand(BATCH),
        "next_done": torch.zeros(*BATCH, 1, dtype=torch.bool),
        "next_terminated": torch.zeros(*BATCH, 1, dtype=torch.bool),
        "next_reward": torch.randn(*BATCH, 1),
        "next_observation": torch.randn(*BATCH, N_OBS),
    }


def test_a2c_of_a_tensordict(a2c: losses.A2CLoss, spec: Any) -> None:
    data = TensorDict(
        {
            "observation": torch.randn(*BATCH, N_OBS),
            "action": spec.rand(BATCH),
            ("next", "done"): torch.zeros(*BATCH, 1, dtype=torch.bool),
            ("next", "terminated"): torch.zeros(*BATCH, 1, dtype=torch.bool),
            ("next", "reward"): torch.randn(*BATCH, 1),
            ("next", "observation"): torch.randn(*BATCH, N_OBS),
        },
        BATCH,
    )
    outputs = a2c(data)
    assert set(outputs.keys()) == {"entropy", "loss_critic", "loss_entropy", "loss_objective"}
    assert all(x.shape == () and x.dtype == torch.float32 for x in outputs.values())
    assert outputs.batch_size == torch.Size([])


def test_a2c_of_keywords(a2c: losses.A2CLoss, spec: Any) -> None:
    loss_obj, loss_critic, entropy, loss_entropy = a2c(**keywords(spec))
    loss_obj.backward()
    assert a2c.actor_network.get_parameter("module.0.module.0.weight").grad is not None
    assert all(p.grad is None for p in a2c.critic_network.parameters())
    assert loss_critic.requires_grad
    assert loss_entropy.requires_grad
    assert not entropy.requires_grad


def test_a2c_with_selected_outputs(a2c: losses.A2CLoss, spec: Any) -> None:
    a2c.select_out_keys("loss_objective", "loss_critic")
    loss_obj, loss_critic = a2c(**keywords(spec))
    loss_obj.backward()
    assert loss_critic.requires_grad


def test_the_value_estimator_of_a_dqn_loss_is_made_again() -> None:
    loss = losses.DQNLoss(nn.Linear(3, 4), action_space="one-hot")
    assert isinstance(loss.value_estimator, TD0Estimator)
    loss.make_value_estimator(gamma=0.9)
    assert isinstance(loss.value_estimator, TD0Estimator)
    loss.make_value_estimator(ValueEstimators.TD1, gamma=0.9)
    assert isinstance(loss.value_estimator, TD1Estimator)
    loss.make_value_estimator(loss.value_type, gamma=0.8)
    assert isinstance(loss.value_estimator, TD1Estimator)
    assert float(loss.value_estimator.gamma) == pytest.approx(0.8)


def common_and_heads() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    common = peer("SafeModule")(nn.Linear(N_OBS, 8), in_keys=["observation"], out_keys=["hidden"])
    head = nn.Sequential(nn.Linear(8, 2 * N_ACT), peer("NormalParamExtractor")())
    actor_head = peer("ProbabilisticActor")(
        peer("SafeModule")(head, in_keys=["hidden"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=peer("IndependentNormal"),
        return_log_prob=True,
    )
    return common, actor_head, peer("ValueOperator")(nn.Linear(8, 1), in_keys=["hidden"])


def recorded(policy: Any) -> TensorDict:
    data = TensorDict({"observation": torch.randn(6, N_OBS)}, [6])
    with torch.no_grad():
        policy(data)
    data["action_log_prob"] += 0.1 * torch.randn(6)
    data["loc"] += 0.1
    data["advantage"], data["value_target"] = torch.randn(6, 1), torch.randn(6, 1)
    return data.exclude("hidden")


@pytest.mark.parametrize("name", ["PPOLoss", "KLPENPPOLoss"])
@pytest.mark.parametrize("separate_losses", [False, True])
def test_a_common_module_is_called_twice_or_once(name: str, separate_losses: bool) -> None:
    made = getattr(losses, name)
    common, actor_head, value_head = common_and_heads()
    model = peer("ActorCriticOperator")(common, actor_head, value_head)
    options = {
        "first": (model.get_policy_operator(), model.get_value_operator()),
        "second": (ProbabilisticTensorDictSequential(model, actor_head), value_head),
        "shorter": (ProbabilisticTensorDictSequential(common, actor_head), value_head),
    }
    data = recorded(model.get_policy_operator())
    calls: list[Any] = []
    common.module.register_forward_hook(lambda *seen: calls.append(seen))
    results, counts = {}, {}
    for option, networks in options.items():
        loss = made(*networks, separate_losses=separate_losses)
        calls.clear()
        outputs = loss(data)
        counts[option] = len(calls)
        total = sum(x for key, x in outputs.items() if key.startswith("loss_"))
        parameters = list(model.parameters())
        results[option] = [total, *torch.autograd.grad(total, parameters)]
    assert counts == {"first": 2, "second": 1, "shorter": 1}
    torch.testing.assert_close(results["second"], results["first"])
    torch.testing.assert_close(results["shorter"], results["first"])
