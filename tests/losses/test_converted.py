"""Networks that a loss was given by name, and the views of their parameters."""

import pytest
import torch
from torch import nn

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
    with pytest.raises(NotImplementedError, match=r"`expand_dim` must be None, got 2"):
        loss.convert_to_functional(nn.Linear(1, 1), "actor", expand_dim=2)
    with pytest.raises(AttributeError, match=r"`module_name` must be .* free, got 'forward'"):
        loss.convert_to_functional(nn.Linear(1, 1), "forward")
    with pytest.raises(AttributeError, match="no network for `actor_params`"):
        _ = loss.actor_params
    with pytest.raises(AttributeError, match="gamma"):
        _ = loss.gamma


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
