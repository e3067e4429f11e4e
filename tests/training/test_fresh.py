"""What an update step and an updater notice that was changed behind their backs."""

import pytest
import torch
from torch import nn

from compiled_rl import SoftUpdate, UpdateStep
from compiled_rl.losses import LossModule
from tests.losses.transitions import SUBJECTS
from tests.training.test_targets import our_loss
from tests.training.test_update_targets import steps

SLOW = pytest.param("default", marks=pytest.mark.slow)
MODES = pytest.mark.parametrize("mode", ["eager", SLOW])


class Learner:
    def __init__(self, mode: str) -> None:
        self.loss = SUBJECTS["ddpg-delayed"].ours()
        self.updater = SoftUpdate(self.loss, tau=0.1)
        adam = torch.optim.Adam(self.loss.parameters())
        self.step = UpdateStep(self.loss, adam, target_updater=self.updater, mode=mode)
        self.data = steps(4, 0, torch.float32)
        self.step(self.data)


def layers(loss: LossModule, network: str) -> tuple[str, nn.Sequential]:
    """The first row of layers of a network, and its name."""
    named = getattr(loss, network).named_modules()
    return next((f"{network}.{name}", m) for name, m in named if type(m) is nn.Sequential)


@MODES
@pytest.mark.parametrize("network", ["value_network", "target_value_network"])
def test_a_replaced_layer_is_noticed(mode, network, counted):
    learner = Learner(mode)
    name, row = layers(learner.loss, network)
    row[0] = nn.Linear(row[0].in_features, row[0].out_features)
    for moving in (lambda: learner.step(learner.data), learner.updater.step):
        with pytest.raises(RuntimeError, match=rf"`{name}.0` must be the module that it was, a Li"):
            moving()


@MODES
def test_a_layer_that_comes_or_goes_is_noticed(mode, counted):
    learner = Learner(mode)
    name, row = layers(learner.loss, "value_network")
    row.append(nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match=rf"`{name}.\d` must be the .* was, none, got a Linear"):
        learner.step(learner.data)
    row[-1] = row[0] = nn.Identity()
    with pytest.raises(RuntimeError, match=rf"`{name}.0` must be .* a Linear, got none"):
        learner.step(learner.data)


@MODES
def test_a_replaced_activation_is_computed(mode, counted):
    learner = Learner(mode)
    _, row = layers(learner.loss, "value_network")
    row[1] = nn.Sigmoid()
    expected = learner.loss(learner.data)["loss_value"]
    torch.testing.assert_close(learner.step(learner.data)["loss_value"], expected.detach())


@MODES
def test_hooks_that_come_or_go_are_noticed(mode, counted):
    learner = Learner(mode)
    _, row = layers(learner.loss, "value_network")
    for register in (row[0].register_forward_hook, row[0].register_forward_pre_hook):
        handle = register(lambda *_: None)
        with pytest.raises(RuntimeError, match="forward hooks must be registered and removed befo"):
            learner.step(learner.data)
        handle.remove()
        learner.step(learner.data)
    row[0].register_forward_hook(lambda module, args, output: output + 1)
    step = UpdateStep(learner.loss, learner.step.optimizer, mode=mode)
    expected = learner.loss(learner.data)["loss_value"]
    torch.testing.assert_close(step(learner.data)["loss_value"], expected.detach())


def test_an_updater_follows_what_is_moved_but_not_what_is_replaced():
    loss = our_loss()
    updater = SoftUpdate(loss, tau=0.5)
    loss.to(torch.float64)
    updater.step()
    loss.value[0] = nn.Linear(3, 4).double()
    with pytest.raises(RuntimeError, match=r"SoftUpdate: `value.0` must be the module that it was"):
        updater.step()
    with pytest.warns(UserWarning, match="initialised again"):
        updater.init_()
    updater.step()
