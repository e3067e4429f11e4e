"""QMIX beyond what all off-policy losses promise: its agents, its mixers, its masks, its words.

Parity with TorchRL over estimators and the rest is in ``test_off_policy.py``.
"""

from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl import objectives as torchrl
from torchrl.data import Categorical, Composite, OneHot
from torchrl.modules import MultiAgentMLP, QMixer, QValueActor, QValueModule, SafeSequential

from compiled_rl import QMixerLoss, QPolicy, SoftUpdate, UpdateStep
from compiled_rl import modules as ours
from compiled_rl.adapters.fields import joined
from compiled_rl.modules import MultiOneHotCategorical, Reads, action_family
from compiled_rl.testing import assert_compiles_once
from tests.losses import team_networks as t
from tests.losses.q_networks import ACTIONS, index, index_column, mlp, one_hot
from tests.losses.test_dqn import VALUES, Table
from tests.losses.test_off_policy import assert_parity, gradients, keywords, pair
from tests.losses.transitions import OBSERVATION, Subject

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
ALLOWED = ("next", "agents", "action_mask")


def steps(*shape: int, action: Any = index) -> TensorDict:
    return t.nested(t.team_steps(shape, action=action))


def plain(space: Any = "categorical", kind: str = "qmix", **arguments: Any) -> QMixerLoss:
    """Of networks that know nothing of TensorDict."""
    torch.manual_seed(0)
    sums = kind == "vdn"
    mixer = ours.VDNMixer(t.AGENTS) if sums else ours.QMixer(t.STATE, t.EMBEDDING, t.AGENTS)
    return QMixerLoss(mlp(ACTIONS), mixer, action_space=space, **arguments)


# ---- the formula ---------------------------------------------------------------------------------


def step(action: Any, terminated: bool = False) -> dict[str, Tensor]:
    """Two agents, each from the first state to the second, for a reward of 10 together."""
    ends = torch.tensor([terminated])
    return {
        "agents_observation": torch.tensor([[0, 0]]),
        "agents_action": torch.tensor([action]),
        "next_agents_observation": torch.tensor([[1, 1]]),
        "next_reward": torch.tensor([10.0]),
        "next_done": ends,
        "next_terminated": ends,
    }


def table(space: Any = "categorical", **options: Any) -> QMixerLoss:
    loss = QMixerLoss(Table(VALUES), ours.VDNMixer(2), action_space=space, **options)
    return loss.make_value_estimator(gamma=0.5)


@pytest.mark.parametrize(
    ("space", "actions", "value", "best"),
    [
        ("categorical", [2, 3], -3 + 4, 6.0),
        ("categorical", [[2], [3]], -3 + 4, 6.0),
        ("one-hot", [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], -3 + 4, 6.0),
        (
            MultiOneHotCategorical([2, 3]),
            [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]],
            2.5 + 5,
            6.0 + 5.0,
        ),
        ("binary", [[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], 2 + 0, 6.0 + 5.0 + 3.0),
    ],
    ids=["index", "column", "one-hot", "blocks", "bits"],
)
@pytest.mark.parametrize("terminated", [False, True])
def test_the_error_is_that_of_the_formula(space, actions, value, best, terminated):
    outputs = table(space)(step(actions, terminated))
    target = 10.0 if terminated else 10 + 0.5 * 2 * best
    assert outputs["pred_value"] == value
    assert outputs["target_value"] == target
    assert outputs["td_error"] == outputs["loss"] == (value - target) ** 2


def test_double_q_values_what_the_network_chose_with_the_copy():
    loss = table(double_q=True)
    loss.target_local_value_network.values[1] = torch.tensor([0.0, 20.0, 30.0, 40.0, 50.0])
    assert loss(step([2, 3]))["target_value"] == 10 + 0.5 * 2 * 20
    with pytest.raises(ValueError, match="`double_q` needs `delay_value`, got False"):
        table(double_q=True, delay_value=False)


@pytest.mark.parametrize("double", [False, True])
def test_a_forbidden_action_is_never_the_best(double):
    loss = table(double_q=double)
    allowed = torch.ones(1, 2, 5, dtype=torch.bool)
    allowed[0, 0, 1] = False  # that of 6: the next best is worth 5
    given = step([2, 3]) | {"next_agents_action_mask": allowed}
    assert loss(**given) == (1 - (10 + 0.5 * (5 + 6))) ** 2
    assert loss(given)["target_value"] == 10 + 0.5 * (5 + 6)
    for wrong, words in ((allowed[:, :1], "must have the shape"), (allowed.int(), "be torch.bool")):
        with pytest.raises(ValueError, match=f"`action_mask` must .*{words.split()[-1]}"):
            loss(given | {"next_agents_action_mask": wrong})


def test_an_agent_that_may_do_nothing_spoils_nothing():
    """One that is out of the game: its first action stands for it."""
    given = step([2, 3])
    given["next_agents_action_mask"] = torch.ones(1, 2, 5, dtype=torch.bool)
    given["next_agents_action_mask"][0, 0] = False
    assert table()(given)["target_value"] == 10 + 0.5 * (-1 + 6)


@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_are_those_of_the_samples(weighted):
    data = steps(10)
    weight = torch.rand(10) + 0.1 if weighted else torch.ones(10)
    if weighted:
        data["priority_weight"] = weight.unsqueeze(-1)
    each = plain()(data.clone())["td_error"] * weight
    for how, expected in (("none", each), ("sum", each.sum()), ("mean", each.sum() / weight.sum())):
        torch.testing.assert_close(plain(reduction=how)(data)["loss"], expected)


# ---- networks and keys ---------------------------------------------------------------------------

KINDS = {
    "qmix-index": ("qmix", "categorical", index),
    "qmix-one-hot": ("qmix", "one_hot", one_hot),
    "vdn-index": ("vdn", "categorical", index),
}


@pytest.mark.parametrize(("kind", "space", "action"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("group", ["agents", "robots"])
@pytest.mark.parametrize("delayed", [True, False])
def test_agents_under_any_key_are_the_peers(kind, space, action, group, delayed):
    keys = {name: (group, key[-1]) if key[0] == "agents" else key for name, key in t.KEYS.items()}
    networks = partial(t.team, kind, space, keys, (group, "observation"))
    arguments = {"action_space": space.replace("_", "-"), "delay_value": delayed}
    subject = Subject("QMixerLoss", networks, "loss", arguments)
    mine, theirs = subject.ours(), subject.theirs()
    for loss in (mine, theirs):
        loss.set_keys(**keys)
        loss.make_value_estimator(gamma=0.9)
    data = t.nested(t.team_steps((4, 6), action=action), group)
    assert_parity(mine, theirs, subject, data)
    read = {key if isinstance(key, str) else joined(*key) for key in theirs.in_keys}
    assert read <= set(mine.in_keys)


def of_networks() -> dict[str, QMixerLoss]:
    torch.manual_seed(0)
    mixer, keys = ours.QMixer(t.STATE, t.EMBEDDING, t.AGENTS), t.KEYS
    theirs = QMixer(t.STATE, t.EMBEDDING, t.AGENTS, "cpu")
    theirs.load_state_dict(mixer.state_dict())
    observation = ("agents", "observation")
    wrapped = TensorDictModule(mixer, [keys["local_value"], "state"], ["team"])
    reads = Reads(mixer, keys["local_value"], "state")
    named, network = {"action_space": "categorical"}, mlp(ACTIONS)
    return {
        "plain": QMixerLoss(network, mixer, **named),
        "torchrl's mixer": QMixerLoss(network, theirs, **named),
        "reads": QMixerLoss(Reads(network, observation), reads, **named),
        "policy": QMixerLoss(QPolicy(network), wrapped),
        "tensordict": QMixerLoss(t.agents("categorical", keys, observation), wrapped),
    }


def test_every_kind_of_network_is_one_computation():
    made, data = of_networks(), steps(4, 3)
    expected = made["tensordict"](data.clone())["loss"]
    for name, loss in made.items():
        torch.testing.assert_close(loss(**keywords(loss, data)), expected, msg=name)
    assert "local_value_network.0.weight" in made["policy"].state_dict()


def of_agents(shared: bool) -> Subject:
    """On TorchRL's network of several agents."""

    def network(actions: int) -> nn.Module:
        torch.manual_seed(0)
        sizes = {"n_agent_inputs": OBSERVATION, "n_agent_outputs": actions, "n_agents": t.AGENTS}
        return MultiAgentMLP(**sizes, centralized=False, share_params=shared, depth=1, num_cells=8)

    observation = ("agents", "observation")
    networks = partial(t.team, "qmix", "categorical", t.KEYS, observation, network=network)
    return Subject("QMixerLoss", networks, "loss", {"action_space": "categorical"})


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "each its own"])
def test_torchrls_networks_of_agents_are_frozen_and_trained(shared):
    subject = of_agents(shared)
    mine, theirs = pair(subject, "TD0", torch.float32)
    assert_parity(mine, theirs, subject, steps(4, 6))
    updater = SoftUpdate(mine, tau=0.5)
    before = {name: x.clone() for name, x in mine.state_dict().items()}
    update = UpdateStep(
        mine, torch.optim.Adam(mine.parameters()), mode="eager", target_updater=updater
    )
    update(steps(8))
    still = {name for name, x in mine.state_dict().items() if torch.equal(x, before[name])}
    assert not any(name.removeprefix("target_").startswith("local_value") for name in still)


def test_torchrls_networks_of_agents_have_gradients_after_an_update():
    """They are called with the tensors of the update, and have their own back behind it."""
    loss = of_agents(True).ours()
    update = UpdateStep(loss, torch.optim.Adam(loss.parameters()), mode="eager")
    for _ in range(2):
        update(steps(8))
    loss(steps(8))["loss"].backward()
    assert all(x.grad is not None for x in loss.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "each its own"])
def test_torchrls_networks_of_agents_compile_whole(shared):
    """Sequences of them, too: see ``test_networks_of_agents.py``."""
    assert_compiles_once(of_agents(shared).ours(), [steps(n) for n in (2, 3, 5, 8, 13, 21)])


def test_torchrl_needs_its_wrappers():
    """It looks for a plain network's observation elsewhere, and gives a plain mixer no state."""
    agents, said = t.agents("categorical", t.KEYS, ("agents", "observation")), "categorical"
    with pytest.raises(KeyError, match="observation"):
        torchrl.QMixerLoss(mlp(ACTIONS), t.mixer("vdn", t.KEYS), action_space=said)(steps(6))
    with pytest.raises(TypeError, match=r"Arguments to module\.forward are"):
        torchrl.QMixerLoss(agents, QMixer(t.STATE, t.EMBEDDING, t.AGENTS, "cpu"), action_space=said)


def test_what_a_specification_says_of_the_agents_is_enough():
    for spec, action in (
        (Categorical(ACTIONS, shape=(t.AGENTS,)), index),
        (OneHot(ACTIONS, shape=(t.AGENTS, ACTIONS)), one_hot),
    ):
        specs = Composite(agents=Composite(action=spec, shape=(t.AGENTS,)))
        keys = {f"{name}_key": t.KEYS[name] for name in ("action", "action_value")}
        actor = QValueActor(
            mlp(ACTIONS),
            in_keys=[("agents", "observation")],
            spec=specs,
            chosen_action_value_key=t.KEYS["local_value"],
            **keys,
        )
        data = steps(6, action=action)
        for loss in (QMixerLoss(actor, t.mixer("vdn", t.KEYS)), plain(specs, "vdn")):
            assert type(loss.family) is type(action_family(spec))
            assert loss(data.clone())["loss"] > 0


def test_forbidden_actions_of_the_peers_choice_are_the_peers():
    networks = partial(
        t.team, "qmix", "one_hot", t.KEYS, ("agents", "observation"), mask=("agents", "allowed")
    )
    subject = Subject("QMixerLoss", networks, "loss", {"action_space": "one-hot"})
    data = t.nested(t.team_steps((20,), torch.float64, one_hot))
    for place in (data, data["next"]):
        some = torch.rand(20, t.AGENTS, ACTIONS) < 0.3
        place["agents", "allowed"] = data["agents", "action"] | some
    mine, theirs = pair(subject, "TD0", torch.float64)
    assert_parity(mine, theirs, subject, data)
    before = mine(data.clone())["loss"]
    data["next", "agents", "allowed"] = torch.ones(20, t.AGENTS, ACTIONS, dtype=torch.bool)
    assert mine(data)["loss"] != before


def test_a_mask_under_the_default_key_is_that_of_the_choice():
    """TorchRL's loss forbids nothing unless the choice among the values knows the mask's key."""
    data = steps(20)
    data[ALLOWED] = torch.rand(20, t.AGENTS, ACTIONS) < 0.5
    observation, said = ("agents", "observation"), {"action_space": "categorical"}
    known = t.team("vdn", "categorical", t.KEYS, observation, mask=("agents", "action_mask"))
    data["agents", "action_mask"] = torch.ones(20, t.AGENTS, ACTIONS, dtype=torch.bool)
    unknown = t.team("vdn", "categorical", t.KEYS, observation)
    expected = torchrl.QMixerLoss(*known, **said)(data.clone())["loss"]
    assert torchrl.QMixerLoss(*unknown, **said)(data.clone())["loss"] != expected
    loss = QMixerLoss(*unknown, **said)
    torch.testing.assert_close(loss(data.clone())["loss"], expected)
    data["next", "robots", "may"] = data["next", "agents"].pop("action_mask")
    assert loss(data.clone())["loss"] != expected
    loss.set_keys(action_mask=("robots", "may"))
    torch.testing.assert_close(loss(data)["loss"], expected)


def test_the_example_of_the_documents():
    torch.manual_seed(0)
    n_agents = 4
    module = TensorDictModule(
        nn.Linear(10, 3),
        in_keys=[("agents", "observation")],
        out_keys=[("agents", "action_value")],
    )
    value_module = QValueModule(
        action_value_key=("agents", "action_value"),
        out_keys=[
            ("agents", "action"),
            ("agents", "action_value"),
            ("agents", "chosen_action_value"),
        ],
        action_space="categorical",
    )
    qnet = SafeSequential(module, value_module)
    qmixer = TensorDictModule(
        module=QMixer(state_shape=(64, 64, 3), mixing_embed_dim=32, n_agents=n_agents, device=None),
        in_keys=[("agents", "chosen_action_value"), "state"],
        out_keys=["chosen_action_value"],
    )
    loss = QMixerLoss(qnet, qmixer, action_space="categorical")

    def state() -> dict[str, Any]:
        observation = {"observation": torch.zeros(32, n_agents, 10)}
        return {
            "agents": TensorDict(observation, [32, n_agents]),
            "state": torch.zeros(32, 64, 64, 3),
        }

    ends = {name: torch.zeros(32, 1, dtype=torch.bool) for name in ("done", "terminated")}
    entered = {**state(), "reward": torch.zeros(32, 1), **ends}
    td = TensorDict({**state(), "next": TensorDict(entered, [32])}, [32])
    found = loss(qnet(td.clone()))
    expected = torchrl.QMixerLoss(qnet, qmixer, action_space="categorical")(qnet(td))
    assert found.batch_size == expected.batch_size == torch.Size([])
    torch.testing.assert_close(found["loss"], expected["loss"])
    assert loss.out_keys == ("loss",)


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qmix", "vdn"])
def test_an_update_moves_the_networks_and_their_copies(kind):
    loss = plain(kind=kind)
    before = {name: x.clone() for name, x in loss.state_dict().items()}
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=0.1),
        mode="eager",
        target_updater=SoftUpdate(loss, tau=0.5),
    )
    update(steps(8))
    after = loss.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    networks = ("local_value_network.", "mixer_network.")
    expected = {name for name in before if name.removeprefix("target_").startswith(networks)}
    assert moved == expected
    assert any(name.startswith("target_mixer_network.") for name in moved) == (kind == "qmix")
    source, old = after["local_value_network.0.weight"], before["local_value_network.0.weight"]
    torch.testing.assert_close(after["target_local_value_network.0.weight"], (source + old) / 2)


@pytest.mark.slow
def test_compiles_whole_with_masks_and_double_q():
    loss = plain(double_q=True)

    def batch(size: int) -> dict[str, Tensor]:
        data = steps(size, 4)
        data[ALLOWED] = torch.rand(size, 4, t.AGENTS, ACTIONS) < 0.5
        data["collector", "mask"] = torch.rand(size, 4) < 0.8
        return keywords(loss, data)

    assert_compiles_once(loss, [batch(n) for n in (2, 3, 5, 8, 13, 21)])


# ---- words ---------------------------------------------------------------------------------------


def test_networks_that_are_none_are_refused():
    for arguments, name in (
        ((None, ours.VDNMixer(2)), "local_value_network"),
        ((mlp(ACTIONS), None), "mixer_network"),
    ):
        with pytest.raises(TypeError, match=f"`{name}` must be an nn.Module, got None"):
            QMixerLoss(*arguments, action_space="categorical")


def test_states_entered_are_valued_without_a_graph(monkeypatch):
    loss, seen = plain(delay_value=False), []
    monkeypatch.setattr(
        loss, "td_target", lambda data, batch, value, mask: seen.append(value) or value
    )
    loss(steps(4))
    assert not seen[0].requires_grad


def test_an_action_space_that_nobody_knows_is_refused_in_words():
    """TorchRL's raises an `AttributeError` about its own sentence."""
    values = TensorDictModule(mlp(ACTIONS), [("agents", "observation")], [t.KEYS["action_value"]])
    with pytest.raises(AttributeError, match="ACTION_SPEC_ERROR"):
        torchrl.QMixerLoss(values, t.mixer("vdn", t.KEYS))
    with pytest.raises(ValueError, match="`action_space` must be given, as 'categorical'"):
        QMixerLoss(values, t.mixer("vdn", t.KEYS))


def test_an_index_may_come_in_a_column():
    """TorchRL's refuses it."""
    networks = t.team("qmix", "categorical", t.KEYS, ("agents", "observation"))
    data, said = steps(6, action=index_column), {"action_space": "categorical"}
    with pytest.raises(RuntimeError, match="same number of dimensions"):
        torchrl.QMixerLoss(*networks, **said)(data.clone())
    loss = QMixerLoss(*networks, **said)
    expected = loss(steps(6))["loss"]
    data["agents", "action"] = steps(6)["agents", "action"].unsqueeze(-1)
    assert torch.equal(loss(data)["loss"], expected)


def test_a_mixer_that_reads_other_values_is_refused_until_its_key_is_set():
    """TorchRL's takes what was recorded there, and the agents learn nothing."""
    agents = t.agents("categorical", t.KEYS, ("agents", "observation"))
    mixer = t.mixer("qmix", t.KEYS | {"local_value": ("agents", "worth")})
    loss, data = QMixerLoss(agents, mixer), steps(6)
    for place in (data, data["next"]):
        place["agents", "worth"] = torch.zeros(6, t.AGENTS, 1)
    theirs = torchrl.QMixerLoss(agents, mixer, action_space="categorical")
    learning = list(theirs.local_value_network_params.values(True, True))
    found = torch.autograd.grad(theirs(data.clone())["loss"], learning, allow_unused=True)
    assert all(x is None for x in found)
    with pytest.raises(KeyError, match=r"the mixer must read the agents' values, .*it reads"):
        loss(data)
    with pytest.raises(KeyError, match="the mixer must read the agents' values"):
        loss.set_keys(local_value="elsewhere")
    loss.set_keys(local_value=("agents", "worth"))
    assert gradients(loss, loss(data)["loss"])[0].abs().sum() > 0
    assert ("agents", "worth") not in loss.in_keys


class OfFeatures(nn.Module):
    """A mixer that weights the agents by what their network sees in their observations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(8, 1)

    def forward(self, value: Tensor, hidden: Tensor) -> Tensor:
        return (value * self.weight(hidden).exp()).sum(-2)


@pytest.mark.parametrize("branch", [False, True])
def test_a_mixer_may_read_what_the_agents_compute(branch):
    """Be it on the way to their values, or beside it; what was recorded there is not read."""
    torch.manual_seed(0)
    hidden = ("agents", "hidden")
    trunk = TensorDictModule(nn.Linear(OBSERVATION, 8), [("agents", "observation")], [hidden])
    read = ("agents", "beside") if branch else hidden
    beside = TensorDictModule(nn.Linear(8, 8), [hidden], [("agents", "beside")])
    local = SafeSequential(trunk, beside, t.agents("categorical", t.KEYS, hidden, network=eight))
    mixer = TensorDictModule(OfFeatures(), [t.KEYS["local_value"], read], [t.KEYS["global_value"]])
    loss, data = QMixerLoss(local, mixer), steps(6)
    theirs = torchrl.QMixerLoss(local, mixer, action_space="categorical")
    assert not {hidden, read} & set(loss.in_keys)
    expected = theirs(data.clone())["loss"]
    for place in (data, data["next"]):
        place[hidden] = place[read] = torch.zeros(6, t.AGENTS, 8)
    torch.testing.assert_close(loss(data)["loss"], expected)
    learning = [*trunk.parameters(), *mixer.parameters()]
    assert all(x.abs().sum() > 0 for x in torch.autograd.grad(loss(data)["loss"], learning))


def eight(out: int) -> nn.Module:
    return nn.Linear(8, out)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        (
            "next_reward",
            torch.zeros(6, t.AGENTS, 1),
            r"`reward` must be of shape \[6\] or \[6, 1\]",
        ),
        ("agents_action", torch.zeros(6, 2).long(), r"`action` must be of shape \[6, 3\] of"),
        ("state", torch.zeros(6, 8), r"QMixer: `state` must be of shape \[6, 2, 4\], got \[6, 8\]"),
        ("agents_observation", torch.zeros(6, 2, 4), "must"),
    ],
)
def test_shapes_that_do_not_fit_are_named(name, wrong, words):
    loss = plain()
    with pytest.raises(ValueError, match=words):
        loss(keywords(loss, steps(6)) | {name: wrong})


def test_a_mixer_must_give_one_value_a_step():
    loss = QMixerLoss(mlp(ACTIONS), nn.Identity(), action_space="categorical")
    with pytest.raises(ValueError, match=r"`global_value` must be of shape \[6\] or \[6, 1\]"):
        loss(steps(6))
