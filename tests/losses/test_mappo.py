"""PPO of several agents: against TorchRL's, teams and agents, masks, statistics, plain networks."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torchrl import modules as torchrl_modules
from torchrl.objectives import multiagent

from compiled_rl import IPPOLoss, MAPPOLoss, Policy, modules
from compiled_rl.modules import Normal, Reads, StateDependentScale
from compiled_rl.testing import assert_compiles_once
from tests.losses.parity import TOLERANCE, assert_parity, estimate_with, move_targets
from tests.losses.peers import keywords
from tests.losses.teams import (
    ACTION,
    AGENTS,
    KEYS,
    OBSERVATION,
    for_each_agent,
    team_actor,
    team_critic,
    team_steps,
)

NORMS = ("PopArtValueNorm", "RunningValueNorm", "PercentileValueNorm")
Networks = tuple[Any, Any]
given_or_not = pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])


def both(networks: Networks, norm: Any = None, **arguments: Any) -> tuple[MAPPOLoss, Any]:
    """Ours and TorchRL's on the same networks, each with a normaliser of its own library."""
    dtype = next(networks[0].parameters()).dtype
    made = []
    for loss, library in ((MAPPOLoss, modules), (multiagent.MAPPOLoss, torchrl_modules)):
        value_norm = None if norm is None else getattr(library, norm)()
        made.append(loss(*networks, value_norm=value_norm, **arguments))
        made[-1].set_keys(**KEYS)
    return made[0].to(dtype), made[1].to(dtype)


def team(kind: str = "central", discrete: bool = False, share: bool = True) -> Networks:
    return team_actor(discrete, share), team_critic(kind, share)


def statistics(loss: Any) -> dict[str, Any]:
    return dict(loss.value_norm.state_dict())


@given_or_not
@pytest.mark.parametrize("share", [True, False], ids=["shared", "apart"])
@pytest.mark.parametrize("kind", ["central", "local", "state"])
def test_equals_torchrls(kind, share, given):
    networks = team(kind, discrete=not share, share=share)
    options = {"clip_value": 0.2} if given else {"entropy_bonus": False}
    assert_parity(*both(networks, **options), team_steps(networks[0], given=given), given=True)


@given_or_not
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values_are_normalised_as_torchrls(norm, dtype, given):
    networks = tuple(network.to(dtype) for network in team())
    ours, theirs = both(networks, norm, clip_value=0.2 if given else None)
    estimate_with("MAGAE", ours, theirs, dtype)
    if norm == "PercentileValueNorm":  # which rounds them to float32
        theirs.value_norm._q = torch.tensor(ours.value_norm.quantiles, dtype=dtype)
    for _ in range(3):  # of moving statistics
        assert_parity(ours, theirs, team_steps(networks[0], dtype=dtype, given=given))
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(statistics(ours), statistics(theirs), **close)
    ours.value_norm.load_state_dict(theirs.value_norm.state_dict())


MASKS = [(4, 5), (4, 5, 1), (4, 5, AGENTS), (4, 5, AGENTS, 1)]


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("kind", ["central", "local"])
def test_a_mask_of_steps_or_of_agents_is_torchrls(kind, shape):
    """Where advantages are not normalised, which is over other steps there."""
    networks = team(kind)
    data = team_steps(networks[0])
    data["collector", "mask"] = torch.rand(shape) < 0.7
    assert_parity(*both(networks, normalize_advantage=False), data, metrics=False)


@pytest.mark.parametrize("shape", MASKS[:2], ids=str)
def test_a_mask_of_sequences_ends_is_torchrls(shape):
    networks = team()
    data = team_steps(networks[0], given=False)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4], [1]])
    ends = ~mask.roll(-1, 1) | (torch.arange(5) == 4)
    data["next", "done"] |= ends.unsqueeze(-1)
    data["collector", "mask"] = mask.reshape(shape)
    assert_parity(*both(networks, normalize_advantage=False), data, metrics=False)


@given_or_not
@pytest.mark.parametrize("kind", ["central", "state"])
def test_what_is_hidden_of_all_agents_may_be_anything(kind, given):
    networks = team(kind)
    data = team_steps(networks[0], given=given)
    mask = torch.rand(4, 5, AGENTS) < 0.5
    data["collector", "mask"] = mask
    loss = MAPPOLoss(*networks, value_norm=modules.PopArtValueNorm())
    found = []
    for _ in range(2):
        fresh = copy.deepcopy(loss)  # of the same statistics
        total = sum(x for name, x in fresh(data).items() if name.startswith("loss_"))
        found.append([total, *torch.autograd.grad(total, list(fresh.parameters()))])
        for x in data.values(include_nested=True, leaves_only=True):
            if x.is_floating_point():
                x[~mask.any(-1)] = torch.nan
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("share", [True, False], ids=["shared", "apart"])
def test_a_copy_of_the_actor_moves_and_is_kept(share):
    """TorchRL's networks compute with a TensorDict of their own."""
    networks = team(share=share)
    ours, theirs = both(networks, delay_actor=True)
    move_targets(ours, theirs)
    data = team_steps(networks[0])
    assert_parity(ours, theirs, data)
    ours.double()
    other, _ = both(team(share=share), delay_actor=True)
    other.double().load_state_dict(ours.state_dict())
    data = data.apply(lambda x: x.double() if x.is_floating_point() else x)
    torch.testing.assert_close(other(data).to_dict(), ours(data).to_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [1, (AGENTS, 1)], ids=["one", "each"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_normaliser_of_torchrls_is_taken(norm, shape):
    networks = team()
    theirs = MAPPOLoss(*networks, value_norm=getattr(torchrl_modules, norm)(shape=shape))
    ours = MAPPOLoss(*networks, value_norm=getattr(modules, norm)(shape=shape))
    data = team_steps(networks[0])
    data["collector", "mask"] = torch.rand(4, 5) < 0.7
    for _ in range(2):
        torch.testing.assert_close(ours(data).to_dict(), theirs(data).to_dict())
    torch.testing.assert_close(statistics(ours), statistics(theirs))
    data["collector", "mask"] = torch.zeros(4, 5, dtype=torch.bool)
    before = copy.deepcopy(statistics(ours))
    for loss in (ours, theirs):
        assert loss(data)["loss_critic"] == 0
        torch.testing.assert_close(statistics(loss), before)


def test_rewards_of_agents_or_of_their_team():
    networks = team()
    data = team_steps(networks[0], given=False)
    loss = MAPPOLoss(*networks)
    torch.testing.assert_close(loss(for_each_agent(data)).to_dict(), loss(data).to_dict())


@given_or_not
def test_what_is_the_teams_is_each_agents(given):
    """A critic that values the team, its advantages and its targets."""
    actor = team_actor()
    data = team_steps(actor, given=given)
    critic, each = team_critic("team"), team_critic("state")
    with torch.no_grad():
        for name, x in critic.module.net.named_parameters():
            other = each.module.net.get_parameter(name)
            other.copy_(x.expand_as(other))
    shared = data.clone()
    for key in ("advantage", "value_target") if given else ():
        shared[key] = data[key][:, :, 0].clone()
        data[key] = data[key][:, :, :1].expand(4, 5, AGENTS, 1)
    found, expected = MAPPOLoss(actor, critic)(shared), MAPPOLoss(actor, each)(data)
    torch.testing.assert_close(found.to_dict(), expected.to_dict())


def test_the_critics_part_of_a_teams_target_is_each_agents():
    actor = team_actor()
    loss, data = MAPPOLoss(actor, team_critic()), team_steps(actor)
    data["value_target"] = data["value_target"][:, :, 0].clone()
    each, *_ = loss.loss_critic(data)
    assert each.shape == (4, 5, AGENTS, 1)
    torch.testing.assert_close(each.mean(), loss(data)["loss_critic"])


def test_each_agents_advantages_are_normalised_by_themselves():
    networks = team()
    data = team_steps(networks[0])
    loss = MAPPOLoss(*networks)
    expected = loss(data)["loss_objective"]
    stretch = torch.tensor([1.0, 5.0, 0.1]).reshape(AGENTS, 1)
    data["advantage"] = data["advantage"] * stretch - stretch
    torch.testing.assert_close(loss(data)["loss_objective"], expected)


@pytest.mark.parametrize("name", ["advantage", "value"])
def test_an_agents_axis_is_the_last_but_one(name):
    networks = team()
    data = team_steps(networks[0])
    loss = MAPPOLoss(*networks, clip_value=0.2)
    key = loss.tensor_keys[name]
    data[key] = torch.randn(4, 5, AGENTS)
    with pytest.raises(ValueError, match=rf"must be each agent's, of shape \[4, 5, {AGENTS}, 1\]"):
        loss(data)


@pytest.mark.parametrize("norm", NORMS)
def test_statistics_move_in_training_only(norm):
    networks = team()
    data = team_steps(networks[0])
    loss = MAPPOLoss(*networks, value_norm=getattr(modules, norm)())
    start = copy.deepcopy(statistics(loss))
    with torch.no_grad():
        loss(data)
    loss.eval()
    loss(data)
    loss.train()
    loss.value_norm.eval()
    loss(data)
    loss.train()
    loss.training = False  # of the loss itself alone
    loss(data)
    torch.testing.assert_close(statistics(loss), start)
    loss.train()
    loss(data)
    assert all(not torch.equal(x, start[name]) for name, x in statistics(loss).items())


@pytest.mark.parametrize("shape", [1, (AGENTS, 1)], ids=["one", "each"])
@pytest.mark.parametrize("norm", NORMS)
def test_what_a_mask_hides_moves_no_statistics(norm, shape):
    networks = team()
    data = team_steps(networks[0])
    mask = torch.rand(4, 5) < 0.6
    kept, loss = data[mask], MAPPOLoss(*networks, value_norm=getattr(modules, norm)(shape=shape))
    alone = copy.deepcopy(loss)
    data["value_target"][~mask] = torch.nan
    data["collector", "mask"] = mask
    torch.testing.assert_close(loss(data)["loss_critic"], alone(kept)["loss_critic"])
    torch.testing.assert_close(statistics(loss), statistics(alone))


def test_a_step_that_is_hidden_of_one_agent_moves_no_statistics_of_each():
    networks = team("local")
    data, mask = team_steps(networks[0]), torch.rand(4, 5, AGENTS) < 0.7
    data["collector", "mask"] = mask
    loss = MAPPOLoss(*networks, value_norm=modules.RunningValueNorm(shape=(AGENTS, 1)))
    loss(data)
    whole = mask.all(-1)
    assert 0 < whole.sum() < mask.any(-1).sum()
    assert loss.value_norm.count.eq(whole.sum()).all()
    torch.testing.assert_close(loss.value_norm.mean, data["value_target"][whole].mean(0))


def test_the_state_is_whole_from_the_start():
    networks = team()
    loss = MAPPOLoss(*networks, value_norm=modules.PopArtValueNorm())
    names, data = list(loss.state_dict()), team_steps(networks[0], given=False)
    loss(data)
    assert list(loss.state_dict()) == names
    assert "value_norm.debiasing_term" in names
    fresh = MAPPOLoss(*team(), value_norm=modules.PopArtValueNorm())
    fresh.load_state_dict(loss.state_dict())
    for copied in (fresh, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(statistics(copied), statistics(loss))
        torch.testing.assert_close(copied(data).to_dict(), copy.deepcopy(loss)(data).to_dict())


def plain_team(norm: Any = None, torchrls: bool = False) -> tuple[MAPPOLoss, Any]:
    """Networks without TensorDict, of which each is one for all agents, and data for them."""
    actor, critic = team("local")
    nets = [actor.module[0].module[0], critic.module]
    if not torchrls:
        nets = [nn.Linear(OBSERVATION, 2 * ACTION), nn.Linear(OBSERVATION, 1)]
    source = ("agents", "observation")
    policy = Policy(Reads(nn.Sequential(nets[0], StateDependentScale()), source), Normal)
    loss = MAPPOLoss(policy, Reads(nets[1], source), value_norm=norm)
    loss.set_keys(**KEYS)
    return loss, team_steps(actor)


def test_plain_networks_are_called_by_keyword():
    loss, data = plain_team(modules.RunningValueNorm())
    for batch in (data, data.exclude("advantage", "value_target")):
        outputs = loss(**keywords(loss, batch))
        assert outputs._fields[0] == "loss_objective"
        sum(x for name, x in outputs._asdict().items() if name.startswith("loss_")).backward()
    assert all(x.grad is not None for x in loss.parameters())
    assert "agents_action" in keywords(loss, data)


def of_sizes(loss: MAPPOLoss) -> list[Any]:
    actor = team_actor()
    return [keywords(loss, team_steps(actor, (n, 4), given=False)) for n in (2, 3, 5)]


def test_compiles_whole_and_seldom():
    loss, _ = plain_team(modules.PopArtValueNorm())
    assert_compiles_once(loss, of_sizes(loss), coefficients={"clip_epsilon": (0.1, 0.2, 0.3)})


@pytest.mark.slow
@pytest.mark.parametrize("torchrls", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_every_normaliser_compiles_whole_and_seldom(norm, torchrls):
    loss, _ = plain_team(getattr(modules, norm)(), torchrls)
    assert_compiles_once(loss, of_sizes(loss))


def test_independent_learners_are_the_same_loss():
    networks = team("local")
    data = team_steps(networks[0], given=False)
    mine, expected = (loss(*networks)(data) for loss in (IPPOLoss, MAPPOLoss))
    torch.testing.assert_close(mine.to_dict(), expected.to_dict())
    assert issubclass(IPPOLoss, MAPPOLoss)


def test_what_is_no_normaliser_is_refused():
    with pytest.raises(
        TypeError, match="`value_norm` must be a ValueNorm or None, got BatchNorm1d"
    ):
        MAPPOLoss(*team(), value_norm=nn.BatchNorm1d(1))
    with pytest.raises(TypeError, match="MAPPOLoss: `value_nrom` is not an argument"):
        MAPPOLoss(*team(), value_nrom=None)


@pytest.mark.parametrize("norm", [None, modules.PopArtValueNorm()])
def test_a_normaliser_is_fixed_when_the_loss_is_made(norm):
    loss = MAPPOLoss(*team(), value_norm=norm)
    for name in ("value_norm", "advantage_norm"):
        with pytest.raises(AttributeError, match=f"`{name}` is fixed when it is made"):
            setattr(loss, name, nn.Linear(1, 1))
