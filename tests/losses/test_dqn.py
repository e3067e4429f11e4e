"""Deep Q-learning beyond what all off-policy losses promise: its actions, its networks, its words.

Parity with TorchRL and the rest is in ``test_off_policy.py``.
"""

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl import objectives as torchrl
from torchrl.data import (
    Binary,
    Categorical,
    Composite,
    OneHot,
)
from torchrl.modules import QValueActor, QValueModule, SafeSequential

import compiled_rl
from compiled_rl import DQNLoss, QPolicy
from compiled_rl.modules import Bernoulli, MultiOneHotCategorical, Reads
from tests.losses import q_networks as q
from tests.losses.teams import AGENTS, OBSERVATION
from tests.losses.test_off_policy import assert_parity, gradients, keywords, pair
from tests.losses.transitions import Subject, transitions

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


class Table(nn.Module):
    """The values of all actions, one row a state; an observation is the state's number."""

    def __init__(self, values: list[list[float]]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, observation: Tensor) -> Tensor:
        return self.values[observation]


VALUES = [[1.0, 2.0, -3.0, 4.0, 0.5], [-1.0, 6.0, 5.0, -2.0, 3.0]]


def step(action: Any, terminated: bool = False) -> dict[str, Tensor]:
    """From the first state to the second, for a reward of 10."""
    ends = torch.tensor([terminated])
    return {
        "observation": torch.tensor([0]),
        "action": torch.tensor([action]),
        "next_observation": torch.tensor([1]),
        "next_reward": torch.tensor([10.0]),
        "next_done": ends,
        "next_terminated": ends,
    }


@pytest.mark.parametrize(
    ("space", "action", "value", "best"),
    [
        ("categorical", 2, -3.0, 6.0),
        ("categorical", [2], -3.0, 6.0),
        ("one-hot", [0, 0, 1, 0, 0], -3.0, 6.0),
        (MultiOneHotCategorical([2, 3]), [0, 1, 0, 0, 1], 2.5, 6.0 + 5.0),
        ("binary", [1, 0, 1, 1, 0], 2.0, 6.0 + 5.0 + 3.0),
    ],
    ids=["index", "column", "one-hot", "blocks", "bits"],
)
@pytest.mark.parametrize("terminated", [False, True])
def test_the_error_is_that_of_the_formula(space, action, value, best, terminated):
    loss = DQNLoss(Table(VALUES), action_space=space).make_value_estimator(gamma=0.5)
    outputs = loss(step(action, terminated))
    target = 10.0 if terminated else 10 + 0.5 * best
    assert outputs["pred_value"] == value
    assert outputs["target_value"] == target
    assert outputs["td_error"] == outputs["loss"] == (value - target) ** 2
    outputs["loss"].backward()
    on = torch.zeros(2, 5)
    one_hot = isinstance(action, list) and len(action) == 5
    on[0] = torch.tensor(action) if one_hot else torch.eye(5)[2]
    torch.testing.assert_close(loss.value_network.values.grad, on * 2 * (value - target))


def test_double_dqn_values_what_the_network_chose_with_the_copy():
    loss = DQNLoss(Table(VALUES), action_space="categorical", double_dqn=True)
    loss.make_value_estimator(gamma=0.5)
    loss.target_value_network.values[1] = torch.tensor([0.0, 20.0, 30.0, 40.0, 50.0])
    assert loss(step(2))["target_value"] == 10 + 0.5 * 20
    with pytest.raises(ValueError, match="`double_dqn` needs `delay_value`, got False"):
        DQNLoss(Table(VALUES), action_space="categorical", double_dqn=True, delay_value=False)


def test_the_first_of_equal_actions_is_chosen():
    """TorchRL's choice is every one of them, and it adds up what they are worth."""
    torch.manual_seed(0)
    network = nn.Linear(4, 5)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.fill_(3.0)
    actor = QValueActor(network, in_keys=["observation"], spec=OneHot(5))
    data = transitions((6,), action=q.one_hot)
    ours, theirs = DQNLoss(actor), torchrl.DQNLoss(actor, double_dqn=True)
    ours.make_value_estimator(gamma=1.0)
    theirs.make_value_estimator(gamma=1.0)
    goes_on = ~data["next", "terminated"].squeeze(-1)
    reward = data["next", "reward"].squeeze(-1)
    expected = (3 - (reward + 3 * goes_on)).square()
    torch.testing.assert_close(ours(data.clone())["td_error"], expected)
    theirs(data)
    added_up = (3 - (reward + 15 * goes_on)).square()
    torch.testing.assert_close(data["td_error"].squeeze(-1), added_up)


# ---- networks ------------------------------------------------------------------------------------


def of_plain(network: nn.Module) -> dict[str, DQNLoss]:
    wrapped = QValueActor(network, in_keys=["observation"], spec=Categorical(q.ACTIONS))
    return {
        "plain": DQNLoss(network, action_space="categorical"),
        "reads": DQNLoss(Reads(network, "observation"), action_space="categorical"),
        "policy": DQNLoss(QPolicy(network)),
        "tensordict": DQNLoss(wrapped),
    }


def test_every_kind_of_network_is_one_computation():
    made = of_plain(q.mlp(q.ACTIONS))
    expected = made["tensordict"](data := transitions((6,), action=q.index))["loss"]
    for name, loss in made.items():
        given = keywords(loss, data)
        assert torch.equal(loss(**given), expected), name
    assert "value_network.0.weight" in made["policy"].state_dict()


def test_a_choice_is_not_made_where_only_values_are_needed(monkeypatch):
    (actor,) = q.of_spec(OneHot(q.ACTIONS))
    loss = DQNLoss(actor, double_dqn=True)
    monkeypatch.setattr(QValueModule, "_one_hot", None)
    loss(transitions((6,), action=q.one_hot))["loss"].backward()
    assert loss.in_keys[:1] == ("observation",)


def test_keys_that_were_set():
    keys = {"action_value": "q", "action": ("agent", "action"), "priority": ("replay", "error")}
    spec = Composite(agent=Composite(action=OneHot(q.ACTIONS)))
    options = {"action_value_key": "q", "action_key": ("agent", "action")}
    actor = QValueActor(
        q.mlp(q.ACTIONS), in_keys=["observation"], spec=spec, chosen_action_value_key="v", **options
    )
    data = transitions((6,), action=q.one_hot)
    data["agent", "action"] = data.pop("action")
    ours, theirs = DQNLoss(actor), torchrl.DQNLoss(actor, action_space="one-hot")
    for loss in (ours, theirs):
        loss.set_keys(value="v", reward="gain", **keys)
    data["next", "gain"] = data["next"].pop("reward")
    expected = theirs(data.clone())["loss"]
    torch.testing.assert_close(ours(data)["loss"], expected)
    assert data["replay", "error"].shape == (6,)


def test_a_network_with_another_output_is_refused_until_its_key_is_set():
    actor = QValueActor(
        q.mlp(q.ACTIONS), in_keys=["observation"], spec=OneHot(q.ACTIONS), action_value_key="q"
    )
    loss = DQNLoss(actor)
    with pytest.raises(KeyError, match="'action_value' for `action_value` must be an output"):
        loss(transitions((6,), action=q.one_hot))
    loss.set_keys(action_value="q")
    assert loss(transitions((6,), action=q.one_hot))["loss"] > 0


@pytest.mark.parametrize("double", [False, True])
def test_actions_that_are_forbidden_are_the_peers(double):
    def masked() -> tuple[nn.Module]:
        return q.of_spec(OneHot(q.ACTIONS), action_mask_key="allowed")

    subject = Subject("DQNLoss", masked, "loss", {"double_dqn": double}, q.one_hot)
    data = subject.data(20, dtype=torch.float64)
    for place in (data, data["next"]):
        place["allowed"] = data["action"] | (torch.rand(20, q.ACTIONS) < 0.3)
    ours, theirs = pair(subject, "TD0", torch.float64)
    assert ("next", "allowed") in ours.in_keys
    assert_parity(ours, theirs, subject, data)
    before = ours(data.clone())["loss"]
    data["next", "allowed"] = torch.ones(20, q.ACTIONS, dtype=torch.bool)
    assert ours(data)["loss"] != before


def test_without_a_copy_states_are_valued_by_the_network_itself():
    subject = Subject("DQNLoss", lambda: q.of_spec(OneHot(5)), "loss", {}, q.one_hot)
    ours, theirs = subject.ours(delay_value=False), subject.theirs(delay_value=False)
    assert not list(ours.named_buffers(prefix="target"))[1:]
    assert_parity(ours, theirs, subject, subject.data(8))


# ---- action spaces -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    ["binary", Binary(q.ACTIONS), Composite(action=Binary(q.ACTIONS)), Bernoulli()],
    ids=str,
)
def test_bits_may_be_said_in_any_way(space):
    loss = DQNLoss(q.mlp(q.ACTIONS), action_space=space)
    bits = transitions((6,), action=lambda shape, dtype: torch.rand(*shape, q.ACTIONS) < 0.5)
    same = DQNLoss(q.mlp(q.ACTIONS), action_space=Bernoulli())
    assert torch.equal(loss(bits)["loss"], same(bits)["loss"])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (None, "`action_space` must be given, as 'categorical', .* for a Sequential"),
        ("mult-one-hot", "`action_space` must say how long its one-hot blocks are"),
        ("discrete", "`action_space` must be one of"),
    ],
)
def test_an_action_space_that_nobody_knows_is_refused(space, words):
    with pytest.raises(ValueError, match=words):
        DQNLoss(q.mlp(q.ACTIONS), action_space=space)
    if space is None:
        with pytest.warns(UserWarning, match="DQNLoss will default to 'one-hot'"):
            torchrl.DQNLoss(_unsaid())
        with pytest.raises(ValueError, match=words.split(",")[0]):
            DQNLoss(_unsaid())


def _unsaid() -> nn.Module:
    """A network that has a place for what its actions are, and nothing there."""
    network = TensorDictModule(q.mlp(q.ACTIONS), ["observation"], ["action_value"])
    network.spec = None
    return network


def test_an_actor_says_what_its_actions_are_without_a_spec():
    """TorchRL's loss asks the spec, and finds none."""
    for name, action in (("one-hot", q.one_hot), ("categorical", q.index)):
        actor = QValueActor(q.mlp(q.ACTIONS), in_keys=["observation"], action_space=name)
        with pytest.raises(ValueError, match="action_space was not specified"):
            torchrl.DQNLoss(actor)
        assert DQNLoss(actor)(transitions((6,), action=action))["loss"] > 0


def test_bits_are_chosen_where_torchrl_cannot():
    data = transitions((6,), action=lambda shape, dtype: torch.rand(*shape, q.ACTIONS) < 0.5)
    with pytest.raises((NotImplementedError, TypeError)):
        torchrl.DQNLoss(q.mlp(q.ACTIONS), action_space="binary")(data.clone())
    assert DQNLoss(q.mlp(q.ACTIONS), action_space="binary")(data)["loss"] > 0


def test_a_name_does_not_say_how_long_blocks_are_and_another_one_wins():
    (actor,) = q.of_blocks()
    assert DQNLoss(actor, action_space="multi-one-hot").family.nvec == q.BLOCKS
    assert isinstance(DQNLoss(actor, action_space="binary").family, Bernoulli)
    with pytest.raises(ValueError, match=r"`action_space` must be one of .*, got 'blocks'"):
        DQNLoss(actor, action_space="blocks")


def test_equal_blocks_are_given_one_by_one():
    network = TensorDictModule(q.mlp(4), ["observation"], ["action_value"])
    for lengths, words in ((2, "`action_space` must say how long"), ([2, 2], "")):
        actor = TensorDictSequential(network, QValueModule("mult_one_hot", var_nums=lengths))
        if words:
            with pytest.raises(ValueError, match=words):
                DQNLoss(actor)
        else:
            assert DQNLoss(actor).family.nvec == [2, 2]


def test_no_network_is_refused():
    for network, got in ((None, "None"), (torch.tanh, "builtin")):
        with pytest.raises(TypeError, match=f"`value_network` must be an nn.Module, got {got}"):
            DQNLoss(network, action_space="categorical")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.zeros(6), "indices must be of an integer dtype"),
        (torch.zeros(6, 3, dtype=torch.long), r"must be of shape \[6\] .* or \[6, 5\] .* \[6, 3\]"),
        (torch.zeros(5, dtype=torch.long), r"must be of shape \[6\] of indices or .* got \[5\]"),
    ],
)
def test_actions_that_do_not_fit_are_refused(action, words):
    loss = DQNLoss(q.mlp(q.ACTIONS), action_space="categorical")
    given = keywords(loss, transitions((6,), action=q.index))
    with pytest.raises(ValueError, match=words):
        loss(given | {"action": action})


def test_an_action_must_be_recorded():
    loss = DQNLoss(q.mlp(q.ACTIONS), action_space="one-hot")
    data = transitions((6,), action=lambda shape, dtype: q.one_hot(shape, dtype).float())
    data["action"].requires_grad_()
    with pytest.raises(RuntimeError, match="`action` must be recorded data"):
        loss(data)


def test_metrics_are_given_by_name():
    loss = DQNLoss(*q.of_spec(OneHot(q.ACTIONS)))
    data = transitions((4, 3), action=q.one_hot)
    assert set(loss(data).keys()) == {"loss", "pred_value", "target_value", "td_error"}
    loss.select_out_keys("loss", "target_value")
    loss_value, target = loss(**keywords(loss, data))
    assert target.shape == (4, 3)
    assert gradients(loss, loss_value)[0] is not None


def test_a_batch_without_steps_has_no_loss():
    loss = DQNLoss(*q.of_spec(OneHot(q.ACTIONS)))
    data = transitions((6,), action=q.one_hot)[:0]
    assert isinstance(data, TensorDict)
    assert loss(data)["loss"] == 0


def test_independent_learners_of_a_team_see_time_where_torchrl_does():
    each, names = (2, 6, AGENTS), ("reward", "done", "terminated", "action", "action_value")
    keys = {name: ("agents", name) for name in names}
    actor = SafeSequential(
        TensorDictModule(nn.Linear(OBSERVATION, 4), [("agents", "x")], [keys["action_value"]]),
        QValueModule(
            "categorical",
            action_value_key=keys["action_value"],
            out_keys=[keys["action"], keys["action_value"], ("agents", "value")],
        ),
    )
    done = torch.rand(*each, 1) < 0.2
    entered = {"x": torch.randn(*each, OBSERVATION), "reward": torch.randn(*each, 1)}
    left = {"x": torch.randn(*each, OBSERVATION), "action": torch.randint(4, each)}
    entered |= {"done": done, "terminated": done}
    data = TensorDict({"agents": left, "next": {"agents": entered}}, each[:2])
    found = []
    for module in (compiled_rl, torchrl):
        loss = module.DQNLoss(actor, action_space="categorical", delay_value=True)
        loss.set_keys(**keys, value=("agents", "value"))
        loss.make_value_estimator(module.ValueEstimators.TDLambda)
        found.append(loss(data.clone())["loss"])
    torch.testing.assert_close(*found)
