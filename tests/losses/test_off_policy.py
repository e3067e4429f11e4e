"""What every loss of action values promises: parity with TorchRL, priorities, weights, masks."""

import copy
import dataclasses
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl import objectives as torchrl

from compiled_rl.adapters.dispatch import output_type
from compiled_rl.adapters.fields import keyword
from compiled_rl.testing import assert_compiles_once
from tests.losses.networks import as_keywords
from tests.losses.parity import TOLERANCE
from tests.losses.q_networks import C51_SUBJECTS, Q_SUBJECTS
from tests.losses.team_networks import TEAM_SUBJECTS
from tests.losses.transitions import SUBJECTS, Subject

ESTIMATING = SUBJECTS | Q_SUBJECTS | TEAM_SUBJECTS
WEIGHTED = SUBJECTS | Q_SUBJECTS | C51_SUBJECTS  # by TorchRL, too
ALL = ESTIMATING | C51_SUBJECTS
every_loss = pytest.mark.parametrize("subject", ALL.values(), ids=ALL)
every_estimating_loss = pytest.mark.parametrize("subject", ESTIMATING.values(), ids=ESTIMATING)
every_weighted_loss = pytest.mark.parametrize("subject", WEIGHTED.values(), ids=WEIGHTED)
estimators = pytest.mark.parametrize("estimator", ["TD0", "TD1", "TDLambda"])
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def total(loss: Any, outputs: Any) -> Tensor:
    return sum(outputs[name].sum() for name in loss.minimised)


def gradients(loss: Any, x: Tensor) -> list[Any]:
    return list(torch.autograd.grad(x.sum(), ordered(loss), retain_graph=True, allow_unused=True))


def ordered(loss: Any) -> list[Tensor]:
    """The parameters in the order of the names that they have in both libraries."""
    named = {
        name.replace("_params.", ".").replace("qvalue_network.network.", "qvalue_network."): p
        for name, p in loss.named_parameters()
    }
    return [named[name] for name in sorted(named)]


def pair(subject: Subject, estimator: str, dtype: torch.dtype, **arguments: Any) -> tuple[Any, Any]:
    """Ours and TorchRL's with the same weights, target networks moved away by the same."""
    ours, theirs = subject.ours(**arguments), subject.theirs(**arguments)
    ours.make_value_estimator(estimator, gamma=0.9)
    theirs.make_value_estimator(torchrl.ValueEstimators[estimator], gamma=0.9)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    for name in ("policy_noise", "noise_clip"):
        if hasattr(ours, name):  # buffers here, which were float32; numbers there
            setattr(ours, name, getattr(theirs, name))
    align(ours, theirs)
    return ours, theirs


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """TorchRL's C51 makes its target in the default one, whatever the data's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def align(ours: Any, theirs: Any) -> None:
    """The same parameters on both sides, and targets that are no longer copies of them."""
    for a, b in zip(ordered(ours), ordered(theirs), strict=True):
        b.data.copy_(a.data)
    for name, network in ours.named_children():
        if name.startswith("target_"):
            network.load_state_dict(getattr(ours, name.removeprefix("target_")).state_dict())
            for x in network.buffers():
                x.add_(0.1)
            source = getattr(theirs, f"{name.removeprefix('target_')}_params")
            getattr(theirs, f"{name}_params").data.update_(source.data.apply(lambda x: x + 0.1))


def assert_parity(ours: Any, theirs: Any, subject: Subject, data: TensorDictBase) -> None:
    dtype = next(ours.parameters()).dtype
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    before = data.clone()
    torch.manual_seed(2)
    with default_dtype(dtype):
        expected = theirs(there := data.clone())
    mine = ours(here := data.clone().update(subject.drawn(data, 2)))
    assert (data == before).all()
    torch.testing.assert_close(here["td_error"], there["td_error"].view_as(here["td_error"]))
    for name, x in expected.items():
        torch.testing.assert_close(
            mine[name], x.view_as(mine[name]), **close, msg=lambda m, n=name: f"{n}: {m}"
        )
        if name in ours.minimised:
            a, b = gradients(ours, mine[name]), gradients(theirs, x)
            assert [g is None for g in a] == [g is None for g in b], name
            torch.testing.assert_close(a, b, **close, msg=lambda m, n=name: f"{n}: {m}")


# ---- parity --------------------------------------------------------------------------------------


@every_estimating_loss
@estimators
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_the_peers(subject, estimator, dtype):
    ours, theirs = pair(subject, estimator, dtype)
    assert_parity(ours, theirs, subject, subject.data(4, 6, dtype=dtype))


@every_weighted_loss
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_and_weights_are_the_peers(subject, reduction, weighted):
    ours, theirs = pair(subject, "TD0", torch.float64, reduction=reduction)
    data = subject.data(10, dtype=torch.float64)
    if weighted:
        data["priority_weight"] = torch.rand(10, dtype=torch.float64) + 0.1
    assert_parity(ours, theirs, subject, data)


@every_weighted_loss
def test_weighted_means_are_the_peers(subject):
    ours, theirs = pair(subject, "TD0", torch.float64)
    data = subject.data(10, dtype=torch.float64)
    data["priority_weight"] = torch.rand(10, dtype=torch.float64) + 0.1
    assert_parity(ours, theirs, subject, data)


@every_loss
def test_rewards_of_several_steps_are_the_peers(subject):
    ours, theirs = pair(subject, "TD0", torch.float64)
    data = subject.data(10, dtype=torch.float64)
    data["steps_to_next_obs"] = torch.randint(1, 5, (10, 1))
    assert_parity(ours, theirs, subject, data)


def test_networks_that_are_finer_than_the_rewards_keep_their_precision():
    subject = SUBJECTS["ddpg"]
    ours, theirs = pair(subject, "TD0", torch.float64)
    data = subject.data(10, dtype=torch.float64)
    data["next", "reward"] = data["next", "reward"].float()
    assert_parity(ours, theirs, subject, data)


def test_a_shared_trunk_is_each_networks_own():
    subject = SUBJECTS["ddpg-shared"]
    data, targets = subject.data(10), []
    for moved in (0.0, 1.0):
        loss = subject.ours(delay_actor=False)
        trunk = loss.target_value_network.module[0].module[0]
        before = loss(data.clone())["target_value"]
        trunk.weight.add_(moved)
        targets.append((before, loss(data.clone())["target_value"]))
        next_action = loss.actor_network(data["next"].clone())["action"]
        copy_ = loss.target_value_network
        entered = data["next"].select("observation").set("action", next_action)
        value = copy_(entered)["state_action_value"]
        going_on = ~data["next", "terminated"]
        expected = data["next", "reward"] + 0.99 * torch.where(going_on, value, 0.0)
        torch.testing.assert_close(targets[-1][1], expected.squeeze(-1))
    assert not torch.equal(*targets[1])


@pytest.mark.parametrize("name", ["ddpg-features", "td3-features"])
def test_the_action_is_found_beside_features(name):
    loss = SUBJECTS[name].ours()
    assert loss.tensor_keys["action"] == "action"
    loss.set_keys(action=None)
    assert loss.tensor_keys["action"] == "action"


# ---- the ways of calling -------------------------------------------------------------------------


def keywords(loss: Any, data: TensorDictBase) -> dict[str, Tensor]:
    known = [keyword(key) for key in loss.in_keys]
    return {name: x for name, x in as_keywords(data).items() if name in known}


def with_noise(loss: Any, data: TensorDictBase) -> TensorDictBase:
    return data.clone().update(loss.draw_noise(dict(data.items(True, True))))


@every_loss
def test_keywords_a_mapping_and_a_tensordict_are_one_computation(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    given = keywords(loss, data)
    before = {name: x.clone() for name, x in given.items()}
    by_keyword, by_name = loss(**given), loss(given)
    if subject.tuple == "loss":
        by_keyword = output_type("one", ("loss",))(by_keyword)
    assert by_keyword._fields == tuple(subject.tuple.split()) == loss.out_keys
    assert all(torch.equal(x, before[name]) for name, x in given.items())
    assert set(given) == set(before)
    outputs = loss(data)
    for name, x in by_name.items():
        assert torch.equal(x, outputs[name]), name
        assert name not in by_keyword._fields or torch.equal(x, getattr(by_keyword, name))


@every_loss
def test_the_priority_is_written_where_it_is_wanted_and_nowhere_else(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    before = data.clone()
    outputs = loss(data)
    assert torch.equal(data["td_error"], outputs["td_error"])
    assert data["td_error"].shape == (6,)
    assert not data["td_error"].requires_grad
    assert (data.exclude("td_error") == before).all()
    loss.set_keys(priority=("replay", "error"))
    loss(other := before.clone())
    assert torch.equal(other["replay", "error"], data["td_error"])
    assert "td_error" not in other.keys()
    loss.select_out_keys("td_error")
    assert torch.equal(loss(**keywords(loss, before)), data["td_error"])


@every_loss
def test_a_locked_tensordict_takes_priorities_in_place(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    expected = loss(data.clone())["td_error"]
    for shape in ((6,), (6, 1)):  # TorchRL's losses of action values make a column
        data["td_error"] = held = torch.zeros(shape)
        loss(data.clone(False).lock_())
        assert torch.equal(held, expected.view(shape))
    loss(data)
    assert data["td_error"].shape == (6, 1)
    wrong = data.clone().set("td_error", torch.zeros(6, 2))
    for locked, got in ((data.exclude("td_error"), "none"), (wrong, r"\[6, 2\]")):
        with pytest.raises(RuntimeError, match=rf"must have the key 'td_error', .* got {got}"):
            loss(locked.lock_())


@every_estimating_loss
def test_a_named_time_is_no_matter_for_one_step(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(4, 5))
    before = loss(data.clone())
    data.names = ["time", None]
    for name, x in loss(data).items():
        assert torch.equal(x, before[name])
    named = loss.make_value_estimator("td1")(data)
    data.names = [None, None]
    asked = loss.make_value_estimator("td1", time_dim=0)(data)
    for name in loss.minimised:
        assert torch.equal(named[name], asked[name])
        assert not torch.equal(named[name], before[name]) or name in ("loss_actor", "loss_alpha")


@every_loss
def test_only_what_is_minimised_has_a_gradient(subject):
    loss = subject.ours()
    for name, x in loss(subject.data(6)).items():
        assert x.requires_grad == (name in loss.minimised), name
        assert not any(p.grad is not None for p in loss.parameters())


@every_loss
def test_a_single_step_without_a_batch(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(1))
    step = {name: x[0] for name, x in keywords(loss, data).items()}
    one, batch = loss(step), loss(keywords(loss, data))
    for name in loss.minimised:
        torch.testing.assert_close(one[name], batch[name])


@every_loss
def test_one_value_a_step_with_or_without_a_trailing_one(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    given = keywords(loss, data)
    given["next_reward"] = given["next_reward"].squeeze(-1)
    with pytest.raises(ValueError, match=r"must have the shape of `(value|reward)`"):
        loss(given)


@every_loss
@pytest.mark.parametrize("missing", ["action", "next_reward", "next_terminated", "observation"])
def test_what_is_missing_is_named(subject, missing):
    loss = subject.ours()
    given = keywords(loss, with_noise(loss, subject.data(6)))
    del given[missing]
    with pytest.raises(KeyError, match=missing.removeprefix("next_")):
        loss(given)


@every_loss
def test_states_entered_of_another_batch_are_refused(subject):
    loss = subject.ours()
    given = keywords(loss, with_noise(loss, subject.data(6)))
    for entered in (
        given["next_observation"][:1],
        given["next_observation"].expand(6, *given["next_observation"].shape),
    ):
        with pytest.raises(ValueError, match=r"must (be|have)"):
            loss(given | {"next_observation": entered})


@every_loss
def test_every_key_of_the_peers_can_be_set(subject):
    loss = subject.ours()
    accepted = getattr(torchrl, subject.loss)._AcceptedKeys
    of_networks = ("action", "action_value", "state_action_value", "local_value", "global_value")
    for field in dataclasses.fields(accepted):
        if field.name not in of_networks:
            loss.set_keys(**{field.name: field.default or "elsewhere"})
    loss(subject.data(6))


@every_estimating_loss
def test_estimators_that_need_the_value_are_refused(subject):
    loss = subject.ours()
    for name in ("GAE", "VTrace"):
        with pytest.raises(NotImplementedError, match="must be TD0, TD1 or TDLambda, got"):
            loss.make_value_estimator(name)


@every_estimating_loss
def test_arguments_are_refused_in_words(subject):
    with pytest.raises(TypeError, match="`gamma` must be given to `make_value_estimator`"):
        subject.ours(gamma=0.9)
    with pytest.raises(TypeError, match="`nothing` is not an argument"):
        subject.ours(nothing=1)
    with pytest.raises(ValueError, match="`loss_function` must be 'l1', 'l2' or 'smooth_l1'"):
        subject.ours(loss_function="l3")
    with pytest.raises(ValueError, match="`use_prioritized_weights` must be True, False or 'auto'"):
        subject.ours(use_prioritized_weights="always")
    with pytest.raises(KeyError, match="`priority_weight` was not found, needed for"):
        subject.ours(use_prioritized_weights=True)(subject.data(6))


@every_loss
def test_weights_can_be_left_out(subject):
    loss = subject.ours(use_prioritized_weights=False)
    data = with_noise(loss, subject.data(6))
    expected = total(loss, loss(data.clone()))
    data["priority_weight"] = torch.rand(6, 1)
    assert torch.equal(total(loss, loss(data)), expected)


# ---- masks ---------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_masked_changes_nothing(subject, weighted):
    """As the valid steps alone; NaN under the mask, forward and backward."""
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    if weighted:
        data["priority_weight"] = torch.rand(6, 1) + 0.1
    alone = loss(data[2:].clone())
    data["shifted_valid"] = torch.arange(6) >= 2
    for key in list(data.keys(True, True)):
        if data[key].is_floating_point():
            data[key][:2] = torch.nan
    masked = loss(data)
    for name, x in alone.items():
        mine = masked[name] if masked[name].dim() == x.dim() == 0 else masked[name][..., 2:]
        torch.testing.assert_close(mine, x.reshape(mine.shape))
    a, b = (gradients(loss, total(loss, outputs)) for outputs in (masked, alone))
    torch.testing.assert_close(a, b)
    assert torch.equal(data["td_error"][:2], torch.zeros(2))


def test_the_largest_target_is_that_of_a_valid_step():
    """Under a mask it is zero, which is more than what is left here."""
    loss = SUBJECTS["ddpg"].ours()
    data = SUBJECTS["ddpg"].data(6)
    data["next", "reward"] -= 20.0
    data["shifted_valid"] = torch.arange(6) >= 2
    outputs = loss(data)
    assert outputs["target_value"][:2].eq(0).all()
    assert outputs["target_value_max"] == outputs["target_value"][2:].max() < 0


@every_loss
def test_a_value_behind_the_end_is_never_read(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(30))
    ended = data["next", "terminated"].squeeze(-1)
    assert ended.any()
    before = loss(data.clone())
    data["next", "observation"][ended] = torch.nan
    after = loss(data)
    for name in loss.minimised:
        torch.testing.assert_close(after[name], before[name])
        torch.testing.assert_close(gradients(loss, after[name]), gradients(loss, before[name]))


# ---- state ---------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal_and_independent(subject, copied):
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    total(loss, loss(data)).backward()
    other = copied(loss)
    assert torch.equal(total(loss, other(data)), total(loss, loss(data)))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    assert not torch.equal(total(loss, other(data)), total(loss, loss(data)))
    assert not any(a is b for a in loss.parameters() for b in other.parameters())


@every_loss
def test_a_state_dict_fits_before_and_after_the_first_call(subject):
    loss, other = subject.ours(), subject.ours()
    data = with_noise(loss, subject.data(6))
    with torch.no_grad():
        for x in [*loss.parameters(), *loss.buffers()]:
            x.mul_(0.9)
    loss(data)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(total(loss, other(data)), total(loss, loss(data)))


@every_loss
def test_targets_are_buffers_and_no_parameters(subject):
    loss = subject.ours()
    targets = [name for name, _ in loss.named_children() if name.startswith("target_")]
    assert targets
    assert not any(name.startswith("target_") for name, _ in loss.named_parameters())
    assert any(name.startswith(targets[0]) for name, _ in loss.named_buffers())
    assert not any(p.requires_grad for name, p in loss.named_buffers() if name.startswith("target"))


@every_loss
def test_on_the_meta_device(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(6))
    expected = loss(data.clone())
    there = loss.to("meta")
    outputs = there(data.to("meta"))
    for name, x in outputs.items():
        assert x.is_meta
        assert (x.shape, x.dtype) == (expected[name].shape, expected[name].dtype)
    total(loss, outputs).backward()


# ---- one graph -----------------------------------------------------------------------------------


def ways_of_calling(subjects: dict[str, Subject]) -> list[Any]:
    """Each row by keyword and by TensorDict; in CI each loss once, the two ways in turns."""
    fast: dict[str, str] = {}
    rows = []
    for name, subject in subjects.items():
        first = subject.loss not in fast
        way = fast.setdefault(subject.loss, ("keywords", "tensordict")[len(fast) % 2])
        for form in ("keywords", "tensordict"):
            marks = [] if first and form == way else [pytest.mark.slow]
            rows.append(pytest.param(subject, form, id=f"{form}-{name}", marks=marks))
    return rows


@pytest.mark.parametrize(("subject", "form"), ways_of_calling(ESTIMATING))
def test_compiles_whole_and_seldom(subject, form):
    loss = subject.ours().make_value_estimator("td_lambda" if form == "tensordict" else "td0")
    batches = [with_noise(loss, subject.data(n, 4)) for n in (2, 3, 5, 8, 13, 21)]
    if form == "keywords":
        batches = [keywords(loss, batch) for batch in batches]
    numbers = {name: (0.1, 0.15, 0.2) for name, x in loss._buffers.items() if x is not None}
    assert_compiles_once(loss, batches, coefficients=numbers)
