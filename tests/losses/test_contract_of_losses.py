"""What users' own tests pin of every loss: gradients, names, tuples, keys and errors."""

import pytest
import torch
from torchrl import objectives as torchrl

from compiled_rl import losses
from tests.losses.peers import LOSSES, gradients, keywords, make, networks, record, sequences

every_loss = pytest.mark.parametrize("name", LOSSES)
estimated_or_not = pytest.mark.parametrize("estimated", [False, True], ids=["given", "estimated"])

TUPLES = {
    "A2CLoss": "loss_objective loss_critic entropy loss_entropy",
    "PPOLoss": "loss_objective entropy loss_entropy loss_critic value_clip_fraction",
    "ClipPPOLoss": "loss_objective clip_fraction entropy loss_entropy loss_critic "
    "value_clip_fraction ESS kl_approx max_ratio mean_ratio",
    "KLPENPPOLoss": "loss_objective kl entropy loss_entropy loss_critic value_clip_fraction",
    "ReinforceLoss": "loss_actor loss_value",
}
MASKS = (("collector", "mask"), "shifted_valid")
OF_AN_ESTIMATOR = ("steps_to_next_obs", ("next", "state_value"))


# ---- gradients and parameters --------------------------------------------------------------------


@every_loss
@estimated_or_not
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_network_that_a_loss_does_not_touch_has_no_gradient(name, estimated, reduction):
    loss = make(name, reduction=reduction)
    outputs = loss(sequences(loss, estimated))
    for key, x in outputs.items():
        if not key.startswith("loss_"):
            assert not x.requires_grad, key
            continue
        critics = key in ("loss_critic", "loss_value")
        learns, other = loss.actor_network, loss.critic_network
        if critics:
            learns, other = other, learns
        assert all(grad is None for grad in gradients(x, other)), key
        assert any(grad is not None and grad.abs().sum() > 0 for grad in gradients(x, learns)), key


def test_no_gradient_of_reinforce_reaches_the_advantage():
    loss = make("ReinforceLoss")
    data = sequences(loss, estimated=False)
    advantage = data["advantage"].requires_grad_()
    (grad,) = torch.autograd.grad(loss(data)["loss_actor"], advantage, allow_unused=True)
    assert grad is None


@every_loss
def test_parameters_are_the_users_own_under_the_networks_names(name):
    actor, critic = networks()
    loss = getattr(losses, name)(actor, critic)
    named = dict(loss.named_parameters())
    for network, prefix in ((actor, "actor_network."), (critic, "critic_network.")):
        found = [p for key, p in named.items() if key.startswith(prefix)]
        assert all(a is b for a, b in zip(found, network.parameters(), strict=True))
    assert all(key.startswith(("actor_network.", "critic_network.")) for key in named)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("PPOLoss", "delay_actor"),
        ("ClipPPOLoss", "delay_actor"),
        ("KLPENPPOLoss", "delay_actor"),
        ("ReinforceLoss", "delay_value"),
    ],
)
def test_a_target_is_a_copy_that_no_optimiser_sees(name, argument):
    loss = make(name, **{argument: True})
    network = "actor_network" if argument == "delay_actor" else "critic_network"
    online = dict(getattr(loss, network).named_parameters())
    target = dict(getattr(loss, f"target_{network}").named_buffers())
    assert target.keys() == online.keys()
    for key, x in target.items():
        assert torch.equal(x, online[key])
        assert x.data_ptr() != online[key].data_ptr()
    assert not any("target" in key for key, _ in loss.named_parameters())
    assert {f"target_{network}.{key}" for key in target} <= set(loss.state_dict())
    assert make(name).state_dict().keys() < loss.state_dict().keys()


@every_loss
@pytest.mark.parametrize("trunk", ["twice", "once"])
@pytest.mark.parametrize("functional", [True, False])
def test_separate_losses_leave_what_is_shared_to_the_policy(name, trunk, functional):
    loss = make(name, "categorical", trunk, separate_losses=True, functional=functional)
    data = record(loss.actor_network, (4, 5))
    of_actor = {id(p) for p in loss.actor_network.parameters()}
    both = make(name, "categorical", trunk)
    for module, shared_learns in ((loss, False), (both, True)):
        of_actor = {id(p) for p in module.actor_network.parameters()}
        x = module(data)["loss_value" if name == "ReinforceLoss" else "loss_critic"]
        found = zip(module.parameters(), gradients(x, module), strict=True)
        learns = {id(p) in of_actor for p, grad in found if grad is not None}
        assert learns == ({True, False} if shared_learns else {False})


# ---- keys and tuples -----------------------------------------------------------------------------


@every_loss
def test_a_keyword_call_returns_its_tuple_in_order(name):
    loss = make(name, clip_value=0.2).eval()
    expected = TUPLES[name].split()
    assert list(loss.out_keys) == expected
    data = sequences(loss, estimated=False)
    outputs = loss(**keywords(loss, data))
    assert list(outputs._fields) == expected
    assert isinstance(outputs, tuple)
    by_key = loss(data)
    for key, x in zip(expected, outputs, strict=True):
        assert torch.equal(x, by_key[key])
    without = make(name)
    assert list(without.out_keys) == [key for key in expected if key != "value_clip_fraction"]


@every_loss
def test_outputs_can_be_selected(name):
    loss = make(name).eval()
    data = sequences(loss)
    everything = loss.out_keys
    first, last = everything[0], everything[-1]
    expected = loss(data)
    assert loss.select_out_keys(last, first) is loss
    for outputs in (loss(**keywords(loss, data)), loss(data).values()):
        a, b = outputs
        assert torch.equal(a, expected[last])
        assert torch.equal(b, expected[first])
    with pytest.raises(ValueError, match="`loss_nothing` is not an output; the outputs are"):
        loss.select_out_keys("loss_nothing")
    loss.reset_out_keys()
    assert loss.out_keys == everything


@every_loss
def test_in_keys_are_a_fixed_sequence(name):
    """TorchRL's come from a set, in another order in every process."""
    loss = make(name)
    recorded = ["observation", "action", "action_log_prob", "advantage", "value_target"]
    entered = [("next", key) for key in ("reward", "done", "terminated", "observation")]
    old = ["loc", "scale"] if name == "KLPENPPOLoss" else []
    expected = [*recorded, "state_value", *entered, *MASKS, *old, *OF_AN_ESTIMATOR]
    assert loss.in_keys == tuple(expected)
    loss.set_keys(reward="gain", value_target=("a", "goal"))
    changed = {("next", "reward"): ("next", "gain"), "value_target": ("a", "goal")}
    assert loss.in_keys == tuple(changed.get(key, key) for key in expected)


@every_loss
@estimated_or_not
def test_nothing_is_written_to_the_data(name, estimated):
    loss = make(name)
    data = sequences(loss, estimated)
    before = data.clone()
    loss(data)
    assert set(data.keys(True)) == set(before.keys(True))
    assert (data == before).all()
    assert data.batch_size == before.batch_size


# ---- errors --------------------------------------------------------------------------------------

LACKS = {
    "value_target": "'value_target' for `value_target` was not found",
    "state_value": "'state_value' for `value` was not found, needed for `clip_value`",
    "action": "'action' for `action` was not found",
    "observation": "`observation` was not found",
}


@every_loss
@pytest.mark.parametrize("key", LACKS)
def test_what_is_missing_is_named(name, key):
    loss = make(name, clip_value=0.2)
    data = sequences(loss, estimated=False)
    for call in (lambda x: loss(x), lambda x: loss(**keywords(loss, x))):
        with pytest.raises(KeyError, match=LACKS[key]):
            call(data.exclude(key))


@pytest.mark.parametrize("name", ["PPOLoss", "ClipPPOLoss", "KLPENPPOLoss"])
def test_a_missing_log_probability_is_named(name):
    loss = make(name)
    data = sequences(loss, estimated=False).exclude("action_log_prob")
    with pytest.raises(KeyError, match="'action_log_prob' for `sample_log_prob` was not found"):
        loss(data)


@pytest.mark.parametrize("key", ["loc", "scale"])
def test_a_missing_parameter_of_the_old_policy_is_named(key):
    loss = make("KLPENPPOLoss")
    data = sequences(loss, estimated=False).exclude(key)
    with pytest.raises(KeyError, match=f"the parameter '{key}' of the old distribution was not fo"):
        loss(data)


@pytest.mark.parametrize("masked", [False, True])
def test_a_parameter_of_the_old_policy_of_another_shape_is_refused(masked):
    loss = make("KLPENPPOLoss")
    data = sequences(loss, estimated=False)
    data["scale"] = data["scale"][..., :1]
    if masked:
        data["shifted_valid"] = torch.ones(4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="`scale` must have the shape of `scale of the actor`"):
        loss(data)


@every_loss
def test_a_recorded_action_must_not_require_grad(name):
    loss = make(name)
    data = sequences(loss, estimated=False)
    data["action"].requires_grad_()
    with pytest.raises(RuntimeError, match="`action` must be recorded data, got a tensor that req"):
        loss(data)


@every_loss
def test_arguments_are_refused_in_words(name):
    actor, critic = networks()
    made = getattr(losses, name)
    with pytest.raises(TypeError, match="`gamma` must be given to `make_value_estimator`"):
        made(actor, critic, gamma=0.9)
    with pytest.raises(TypeError, match="`nothing` is not an argument; the options are"):
        made(actor, critic, nothing=1)
    with pytest.raises(TypeError, match=r"`actor_network` must be a Policy or a .* got None"):
        made(critic_network=critic)
    loss = made(actor, critic)
    with pytest.raises(ValueError, match="`priority_key` is not an accepted key"):
        loss.set_keys(priority_key="a")
    with pytest.raises(KeyError, match="nothing"):
        loss.make_value_estimator("nothing")
    with pytest.raises(TypeError, match="nothing"):
        loss.make_value_estimator("gae", nothing=1)


@every_loss
def test_shapes_that_would_broadcast_are_refused(name):
    loss = make(name)
    data = sequences(loss, estimated=False, shape=(6,))
    data["advantage"] = data["advantage"].squeeze(-1)
    with pytest.raises(ValueError, match=r"`value_target` must have the shape of `advantage`"):
        loss(data)


def test_arguments_of_another_loss_are_refused():
    for name in ("entropy_bonus", "entropy_coeff", "critic_coeff"):
        with pytest.raises(TypeError, match=f"ReinforceLoss: `{name}` is not an argument"):
            losses.ReinforceLoss(*networks(), **{name: 1})


def test_two_spellings_of_one_argument_must_agree():
    made = losses.A2CLoss(*networks(), critic_coeff=0.5, critic_coef=0.5)
    assert made.critic_coeff == 0.5
    for one, other in ((1.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="`critic_coeff` and `critic_coef` are one argument"):
            losses.A2CLoss(*networks(), critic_coeff=one, critic_coef=other)


def test_a_refused_selection_keeps_the_one_before():
    loss = make("PPOLoss").select_out_keys("loss_objective")
    with pytest.raises(ValueError, match="`nothing` is not an output"):
        loss.select_out_keys("nothing")
    assert loss.out_keys == ("loss_objective",)


@pytest.mark.parametrize("dims", [-2, ("a",)])
def test_excluded_dimensions_are_a_sequence(dims):
    with pytest.raises(TypeError, match="`normalize_advantage_exclude_dims` must be a sequence"):
        make("PPOLoss", normalize_advantage_exclude_dims=dims)


@pytest.mark.parametrize("spelling", ["entropy_coeff", "entropy_coef"])
def test_an_entropy_without_a_weight_is_an_output_of_ppo_and_none_of_a2c(spelling):
    assert make("A2CLoss", **{spelling: 0.0}).out_keys == ("loss_objective", "loss_critic")
    ppo = make("PPOLoss", **{spelling: 0.0})
    assert ppo.out_keys == ("loss_objective", "entropy", "loss_entropy", "loss_critic")
    theirs = {name: getattr(torchrl, name)(*networks(), entropy_coeff=0.0) for name in LOSSES[:2]}
    assert tuple(theirs["A2CLoss"].out_keys) == ("loss_objective", "loss_critic")
    assert tuple(theirs["PPOLoss"].out_keys) == ppo.out_keys
