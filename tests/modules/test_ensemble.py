"""Several networks as one: the members' values, gradients, names and ranges."""

import copy

import pytest
import torch
from torch import nn

from compiled_rl.modules import Ensemble, frozen_copy
from compiled_rl.testing import assert_compiles_once


def critic(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def test_members_compute_what_their_networks_did_with_the_same_gradients():
    networks = [critic(seed) for seed in range(3)]
    ensemble = Ensemble(networks)
    x = torch.randn(5, 2, 4)
    together = ensemble(x)
    alone = torch.stack([network(x) for network in networks])
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    alone.square().sum().backward()
    for name, stacked in ensemble.network.named_parameters():
        own = torch.stack([network.get_parameter(name).grad for network in networks])
        torch.testing.assert_close(stacked.grad, own)


def test_names_are_those_of_the_network_and_the_copies_are_copies():
    networks = [critic(0), critic(1)]
    ensemble = Ensemble(networks)
    names = [f"network.{name}" for name, _ in networks[0].named_parameters()]
    assert [name for name, _ in ensemble.named_parameters()] == names
    before = networks[0][0].weight.clone()
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.zero_()
    assert torch.equal(networks[0][0].weight, before)


def test_resampled_members_differ_and_stay_in_the_range_of_the_network():
    network = critic(0)
    ensemble = Ensemble.resampled(network, 4)
    for name, own in network.named_parameters():
        stacked = ensemble.network.get_parameter(name)
        assert stacked.shape == (4, *own.shape)
        assert stacked.min() >= own.min()
        assert stacked.max() <= own.max()
        assert own.numel() == 1 or not torch.equal(stacked[0], stacked[1])


def test_what_is_shared_is_one_for_all_and_the_very_parameter():
    trunk = nn.Linear(4, 8)
    networks = [nn.Sequential(trunk, nn.Linear(8, 1)) for _ in range(2)]
    ensemble = Ensemble(networks, list(trunk.parameters()))
    assert ensemble.network[0].weight is trunk.weight
    assert set(ensemble.shared()) == {"0.weight", "0.bias"}
    assert set(ensemble.members()) == {"1.weight", "1.bias"}
    x = torch.randn(3, 4)
    torch.testing.assert_close(ensemble(x), torch.stack([network(x) for network in networks]))


def test_statistics_are_each_members_own():
    networks = [nn.Sequential(nn.BatchNorm1d(4), critic(seed)) for seed in range(2)]
    networks[1][0].running_mean.fill_(3.0)
    ensemble = Ensemble(networks)
    x = torch.randn(6, 4)
    ensemble(x)
    for network in networks:
        network(x)
    for k, network in enumerate(networks):
        torch.testing.assert_close(ensemble.network[0].running_mean[k], network[0].running_mean)
        assert ensemble.network[0].num_batches_tracked[k] == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, frozen_copy])
def test_copies_compute_the_same_and_stand_alone(copied):
    ensemble = Ensemble([critic(0), critic(1)])
    other, x = copied(ensemble), torch.randn(3, 4)
    assert torch.equal(other(x), ensemble(x))
    with torch.no_grad():
        ensemble.network[0].weight.zero_()
    assert not torch.equal(other(x), ensemble(x))


def test_a_functional_call_reaches_the_members():
    ensemble, x = Ensemble([critic(0), critic(1)]), torch.randn(3, 4)
    halved = {name: p.detach() / 2 for name, p in ensemble.named_parameters()}
    found = torch.func.functional_call(ensemble, halved, (x,))
    ensemble.load_state_dict(halved)
    assert torch.equal(found, ensemble(x))


def test_compiles_whole_and_seldom():
    ensemble = Ensemble([critic(0), critic(1)])
    assert_compiles_once(ensemble, [torch.randn(n, 3, 4) for n in (2, 3, 5, 8)])


def test_networks_of_another_architecture_are_refused():
    with pytest.raises(ValueError, match="`networks` must be at least one, got none"):
        Ensemble([])
    relu = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    for other in (relu, critic(1).double()):
        with pytest.raises(
            ValueError, match=r"`networks` must have one architecture, .* network 1"
        ):
            Ensemble([critic(0), other])
    wider = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
    with pytest.raises(ValueError, match=r"`networks` must have one architecture, .* network 1"):
        Ensemble([critic(0), wider])
