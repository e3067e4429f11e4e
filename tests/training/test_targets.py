"""Target networks: the updaters against TorchRL's on its losses, against the rules on ours."""

import copy
import warnings

import pytest
import torch
import torchrl.objectives as torchrl
from torch import nn
from torchrl.modules import Actor, ValueOperator

from compiled_rl import HardUpdate, ReinforceLoss, SoftUpdate, TargetNetUpdater, UpdateStep
from compiled_rl.losses import LossModule
from compiled_rl.modules import frozen_copy
from tests.losses.networks import OBSERVATION, plain_networks

ACTION = 2


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(OBSERVATION + ACTION, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)
        )

    def forward(self, observation, action):
        return self.network(torch.cat([observation, action], -1))


def torchrl_loss(**delays) -> torchrl.DDPGLoss:
    torch.manual_seed(0)
    actor = Actor(nn.Sequential(nn.Linear(OBSERVATION, 8), nn.Tanh(), nn.Linear(8, ACTION)))
    critic = ValueOperator(Critic(), in_keys=["observation", "action"])
    return torchrl.DDPGLoss(actor, critic, **({"delay_actor": True, "delay_value": True} | delays))


class Delayed(LossModule):
    """The least of a loss with frozen copies: networks that are given, and a copy of each."""

    output_names = ()

    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)
            setattr(self, f"target_{name}", frozen_copy(network))


def our_loss() -> Delayed:
    torch.manual_seed(0)
    return Delayed(
        value=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        memory=nn.GRU(3, 2),
    )


def disturb(loss: nn.Module, seed: int) -> None:
    """Training, as a target sees it: parameters and statistics are others."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in (*loss.named_parameters(), *loss.named_buffers()):
        if not name.startswith("target_"):
            new = torch.randn(x.shape, generator=generator)
            x.data.copy_(new) if x.is_floating_point() else x.fill_(seed)


def tensors(loss: nn.Module) -> dict[str, torch.Tensor]:
    return {k: x.clone() for k, x in loss.state_dict(keep_vars=True).items()}


UPDATERS = [
    ("SoftUpdate", {"eps": 0.9}),
    ("SoftUpdate", {"tau": 0.3}),
    ("SoftUpdate", {"tau": 1.0}),
    ("HardUpdate", {"value_network_update_interval": 3}),
    ("HardUpdate", {"value_network_update_interval": 0}),
]
OURS = {"SoftUpdate": SoftUpdate, "HardUpdate": HardUpdate}
every_updater = pytest.mark.parametrize(("name", "arguments"), UPDATERS)


@pytest.mark.filterwarnings("ignore:Found an eps", "ignore:SoftUpdate")
@pytest.mark.parametrize("delays", [{}, {"delay_actor": False}])
@every_updater
def test_torchrls_losses_are_moved_as_torchrl_does(name, arguments, delays):
    """Buffers, and what requires no gradient, included: they stay."""
    loss, theirs = torchrl_loss(**delays), torchrl_loss(**delays)
    for one in (loss, theirs):
        disturb(one, 99)
        next(one.value_network_params.parameters()).requires_grad_(False)
    ours, peer = OURS[name](loss, **arguments), getattr(torchrl, name)(theirs, **arguments)
    for k in range(9):
        torch.testing.assert_close(tensors(loss), tensors(theirs), rtol=0, atol=0)
        assert ours.state_dict() == peer.state_dict()
        assert getattr(ours, "counter", None) == getattr(peer, "counter", None)
        for one, updater in ((loss, ours), (theirs, peer)):
            disturb(one, k)
            updater.step()


def test_a_torchrl_loss_knows_that_it_has_an_updater(recwarn):
    loss = torchrl_loss()
    SoftUpdate(loss, tau=0.1)
    _ = loss.target_value_network_params
    assert all(loss._has_update_associated.values())
    assert not [w for w in recwarn if "target" in str(w.message)]


@pytest.mark.filterwarnings("ignore:SoftUpdate")
@every_updater
def test_buffers_of_a_copy_follow(name, arguments):
    """Statistics move as parameters do, counts are copied: unlike TorchRL, whose stay behind."""
    loss = our_loss()
    updater = OURS[name](loss, **arguments)
    held = tensors(loss)
    for k in range(1, 6):
        disturb(loss, k)
        updater.step()
        moved = name == "SoftUpdate" or k % (arguments["value_network_update_interval"] + 1) == 0
        tau = arguments.get("tau", 1 - arguments.get("eps", 0.0)) * moved
        for key, x in tensors(loss).items():
            if key.startswith("target_"):
                source = loss.state_dict()[key.removeprefix("target_")]
                counts = not x.is_floating_point()
                expected = (
                    (source if moved else held[key])
                    if counts
                    else ((1 - tau) * held[key] + tau * source)
                )
                torch.testing.assert_close(x, expected, msg=key)
        held = tensors(loss)


def test_making_an_updater_copies_everything():
    loss = our_loss()
    disturb(loss, 5)
    HardUpdate(loss)
    for key, x in loss.state_dict().items():
        if key.startswith("target_"):
            assert torch.equal(x, loss.state_dict()[key.removeprefix("target_")]), key


def test_a_recurrent_copy_computes_with_what_was_moved():
    loss, x = our_loss(), torch.randn(5, 3)
    updater = SoftUpdate(loss, tau=0.5)
    before = loss.target_memory(x)[0]
    disturb(loss, 3)
    updater.step()
    fresh = nn.GRU(3, 2)
    fresh.load_state_dict(loss.target_memory.state_dict())
    torch.testing.assert_close(loss.target_memory(x)[0], fresh(x)[0])
    assert not torch.allclose(loss.target_memory(x)[0], before)


@pytest.mark.parametrize("make", [our_loss, torchrl_loss])
def test_the_loss_may_change_its_dtype_or_load_a_state(make):
    loss = make()
    updater = SoftUpdate(loss, tau=0.25)
    other = copy.deepcopy(loss)
    disturb(other, 1)
    loss.to(torch.float64)
    loss.load_state_dict(other.state_dict())
    before = tensors(loss)
    updater.step()
    for key, x in tensors(loss).items():
        if key.startswith("target_") and "norm" not in key and x.is_floating_point():
            source = before[key.removeprefix("target_")]
            if make is our_loss or source.requires_grad:
                torch.testing.assert_close(x, torch.lerp(before[key], source, 0.25).detach())
                assert x.dtype == torch.float64


def test_copies_go_their_own_way():
    loss = our_loss()
    both = (loss, SoftUpdate(loss, tau=0.5))
    alone, (twin, updater) = copy.deepcopy(loss), copy.deepcopy(both)
    disturb(twin, 2)
    before = [tensors(one) for one in (loss, alone, twin)]
    updater.step()
    after = [tensors(one) for one in (loss, alone, twin)]
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=0)
    assert not torch.equal(after[2]["target_value.0.weight"], before[2]["target_value.0.weight"])


def test_a_trunk_of_two_networks_is_followed_by_both_copies():
    trunk = nn.Linear(3, 4)
    loss = Delayed(actor=nn.Sequential(trunk, nn.Linear(4, 2)), value=nn.Sequential(trunk))
    updater, before = SoftUpdate(loss, tau=0.5), trunk.weight.detach().clone()
    disturb(loss, 4)
    updater.step()
    middle = torch.lerp(before, trunk.weight.detach(), 0.5)
    for network in (loss.target_actor, loss.target_value):
        torch.testing.assert_close(network[0].weight, middle)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_step_leaves_gradients_as_enabled_as_they_were(enabled):
    updater = SoftUpdate(our_loss(), tau=0.5)
    with torch.set_grad_enabled(enabled):
        updater.step()
        assert torch.is_grad_enabled() == enabled
        updater.loss_module.target_value[0].weight = torch.zeros(1)  # cannot be averaged
        with pytest.raises(RuntimeError):
            updater.step()
        assert torch.is_grad_enabled() == enabled


def test_the_state_of_an_updater_goes_on_elsewhere():
    loss = our_loss()
    updater = HardUpdate(loss, value_network_update_interval=2)
    updater.step()
    assert updater.state_dict() == {"initialized": True, "counter": 1}
    other = HardUpdate(our_loss(), value_network_update_interval=2)
    other.load_state_dict(updater.state_dict())
    assert other.counter == 1
    other.load_state_dict({"initialized": False})
    with pytest.raises(RuntimeError, match=r"HardUpdate: `init_\(\)` must be called before"):
        other.step()
    other.init_()
    other.step()
    assert other.counter == 2
    assert SoftUpdate(loss, eps=0.99).state_dict() == {"initialized": True}


def test_tensors_are_listed_as_torchrl_lists_them():
    """Its users write to them."""
    loss = our_loss()
    updater = SoftUpdate(loss, eps=0.99)
    for key, source in updater._sources.items(True, True):
        target = updater._targets["target_" + key[0], *key[1:]]
        torch.testing.assert_close(target, source.detach())
    updater._targets["target_value", "0", "weight"].zero_()
    assert loss.target_value[0].weight.abs().sum() == 0


def test_starting_anew_is_said():
    loss = our_loss()
    updater = SoftUpdate(loss, eps=0.99)
    disturb(loss, 1)
    with pytest.warns(UserWarning, match="initialised again"):
        updater.init_()
    assert torch.equal(loss.target_value[0].weight, loss.value[0].weight)


def lent(loss):
    """A loss whose targets are its networks."""
    loss.target_value, loss.target_memory = loss.value, loss.memory
    return loss.requires_grad_(False)


def learning(loss):
    loss.target_value.requires_grad_(True)
    loss.target_value[0].weight.requires_grad_(True)
    return loss


def alone(loss):
    del loss.value
    return loss


REFUSED = [
    (lambda: SoftUpdate(our_loss()), RuntimeError, "`eps` or `tau` must be given, got neither"),
    (lambda: SoftUpdate(our_loss(), eps=0.9, tau=0.1), ValueError, "got 0.9 and 0.1"),
    (lambda: SoftUpdate(our_loss(), eps=1.1), ValueError, r"must be in \[0, 1\], got 1.1"),
    (lambda: SoftUpdate(our_loss(), tau=1.5), ValueError, r"`tau` must be in \[0, 1\], got 1.5"),
    (lambda: SoftUpdate(our_loss(), eps="a"), ValueError, "`eps` must be a float .*, got 'a'"),
    (
        lambda: setattr(SoftUpdate(our_loss(), eps=0.9), "eps", 1.5),
        ValueError,
        r"`eps` must be in \[0, 1\], got 1.5",
    ),
    (
        lambda: setattr(SoftUpdate(our_loss(), eps=0.9), "tau", 5),
        ValueError,
        r"`tau` must be in \[0, 1\], got 5",
    ),
    *(
        (
            lambda interval=interval: HardUpdate(
                our_loss(), value_network_update_interval=interval
            ),
            ValueError,
            f"must be an integer of at least 0, got {interval!r}",
        )
        for interval in (-1, 2.5, True, "3", float("inf"))
    ),
    (lambda: HardUpdate(nn.Linear(1, 1)), ValueError, "must be a loss, got a Linear"),
    (
        lambda: SoftUpdate(ReinforceLoss(*plain_networks("normal")), tau=0.1),
        RuntimeError,
        "must have frozen copies `target_...`, got none",
    ),
    (lambda: HardUpdate(lent(our_loss())), RuntimeError, "got the networks themselves"),
    (lambda: HardUpdate(learning(our_loss())), RuntimeError, "must not require a gradient"),
    (
        lambda: HardUpdate(alone(our_loss())),
        RuntimeError,
        "the target `target_value.0.weight` must have a network, got none",
    ),
]


@pytest.mark.parametrize(("make", "kind", "sentence"), REFUSED)
def test_refusals(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda updater: updater(torchrl_loss()), RuntimeError),
        (lambda updater: updater(torchrl_loss(), eps=0.9, tau=0.1), ValueError),
        (lambda updater: updater(torchrl_loss(), eps=1.1), ValueError),
        (lambda updater: updater(nn.Linear(1, 1), eps=0.9), ValueError),
        (
            lambda updater: updater(torchrl_loss(delay_value=False, delay_actor=False), eps=0.9),
            RuntimeError,
        ),
    ],
)
def test_torchrl_refuses_by_the_same_errors(make, kind):
    for updater in (SoftUpdate, torchrl.SoftUpdate):
        with pytest.raises(kind):
            make(updater)


def test_a_rate_that_was_meant_for_the_other_argument_is_doubted():
    with pytest.warns(UserWarning, match="`eps` 0.005; `tau` is what comes in"):
        SoftUpdate(our_loss(), eps=0.005)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftUpdate(our_loss(), tau=0.5)


@pytest.mark.filterwarnings("error")
def test_numbers_may_be_tensors_or_integral_floats():
    updater = SoftUpdate(our_loss(), eps=0.9)
    updater.eps = torch.tensor(0.5)
    updater.targets()
    assert type(updater.eps) is float
    assert updater.eps == 0.5
    updater = HardUpdate(our_loss(), value_network_update_interval=3.0)
    assert type(updater.value_network_update_interval) is int


def test_what_is_not_initialized_gives_no_targets():
    """And so an update step, which asks for them, does not move any."""
    updater = SoftUpdate(our_loss(), eps=0.9)
    updater.initialized = False
    with pytest.raises(RuntimeError, match=r"`init_\(\)` must be called before"):
        updater.targets()


class Sign(TargetNetUpdater):
    """A rule of a user's own, as it is written for TorchRL."""

    def _step(self, p_source, p_target):
        p_target.data.add_((p_source.data - p_target.data).sign().to(p_target.dtype))


class Twice(SoftUpdate):
    """And one that changes one of ours."""

    def _step(self, p_source, p_target):
        super()._step(p_source, p_target)
        super()._step(p_source, p_target)


def test_a_rule_of_a_users_own_is_called_for_each_tensor():
    loss = our_loss()
    updater, before = Sign(loss), tensors(loss)
    disturb(loss, 3)
    updater.step()
    for name, x in tensors(loss).items():
        if name.startswith("target_"):
            source = loss.state_dict()[name.removeprefix("target_")]
            torch.testing.assert_close(x, before[name] + (source - before[name]).sign())
    twice, once = Twice(loss, tau=0.2), SoftUpdate(twin := copy.deepcopy(loss), tau=0.36)
    for one in (loss, twin):
        disturb(one, 4)
    twice.step()
    once.step()
    torch.testing.assert_close(tensors(loss), tensors(twin))


@pytest.mark.parametrize("make", [Sign, lambda loss: Twice(loss, tau=0.5), TargetNetUpdater])
def test_a_rule_without_a_pure_form_is_refused_by_the_update_step(make):
    loss = ReinforceLoss(*plain_networks("normal"), delay_value=True)
    optimizer = torch.optim.SGD(loss.parameters(), 0.1)
    with pytest.raises(TypeError, match=r"must have a pure rule, .* call its `step\(\)` after"):
        UpdateStep(loss, optimizer, target_updater=make(loss))


def test_the_abstract_updater_has_no_rule():
    with pytest.raises(NotImplementedError):
        TargetNetUpdater(our_loss()).step()


@every_updater
@pytest.mark.filterwarnings("ignore:SoftUpdate")
def test_the_pure_rule_is_that_of_the_step(name, arguments):
    loss = our_loss()
    updater = OURS[name](loss, **arguments)
    for k in range(1, 9):
        disturb(loss, k)
        params = {key: p + 1 for key, p in loss.named_parameters() if key.startswith("value.0")}
        given = updater.targets()
        before = copy.deepcopy(given)
        moved = updater.moved(given, params)
        torch.testing.assert_close(given, before, rtol=0, atol=0)
        with torch.no_grad():
            for key, p in params.items():
                loss.get_parameter(key).copy_(p)
        updater.step()
        for key, x in updater.targets().items():
            torch.testing.assert_close(moved[key], x, rtol=1e-6, atol=1e-6)


def test_eps_and_tau_are_one_number():
    update = SoftUpdate(our_loss(), tau=0.25)
    assert (update.eps, update.tau) == (0.75, 0.25)
    update.tau = 0.125
    assert (update.eps, update.tau) == (0.875, 0.125)
