"""Networks that a loss was given by name, and the views of their parameters."""

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import MultiAgentMLP

import compiled_rl
from tests.losses.tutorial import PEER, ddpg_loss, networks


def test_views_are_the_networks_own_tensors():
    loss = ddpg_loss(compiled_rl)(*networks())
    with torch.no_grad():
        loss.actor_network_params.data.zero_()
    assert all((x == 0).all() for x in loss.actor_network.parameters())
    assert all(x.requires_grad for x in loss.actor_network_params.values(True, True))
    assert not any(x.requires_grad for x in loss.target_actor_network_params.values(True, True))


def test_without_a_copy_the_target_is_the_network_without_gradient():
    loss, network = compiled_rl.LossModule(), nn.Linear(2, 1)
    loss.convert_to_functional(network, "value_network")
    view = loss.target_value_network_params
    assert not view["weight"].requires_grad
    assert view["weight"].data_ptr() == network.weight.data_ptr()


def test_shared_parameters_are_held_out_of_the_second_network():
    trunk = nn.Linear(2, 2)
    actor, critic = nn.Sequential(trunk, nn.Linear(2, 1)), nn.Sequential(trunk, nn.Linear(2, 1))
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(actor, "actor")
    loss.convert_to_functional(critic, "critic", compare_against=actor.parameters())
    with loss.critic_params.to_module(loss.critic):
        loss.critic(torch.ones(3, 2)).sum().backward()
    assert trunk.weight.grad is None
    assert critic[1].weight.grad is not None


def test_only_what_the_loss_has_already_is_held_out_of_one_network():
    loss, critic = compiled_rl.LossModule(), nn.Linear(2, 1)
    loss.convert_to_functional(critic, "critic", compare_against=critic.parameters())
    assert all(x.requires_grad for x in loss.critic_params.values())


def test_a_native_losss_parameters_are_viewed_too():
    loss = compiled_rl.DDPGLoss(*networks())
    assert loss.value_network_params["module", "mlp1", "0", "weight"] is next(
        loss.value_network.parameters()
    )
    target = loss.target_value_network_params["module", "mlp1", "0", "weight"]
    assert target is next(loss.target_value_network.buffers())


def test_what_is_refused():
    loss = compiled_rl.LossModule()
    with pytest.raises(TypeError, match=r"`module` must be an nn.Module, got dict"):
        loss.convert_to_functional({}, "actor")
    with pytest.raises(TypeError, match=r"`module` must be an nn.Module, got str"):
        loss.convert_to_functional([nn.Linear(1, 1), "b"], "actor", expand_dim=2)
    for size in (None, 3):
        with pytest.raises(RuntimeError, match=rf"a list of `expand_dim`, got 2 and {size}"):
            loss.convert_to_functional([nn.Linear(1, 1), nn.Linear(1, 1)], "actor", size)
    with pytest.raises(ValueError, match="must be at least one, got none"):
        loss.convert_to_functional(nn.Linear(1, 1), "actor", expand_dim=0)
    with pytest.raises(ValueError, match="must have one architecture, got others in network 1"):
        loss.convert_to_functional([nn.Linear(1, 1), nn.Linear(2, 1)], "actor", expand_dim=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'funs_to_decorate'"):
        loss.convert_to_functional(nn.Linear(1, 1), "actor", funs_to_decorate=["forward"])
    assert list(loss.children()) == []
    with pytest.raises(AttributeError, match=r"`module_name` must be .* free, got 'forward'"):
        loss.convert_to_functional(nn.Linear(1, 1), "forward")
    with pytest.raises(AttributeError, match="no network for `actor_params`"):
        _ = loss.actor_params
    with pytest.raises(AttributeError, match="gamma"):
        _ = loss.gamma


WRONG = {
    "half a network": (TypeError, "`expand_dim` must be an integer or None, got 2.0", [2.0]),
    "a flag": (TypeError, "`expand_dim` must be an integer or None, got True", [True]),
    "one parameter": (
        TypeError,
        "be parameters, .* got Parameter",
        [2, False, nn.Linear(2, 2).bias],
    ),
    "a network": (TypeError, "be parameters, .* got Linear", [None, False, nn.Linear(2, 2)]),
    "names": (TypeError, "be parameters, .* got str", [None, False, ["0.weight"]]),
}
NAMES = ["training", "reduction", "gamma", "parameters", "a.b", "", 3]


@pytest.mark.parametrize(("error", "words", "given"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused_in_words(error, words, given):
    loss = compiled_rl.LossModule()
    with pytest.raises(error, match=words):
        loss.convert_to_functional(nn.Linear(2, 2), "critic", *given)
    assert list(loss.children()) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_name_must_be_a_name_and_free(name):
    loss = compiled_rl.LossModule()
    loss.register_coeff_buffer("gamma", 0.9)
    with pytest.raises((AttributeError, ValueError), match=f"`module_name` must .* got {name!r}"):
        loss.convert_to_functional(nn.Linear(2, 2), name)
    assert list(loss.children()) == []


def test_a_network_without_values_is_neither_copied_nor_drawn_anew():
    loss, lazy = compiled_rl.LossModule(), nn.Sequential(nn.LazyLinear(5))
    copied = "must have been called once before the loss is made.* got .* at '0.weight'"
    with pytest.raises(ValueError, match=copied):
        loss.convert_to_functional(lazy, "critic", create_target_params=True)
    with pytest.raises(ValueError, match=copied):
        compiled_rl.DQNLoss(lazy, action_space="one-hot")
    with pytest.raises(ValueError, match=copied):
        compiled_rl.TD3Loss(nn.Linear(2, 2), lazy, bounds=(-1.0, 1.0))
    for module in (lazy, [lazy, lazy]):
        with pytest.raises(ValueError, match=copied):
            loss.convert_to_functional(module, "critic", expand_dim=2)
    with pytest.raises(ValueError, match=r"must hold values, .* got a meta tensor at 'weight'"):
        loss.convert_to_functional(nn.Linear(2, 2, device="meta"), "critic", expand_dim=2)
    assert list(loss.children()) == []
    lazy(torch.zeros(1, 3))
    loss.convert_to_functional(lazy, "critic", 2, create_target_params=True)
    assert loss.target_critic_params["0", "weight"].shape == (2, 5, 3)


@pytest.mark.parametrize("size", [None, 2])
def test_a_view_has_the_networks_parameters(size):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    loss = stacked(network, expand_dim=size, create_target_params=True)
    named = dict(loss.critic_params.named_parameters("it"))
    own = dict(loss.critic.named_parameters("it"))
    assert list(own) == list(named)
    assert all(named[name] is x for name, x in own.items())
    assert list(map(id, loss.critic_params.parameters())) == list(map(id, own.values()))
    assert list(loss.critic_params.parameters(recurse=False)) == []
    assert list(loss.target_critic_params.parameters()) == []
    assert list(loss.critic_params.detach().parameters()) == []


def test_of_a_view_what_is_shared_is_a_parameter_and_what_is_held_out_is_none():
    trunk = nn.Linear(2, 2)
    networks = [nn.Sequential(trunk, nn.Linear(2, 1)) for _ in range(2)]
    loss = stacked(networks, expand_dim=2)
    own = [id(x) for x in loss.critic.parameters()]
    assert [id(x) for x in loss.critic_params.parameters()] == own
    apart = stacked(networks, expand_dim=2, compare_against=trunk.parameters())
    assert [name for name, _ in apart.critic_params.named_parameters()] == ["1.weight", "1.bias"]


@pytest.mark.filterwarnings("ignore::UserWarning:torchrl")
def test_frozen_parameters_are_copied_and_tied_ones_stay_tied():
    """TorchRL draws the first and has them learn, and draws the second twice."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    network[2].weight = network[1].weight
    found = []
    for module in (compiled_rl, PEER):
        loss = module.LossModule()
        wrapped = TensorDictModule(network, ["x"], ["y"])
        loss.convert_to_functional(wrapped, "critic", expand_dim=3, create_target_params=True)
        first, second, third = [loss.critic_params["module", k, "weight"] for k in "012"]
        frozen = not first.requires_grad
        same = torch.equal(first, network[0].weight.expand(3, 2, 2))
        found.append((frozen, same, torch.equal(second, third)))
        if module is compiled_rl:
            assert loss.target_critic.module[1].weight is loss.target_critic.module[2].weight
    assert found == [(True, True, True), (False, False, False)]


def test_attributes_may_come_before_and_after_the_constructor():
    class Early(compiled_rl.LossModule):
        def __init__(self):
            self.reduction = "sum"
            self.count = 3
            super().__init__()
            self.reduction = "none"

    loss = Early()
    assert (loss.count, loss.reduction) == (3, "none")


@pytest.mark.parametrize("kind", ["l1", "l2", "smooth_l1"])
def test_distance_is_torchrls(kind):
    a, b = torch.randn(4, 3), 2 * torch.randn(4, 3)
    torch.testing.assert_close(
        compiled_rl.distance_loss(a, b, loss_function=kind), PEER.distance_loss(a, b, kind)
    )


def test_distance_refuses_as_torchrls_does():
    distance = compiled_rl.distance_loss
    one, other = torch.zeros(4, 1), torch.ones(4)
    with pytest.raises(RuntimeError, match=r"`v2` must have the shape of `v1`, got \[4\]"):
        distance(one, other, "l2")
    assert distance(one, other, "l2", strict_shape=False).shape == (4, 4)
    with pytest.raises(NotImplementedError, match="`loss_function` must be"):
        distance(one, one, "l3")


def stacked(module: Any, **options: Any) -> Any:
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(module, "critic", **{"expand_dim": 3, **options})
    return loss


def test_stacked_parameters_are_drawn_from_the_range_of_the_modules():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    loss = stacked(module)
    for (name, x), (other, own) in zip(
        loss.critic.named_parameters(), module.named_parameters(), strict=True
    ):
        assert (name, list(x.shape)) == (other, [3, *own.shape])
        assert isinstance(x, nn.Parameter)
        assert own.min() <= x.min()
        assert x.max() <= own.max()
    assert not torch.equal(loss.critic[0].weight[0], loss.critic[0].weight[1])
    assert torch.equal(loss.critic[1].running_var, module[1].running_var.expand(3, 5))
    view = loss.critic_params
    assert view.batch_size == (3,)
    assert view["0", "weight"] is loss.critic[0].weight
    assert loss.critic_target_params["0", "weight"].shape == (3, 5, 4)


def test_what_a_list_shares_stays_one_and_learns_unless_it_is_apart():
    trunk = nn.Linear(2, 2)
    networks = [nn.Sequential(trunk, nn.Linear(2, 1)) for _ in range(3)]
    for apart in ([], list(trunk.parameters())):
        loss = stacked(networks, compare_against=apart, create_target_params=True)
        assert loss.critic[0].weight is trunk.weight
        assert loss.critic_params["0", "weight"].shape == (3, 2, 2)
        assert loss.critic_params["0", "weight"].requires_grad is not bool(apart)
        assert loss.target_critic_params["0", "weight"].shape == (3, 2, 2)
        own = torch.stack([network[1].weight for network in networks])
        assert torch.equal(loss.critic_params["1", "weight"], own)
        with torch.no_grad():
            trunk.weight.fill_(0.5)
        assert (loss.critic_params["0", "weight"] == 0.5).all()


def test_the_documented_name_of_a_target_is_the_other_one_too():
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(nn.Linear(2, 1), "critic", create_target_params=True)
    other = loss.critic_target_params
    assert other["weight"] is loss.target_critic_params["weight"] is loss.target_critic.weight
    assert hasattr(loss, "critic_params")
    assert not hasattr(loss, "actor_target_params")


@pytest.mark.parametrize("size", [None, 3])
def test_targets_are_buffers_and_in_no_parameters(size):
    module = nn.Linear(2, 1)
    loss = stacked(module, expand_dim=size, create_target_params=True)
    names = ["critic.weight", "critic.bias"]
    assert [name for name, _ in loss.named_parameters()] == names
    assert [name for name, _ in loss.named_buffers()] == [f"target_{name}" for name in names]
    loss.again = loss.critic
    both = [*names, "again.weight", "again.bias"]
    assert [name for name, _ in loss.named_parameters(remove_duplicate=False)] == both
    prefixed = loss.named_parameters("loss", recurse=True)
    assert [name for name, _ in prefixed] == [f"loss.{name}" for name in names]
    assert list(loss.parameters(recurse=False)) == []


def test_a_view_that_is_detached_leaves_no_parameters_behind():
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(nn.Sequential(nn.Linear(2, 1)), "critic", create_target_params=True)
    critic = loss.critic
    before = [(name, id(x)) for name, x in critic.named_parameters()]
    nested = TensorDict({"0": {"critic": loss.target_critic_params}}, [])
    holder = nn.ModuleList([nn.ModuleDict({"critic": critic})])
    for view, module in (
        (loss.critic_params.detach(), critic),
        (loss.critic_params.clone().detach(), critic),
        (loss.target_critic_params, critic),
        (nested, holder),
    ):
        with view.to_module(module):
            assert not critic(torch.ones(1, 2)).requires_grad
        assert [(name, id(x)) for name, x in critic.named_parameters()] == before


def test_a_view_inside_of_another_tensordict_compiles():
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(nn.Sequential(nn.Linear(2, 1)), "critic", create_target_params=True)
    holder = nn.ModuleDict({"critic": loss.critic})

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for view in (loss.target_critic_params, loss.critic_params.detach(), loss.critic_params):
            with TensorDict({"critic": view}, []).to_module(holder):
                found.append(loss.critic(x))
        return found

    found = torch.compile(call, fullgraph=True, backend="eager")(torch.ones(3, 2))
    assert [x.requires_grad for x in found] == [False, False, True]


def test_what_is_not_annotated_is_taken(recwarn):
    class Annotated(compiled_rl.LossModule):
        critic: nn.Linear
        critic_params: TensorDict
        target_critic_params: TensorDict

    for make in (Annotated, compiled_rl.LossModule):
        loss = make()
        loss.convert_to_functional(nn.Linear(2, 1), "critic", create_target_params=True)
        assert loss.critic_params["weight"] is loss.critic.weight
    assert len(recwarn) == 0


def test_networks_of_several_agents_are_held_out():
    """They have a TensorDictParams, of which another TensorDict is not made a part."""
    options = {"centralised": False, "share_params": False, "depth": 1, "num_cells": 3}
    agents = TensorDictModule(MultiAgentMLP(4, 3, 2, **options), ["x"], ["hidden"])
    heads = [TensorDictModule(nn.Linear(3, 1), ["hidden"], [name]) for name in ("a", "v")]
    actor, critic = (TensorDictSequential(agents, head) for head in heads)
    loss = compiled_rl.LossModule()
    loss.convert_to_functional(actor, "actor")
    loss.convert_to_functional(critic, "critic", compare_against=actor.parameters())
    before = [(name, id(x)) for name, x in loss.named_parameters()]
    with loss.critic_params.to_module(loss.critic):
        loss.critic(TensorDict({"x": torch.ones(6, 2, 4)}, [6]))["v"].sum().backward()
    assert all(x.grad is None for x in agents.parameters())
    assert all(x.grad is not None for x in heads[1].parameters())
    assert [(name, id(x)) for name, x in loss.named_parameters()] == before
