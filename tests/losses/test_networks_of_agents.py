"""TorchRL's networks of several agents, which compute with a TensorDict of their own."""

import copy
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch.func import functional_call
from torchrl.modules import MultiAgentMLP

from compiled_rl import QMixerLoss
from compiled_rl.modules import QMixer
from tests.losses import team_networks as t
from tests.losses.q_networks import ACTIONS, index
from tests.losses.transitions import OBSERVATION

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
each_kind = pytest.mark.parametrize("shared", [True, False], ids=["shared", "each its own"])


def agents(inputs: int, outputs: int, shared: bool) -> MultiAgentMLP:
    sizes = {"n_agent_inputs": inputs, "n_agent_outputs": outputs, "n_agents": t.AGENTS}
    return MultiAgentMLP(**sizes, centralized=False, share_params=shared, depth=1, num_cells=8)


def qmix(shared: bool) -> QMixerLoss:
    torch.manual_seed(0)
    mixer = QMixer(t.STATE, t.EMBEDDING, t.AGENTS)
    return QMixerLoss(agents(OBSERVATION, ACTIONS, shared), mixer, action_space="categorical")


def steps(*batch: int) -> TensorDict:
    return t.nested(t.team_steps(batch, action=index))


# ---- functional calls ----------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("copied", [lambda loss: loss, copy.deepcopy], ids=["itself", "a copy"])
def test_a_functional_call_reaches_them(shared, copied):
    loss, data = copied(qmix(shared)), steps(6)
    halved = {name: p.detach() / 2 for name, p in loss.named_parameters()}

    def value(parameters: dict[str, Any]) -> torch.Tensor:
        return functional_call(loss, parameters, (data,))["loss"]

    before = loss(data)["loss"].detach()
    slopes = torch.func.grad(value)(halved)
    assert torch.equal(loss(data)["loss"], before)
    loss.load_state_dict(halved, strict=False)
    loss(data)["loss"].backward()
    assert torch.equal(value(halved), loss(data)["loss"])
    assert not torch.equal(value(halved), before)
    for name, p in loss.named_parameters():
        torch.testing.assert_close(slopes[name], p.grad, msg=name)
