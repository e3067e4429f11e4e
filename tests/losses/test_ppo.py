"""ClipPPOLoss: its ways of being called, masks, and bad input."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torchrl.modules import (
    ActorValueOperator,
    IndependentNormal,
    OneHotCategorical,
    ProbabilisticActor,
    SafeModule,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss as TorchRLClipPPOLoss

from compiled_rl import ClipPPOLoss, Policy, ValueHead
from compiled_rl.adapters import dispatch
from compiled_rl.functional import gae
from compiled_rl.modules import (
    Categorical,
    Composite,
    Normal,
    StateIndependentScale,
    TanhNormal,
)
from compiled_rl.testing import assert_compiles_once
from tests.losses.networks import (
    ACTION,
    OBSERVATION,
    as_keywords,
    make_data,
    mlp,
    plain_networks,
    tensordict_networks,
)

kinds = pytest.mark.parametrize("kind", ["normal", "categorical"])
LOSSES = ("loss_objective", "loss_entropy", "loss_critic")


def make(kind: str = "normal", **arguments) -> ClipPPOLoss:
    return ClipPPOLoss(*plain_networks(kind), **arguments)


def without(data: TensorDict, *keys) -> TensorDict:
    return data.exclude(*keys)


def total(outputs) -> torch.Tensor:
    return sum(outputs[name].sum() for name in LOSSES if name in outputs.keys())


def gradients(outputs, module: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(total(outputs), list(module.parameters())))


# ---- the three forms -----------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("estimated", [False, True], ids=["given", "estimated"])
def test_keywords_mapping_and_tensordict_are_equal(kind, estimated):
    loss = make(kind)
    data = make_data(loss.actor_network, (5, 4))
    if estimated:
        data = without(data, "advantage", "value_target")
    by_keyword = loss(**as_keywords(data))
    by_mapping = loss(as_keywords(data))
    by_key = loss({("next", "reward"): data["next", "reward"], **as_keywords(data)})
    by_tensordict = loss(data)
    assert by_keyword._fields == loss.out_keys
    assert isinstance(by_tensordict, TensorDict)
    assert by_tensordict.batch_size == torch.Size([])
    assert set(by_mapping) == set(by_tensordict.keys())
    assert set(by_mapping) == {*loss.out_keys, "explained_variance"}
    for name in by_keyword._fields:
        for other in (by_mapping, by_key, by_tensordict):
            assert torch.equal(getattr(by_keyword, name), other[name])


@kinds
def test_plain_and_tensordict_networks_are_equal(kind):
    actor, critic = plain_networks(kind)
    plain, wrapped = ClipPPOLoss(actor, critic), ClipPPOLoss(*tensordict_networks(actor, critic))
    data = make_data(actor, (6,))
    for a, b in zip(plain(**as_keywords(data)), wrapped(**as_keywords(data)), strict=True):
        assert torch.equal(a, b)


def test_outputs_and_their_order():
    data = as_keywords(make_data(plain_networks("normal")[0], (6,)))
    everything = (
        "loss_objective",
        "clip_fraction",
        "entropy",
        "loss_entropy",
        "loss_critic",
        "value_clip_fraction",
        "ESS",
        "kl_approx",
        "max_ratio",
        "mean_ratio",
    )
    for arguments, absent in (
        ({"clip_value": 0.2}, set()),
        ({}, {"value_clip_fraction"}),
        ({"entropy_bonus": False}, {"value_clip_fraction", "entropy", "loss_entropy"}),
        ({"critic_coeff": None}, {"value_clip_fraction", "loss_critic"}),
    ):
        outputs = make(**arguments)(**data)
        assert outputs._fields == tuple(name for name in everything if name not in absent)
    losses = {name for name in everything if name.startswith("loss_")}
    full = make(clip_value=0.2)(**data)
    assert {name for name in full._fields if getattr(full, name).requires_grad} == losses


def test_a_critic_may_have_no_trailing_axis():
    actor, critic = plain_networks("normal")
    squeezed = nn.Sequential(critic, nn.Flatten(-2))
    data = make_data(actor, (6,))
    flat = {
        name: x.squeeze(-1) if x.shape == (6, 1) else x for name, x in as_keywords(data).items()
    }
    expected = ClipPPOLoss(actor, critic)(data)
    torch.testing.assert_close(total(ClipPPOLoss(actor, squeezed)(flat)), total(expected))


def test_a_head_on_what_the_actor_computed():
    """One trunk, called once: the critic reads the actor's ``hidden``."""
    calls = []
    trunk = nn.Linear(OBSERVATION, 8)
    trunk.register_forward_hook(lambda *_: calls.append(1))
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(trunk, ["observation"], ["hidden"]),
        TensorDictModule(
            nn.Sequential(nn.Linear(8, ACTION), StateIndependentScale(ACTION)),
            ["hidden"],
            ["loc", "scale"],
        ),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=IndependentNormal
        ),
    )
    critic = TensorDictModule(nn.Linear(8, 1), ["hidden"], ["state_value"])
    loss = ClipPPOLoss(actor, critic)
    assert loss.in_keys[0] == "observation"
    total(loss(make_data(plain_networks("normal")[0], (5,)))).backward()
    assert calls == [1]
    assert all(p.grad is not None for p in loss.parameters())


def test_the_wrappers_of_torchrl_are_plain():
    common = SafeModule(nn.Linear(OBSERVATION, 6), in_keys=["observation"], out_keys=["hidden"])
    head = SafeModule(nn.Linear(6, ACTION), in_keys=["hidden"], out_keys=["logits"])
    operator = ActorValueOperator(
        common,
        ProbabilisticActor(
            head, in_keys=["logits"], distribution_class=OneHotCategorical, return_log_prob=True
        ),
        ValueOperator(nn.Linear(6, 1), in_keys=["hidden"]),
    )
    networks = operator.get_policy_operator(), operator.get_value_operator()
    data = make_data(plain_networks("categorical")[0], (5,))
    with torch.no_grad():
        networks[0](data)
    data["action_log_prob"] += 0.3 * torch.randn(5)
    mine, expected = ClipPPOLoss(*networks)(data), TorchRLClipPPOLoss(*networks)(data)
    for name in (*LOSSES, "kl_approx", "clip_fraction"):
        torch.testing.assert_close(mine[name], expected[name])


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [("collector", "mask"), "shifted_valid", "mask"])
@pytest.mark.parametrize("trailing", [False, True])
@pytest.mark.parametrize("estimated", [False, True], ids=["given", "estimated"])
def test_nothing_under_the_mask_is_read(key, trailing, estimated):
    loss = make(
        clip_value=0.2,
        normalize_advantage=True,
        **({"loss_mask_key": "mask"} if key == "mask" else {}),
    )
    data = make_data(loss.actor_network, (6, 4))
    if estimated:
        data = without(data, "advantage", "value_target")
    mask = torch.rand(6, 4) < 0.6
    data[key] = mask.unsqueeze(-1) if trailing else mask
    poisoned = data.clone()
    for _, x in poisoned.items(include_nested=True, leaves_only=True):
        if x.is_floating_point():
            x[~mask] = torch.nan
    expected, got = loss(data), loss(poisoned)
    for name in expected.keys():
        assert torch.equal(expected[name], got[name]), name
    for a, b in zip(gradients(expected, loss), gradients(got, loss), strict=True):
        assert torch.equal(a, b)


def test_a_masked_loss_is_the_loss_of_what_is_valid():
    loss = make(normalize_advantage=True, clip_value=0.5)
    data = make_data(loss.actor_network, (20,))
    mask = torch.rand(20) < 0.5
    data["action_log_prob"][~mask] -= 3  # the largest ratios are not valid
    data["state_value"][~mask] += 10  # nor are the largest moves
    valid = loss(data[mask])
    data["shifted_valid"] = mask
    masked = loss(data)
    for name in masked.keys():
        torch.testing.assert_close(masked[name], valid[name], rtol=1e-5, atol=1e-5)


def test_a_masked_step_cuts_the_trace_of_the_estimator():
    loss = make(reduction="none", loss_critic_type="l1", loss_mask_key="mask")
    data = without(make_data(loss.actor_network, (6, 5)), "advantage", "value_target")
    mask = data["mask"] = torch.rand(6, 5) < 0.7
    critic, following = loss.critic_network, data["next"]
    columns = [following["reward"], critic(data["observation"]), critic(following["observation"])]
    flags = [following["terminated"], following["done"]]
    inputs = [x.detach().squeeze(-1) for x in (*columns, *flags)]
    target = gae(*inputs, mask=mask).value_target
    expected = torch.where(mask, (inputs[1] - target).abs(), 0)
    assert not mask.all()
    torch.testing.assert_close(loss(data)["loss_critic"], expected)


def test_the_largest_ratio_is_that_of_a_valid_step():
    """What replaces a masked step, an action of zero, would be e^11 times as likely as recorded."""
    network = nn.Sequential(nn.Linear(OBSERVATION, ACTION), StateIndependentScale(ACTION, 0.01))
    nn.init.zeros_(network[0].bias)
    policy = Policy(network, Normal)
    observation, mask = torch.randn(5, OBSERVATION), torch.tensor([True, True, False, True, True])
    action, log_prob, _ = policy.act(observation)
    outputs = ClipPPOLoss(policy)(
        observation=observation,
        action=action,
        action_log_prob=log_prob,
        advantage=torch.randn(5),
        shifted_valid=mask,
    )
    assert outputs.max_ratio.item() == pytest.approx(1, abs=1e-3)


def test_a_mask_that_was_asked_for_must_be_there():
    loss = make(loss_mask_key="mask")
    data = make_data(loss.actor_network, (5,))
    with pytest.raises(KeyError, match="the mask 'mask' was not found; the keys are"):
        loss(data)


def test_a_nested_mapping_is_read_as_a_tensordict_is():
    loss = make()
    data = make_data(loss.actor_network, (5, 4))
    data["collector"] = {"mask": torch.rand(5, 4) < 0.5}
    nested = {name: x.to_dict() if name in ("next", "collector") else x for name, x in data.items()}
    assert torch.equal(total(loss(nested)), total(loss(data)))
    del nested["advantage"]
    assert torch.equal(total(loss(nested)), total(loss(without(data, "advantage"))))


@pytest.mark.parametrize("compiled", [False, True])
def test_an_empty_batch_has_no_loss(compiled):
    loss = make(clip_value=0.2)
    data = make_data(loss.actor_network, (5,))[:0]
    run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    outputs = run(data)
    assert all(x.isfinite().all() for x in outputs.values())
    assert total(outputs) == 0


def test_masks_are_joined_and_a_shorter_one_is_expanded():
    loss = make(reduction="none")
    data = make_data(loss.actor_network, (6, 4))
    rows, steps = torch.rand(6) < 0.6, torch.rand(6, 4) < 0.6
    expected = loss(data)["loss_objective"]
    masks = {"shifted_valid": steps, "collector_mask": rows}
    got = loss(**as_keywords(data), **masks).loss_objective
    both = steps & rows.unsqueeze(-1)
    torch.testing.assert_close(got, torch.where(both, expected, 0))


# ---- state ---------------------------------------------------------------------------------------


def test_parameters_are_the_users_own_and_state_is_there_from_the_start():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic, clip_value=0.1)
    own = [*actor.parameters(), *critic.parameters()]
    assert all(a is b for a, b in zip(loss.parameters(), own, strict=True))
    assert any(name.startswith("actor_network.") for name, _ in loss.named_parameters())
    before = set(loss.state_dict())
    loss(without(make_data(actor, (3, 4)), "advantage"))
    assert set(loss.state_dict()) == before
    assert {"clip_epsilon", "entropy_coeff", "_value_estimator.gamma"} <= before


def test_compiles_straight_from_a_pickle_of_another_process():
    loss = make()
    stored = pickle.dumps(loss)
    dispatch._OUTPUT_TYPES.clear()
    other = pickle.loads(stored)
    data = as_keywords(make_data(loss.actor_network, (5,)))
    run = torch.compile(lambda: other(**data), fullgraph=True, backend="aot_eager")
    assert torch.equal(run().loss_objective, loss(**data).loss_objective)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("networks", ["plain", "tensordict"])
def test_copies_are_independent_and_equal(copied, networks):
    actor, critic = plain_networks("normal")
    if networks == "plain":
        loss = ClipPPOLoss(actor, critic)
    else:
        loss = ClipPPOLoss(*tensordict_networks(actor, critic))
    data = make_data(actor, (5,))
    other = copied(loss)
    assert torch.equal(total(other(data)), total(loss(data)))
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert not torch.equal(total(other(data)), total(loss(data)))


def test_a_coefficient_is_set_in_place():
    loss = make()
    buffer = loss.clip_epsilon
    loss.clip_epsilon = 0.05
    assert loss.clip_epsilon is buffer
    assert buffer.item() == pytest.approx(0.05)


# ---- time limits ---------------------------------------------------------------------------------


def test_truncation_bootstraps_and_termination_does_not():
    actor, critic = plain_networks("categorical")
    loss = ClipPPOLoss(actor, critic, reduction="none", loss_critic_type="l1", critic_coeff=1.0)
    loss.make_value_estimator(gamma=0.9, lmbda=0.0)
    data = without(make_data(actor, (1, 2)), "advantage", "value_target")
    for terminated in (False, True):
        data["next", "done"] = torch.ones(1, 2, 1, dtype=torch.bool)
        data["next", "terminated"] = torch.full((1, 2, 1), terminated)
        bootstrap = 0.0 if terminated else critic(data["next", "observation"])
        target = data["next", "reward"] + 0.9 * bootstrap
        expected = (critic(data["observation"]) - target).abs().squeeze(-1)
        torch.testing.assert_close(loss(data)["loss_critic"], expected)


# ---- compiled ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [pytest.param(x, marks=pytest.mark.slow) for x in ("keywords", "tensordict")] + ["mapping"],
)
@pytest.mark.parametrize(
    "estimated",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["given", "estimated"],
)
def test_compiles_with_at_most_two_graphs(form, estimated):
    loss = make(clip_value=0.2)
    batches = [make_data(loss.actor_network, (n, 4), seed=n) for n in (2, 3, 5, 8, 13, 21)]
    if estimated:
        batches = [without(batch, "advantage", "value_target") for batch in batches]
    if form != "tensordict":
        batches = [as_keywords(batch) for batch in batches]
    if form == "mapping":
        batches = [(batch,) for batch in batches]
    names = ("clip_epsilon", "entropy_coeff", "critic_coeff", "clip_value")
    assert_compiles_once(
        loss, batches, coefficients={name: [0.1, 0.15, 0.2, 0.25] for name in names}
    )


# ---- bad input -----------------------------------------------------------------------------------


def bad_calls():
    x = torch.randn(4, 1)
    return {
        "a flat advantage": (
            {"advantage": torch.randn(4)},
            ValueError,
            r"`value_target` must have the shape of `advantage`, got \[4, 1\] and \[4\]",
        ),
        "an advantage of another size": (
            {"advantage": torch.randn(5, 1)},
            ValueError,
            r"`advantage` must be of shape \[4\] or \[4, 1\], got \[5, 1\]",
        ),
        "a target of another size": (
            {"value_target": torch.randn(3, 1)},
            ValueError,
            r"`value_target` must have the shape of `advantage`, got \[3, 1\] and \[4, 1\]",
        ),
        "an action that requires grad": (
            {"action": torch.randn(4, ACTION, requires_grad=True)},
            RuntimeError,
            "`action` must be recorded data, got a tensor that requires grad",
        ),
        "a log-probability that requires grad": (
            {"action_log_prob": torch.randn(4, requires_grad=True)},
            RuntimeError,
            "`sample_log_prob` must be recorded data",
        ),
        "an action of another size": (
            {"action": torch.randn(4, 2)},
            ValueError,
            r"`action` must have the shape of `loc`, got \[4, 2\] and \[4, 3\]",
        ),
        "a log-probability with a trailing axis": (
            {"action_log_prob": x},
            ValueError,
            r"`sample_log_prob` must have the shape of `log_prob`, got \[4, 1\] and \[4\]",
        ),
        "no action": ({"action": None}, KeyError, "the key 'action' for `action` was not found"),
        "no log-probability": (
            {"action_log_prob": None},
            KeyError,
            r"the key 'action_log_prob' for `sample_log_prob` was not found; the keys are \[",
        ),
        "no value target": (
            {"value_target": None},
            KeyError,
            "the key 'value_target' for `value_target` was not found",
        ),
        "no observation": (
            {"observation": None},
            KeyError,
            "the network input `observation` was not found",
        ),
        "no advantage and no reward": (
            {"advantage": None, "next_reward": None},
            KeyError,
            r"for `reward` was not found, needed to compute the missing `advantage`",
        ),
        "a float mask": (
            {"shifted_valid": torch.ones(4)},
            ValueError,
            "the mask 'shifted_valid' must be torch.bool, got torch.float32",
        ),
        "a mask of another size": (
            {"shifted_valid": torch.ones(5, dtype=torch.bool)},
            ValueError,
            r"the mask 'shifted_valid' must be of shape \[4\] or \[4, 1\], got \[5\]",
        ),
        "a number": (
            {"advantage": 1.0},
            TypeError,
            "`advantage` must be a tensor, got a float",
        ),
        "no termination": (
            {"advantage": None, "next_terminated": None},
            KeyError,
            "for `terminated` was not found, needed to compute the missing `advantage`",
        ),
        "an unknown keyword": (
            {"advantages": x},
            TypeError,
            "`advantages` is not an input; the inputs are",
        ),
    }


@pytest.mark.parametrize("what", bad_calls())
def test_bad_calls(what):
    change, kind, sentence = bad_calls()[what]
    loss = make()
    data = as_keywords(make_data(loss.actor_network, (4,))) | change
    with pytest.raises(kind, match=sentence):
        loss(**data)


def test_a_missing_key_of_a_tensordict_names_those_that_are_there():
    loss = make()
    data = make_data(loss.actor_network, (4,))
    with pytest.raises(KeyError, match=r"'value_target'.*the keys are .*'advantage'.*next_reward"):
        loss(without(data, "value_target"))


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"clip_epsilon": 1.5}, ValueError, r"`clip_epsilon` must be in \[0, 1\), got 1.5"),
        ({"clip_epsilon": "a"}, ValueError, "`clip_epsilon` must be a float or a 0-d tensor, got"),
        ({"clip_value": -1.0}, ValueError, "`clip_value` must be positive, got -1"),
        ({"reduction": "max"}, ValueError, "`reduction` must be"),
        ({"loss_critic_type": "huber"}, ValueError, "`loss_critic_type` must be"),
        ({"entropy_coeff": torch.ones(2)}, ValueError, "`entropy_coeff` must be a float"),
        ({"critic_coeff": "1"}, ValueError, "`critic_coeff` must be a float"),
        ({"loss_mask_key": 3}, ValueError, "`loss_mask_key` must be 'auto', None or a key, got 3"),
        ({"gamma": 0.9}, TypeError, "gamma"),
    ],
)
def test_bad_arguments(arguments, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make(**arguments)


def test_networks_of_no_known_kind():
    with pytest.raises(TypeError, match="`actor_network` must be a Policy or a Prob"):
        ClipPPOLoss(mlp(2), mlp(1))


def test_without_a_critic():
    actor, _ = plain_networks("normal")
    loss = ClipPPOLoss(actor)
    data = make_data(actor, (4, 3))
    assert "loss_critic" not in loss(data).keys()
    with pytest.raises(RuntimeError, match="without a `critic_network` it cannot be computed"):
        loss(without(data, "advantage"))
    with pytest.raises(RuntimeError, match="a value estimator needs a critic, got None"):
        loss.make_value_estimator()
    with pytest.raises(RuntimeError, match="a value estimator needs a critic, got None"):
        _ = loss.value_estimator


def test_clip_value_needs_the_old_value():
    loss = make(clip_value=0.2)
    data = without(make_data(loss.actor_network, (4,)), "state_value")
    with pytest.raises(KeyError, match="'state_value' for `value` was not found, needed for `clip"):
        loss(data)


def test_keys_that_cannot_be_set_change_nothing():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(*tensordict_networks(actor, critic))
    data = make_data(actor, (4,))
    expected, before = total(loss(data)), dict(loss.tensor_keys)
    with pytest.raises(KeyError, match="the key 'v' for `value` must be an output of the critic"):
        loss.set_keys(advantage="a", value="v")
    for wrong in (3, ["a", "b"], ("a", 1)):
        with pytest.raises(TypeError, match="`advantage` must be a string or a tuple of strings"):
            loss.set_keys(advantage=wrong)
    assert loss.tensor_keys == before
    assert torch.equal(total(loss(data)), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("actor_network", nn.Identity()),
        ("critic_network", mlp(1)),
        ("reduction", "sum"),
        ("entropy_bonus", False),
        ("critic_coeff", None),
        ("clip_value", 0.3),
    ],
)
def test_what_is_fixed_at_construction_says_so(name, value):
    loss = make()
    with pytest.raises(AttributeError, match=f"`{name}` is (fixed|given or None)"):
        setattr(loss, name, value)


def test_the_old_value_is_the_stored_one_when_the_advantage_is_computed():
    loss = make(clip_value=0.01, reduction="none", loss_critic_type="l2")
    data = without(make_data(loss.actor_network, (4, 3)), "advantage", "value_target")
    assert loss(data)["value_clip_fraction"] > 0
    with pytest.raises(KeyError, match="'state_value' for `value` was not found, needed for `clip"):
        loss(without(data, "state_value"))


def test_a_family_reads_its_parameters_by_name():
    actor, critic = plain_networks("normal")
    swapped = ProbabilisticTensorDictSequential(
        TensorDictModule(actor.network, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            {"scale": "scale", "loc": "loc"}, ["action"], distribution_class=IndependentNormal
        ),
    )
    data = make_data(actor, (4,))
    assert torch.equal(total(ClipPPOLoss(swapped, critic)(data)), total(make()(data)))


def test_a_critic_is_a_module():
    actor, _ = plain_networks("normal")
    sentence = "`critic_network` must be an nn.Module or None, got builtin"
    with pytest.raises(TypeError, match=sentence):
        ClipPPOLoss(actor, torch.tanh)


def test_keys_can_be_set():
    loss = make()
    data = make_data(loss.actor_network, (4,))
    expected = total(loss(data))
    data.rename_key_("advantage", "a")
    data.rename_key_(("next", "reward"), ("next", "r"))
    loss.set_keys(advantage="a", reward="r")
    assert torch.equal(total(loss(data)), expected)
    assert ("next", "r") in loss.in_keys
    loss.set_keys(advantage=None)
    assert "advantage" in loss.in_keys
    with pytest.raises(ValueError, match="`advantages` is not an accepted key; the accepted keys"):
        loss.set_keys(advantages="a")


def test_the_actors_own_keys_are_the_defaults():
    actor, critic = plain_networks("normal")
    wrapped = ProbabilisticTensorDictSequential(
        TensorDictModule(actor.network, [("agent", "obs")], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], [("agent", "act")], distribution_class=IndependentNormal
        ),
    )
    critic = TensorDictModule(critic, [("agent", "obs")], ["state_value"])
    loss = ClipPPOLoss(wrapped, critic)
    data = make_data(actor, (4, 3))
    expected = total(ClipPPOLoss(actor, critic.module)(data))
    data.rename_key_("observation", ("agent", "obs"))
    data.rename_key_(("next", "observation"), ("next", "agent", "obs"))
    data.rename_key_("action", ("agent", "act"))
    data.rename_key_("action_log_prob", ("agent", "act_log_prob"))
    assert torch.equal(total(loss(data)), expected)
    loss.set_keys(action="other")
    loss.set_keys(action=None)
    assert torch.equal(total(loss(as_keywords(data))), expected)
    assert loss(without(data, "advantage"))["loss_critic"].isfinite()


def test_a_critic_that_is_not_needed_is_not_called():
    actor, critic = plain_networks("normal")
    critic.register_forward_hook(lambda *_: pytest.fail("the critic was called"))
    ClipPPOLoss(actor, critic, critic_coeff=None)(make_data(actor, (4,)))


def test_a_replaced_submodule_is_noticed():
    loss = make()
    data = make_data(loss.actor_network, (4,))
    loss.actor_network.network = mlp(2 * ACTION)
    with pytest.raises(RuntimeError, match="was replaced or hooked after the loss was made"):
        loss(data)


@pytest.mark.parametrize("composite", [False, True])
def test_a_replaced_family_is_noticed(composite):
    actor, critic = plain_networks("normal")
    if composite:
        actor = Policy(actor.network, Composite({"a": Normal()}))
    loss = ClipPPOLoss(actor, critic)
    loss.check_fresh()
    copy.deepcopy(loss).check_fresh()
    actor.family = Composite({"a": TanhNormal()}) if composite else TanhNormal()
    with pytest.raises(RuntimeError, match="the `family` of Policy was replaced after the loss"):
        loss.check_fresh()


class Own(Policy):
    def params(self, observation):
        return super().params(-observation)


def test_a_policy_is_called_by_its_network():
    actor, critic = plain_networks("normal")
    with pytest.raises(TypeError, match="what its `network` returns, got Own with a `params` of"):
        ClipPPOLoss(Own(actor.network, Normal), critic)
    loss = ClipPPOLoss(actor, critic)
    actor.register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match="what its `network` returns, got Policy with hooks; put"):
        loss(make_data(actor, (4,)))


def test_keywords_and_a_container_do_not_mix():
    loss = make()
    data = make_data(loss.actor_network, (4,))
    with pytest.raises(TypeError, match="expected keyword tensors or one container"):
        loss(data, advantage=data["advantage"])
    with pytest.raises(TypeError, match="expected keyword tensors, a mapping or a TensorDict"):
        loss([1])


def test_value_head_needs_no_squeezing():
    actor = Policy(mlp(ACTION), Categorical)
    critic = nn.Sequential(nn.Linear(OBSERVATION, 8), nn.Tanh(), ValueHead(8))
    outputs = ClipPPOLoss(actor, critic)(
        observation=torch.randn(5, OBSERVATION),
        action=torch.randint(ACTION, (5,)),
        action_log_prob=torch.randn(5),
        advantage=torch.randn(5),
        value_target=torch.randn(5),
    )
    assert outputs.loss_critic.shape == ()
