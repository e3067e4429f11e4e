"""What TD3 alone promises: where its bounds come from, its noise, its critics, its delay."""

import gymnasium
import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Categorical, Composite
from torchrl.objectives import TD3Loss as Peer

from compiled_rl import SoftUpdate, TD3Loss, UpdateStep
from tests.losses.transitions import ACTION, ActionValue, shared, transitions, twins

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
LOW, HIGH = torch.tensor([-1.0, -0.5, 0.0]), torch.tensor([0.5, 1.0, 2.0])
SPECS = {
    "TorchRL's": Bounded(LOW, HIGH, shape=(ACTION,)),
    "TorchRL's by key": Composite(action=Bounded(LOW, HIGH, shape=(ACTION,))),
    "TorchRL's of a batch": Composite(
        action=Bounded(LOW.expand(5, -1), HIGH.expand(5, -1), shape=(5, ACTION)), shape=(5,)
    ),
    "Gymnasium's": gymnasium.spaces.Box(LOW.numpy(), HIGH.numpy()),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_bounds_are_found_in_a_specification(spec):
    loss = TD3Loss(*twins(), action_spec=spec)
    assert torch.equal(loss.min_action, LOW)
    assert torch.equal(loss.max_action, HIGH)


def test_bounds_that_are_none_are_refused():
    networks = twins()
    for both in ({}, {"bounds": (-1, 1), "action_spec": SPECS["TorchRL's"]}):
        with pytest.raises(
            ValueError, match="one of `action_spec` and `bounds` must be given, got"
        ):
            TD3Loss(*networks, **both)
    with pytest.raises(ValueError, match="the lower bounds must not be above the upper ones"):
        TD3Loss(*networks, bounds=(1.0, -1.0))
    with pytest.raises(ValueError, match="`action_spec` must be bounded, got"):
        TD3Loss(*networks, action_spec=Categorical(3))
    for argument in ("policy_noise", "noise_clip"):
        with pytest.raises(ValueError, match=f"`{argument}` must be at least 0, got -1"):
            TD3Loss(*networks, bounds=(-1, 1), **{argument: -1.0})


NAN, ROW = float("nan"), torch.zeros(1, ACTION)
BOX = gymnasium.spaces.Box(LOW.numpy(), HIGH.numpy())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bounds": 1.0}, "`bounds` must be two, lower and upper, got 1.0"),
        ({"bounds": (1.0,)}, "`bounds` must be two, lower and upper, got"),
        (
            {"bounds": (ROW, 1.0)},
            r"must be numbers or of shape \[A\] both, got shapes \[1, 3\] and",
        ),
        ({"bounds": (LOW, HIGH[:2])}, r"must be numbers or of shape \[A\] both, got shapes \[3\]"),
        ({"bounds": (NAN, 1.0)}, "must not be above the upper ones, got nan and 1"),
        ({"bounds": (LOW, HIGH * NAN)}, "must not be above the upper ones, got"),
        ({"action_spec": "foo"}, "`action_spec` must be bounded, got 'foo'"),
        ({"action_spec": Composite(move=SPECS["TorchRL's"])}, r"with the key 'action', got Comp"),
        ({"action_spec": gymnasium.spaces.Dict(action=BOX)}, "with the key 'action', got Dict"),
        ({"action_spec": SPECS["TorchRL's of a batch"]["action"]}, r"got the shape \[5, 3\]"),
    ],
    ids=str,
)
def test_bounds_that_do_not_fit_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        TD3Loss(*twins(), **arguments)


@pytest.mark.parametrize("size", [1, 2])
def test_bounds_of_another_size_than_the_actions_are_refused_in_a_call(size):
    """One for all actions is a number: that of one action must not broadcast over several."""
    loss = TD3Loss(*twins(), bounds=(LOW[:size], 3.0))
    with pytest.raises(ValueError, match=f"of {size} numbers must be for actions of as many, got"):
        loss(transitions((6,)))


def test_bounds_are_where_the_networks_are_and_as_precise():
    actor, critics = twins()
    loss = TD3Loss(actor.double(), [x.double() for x in critics], bounds=(0.1, HIGH))
    assert loss.min_action == torch.tensor(0.1, dtype=torch.float64)  # not rounded on its way
    assert loss.max_action.dtype == torch.float64
    there = TD3Loss(actor.to("meta"), [x.to("meta") for x in critics], bounds=(LOW, HIGH))
    assert there.min_action.is_meta
    assert there.max_action.is_meta


def test_noise_moves_the_target_no_further_than_it_may():
    """With noise that would leave every bound, the action entered is the bound."""
    loss = TD3Loss(*twins(), bounds=(-0.3, 0.4), policy_noise=1.0, noise_clip=10.0)
    data = transitions((6,))
    data["next", "action_noise"] = torch.full((6, ACTION), 1e6)
    at_the_bound = {"observation": data["next", "observation"], "action": torch.full((6, 3), 0.4)}
    values = [
        critic(at_the_bound["observation"], at_the_bound["action"]) for critic in twins_of(loss)
    ]
    least = torch.minimum(*values).squeeze(-1)
    torch.testing.assert_close(loss(data)["next_state_value"], least)


def twins_of(loss: TD3Loss) -> list[ActionValue]:
    """The critics of the frozen copy, as networks of their own."""
    members = loss.target_qvalue_network.members()
    made = []
    for k in range(loss.num_qvalue_nets):
        network = ActionValue()
        own = {name.removeprefix("module."): x[k] for name, x in members.items()}
        network.load_state_dict(own)
        made.append(network)
    return made


def test_noise_is_drawn_anew_by_a_call_and_by_a_generator_alike():
    loss, data = TD3Loss(*twins(), bounds=(-1, 1)), transitions((6,))
    one, other = loss(data)["target_value"], loss(data)["target_value"]
    assert not torch.equal(one, other)
    given = [
        loss.draw_noise(dict(data.items(True, True)), torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    assert torch.equal(*[noise["next", "action_noise"] for noise in given])
    assert torch.equal(*[loss(data.clone().update(n))["target_value"] for n in given])


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_critics(count):
    loss = TD3Loss(*twins(count), bounds=(-1, 1), num_qvalue_nets=count)
    assert loss(transitions((6,)))["pred_value"].shape == (count, 6)
    with pytest.raises(ValueError, match="one network or a list of `num_qvalue_nets`, got"):
        TD3Loss(*twins(count), bounds=(-1, 1), num_qvalue_nets=2)


def test_one_critic_is_made_two_in_the_range_of_its_parameters_as_the_peers():
    actor, (critic, _) = twins()
    ours, theirs = (cls(actor, critic, bounds=(-1.0, 1.0)) for cls in (TD3Loss, Peer))
    shapes = [p.shape for p in theirs.parameters()]
    assert [p.shape for p in ours.parameters()] == shapes
    weight = ours.qvalue_network.network.get_parameter("module.body.0.weight")
    own = critic.module.body[0].weight
    assert not torch.equal(weight[0], weight[1])
    assert own.min() <= weight.min() <= weight.max() <= own.max()


@pytest.mark.parametrize("separate", [False, True])
def test_a_trunk_that_is_shared_is_copied_or_left_to_the_actor(separate):
    actor, critic = shared()
    loss = TD3Loss(actor, critic, bounds=(-1, 1), separate_losses=separate)
    names = [name for name, _ in loss.named_parameters() if name.startswith("qvalue")]
    trunk = actor.module[0].module[0].weight
    assert len(names) == (4 if separate else 6)
    loss(transitions((6,)))["loss_qvalue"].backward()
    assert trunk.grad is None
    critics = loss.qvalue_network.network.module[1]
    assert all(p.grad is not None for p in critics.parameters())


def test_critics_learn_without_the_actor_and_the_targets_wait_for_it():
    loss, data = TD3Loss(*twins(), bounds=(-1, 1)), transitions((16,))
    before = {name: x.clone() for name, x in loss.state_dict().items()}
    critics = torch.optim.Adam(loss.qvalue_network.parameters())
    metrics = UpdateStep(loss, critics, minimise=["loss_qvalue"], mode="eager")(data)
    assert set(metrics) == {"loss_qvalue", "td_error", "grad_norm"}
    assert metrics["td_error"].shape == (16,)
    assert moved(loss, before) == {"qvalue_network"}
    actor = torch.optim.Adam(loss.actor_network.parameters())
    follow = SoftUpdate(loss, tau=0.1)
    UpdateStep(loss, actor, minimise=["loss_actor"], mode="eager", target_updater=follow)(data)
    networks = {"actor_network", "qvalue_network"}
    assert moved(loss, before) == networks | {f"target_{name}" for name in networks}


def moved(loss: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    after = loss.state_dict()
    return {name.split(".")[0] for name, x in before.items() if not torch.equal(x, after[name])}
