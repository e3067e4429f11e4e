"""The examples of the documents on ``LossModule`` and ``QMixerLoss``, losses of ours.

As ``test_documents.py`` has them, which lists the examples of all five documents.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from compiled_rl import losses
from compiled_rl.losses import DQNLoss, LossModule, QMixerLoss
from tests.losses.test_documents import peer

AGENTS = 4


def test_the_keys_of_a_written_loss() -> None:
    class MyLoss(LossModule):
        @dataclass
        class _AcceptedKeys:
            action = "action"

        def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
            pass

    loss = MyLoss()
    loss.set_keys(action="action2")
    assert loss.tensor_keys.action == "action2"


@pytest.fixture
def dqn_loss() -> DQNLoss:
    return DQNLoss(nn.Linear(3, 4), action_space="one-hot")


def test_the_keys_of_a_dqn_loss(dqn_loss: DQNLoss) -> None:
    dqn_loss.set_keys(priority_key="td_error", action_value_key="action_value")
    assert dqn_loss.tensor_keys["priority"] == "td_error"


def test_the_parameters_of_a_loss(dqn_loss: DQNLoss) -> None:
    sizes = [(type(param), param.size()) for param in dqn_loss.parameters()]
    assert sizes == [(nn.Parameter, (4, 3)), (nn.Parameter, (4,))]
    named = [name for name, _ in dqn_loss.named_parameters() if name.endswith("bias")]
    assert len(named) == 1
    assert len(list(dqn_loss.named_parameters("", True, remove_duplicate=False))) == 2


def q_values() -> Any:
    """The agents' values, and what they choose."""
    module = TensorDictModule(
        nn.Linear(10, 3),
        in_keys=[("agents", "observation")],
        out_keys=[("agents", "action_value")],
    )
    value_module = peer("QValueModule")(
        action_value_key=("agents", "action_value"),
        out_keys=[
            ("agents", "action"),
            ("agents", "action_value"),
            ("agents", "chosen_action_value"),
        ],
        action_space="categorical",
    )
    return peer("SafeSequential")(module, value_module)


def team_steps() -> TensorDict:
    def seen() -> dict[str, Any]:
        agents = TensorDict({"observation": torch.zeros(32, AGENTS, 10)}, [32, AGENTS])
        return {"agents": agents, "state": torch.zeros(32, 64, 64, 3)}

    following = {
        "reward": torch.zeros(32, 1),
        "done": torch.zeros(32, 1, dtype=torch.bool),
        "terminated": torch.zeros(32, 1, dtype=torch.bool),
    }
    return TensorDict({**seen(), "next": TensorDict({**seen(), **following}, [32])}, [32])


def test_a_qmixer_loss() -> None:
    torch.manual_seed(0)
    qnet = q_values()
    mixing = {"state_shape": (64, 64, 3), "mixing_embed_dim": 32, "n_agents": AGENTS}
    qmixer = TensorDictModule(
        module=peer("QMixer")(**mixing, device="cpu"),
        in_keys=[("agents", "chosen_action_value"), "state"],
        out_keys=["chosen_action_value"],
    )
    loss = QMixerLoss(qnet, qmixer, action_space="categorical")
    outputs = loss(qnet(team_steps()))
    assert loss.out_keys == ("loss",)
    value: Tensor = outputs["loss"]
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert outputs.batch_size == torch.Size([])
    value.backward()


def test_the_deprecated_key_of_the_priority() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = losses.QMixerLoss(
            q_values(),
            peer("VDNMixer")(AGENTS, "cpu"),
            action_space="categorical",
            priority_key="p",
        )
    assert loss.tensor_keys["priority"] == "p"
