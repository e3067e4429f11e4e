"""C51 beyond what all off-policy losses promise: its atoms, its networks, its discount, one graph.

Parity with TorchRL and the rest is in ``test_off_policy.py``.
"""

import pytest
import torch
from torch import nn
from torchrl import objectives as torchrl
from torchrl.data import Binary, Categorical, OneHot
from torchrl.modules import DistributionalDQNnet

from compiled_rl import DistributionalDQNLoss, QPolicy, losses
from compiled_rl.functional import project_categorical
from compiled_rl.modules import ExpectedActionValue
from compiled_rl.testing import assert_compiles_once
from tests.losses import q_networks as q
from tests.losses.test_off_policy import assert_parity, gradients, keywords, pair
from tests.losses.transitions import Subject, transitions

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

GAMMA = {"gamma": 0.9}
OF_INDICES = {"action_space": "categorical", **GAMMA}


def test_every_kind_of_network_is_one_computation():
    network = q.atoms()
    wrapped = q.distributional(Categorical(q.ACTIONS))
    expected = DistributionalDQNLoss(wrapped, **GAMMA)(data := transitions((6,), action=q.index))
    means = ExpectedActionValue(network, q.SUPPORT)
    normalised = nn.Sequential(network, nn.LogSoftmax(-2))
    made = {
        "plain": DistributionalDQNLoss(network, support=q.SUPPORT, **OF_INDICES),
        "log-probabilities": DistributionalDQNLoss(normalised, support=q.SUPPORT, **OF_INDICES),
        "means": DistributionalDQNLoss(means, **OF_INDICES),
        "policy": DistributionalDQNLoss(QPolicy(means), **GAMMA),
    }
    for name, loss in made.items():
        value = loss(**keywords(loss, data))
        torch.testing.assert_close(value, expected["loss"], msg=name)
    assert "value_network.0.weight" in made["policy"].state_dict()


def test_a_network_that_was_given_is_trained():
    network = q.atoms()
    loss = DistributionalDQNLoss(network, support=q.SUPPORT, **OF_INDICES)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    data = transitions((6,), action=q.index)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        losses.append(loss(data)["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_target_is_the_projection_of_what_the_copy_says_of_the_networks_choice():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, reduction="none", **OF_INDICES)
    for x in loss.target_value_network.buffers():
        x.add_(torch.randn_like(x))
    data = transitions((3, 4), action=q.index)
    entered = data["next", "observation"]
    best = (loss.value_network(entered).softmax(-2) * q.SUPPORT.unsqueeze(-1)).sum(-2).argmax(-1)
    chosen = best.unsqueeze(-1).unsqueeze(-1).expand(3, 4, q.ATOMS, 1)
    probs = loss.target_value_network(entered).softmax(-2).gather(-1, chosen).squeeze(-1)
    reward, ends = (data["next", key].squeeze(-1) for key in ("reward", "terminated"))
    target = project_categorical(reward, probs, ends, q.SUPPORT, 0.9)
    action = data["action"].unsqueeze(-1).unsqueeze(-1).expand(3, 4, q.ATOMS, 1)
    here = loss.value_network(data["observation"]).log_softmax(-2).gather(-1, action).squeeze(-1)
    torch.testing.assert_close(loss(data)["loss"], -(target * here).sum(-1))


def test_sequences_are_their_steps_one_by_one():
    """TorchRL takes one batch axis, and says so with an error about something else."""
    loss = DistributionalDQNLoss(*q.c51(OneHot(q.ACTIONS)), reduction="none", **GAMMA)
    data = transitions((4, 3), action=q.one_hot)
    there = loss(flat := data.reshape(12))["loss"]
    torch.testing.assert_close(loss(data)["loss"], there.view(4, 3))
    assert torch.equal(data["td_error"], flat["td_error"].view(4, 3))
    with pytest.raises(AttributeError):
        torchrl.DistributionalDQNLoss(*q.c51(OneHot(q.ACTIONS)), **GAMMA)(data)


def test_without_a_copy_the_network_values_what_it_chose():
    subject = Subject(
        "DistributionalDQNLoss", lambda: q.c51(OneHot(q.ACTIONS)), "loss", dict(GAMMA), q.one_hot
    )
    ours, theirs = subject.ours(delay_value=False), subject.theirs(delay_value=False)
    assert not any(name.startswith("target_") for name, _ in ours.named_buffers())
    assert_parity(ours, theirs, subject, subject.data(8))


def test_the_choice_and_the_normalisation_are_not_called(monkeypatch):
    loss = DistributionalDQNLoss(*q.c51(OneHot(q.ACTIONS)), **GAMMA)
    for module in loss.modules():
        if type(module) in (DistributionalDQNnet,) or "QValueModule" in type(module).__name__:
            monkeypatch.setattr(type(module), "forward", None)
    loss.check_fresh()
    assert loss(transitions((6,), action=q.one_hot))["loss"] > 0


def test_an_action_that_is_forbidden_is_not_chosen():
    """TorchRL gives it the mean zero, which may be the largest."""

    def masked() -> tuple[nn.Module]:  # TorchRL would normalise what is allowed, too
        options = {"action_mask_key": "allowed", "make_log_softmax": False}
        return q.c51(OneHot(q.ACTIONS), nn.LogSoftmax(-2), **options)

    subject = Subject("DistributionalDQNLoss", masked, "loss", dict(GAMMA), q.one_hot)
    ours, _ = pair(subject, "TD0", torch.float32)
    data = subject.data(30)
    data["allowed"] = torch.ones(30, q.ACTIONS, dtype=torch.bool)
    only = q.one_hot((30,), torch.float32)
    data["next", "allowed"] = only
    expected = _loss_if_next(ours, data, only)
    torch.testing.assert_close(ours(data)["td_error"], expected)


def _loss_if_next(loss, data, action):
    """The loss of each step, if this is the action at the state that it entered."""
    logits = loss.target_value_network[0](data["next"].clone())["action_value"]
    probs = (logits.softmax(-2) * action.unsqueeze(-2)).sum(-1)
    reward, ends = (data["next", key].squeeze(-1) for key in ("reward", "terminated"))
    target = project_categorical(reward, probs, ends, loss.support, 0.9)
    here = loss.value_network[0](data.clone())["action_value"].log_softmax(-2)
    return -(target * (here * data["action"].unsqueeze(-2)).sum(-1)).sum(-1).detach()


# ---- one graph -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    ["tensordict", *[pytest.param(x, marks=pytest.mark.slow) for x in ("keywords", "n steps")]],
)
def test_compiles_whole_and_seldom(form):
    if form == "tensordict":
        loss = DistributionalDQNLoss(*q.c51(OneHot(q.ACTIONS)), **GAMMA)
    else:
        loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES)
    action = q.one_hot if form == "tensordict" else q.index
    batches = [transitions((n, 4), action=action) for n in (2, 3, 5, 8, 13, 21)]
    if form == "n steps":
        for batch in batches:
            batch["steps_to_next_obs"] = torch.randint(1, 4, (*batch.shape, 1))
    if form != "tensordict":
        batches = [keywords(loss, batch) for batch in batches]
    assert_compiles_once(loss, batches, coefficients={"gamma": (0.8, 0.9, 0.95, 1.0)})


# ---- arguments -----------------------------------------------------------------------------------


def test_the_discount_can_be_set():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES)
    data = transitions((6,), action=q.index)
    before = loss(data)["loss"]
    assert loss.make_value_estimator("td0", gamma=0.5) is loss
    assert loss.gamma == 0.5
    after = loss(data)["loss"]
    assert after != before
    theirs = torchrl.DistributionalDQNLoss(*q.c51(Categorical(q.ACTIONS)), **GAMMA)
    theirs.make_value_estimator(torchrl.ValueEstimators.TD0, gamma=0.5)
    assert theirs.gamma == torch.tensor(0.9)  # it takes the discount, and leaves it
    loss.gamma = 0.9
    assert torch.equal(loss(data)["loss"], before)
    assert loss.state_dict()["gamma"] == torch.tensor(0.9)


def test_other_estimators_are_refused():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES)
    for name in ("td1", "td_lambda", "gae"):
        with pytest.raises(NotImplementedError, match="the value estimator must be TD0, got"):
            loss.make_value_estimator(name)
    with pytest.raises(
        RuntimeError, match="for which there is no value estimator; its discount is"
    ):
        _ = loss.value_estimator
    with pytest.raises(TypeError, match="`lmbda` is no hyper-parameter, `gamma` is"):
        loss.make_value_estimator("td0", lmbda=0.5)
    with pytest.raises(ValueError, match=r"`gamma` must be in \[0, 1\], got 1.5"):
        loss.make_value_estimator(gamma=1.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"support": None}, "`support` must be a tensor, got a NoneType"),
        ({"support": (-1, 1)}, "`support` must be a tensor, got a tuple"),
        ({"support": torch.ones(1)}, r"`support` must be at least two atoms, got \[1"),
        ({"support": torch.tensor([0.0, 1.0, 3.0])}, "`support` must ascend in equal steps, got"),
        ({"support": torch.tensor([1.0, 0.0])}, "`support` must ascend in equal steps, got"),
        ({"gamma": -0.1}, r"`gamma` must be in \[0, 1\], got -0.1"),
        ({"action_space": None}, "`action_space` must be given"),
        ({"action_space": Binary(5)}, "`action_space` must be 'categorical' or 'one_hot', got Be"),
        ({"reduction": "max"}, "`reduction` must be in"),
    ],
)
def test_arguments_are_refused_in_words(arguments, words):
    given = {"support": q.SUPPORT, **OF_INDICES, **arguments}
    with pytest.raises((TypeError, ValueError), match=words):
        DistributionalDQNLoss(q.atoms(), **given)


@pytest.mark.parametrize("network", [q.atoms(6), q.mlp(q.ACTIONS)], ids=["others", "none"])
def test_atoms_that_do_not_fit_are_refused(network):
    loss = DistributionalDQNLoss(network, support=q.SUPPORT, **OF_INDICES)
    with pytest.raises(ValueError, match=r"must give the logits of 7 atoms .* N\], got \[6, "):
        loss(transitions((6,), action=q.index))


def test_rewards_are_no_integers():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES)
    data = transitions((6,), action=q.index)
    data["next", "reward"] = torch.ones(6, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`reward` must be floating point, got torch\.int64"):
        loss(data)


def test_the_target_is_as_precise_as_the_reward():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, reduction="none", **OF_INDICES)
    data = transitions((6,), action=q.index)
    data["next", "reward"] = data["next", "reward"].double()
    logits = loss.target_value_network(data["next", "observation"])
    best = (logits.softmax(-2) * q.SUPPORT.unsqueeze(-1)).sum(-2).argmax(-1)
    steps = torch.arange(6)
    probs = logits[steps, :, best].double().softmax(-1)
    reward, ends = (data["next", key].squeeze(-1) for key in ("reward", "terminated"))
    target = project_categorical(reward, probs, ends, q.SUPPORT, loss.gamma)
    here = loss.value_network(data["observation"])[steps, :, data["action"]].log_softmax(-1)
    expected = -(target * here).sum(-1)
    torch.testing.assert_close(loss(data)["loss"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", ["categorical", "one-hot"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (6, 2), (6, 5, 1), (3, 6)], ids=str)
def test_an_action_that_would_broadcast_is_refused(space, shape):
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, action_space=space, **GAMMA)
    given = keywords(loss, transitions((6,), action=q.index))
    given["action"] = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`action` must be of shape \[6\] of indices or \[6, 5\]"):
        loss(given)


def test_an_index_with_a_trailing_one_is_no_one_hot_action():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, action_space="one-hot", **GAMMA)
    with pytest.raises(ValueError, match=r"zeros and ones, got \[6, 1\]"):
        loss(transitions((6,), action=q.index_column))


def test_the_support_follows_the_loss():
    """TorchRL makes its target in the default precision, and cannot add to it in another."""
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES).double()
    assert loss.support.dtype == torch.float64
    data = transitions((6,), torch.float64, q.index)
    assert loss(data)["loss"].dtype == torch.float64
    assert all(g is not None for g in gradients(loss, loss(data)["loss"]))
    theirs = torchrl.DistributionalDQNLoss(*q.c51(Categorical(q.ACTIONS)), **GAMMA).double()
    with pytest.raises(RuntimeError, match="must have the same scalar type"):
        theirs(data)


def test_atoms_may_be_whole_numbers():
    whole = torch.arange(q.ATOMS)
    data = transitions((6,), action=q.index)
    made = [
        DistributionalDQNLoss(q.atoms(), support=x, **OF_INDICES) for x in (whole, whole.float())
    ]
    one, other = (loss(data)["loss"] for loss in made)
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["DQNLoss", "DistributionalDQNLoss"])
def test_rewards_may_be_finer_and_networks_coarser(name):
    if name == "DQNLoss":
        loss = losses.DQNLoss(q.mlp(q.ACTIONS), action_space="categorical")
    else:
        loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES)
    data = transitions((6,), action=q.index)
    expected = loss(data)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        coarse = loss(data)["loss"]
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, expected, rtol=0.05, atol=0.05)
    data["next", "reward"] = data["next", "reward"].double()
    fine = loss(data)["loss"]
    torch.testing.assert_close(fine.float(), expected)
    fine.backward()


def test_the_support_is_state():
    loss = DistributionalDQNLoss(q.atoms(), support=q.SUPPORT, **OF_INDICES)
    other = DistributionalDQNLoss(q.atoms(), support=2 * q.SUPPORT, **OF_INDICES)
    other.load_state_dict(loss.state_dict())
    data = transitions((6,), action=q.index)
    assert torch.equal(other(data)["loss"], loss(data)["loss"])
