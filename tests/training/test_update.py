"""The update step against a loop written by hand, eagerly and compiled."""

import copy

import pytest
import torch
from torch import nn

from compiled_rl import ClipPPOLoss, LossModule, Policy, UpdateStep
from compiled_rl.modules import Categorical
from compiled_rl.training import Update
from compiled_rl.training.optimisers import Optimiser
from tests.losses.networks import ACTION, OBSERVATION, as_keywords, make_data, plain_networks

OPTIMISERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3, eps=1e-5),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3),
    "adam upwards": lambda p: torch.optim.Adam(p, lr=3e-3, maximize=True),
    "sgd upwards": lambda p: torch.optim.SGD(p, lr=3e-2, maximize=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=3e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=3e-3, eps=1e-5),
    "rmsprop with all": lambda p: torch.optim.RMSprop(
        p, lr=3e-3, weight_decay=0.1, momentum=0.9, centered=True, eps=1e-2
    ),
    "rmsprop upwards": lambda p: torch.optim.RMSprop(p, lr=3e-3, weight_decay=0.1, maximize=True),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=3e-2, momentum=0.9, nesterov=True),
}


def make(optimiser: str, **arguments):
    loss = ClipPPOLoss(*plain_networks("normal"))
    optimizer = OPTIMISERS[optimiser](loss.parameters())
    return loss, optimizer, UpdateStep(loss, optimizer, **arguments)


def batches(count: int, actor, size: int = 8):
    return [make_data(actor, (size,), seed=k) for k in range(count)]


def by_hand(loss, optimizer, data, max_grad_norm) -> torch.Tensor:
    outputs = loss(data)
    optimizer.zero_grad()
    (outputs["loss_objective"] + outputs["loss_entropy"] + outputs["loss_critic"]).backward()
    norm = nn.utils.clip_grad_norm_(loss.parameters(), max_grad_norm or float("inf"))
    optimizer.step()
    return norm


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_eager_equals_a_loop_by_hand(optimiser, max_grad_norm):
    loss, optimizer, step = make(optimiser, mode="eager", max_grad_norm=max_grad_norm)
    mine, my_optimizer, _ = make(optimiser)
    for data in batches(20, loss.actor_network):
        norm = by_hand(mine, my_optimizer, data, max_grad_norm)
        torch.testing.assert_close(step(data)["grad_norm"], norm)
    for a, b in zip(loss.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        for name, slot in my_optimizer.state[b].items():
            if slot is not None:
                torch.testing.assert_close(optimizer.state[a][name], slot, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "optimiser",
    [
        pytest.param("adam", marks=pytest.mark.slow),
        pytest.param("sgd with momentum", marks=pytest.mark.slow),
        pytest.param("rmsprop with all", marks=pytest.mark.slow),
    ],
)
def test_compiled_equals_a_loop_by_hand(optimiser):
    """Inductor, keyword tensors and TensorDicts, twenty steps, ragged batches."""
    loss, _, step = make(optimiser, max_grad_norm=0.1)
    mine, my_optimizer, _ = make(optimiser)
    start = [p.detach().clone() for p in loss.parameters()]
    for k in range(20):
        data = make_data(loss.actor_network, (8 if k % 3 else 5,), seed=k)
        metrics = step(data) if k % 2 else step(**as_keywords(data))
        expected = mine(data)
        by_hand(mine, my_optimizer, data, 0.1)
        for name in expected.keys():
            torch.testing.assert_close(metrics[name], expected[name], rtol=1e-4, atol=1e-5)
            assert not metrics[name].requires_grad
    for a, b, before in zip(loss.parameters(), mine.parameters(), start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert not torch.equal(a, before)


@pytest.mark.parametrize("mode", ["eager", pytest.param("default", marks=pytest.mark.slow)])
def test_a_shared_trunk_is_trained(mode):
    def shared():
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(OBSERVATION, 8), nn.Tanh())
        actor = Policy(nn.Sequential(trunk, nn.Linear(8, ACTION)), Categorical)
        loss = ClipPPOLoss(actor, nn.Sequential(trunk, nn.Linear(8, 1)))
        return loss, torch.optim.Adam(loss.parameters(), lr=1e-2), trunk[0]

    (loss, optimizer, trunk), (mine, my_optimizer, _) = shared(), shared()
    step, weight = UpdateStep(loss, optimizer, mode=mode), trunk.weight
    for data in batches(4, plain_networks("categorical")[0]):
        step(data)
        by_hand(mine, my_optimizer, data, None)
    assert trunk.weight is weight
    for a, b in zip(loss.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_at_most_two_graphs_over_batches_rates_and_coefficients(counted):
    loss = ClipPPOLoss(*plain_networks("normal"), clip_value=0.1)
    optimizer = torch.optim.Adam(loss.parameters())
    step = UpdateStep(loss, optimizer, max_grad_norm=0.5)
    for k, size in enumerate((2, 3, 5, 8, 13, 21)):
        optimizer.param_groups[0]["lr"] = 1e-3 / (k + 1)
        for name in ("clip_epsilon", "entropy_coeff", "critic_coeff", "clip_value"):
            setattr(loss, name, 0.1 + 0.1 * (k % 4))
        step(make_data(loss.actor_network, (size,), seed=k))
    assert 1 <= counted.count <= 2


@pytest.mark.slow
def test_many_steps_live_side_by_side(counted):
    """The graphs of one step never count towards another's limit."""
    count = torch._dynamo.config.recompile_limit + 2
    for _ in range(count):
        loss = ClipPPOLoss(*plain_networks("normal"))
        step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1))
        step(make_data(loss.actor_network, (4,)))
    assert counted.count == count


@pytest.mark.slow
def test_a_mask_may_come_and_go_with_the_batch_size(counted):
    loss, _, step = make("adam")
    twin, _, eager = make("adam", mode="eager")
    for k, size in enumerate((3, 4, 5, 6, 7)):
        data = as_keywords(make_data(loss.actor_network, (size,), seed=k))
        if k % 2:
            data["shifted_valid"] = torch.arange(size) != 1
        step(**data)
        eager(**data)
    for a, b in zip(loss.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert counted.count <= 4


def test_the_pure_update_changes_none_of_its_arguments():
    loss, optimizer, _ = make("adam")
    optimiser = Optimiser(optimizer, {p: name for name, p in loss.named_parameters()})
    data = as_keywords(make_data(loss.actor_network, (8,)))
    arguments = (optimiser.params, [optimiser.state()], {}, data, {})
    before = copy.deepcopy(arguments)
    params, state, targets, metrics = Update(loss, [optimiser], 0.5)(*arguments)
    torch.testing.assert_close(arguments, before, rtol=0, atol=0)
    assert targets == {}
    assert all(not torch.equal(params[name], before[0][name]) for name in params)
    assert all(step == 1 for step in state[0][0].slots["step"])
    assert metrics["grad_norm"] > 0


@pytest.mark.filterwarnings("error")
def test_a_scheduler_and_a_state_dict_keep_working():
    loss, optimizer, step = make("adam", mode="eager")
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 10)
    other, other_optimizer, other_step = make("adam", mode="eager")
    data = batches(4, loss.actor_network)
    for k in (0, 1):
        step(data[k])
        scheduler.step()
    other.load_state_dict(loss.state_dict())
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for k in (2, 3):
        step(data[k])
        other_step(data[k])
    for a, b in zip(loss.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_outside_the_optimiser_do_not_move():
    loss = ClipPPOLoss(*plain_networks("normal"))
    held = copy.deepcopy(loss.critic_network.state_dict())
    optimizer = torch.optim.Adam(loss.actor_network.parameters(), lr=0.1)
    UpdateStep(loss, optimizer, mode="eager")(make_data(loss.actor_network, (8,)))
    torch.testing.assert_close(loss.critic_network.state_dict(), held, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["eager", pytest.param("default", marks=pytest.mark.slow)])
def test_frozen_parameters_do_not_move(mode, counted):
    loss, _, step = make("adam", mode=mode)
    frozen = loss.critic_network[0].weight.requires_grad_(False)
    before, step = frozen.clone(), UpdateStep(loss, torch.optim.Adam(loss.parameters()), mode=mode)
    data = make_data(loss.actor_network, (8,))
    step(data)
    assert torch.equal(frozen, before)
    assert not frozen.requires_grad
    frozen.requires_grad_()
    step(data)
    assert not torch.equal(frozen, before)
    before = frozen.requires_grad_(False).clone()
    step(data)
    assert torch.equal(frozen, before)


def test_nothing_moves_without_a_gradient():
    loss = ClipPPOLoss(*plain_networks("normal"), critic_coeff=None)
    optimizer = torch.optim.Adam(loss.critic_network.parameters())
    before = copy.deepcopy(loss.state_dict())
    metrics = UpdateStep(loss, optimizer, mode="eager")(make_data(loss.actor_network, (8,)))
    assert metrics["grad_norm"] == 0
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)


def test_float64_is_exact():
    loss = ClipPPOLoss(*(network.double() for network in plain_networks("normal")))
    twin = copy.deepcopy(loss)
    data = make_data(loss.actor_network, (8,), torch.float64)
    UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1), mode="eager")(data)
    by_hand(twin, torch.optim.SGD(twin.parameters(), lr=0.1), data, None)
    for a, b in zip(loss.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_what_may_not_change_is_refused():
    loss, optimizer, step = make("adam", mode="eager")
    data = make_data(loss.actor_network, (8,))
    optimizer.param_groups[0]["betas"] = (0.8, 0.9)
    with pytest.raises(
        ValueError, match=r"must keep its betas of \(0.9, 0.999\), got \(0.8, 0.9\)"
    ):
        step(data)
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="must keep its 1 parameter groups, got 2"):
        step(data)


def test_what_was_replaced_is_noticed(counted):
    loss, _, step = make("adam")
    data = make_data(loss.actor_network, (8,))
    step(data)
    linear = loss.actor_network.network[0]
    linear.weight = nn.Parameter(linear.weight.detach().clone())
    with pytest.raises(RuntimeError, match=r"the parameter `weight` of shape .* was replaced"):
        step(data)
    loss.actor_network.network = nn.Identity()
    with pytest.raises(RuntimeError, match="a submodule of Policy was replaced"):
        step(data)


@pytest.mark.slow
def test_a_users_function_may_be_replaced():
    """Only guards on libraries are dropped: what a user redefines is compiled again."""
    loss = ClipPPOLoss(plain_networks("normal")[0], Activated())
    step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.0))
    data = make_data(loss.actor_network, (8,))
    before = step(data)["loss_critic"]
    try:
        globals()["activation"] = torch.relu
        assert step(data)["loss_critic"] != before
        torch.testing.assert_close(step(data)["loss_critic"], loss(data)["loss_critic"].detach())
    finally:
        globals()["activation"] = torch.tanh


activation = torch.tanh


class Activated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(OBSERVATION, 1)

    def forward(self, observation):
        return activation(self.linear(observation))


def test_groups_have_their_own_rates():
    loss = ClipPPOLoss(*plain_networks("normal"))
    groups = [
        {"params": loss.actor_network.parameters(), "lr": 0.0},
        {"params": loss.critic_network.parameters(), "lr": 0.1},
    ]
    actor = copy.deepcopy(loss.actor_network.state_dict())
    critic = copy.deepcopy(loss.critic_network.state_dict())
    UpdateStep(loss, torch.optim.SGD(groups), mode="eager")(make_data(loss.actor_network, (8,)))
    torch.testing.assert_close(loss.actor_network.state_dict(), actor, rtol=0, atol=0)
    assert all(
        not torch.equal(x, critic[name]) for name, x in loss.critic_network.state_dict().items()
    )


class Mine(LossModule):
    """A loss that is written as for TorchRL."""


def refused():
    loss = ClipPPOLoss(*plain_networks("normal"))
    optimizer = torch.optim.Adam(loss.parameters())
    stranger = torch.optim.Adam([nn.Parameter(torch.zeros(3))])
    unreduced = ClipPPOLoss(*plain_networks("normal"), reduction="none")
    return [
        ((loss, torch.optim.Adagrad(loss.parameters())), {}, TypeError, "`optimizer` must be in"),
        ((loss, stranger), {}, ValueError, r"parameters of the loss only, got one of shape \[3\]"),
        (
            (unreduced, torch.optim.Adam(unreduced.parameters())),
            {},
            ValueError,
            "`loss` must reduce to scalars, got reduction 'none'",
        ),
        ((Mine(), optimizer), {}, ValueError, "must declare `fields` .*, got a Mine with none"),
        ((nn.Linear(1, 1), optimizer), {}, TypeError, "`loss` must be a LossModule, got a Linear"),
        ((loss, optimizer), {"max_grad_norm": True}, ValueError, "must be positive, got True"),
        ((loss, optimizer), {"mode": "fast"}, ValueError, "`mode` must be in"),
        (
            (loss, optimizer),
            {"max_grad_norm": 0.0},
            ValueError,
            "`max_grad_norm` must be positive, got 0.0",
        ),
        (
            (loss, torch.optim.SGD(loss.parameters(), momentum=0.9, dampening=0.5)),
            {},
            ValueError,
            "`optimizer` must have no dampening, got 0.5",
        ),
    ]


@pytest.mark.parametrize(("positional", "keywords", "kind", "sentence"), refused())
def test_refusals(positional, keywords, kind, sentence):
    with pytest.raises(kind, match=sentence):
        UpdateStep(*positional, **keywords)


@pytest.mark.parametrize("mode", ["eager", "default"])
def test_bad_input_changes_nothing(mode, counted):
    loss, optimizer, step = make("adam", mode=mode)
    before = copy.deepcopy(loss.state_dict())
    data = make_data(loss.actor_network, (8,))
    with pytest.raises(ValueError, match="`value_target` must have the shape"):
        step(**as_keywords(data) | {"value_target": torch.zeros(8)})
    with pytest.raises(KeyError, match="the key 'action'"):
        step(data.exclude("action"))
    with pytest.raises(ValueError, match=r"the mask 'shifted_valid' must be torch.bool"):
        step(**as_keywords(data), shifted_valid=torch.ones(8))
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)
    assert all(slots["step"] == 0 for slots in optimizer.state.values())
