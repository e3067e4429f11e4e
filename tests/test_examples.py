"""The off-policy examples run, small: networks learn, frozen copies follow. Slow tests train."""

import copy
import math

import pytest
import torch

from examples import ddpg_pendulum, dqn_cartpole, sac_pendulum, td3_pendulum

STEPS = {ddpg_pendulum: 1_020, td3_pendulum: 1_020, sac_pendulum: 1_020, dqn_cartpole: 512}


@pytest.mark.parametrize("example", STEPS, ids=lambda example: example.__name__)
def test_networks_learn_and_copies_follow(example, monkeypatch):
    made = []

    def recorded(seed):
        loss = make_loss(seed)
        made.append((loss, copy.deepcopy(loss.state_dict())))
        return loss

    make_loss = example.make_loss
    monkeypatch.setattr(example, "make_loss", recorded)
    assert math.isfinite(example.main(STEPS[example], compile=False))
    ((loss, before),) = made
    learned = [name for name in loss.state_dict() if name.endswith("weight")]
    assert any(name.startswith("target_") for name in learned)
    for name in learned:
        assert not torch.equal(loss.state_dict()[name], before[name]), name


def test_no_steps_are_no_error():
    assert math.isfinite(dqn_cartpole.main(steps=10, compile=False))
