"""Networks of a loss as they are: had, filled, initialised anew, and under ``vmap``."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

import compiled_rl
from compiled_rl import ClipPPOLoss, Policy, SACLoss, ValueHead
from compiled_rl.modules import Categorical, Normal
from tests.losses.written import PEER


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([observation, action], -1)).squeeze(-1)


def ppo(functional: bool = True) -> ClipPPOLoss:
    policy = Policy(nn.Linear(4, 3), Categorical)
    return ClipPPOLoss(policy, ValueHead(4), functional=functional)


def sac() -> SACLoss:
    return SACLoss(Policy(nn.Linear(4, 2), Normal), Critic(), target_entropy=-1.0)


def written(size: int | None = None) -> compiled_rl.LossModule:
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(nn.Linear(4, 1), "critic", size, create_target_params=True)
    return loss


LOSSES = {
    "written": (written, "critic"),
    "stacked": (lambda: written(3), "critic"),
    "PPO": (ppo, "critic_network"),
    "SAC": (sac, "qvalue_network"),
}
losses = pytest.mark.parametrize(("make", "name"), LOSSES.values(), ids=LOSSES)


def values(network: nn.Module) -> list[torch.Tensor]:
    return [x.detach().clone() for x in network.parameters()]


@losses
def test_a_copy_is_a_copy_and_comes_back(make, name):
    loss = make()
    network, before = loss.get_stateful_net(name), values(getattr(loss, name))
    with torch.no_grad():
        for x in network.parameters():
            x.fill_(3.0)
    assert all(map(torch.equal, values(getattr(loss, name)), before))
    copied = [id(x) for x in getattr(loss, name).parameters()]
    loss.from_stateful_net(name, network)
    assert all((x == 3.0).all() for x in getattr(loss, name).parameters())
    assert [id(x) for x in getattr(loss, name).parameters()] == copied


@pytest.mark.filterwarnings("ignore::UserWarning:torchrl")
def test_a_copy_of_torchrls_is_none():
    loss = PEER.LossModule()
    loss.convert_to_functional(TensorDictModule(nn.Linear(4, 1), ["x"], ["y"]), "critic")
    network = loss.get_stateful_net("critic")
    with torch.no_grad():
        network.module.weight.fill_(3.0)
    assert (loss.critic_params["module", "weight"] == 3.0).all()


def test_no_copy_is_made_where_none_is_wanted():
    loss = ppo(functional=False)
    assert (loss.functional, ppo().functional, written().functional) == (False, True, True)
    assert loss.get_stateful_net("critic_network") is loss.critic_network
    assert loss.get_stateful_net("critic_network", copy=True) is not loss.critic_network
    assert ppo().get_stateful_net("critic_network") is not loss.critic_network
    assert written().get_stateful_net("critic", copy=False).weight.requires_grad


@losses
def test_another_network_is_refused_and_nothing_changes(make, name):
    loss = make()
    before = values(loss)
    for other in (nn.Linear(4, 1, bias=False), nn.Linear(9, 1)):
        with pytest.raises(RuntimeError, match=f"must have the tensors of `{name}`, got others"):
            loss.from_stateful_net(name, other)
    assert all(map(torch.equal, values(loss), before))
    with pytest.raises(AttributeError, match=rf"no network `actor`; the networks are .*{name}"):
        loss.get_stateful_net("actor")
    loss.family = nn.Identity()  # a part without parameters is no network
    assert "family" not in loss._network_names()


def test_other_buffers_make_another_network():
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(nn.BatchNorm1d(2), "critic")
    for other in (nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2)):
        if other.track_running_stats:
            other.register_buffer("count", torch.zeros(3))
        with pytest.raises(RuntimeError, match="must have the tensors of `critic`, got others"):
            loss.from_stateful_net("critic", other)


@losses
def test_networks_are_initialised_anew_and_copies_are_equal_again(make, name):
    loss = make()
    with torch.no_grad():
        for x in [*loss.parameters(), *loss.buffers()]:
            x.fill_(100.0)
    loss.reset_parameters_recursive()
    for key, x in getattr(loss, name).named_parameters():
        assert (x.abs() < 1).all()
        target = getattr(loss, f"target_{name}", None)
        assert target is None or torch.equal(target.get_buffer(key), x)


def test_copies_of_a_shared_trunk_are_of_the_trunk_as_it_was_last_initialised():
    loss, trunk = compiled_rl.LossModule(), nn.Linear(4, 4)
    for name in ("actor", "critic"):
        network = nn.Sequential(trunk, nn.Linear(4, 1))
        loss.convert_to_functional(network, name, create_target_params=True)
    loss.reset_parameters_recursive()
    for target in (loss.target_actor, loss.target_critic):
        assert torch.equal(target[0].weight, trunk.weight)


def test_what_members_share_is_initialised_as_one():
    loss, trunk = compiled_rl.LossModule(), nn.Linear(4, 2)
    networks = [nn.Sequential(trunk, nn.Linear(2, 1)) for _ in range(3)]
    loss.convert_to_functional(networks, "critic", 3)
    before = trunk.weight.detach().clone()
    loss.reset_parameters_recursive()
    assert loss.critic[0].weight is trunk.weight
    assert not torch.equal(trunk.weight, before)


def test_each_member_is_initialised_as_a_network_of_its_own():
    torch.manual_seed(0)
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(nn.GRU(16, 16), "memory", expand_dim=2)
    loss.convert_to_functional(nn.Linear(10000, 2), "wide", expand_dim=2)
    loss.reset_parameters_recursive()
    assert 0.009 < loss.wide.weight.abs().max() < 0.01  # 1 / sqrt(10000), not of 2 * 10000
    assert 0.2 < loss.memory.weight_hh_l0.abs().max() < 0.25  # 1 / sqrt(16)
    assert not torch.equal(loss.wide.weight[0], loss.wide.weight[1])
    assert not torch.equal(loss.memory.weight_hh_l0[0], loss.memory.weight_hh_l0[1])


def test_random_modules_are_found_and_may_be_added(monkeypatch):
    class Noise(nn.Module):
        pass

    loss = written()
    assert loss.vmap_randomness == "error"
    loss.convert_to_functional(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "actor")
    assert loss.vmap_randomness == "different"
    other = compiled_rl.LossModule()
    other.convert_to_functional(Noise(), "actor")
    assert other.vmap_randomness == "error"
    monkeypatch.setattr("compiled_rl.adapters.torchrl._random", [nn.modules.dropout._DropoutNd])
    compiled_rl.add_random_module(Noise)
    assert other.vmap_randomness == "different"


def test_randomness_is_set_and_functions_are_made_anew():
    class Loss(compiled_rl.LossModule):
        made: int = 0

        def _make_vmap(self):
            self.made += 1

    loss = Loss()
    for value in ("different", "same", "error"):
        loss.vmap_randomness = value
        assert loss.vmap_randomness == value
    loss.set_vmap_randomness("same")
    assert (loss.vmap_randomness, loss.made) == ("same", 4)
    with pytest.raises(ValueError, match=r"`vmap_randomness` must be in .*, got 'often'"):
        loss.vmap_randomness = "often"


def test_randomness_reaches_vmap():
    loss = compiled_rl.LossModule()
    network = nn.Sequential(nn.Linear(8, 8), nn.Dropout())
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(8))
    loss.convert_to_functional(TensorDictModule(network, ["x"], ["y"]), "q", 2)
    data = TensorDict({"x": torch.ones(64, 8)}, [64])
    for randomness in ("different", "same"):
        loss.vmap_randomness = randomness
        call = compiled_rl._vmap_func(loss.q, (None, 0), randomness=loss.vmap_randomness)
        dropped = call(data, loss.q_params)["y"] == 0
        assert torch.equal(dropped[0], dropped[1]) is (randomness == "same")
    call = compiled_rl._vmap_func(loss.q, (None, 0), func="forward", pseudo_vmap=True)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        call(data, loss.q_params)


def test_nothing_is_reset_where_nothing_adapts():
    loss = written()
    before = values(loss)
    assert loss.reset() is None
    assert all(map(torch.equal, values(loss), before))


@pytest.mark.parametrize("name", ["critic_params", "target_critic_params", "critic_target_params"])
def test_a_view_is_filled_and_not_assigned(name: str) -> None:
    loss = written()
    others = getattr(loss, name).data.apply(torch.zeros_like)
    with pytest.raises(AttributeError, match=f"`{name}` is a view .* must be filled by"):
        setattr(loss, name, others)
    getattr(loss, name).data.update_(others)
    network = loss.critic if name == "critic_params" else loss.target_critic
    assert not any(x.any() for x in network.state_dict().values())
    loss.other_params = None
