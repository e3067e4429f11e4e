"""TorchRL's networks of several agents, which compute with a TensorDict of their own."""

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.func import functional_call
from torchrl import objectives as torchrl
from torchrl.modules import MultiAgentMLP, NormalParamExtractor, ProbabilisticActor, TanhNormal

from compiled_rl import LossModule, QMixerLoss, losses
from compiled_rl.adapters import PlainForm
from compiled_rl.modules import Ensemble, QMixer
from compiled_rl.modules.targets import frozen_copy
from compiled_rl.testing import assert_compiles_once
from tests.losses import team_networks as t
from tests.losses.q_networks import ACTIONS, index
from tests.losses.soft_networks import two_draws
from tests.losses.test_off_policy import assert_parity, pair
from tests.losses.transitions import ACTION, OBSERVATION, Subject, smoothing, transitions

pytestmark = [
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.filterwarnings("ignore:The name .* wasn't part of the annotations"),
]
each_kind = pytest.mark.parametrize("shared", [True, False], ids=["shared", "each its own"])

every_copy = pytest.mark.parametrize(
    "copied",
    [lambda loss: loss, copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))],
    ids=["itself", "a copy", "pickled"],
)


def agents(inputs: int, outputs: int, shared: bool) -> MultiAgentMLP:
    sizes = {"n_agent_inputs": inputs, "n_agent_outputs": outputs, "n_agents": t.AGENTS}
    return MultiAgentMLP(**sizes, centralized=False, share_params=shared, depth=1, num_cells=8)


def qmix(shared: bool) -> QMixerLoss:
    torch.manual_seed(0)
    mixer = QMixer(t.STATE, t.EMBEDDING, t.AGENTS)
    return QMixerLoss(agents(OBSERVATION, ACTIONS, shared), mixer, action_space="categorical")


def steps(*batch: int) -> TensorDict:
    return t.nested(t.team_steps(batch, action=index))


# ---- several critics ----------------------------------------------------------------------------


def team(shared: bool, soft: bool) -> tuple[nn.Module, nn.Module]:
    """Actors, which sample or do not, and twin critics."""
    torch.manual_seed(0)
    body = agents(OBSERVATION, 2 * ACTION if soft else ACTION, shared)
    last, names = (NormalParamExtractor(), ["loc", "scale"]) if soft else (nn.Tanh(), ["action"])
    actor = TensorDictModule(nn.Sequential(body, last), ["observation"], names)
    if soft:
        actor = ProbabilisticActor(actor, names, distribution_class=TanhNormal)
    inputs = ["observation", "action"]
    critic = agents(OBSERVATION + ACTION, 1, shared)
    return actor, TensorDictModule(critic, inputs, ["state_action_value"])


def twins(loss: str, shared: bool) -> Subject:
    options = {"bounds": (-1, 1)} if loss == "TD3Loss" else {"target_entropy": -3.0}
    noise = smoothing if loss == "TD3Loss" else two_draws
    networks = partial(team, shared, loss == "SACLoss")
    return Subject(loss, networks, "loss", options, noise=noise)


both_losses = pytest.mark.parametrize("loss", ["TD3Loss", "SACLoss"])


@each_kind
@both_losses
def test_twin_critics_compute_what_the_peers_do(loss, shared):
    subject = twins(loss, shared)
    mine, theirs = pair(subject, "TD0", torch.float32)
    assert_parity(mine, theirs, subject, transitions((6, t.AGENTS)))


@each_kind
def test_what_the_peer_cannot_stack(shared):
    """A list of critics, of which it locks the TensorDict that they have to unlock."""
    subject, data = twins("TD3Loss", shared), transitions((6, t.AGENTS))

    def values(base: Any) -> torch.Tensor:
        actor, critic = subject.networks()
        critics = [critic, copy.deepcopy(critic)]
        return base.TD3Loss(actor, critics, **subject.arguments)(data.clone())["pred_value"]

    with pytest.raises((RuntimeError, ValueError), match=r"Cannot unlock|in_dim=0"):
        values(torchrl)
    found, expected = values(losses), subject.networks()[1](data)["state_action_value"]
    for one in found:
        torch.testing.assert_close(one, expected.squeeze(-1))


@each_kind
def test_an_ensemble_is_its_members(shared):
    networks, x = [agents(4, 2, shared) for _ in range(3)], torch.randn(6, t.AGENTS, 4)
    ensemble = Ensemble(networks)
    expected = torch.stack([network(x) for network in networks])
    for found in (ensemble, copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        torch.testing.assert_close(found(x), expected)
    torch.testing.assert_close(torch.stack([one(x) for one in ensemble.each()]), expected)
    other = Ensemble.resampled(networks[0], 3)
    assert not torch.allclose(other(x), expected)
    other.load_state_dict(ensemble.state_dict())
    torch.testing.assert_close(other(x), expected)
    frozen = frozen_copy(ensemble)
    assert not list(frozen.parameters())
    torch.testing.assert_close(frozen(x), expected)


@each_kind
def test_what_an_ensemble_shares_is_not_copied(shared):
    body, heads = agents(4, 3, shared), [nn.Linear(3, 1) for _ in range(2)]
    ensemble = Ensemble([nn.Sequential(body, head) for head in heads], list(body.parameters()))
    assert set(body.parameters()) < set(ensemble.parameters())
    x = torch.randn(6, t.AGENTS, 4)
    expected = torch.stack([head(body(x)) for head in heads])
    torch.testing.assert_close(ensemble(x), expected)
    torch.testing.assert_close(torch.stack([one(x) for one in ensemble.each()]), expected)


@pytest.mark.slow
@each_kind
@both_losses
def test_twin_critics_compile_whole(loss, shared):
    made = twins(loss, shared).ours()
    assert_compiles_once(made, [transitions((n, t.AGENTS)) for n in (2, 5, 6, 8, 13)])


# ---- batches of several axes ---------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("last", [[], [nn.Tanh()]], ids=["alone", "and more"])
def test_axes_of_a_batch_are_those_of_one(shared, last):
    network = nn.Sequential(agents(4, 2, shared), *last)
    form = PlainForm(network, "values")
    x = torch.randn(2, 3, 5, t.AGENTS, 4)
    for part in (x, x[0], x[0, 0], x[0, 0, 0]):
        torch.testing.assert_close(form({"observation": part})["values"], network(part))


@pytest.mark.slow
def test_sequences_of_agents_compile_whole():
    sizes = [(2, 3), (3, 5), (8, 5), (5, 13), (21, 2)]
    assert_compiles_once(qmix(False), [steps(*shape) for shape in sizes])


# ---- losses written by hand ----------------------------------------------------------------------


def converted(base: Any, shared: bool) -> Any:
    """A loss that has a network, on a trunk of agents that is held out, three times."""

    class OfThree(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            body, head = (agents(n, 3, shared) for n in (OBSERVATION, 3))
            trunk = TensorDictModule(body, ["observation"], ["hidden"])
            critic = TensorDictSequential(trunk, TensorDictModule(head, ["hidden"], ["value"]))
            self.convert_to_functional(trunk, "actor")
            self.convert_to_functional(
                critic, "critic", 3, create_target_params=True, compare_against=body.parameters()
            )

        def called(self, data: TensorDict, params: Any) -> torch.Tensor:
            with params.to_module(self.critic):
                return self.critic(data.clone())["value"]

        def forward(self, data: TensorDict) -> tuple[torch.Tensor, torch.Tensor]:
            both = (self.critic_params, self.target_critic_params)
            return tuple(torch.vmap(self.called, (None, 0))(data, params) for params in both)

    return OfThree()


@each_kind
def test_several_in_one_are_the_peers(shared):
    mine, theirs = (converted(base, shared) for base in (LossModule, torchrl.LossModule))
    data = transitions((6, t.AGENTS))
    named = {name.replace("_params.", "."): p for name, p in theirs.named_parameters()}
    for name, p in mine.named_parameters():
        named[name].data.copy_(p)
    expected, found = theirs(data)[0], mine(data)[0]
    assert found.shape == (3, 6, t.AGENTS, 3)
    torch.testing.assert_close(found, expected)
    (found**2).sum().backward()
    (expected**2).sum().backward()
    for name, p in mine.named_parameters():
        torch.testing.assert_close(p.grad, named[name].grad, msg=name)
    torch.testing.assert_close(mine(data)[1], found.detach())


# ---- functional calls ----------------------------------------------------------------------------


def subjects(name: str, shared: bool) -> tuple[Any, TensorDict]:
    """A loss and what it is given, noise included."""
    if name == "QMixerLoss":
        return qmix(shared), steps(6)
    subject, data = twins(name, shared), transitions((6, t.AGENTS))
    return subject.ours(), data.update(subject.drawn(data, 2))


@each_kind
@every_copy
@pytest.mark.parametrize("name", ["QMixerLoss", "TD3Loss", "SACLoss"])
def test_a_functional_call_reaches_them(name, shared, copied):
    loss, data = subjects(name, shared)
    loss = copied(loss)
    halved = {name: p.detach() / 2 for name, p in loss.named_parameters()}

    def total(found: Any) -> torch.Tensor:
        return sum(found[name] for name in loss.minimised)

    def value(parameters: dict[str, Any]) -> torch.Tensor:
        return total(functional_call(loss, parameters, (data,)))

    before = total(loss(data)).detach()
    slopes = torch.func.grad(value)(halved)
    assert torch.equal(total(loss(data)), before)
    loss.load_state_dict({**loss.state_dict(), **halved})
    total(loss(data)).backward()
    assert torch.equal(value(halved), total(loss(data)))
    assert not torch.equal(value(halved), before)
    for name, p in loss.named_parameters():
        torch.testing.assert_close(slopes[name], p.grad, msg=name)
