"""Frozen copies are in use, never in training: batch normalisation and dropout in a target."""

import pytest
import torch
from torch import nn

from compiled_rl import losses
from tests.losses.peers import networks, sequences, total

DELAYED = [
    ("ReinforceLoss", {"delay_value": True}, "target_critic_network"),
    ("PPOLoss", {"delay_actor": True}, "target_actor_network"),
    ("ClipPPOLoss", {"delay_actor": True}, "target_actor_network"),
    ("KLPENPPOLoss", {"delay_actor": True}, "target_actor_network"),
]
every_target = pytest.mark.parametrize(("name", "arguments", "target"), DELAYED)


class Normalised(nn.Module):
    """Batch normalisation over all leading axes, then dropout."""

    def __init__(self, size):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(size), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape))


def made(name, trunk=None, **arguments):
    actor, critic = networks("normal", trunk)
    linear = [(x, k) for net in (actor, critic) for x in list(net.modules()) for k in x._modules]
    for part, key in linear:
        child = getattr(part, key)
        if isinstance(child, nn.Linear):
            setattr(part, key, nn.Sequential(Normalised(child.in_features), child))
    return getattr(losses, name)(actor, critic, **arguments)


@every_target
@pytest.mark.parametrize("trunk", [None, "once"])
def test_a_target_is_evaluated_in_training_too(name, arguments, target, trunk):
    loss = made(name, trunk, **arguments)
    copy = getattr(loss, target)
    before = {key: x.clone() for key, x in copy.named_buffers()}
    modes = []
    for part in copy.modules():
        if isinstance(part, nn.BatchNorm1d | nn.Dropout):
            part.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    loss = loss.train()
    total(loss(sequences(loss))).backward()
    assert modes
    assert not any(modes)
    assert loss.training
    for key, x in copy.named_buffers():
        assert torch.equal(x, before[key]), key


@every_target
def test_what_a_target_computes_is_certain(name, arguments, target):
    """The same in every call of the copy, while the networks that learn drop what they drop."""
    loss = made(name, **arguments)
    assert not any(part.training for part in getattr(loss, target).modules())
    for mode in (loss.train, loss.eval, lambda: loss.train(True)):
        mode()
        assert not any(part.training for part in getattr(loss, target).modules())
    loss.train()
    assert any(part.training for part in loss.actor_network.modules())


def test_states_entered_are_valued_by_the_copy():
    loss = made("ReinforceLoss", delay_value=True, reduction="none", loss_critic_type="l1")
    loss.make_value_estimator("td0", gamma=0.5)
    data = sequences(loss)
    with torch.no_grad():
        for x in loss.target_critic_network.buffers():
            if x.is_floating_point():
                x.add_(0.3)
    left = loss.critic_network.eval().module(data["observation"])
    entered = loss.target_critic_network.module(data["next", "observation"])
    target = data["next", "reward"] + 0.5 * entered * ~data["next", "terminated"]
    expected = (left - target).abs().squeeze(-1)
    torch.testing.assert_close(loss(data)["loss_value"], expected)
