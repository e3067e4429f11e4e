"""What SAC promises beyond the table of ``test_off_policy.py``."""

import copy
import re
from functools import partial
from typing import Any

import gymnasium as gym
import pytest
import torch
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torchrl.data import Binary, Bounded, Categorical, Composite, OneHot
from torchrl.modules import IndependentNormal, ProbabilisticActor, TanhNormal

from compiled_rl import Policy, SACLoss, TD3Loss, modules
from compiled_rl.testing import assert_compiles_once
from tests.losses.soft_networks import (
    ACTION,
    OBSERVATION,
    Values,
    critic,
    draws,
    policy,
    soft,
    two_draws,
    value,
)
from tests.losses.test_off_policy import (
    assert_parity,
    gradients,
    keywords,
    pair,
    total,
    with_noise,
)
from tests.losses.transitions import Subject, transitions

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
ENTROPY = {"target_entropy": -3.0}
NOISE = ("action_noise", ("next", "action_noise"))


def make(kind: str = "tanh_normal", **arguments: Any) -> SACLoss:
    return SACLoss(*soft(kind), **(ENTROPY | arguments))


def with_value(kind: str = "tanh_normal") -> tuple[Any, Any, Any]:
    return *soft(kind), value()


def value_draws(data: Any, seed: int) -> dict[Any, Any]:
    """TorchRL's draws the action that the value is learned from first."""
    first, second = draws(data, seed)
    return {"value_action_noise": first, "action_noise": second}


SAC = Subject("SACLoss", partial(soft, "tanh_normal"), "", ENTROPY)
FIRST = Subject("SACLoss", with_value, "", ENTROPY, noise=value_draws)


# ---- the first version, with a value network -----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ["TD0", "TDLambda"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"reduction": "none"},
        {"reduction": "sum", "num_qvalue_nets": 3},
        {"delay_actor": True, "loss_function": "l2"},
        {"delay_value": False, "delay_qvalue": False},
    ],
    ids=str,
)
def test_with_a_value_network_it_is_the_peers(dtype, estimator, arguments):
    ours, theirs = pair(FIRST, estimator, dtype, **arguments)
    assert_parity(ours, theirs, FIRST, FIRST.data(6, 4, dtype=dtype))


def test_with_a_value_network_there_is_its_loss_and_a_part_of_the_batch_a_critic():
    loss = FIRST.ours()
    assert loss.out_keys == (*make().out_keys, "loss_value")
    data = with_noise(loss, FIRST.data(6))
    before = loss(data.clone())["td_error"]
    with torch.no_grad():
        for x in loss.qvalue_network.parameters():
            x[1].mul_(2.0)  # the second critic
    after = loss(data.clone())["td_error"]
    assert torch.equal(after[:3], before[:3])
    assert not (after[3:] == before[3:]).any()
    for step in (FIRST.data(5), FIRST.data(1)[0]):
        words = "must divide into a part for each of 2 critics, got "
        with pytest.raises(ValueError, match=words + re.escape(str(list(step.shape)))):
            loss(with_noise(loss, step))


def test_with_a_value_network_a_critic_sees_its_part_of_the_batch_alone():
    """As in TorchRL's: twice the work were thrown away, and batch statistics others'."""
    loss = FIRST.ours(num_qvalue_nets=3)
    linear = loss.qvalue_network.network.module.layers[0]
    seen, forward = [], linear.forward
    linear.forward = lambda x: (seen.append(x), forward(x))[1]
    data = with_noise(loss, FIRST.data(6, 4))
    loss(data)
    recorded = torch.cat([data["observation"], data["action"]], -1)
    assert [len(x) for x in seen] == [6, 6, 6, 2, 2, 2]  # of the actor's action, and of its own
    assert torch.equal(torch.cat(seen[3:]), recorded)


def test_with_a_value_network_separate_losses_leave_what_is_shared_to_the_policy():
    torch.manual_seed(0)
    body = TensorDictModule(nn.Linear(OBSERVATION, 8), ["observation"], ["hidden"])
    actor = policy("normal", "hidden", [body])
    networks = [
        critic("normal", "hidden"),
        TensorDictModule(Values(8), ["hidden"], ["state_value"]),
    ]
    q, v = (TensorDictSequential(body, network) for network in networks)
    loss = SACLoss(actor, q, v, separate_losses=True, **ENTROPY)
    outputs = loss(transitions((6,)))
    trunk = list(body.parameters())
    for name, learns in (("loss_actor", True), ("loss_qvalue", False), ("loss_value", False)):
        found = torch.autograd.grad(outputs[name], trunk, retain_graph=True, allow_unused=True)
        assert all((grad is not None) == learns for grad in found), name


@pytest.mark.slow
def test_with_a_value_network_it_compiles():
    loss = FIRST.ours(max_alpha=2.0)
    batches = [with_noise(loss, FIRST.data(n)) for n in (2, 4, 6, 8)]
    assert_compiles_once(loss, [keywords(loss, batch) for batch in batches])


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha_init": 0.2},
        {"min_alpha": 0.5},
        {"max_alpha": 2.0},
        {"loss_function": "l1", "num_qvalue_nets": 1},
        {"delay_qvalue": False},
        {"delay_actor": True},
        {"use_prioritized_weights": False},
    ],
    ids=str,
)
def test_options_are_the_peers(arguments):
    subject = SAC._replace(noise=two_draws)
    ours, theirs = pair(subject, "TD0", torch.float64, **arguments)
    if "delay_actor" in arguments:  # TorchRL's has the copy and does not use it
        ours.target_actor_network.load_state_dict(ours.actor_network.state_dict())
    assert_parity(ours, theirs, subject, subject.data(10, dtype=torch.float64))


def test_a_fixed_temperature_is_no_parameter():
    ours, theirs = (
        SAC.ours(fixed_alpha=True, alpha_init=0.3),
        SAC.theirs(fixed_alpha=True, alpha_init=0.3),
    )
    assert "log_alpha" not in dict(ours.named_parameters())
    assert ours.log_alpha == theirs.log_alpha
    outputs = ours(SAC.data(6))
    assert not outputs["loss_alpha"].requires_grad
    torch.testing.assert_close(outputs["alpha"], torch.tensor(0.3))


def test_numbers_are_given_beside_a_loss_a_sample():
    """TorchRL's leaves them out, with a warning."""
    outputs = make(reduction="none")(SAC.data(6))
    assert outputs["loss_actor"].shape == (6,)
    assert outputs["alpha"].shape == outputs["entropy"].shape == ()
    excluded = make(reduction="none", scalar_output_mode="exclude")
    assert excluded.out_keys == ("loss_actor", "loss_qvalue", "loss_alpha")
    assert make(scalar_output_mode="exclude").out_keys == make().out_keys


def test_actions_that_value_a_state_are_drawn_by_the_copy_of_the_policy():
    loss = make(delay_actor=True)
    data = with_noise(loss, SAC.data(6))
    before = loss(data.clone())
    for x in loss.target_actor_network.buffers():
        x.add_(0.5)
    after = loss(data.clone())
    assert torch.equal(after["loss_actor"], before["loss_actor"])
    assert not torch.equal(after["loss_qvalue"], before["loss_qvalue"])


def test_states_behind_the_end_reach_no_network():
    loss = make("normal", skip_done_states=True)
    data = with_noise(loss, SAC.data(30))
    ended = data["next", "terminated"].squeeze(-1)
    assert ended.any()
    data["next", "observation"][ended] = 7.0
    linear = loss.actor_network.module[0].module[0]
    inputs, forward = [], linear.forward
    linear.forward = lambda x: (inputs.append(x), forward(x))[1]
    skipped = loss(data.clone())
    assert len(inputs) == 2
    assert not any((x == 7.0).any() for x in inputs)
    loss.skip_done_states = False
    all_seen = loss(data.clone())
    assert len(inputs) == 4
    assert (inputs[-1] == 7.0).any()
    for name, x in all_seen.items():
        torch.testing.assert_close(skipped[name], x)


# ---- the temperature -----------------------------------------------------------------------------


def slope(loss: Any, data: Any) -> float:
    return float(torch.autograd.grad(loss(data.clone())["loss_alpha"], loss.log_alpha)[0])


def test_a_bound_holds_the_temperature_and_lets_it_come_back():
    """TorchRL's sets the parameter back in every call; here it is not moved, nor driven on."""
    data = SAC.data(6)
    loss = make(max_alpha=1.0, target_entropy=100.0)  # never reached: the temperature is to rise
    data = with_noise(loss, data)
    assert slope(loss, data) < 0  # at the bound, not beyond
    loss.log_alpha = 0.5
    assert loss(data.clone())["alpha"] == 1
    assert slope(loss, data) == 0
    loss.target_entropy = -100.0
    assert slope(loss, data) > 0
    low = make(min_alpha=1.0, target_entropy=-100.0)
    low.log_alpha = -0.5
    assert low(data.clone())["alpha"] == 1
    assert slope(low, data) == 0
    low.target_entropy = 100.0
    assert slope(low, data) < 0


def test_a_masked_step_does_not_say_whether_the_temperature_is_to_rise():
    loss = make(max_alpha=1.0, target_entropy=0.0)
    loss.log_alpha = 0.5  # beyond the bound: the valid step drives it back, the other one further
    log_prob, mask = torch.tensor([-5.0, 100.0]), torch.tensor([True, False])
    terms = loss.temperature_terms(log_prob, mask, reduction="mean", weight=None)
    (grad,) = torch.autograd.grad(terms["loss_alpha"], loss.log_alpha)
    assert grad == 5


def test_a_temperature_starts_within_its_bounds():
    torch.testing.assert_close(make(max_alpha=0.5).log_alpha.exp(), torch.tensor(0.5))
    torch.testing.assert_close(make(min_alpha=2.0).log_alpha.exp(), torch.tensor(2.0))
    assert make(min_alpha=0.0).min_log_alpha is None


def test_a_call_moves_no_parameter():
    loss = make(max_alpha=1.0)
    loss.log_alpha = 0.5
    before = {name: x.clone() for name, x in loss.state_dict().items()}
    loss(SAC.data(6))
    assert all(torch.equal(x, before[name]) for name, x in loss.state_dict().items())


# ---- the target entropy --------------------------------------------------------------------------

BOUNDED = Bounded(-torch.ones(ACTION), torch.ones(ACTION), (ACTION,))
MANY = Bounded(-torch.ones(5, ACTION), torch.ones(5, ACTION), (5, ACTION))
NESTED = Composite(action=Composite(one=BOUNDED, other=BOUNDED))


@pytest.mark.parametrize(
    ("spec", "dimensions"),
    [
        (BOUNDED, ACTION),
        (Composite(action=BOUNDED), ACTION),
        (Composite(action=MANY, shape=(5,)), ACTION),
        (NESTED, 2 * ACTION),
    ],
    ids=["leaf", "composite", "of several environments", "nested"],
)
def test_a_spec_says_how_many_numbers_an_action_is(spec, dimensions):
    ours = make(action_spec=spec, target_entropy="auto")
    theirs = SAC.theirs(action_spec=spec, target_entropy="auto")
    assert ours.target_entropy == theirs.target_entropy == -dimensions


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("foo", "must be of continuous numbers, got 'foo'"),
        (gym.spaces.Discrete(5), r"must be of continuous numbers, got Discrete\(5\)"),
        (gym.spaces.MultiBinary(3), "must be of continuous numbers, got"),
        (Categorical(5), "must be of continuous numbers, got"),
        (OneHot(5, dtype=torch.float32), "must be of continuous numbers, got"),
        (Composite(action=Binary(3)), "must be of continuous numbers, got"),
        (Composite(move=BOUNDED), r"with the key 'action', got Composite with the keys \['move'\]"),
        (
            gym.spaces.Dict(action=gym.spaces.Box(-1.0, 1.0, (3,))),
            "with the key 'action', got Dict",
        ),
        (MANY, r"must be of one action, \[A\], or a Composite .*, got the shape \[5, 3\]"),
        (Composite(action=MANY), r"must be of one action, .* got the shape \[5, 3\]"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_spec_of_something_else_is_refused(spec, words):
    with pytest.raises(
        ValueError, match=f"`action_spec` must be .*{words.removeprefix('must be ')}"
    ):
        make(action_spec=spec, target_entropy="auto")


def test_a_policy_may_say_how_many_numbers_its_actions_are():
    def entropy(actor: Any, **arguments: Any) -> float:
        return float(SACLoss(actor, critic("normal"), **arguments).target_entropy)

    network = nn.Sequential(nn.Linear(OBSERVATION, 2 * ACTION), modules.StateDependentScale())
    ones = torch.ones(ACTION)
    assert entropy(Policy(network, modules.TanhNormal(low=-ones, high=ones))) == -ACTION
    rescaled = Policy(network, modules.TanhNormal, modules.ActionRescaler(-2 * ones, 2 * ones))
    assert entropy(rescaled) == -ACTION
    space = gym.spaces.Box(-1.0, 1.0, (ACTION,))
    assert entropy(Policy(network, modules.TanhNormal), action_spec=space) == -ACTION
    module = TensorDictModule(network, ["observation"], ["loc", "scale"])
    own = ProbabilisticActor(
        module, ["loc", "scale"], spec=BOUNDED, distribution_class=TanhNormal, return_log_prob=True
    )
    assert entropy(own) == -ACTION
    with pytest.raises(
        ValueError, match="`action_spec` or `target_entropy` must be given where nothing"
    ):
        entropy(Policy(network, modules.TanhNormal))


# ---- networks ------------------------------------------------------------------------------------


def test_plain_networks_are_what_their_wrappers_are():
    actor, q = soft("tanh_normal")
    wrapped = SACLoss(actor, q, **ENTROPY)
    family = modules.TanhNormal(low=-1.5, high=0.5)
    plain = SACLoss(Policy(actor.module[0].module, family), q.module, **ENTROPY)
    for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
        a.data.copy_(b.data)
    for a, b in zip(plain.buffers(), wrapped.buffers(), strict=True):
        a.copy_(b)
    data = with_noise(wrapped, SAC.data(6))
    given = keywords(plain, data)
    for a, b in zip(plain(**given), wrapped(**given), strict=True):
        assert torch.equal(a, b)


class Flat(Values):
    def forward(self, *inputs: Any) -> Any:
        return super().forward(*inputs).squeeze(-1)


def test_values_may_come_without_a_trailing_one():
    actor = policy("normal")
    loss = SACLoss(actor, [Flat(OBSERVATION + ACTION), Flat(OBSERVATION + ACTION)], **ENTROPY)
    data = with_noise(loss, SAC.data(6))
    given = keywords(loss, data)
    with pytest.raises(ValueError, match=r"`value` must have the shape of `reward`, got \[6\]"):
        loss(given)
    for name in ("next_reward", "next_done", "next_terminated"):
        given[name] = given[name].squeeze(-1)
    assert loss(given)["td_error"].shape == (6,)


def test_critics_of_one_network_are_drawn_from_its_range():
    _, network = soft("normal")
    loss = make("normal", num_qvalue_nets=4)
    for name, x in network.named_parameters():
        members = loss.qvalue_network.network.get_parameter(name)
        assert members.shape == (4, *x.shape)
        assert members.min() >= x.min()
        assert members.max() <= x.max()
        if x.numel() > 1:
            assert len(members.flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize("made", ["sac", "td3"])
def test_a_list_of_critics_may_be_a_module(made):
    (actor, network), bounds = soft("normal"), {"bounds": (-1.0, 1.0)}
    critics = [network, copy.deepcopy(network)]
    for x in critics[1].parameters():
        x.data.add_(1.0)
    cls, arguments = (SACLoss, ENTROPY) if made == "sac" else (TD3Loss, bounds)
    one, other = (cls(actor, x, **arguments) for x in (critics, nn.ModuleList(critics)))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="one network or a list of `num_qvalue_nets`, got 2 and 3"):
        cls(actor, nn.ModuleList(critics), num_qvalue_nets=3, **arguments)


def two_headed() -> Any:
    """A policy of two continuous actions, and a critic of both."""
    torch.manual_seed(0)
    keys = [("params", head, name) for head in ("move", "turn") for name in ("loc", "scale")]
    network = nn.Sequential(nn.Linear(OBSERVATION, 4), Pairs())
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(network, ["observation"], keys),
        ProbabilisticTensorDictModule(
            in_keys=["params"],
            out_keys=["move", "turn"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={
                "distribution_map": {"move": IndependentNormal, "turn": TanhNormal},
            },
            return_log_prob=True,
        ),
    )
    return actor, TensorDictModule(
        Values(OBSERVATION + 2), ["observation", "move", "turn"], ["state_action_value"]
    )


class Pairs(nn.Module):
    def forward(self, x: Any) -> Any:
        one, two, three, four = x.split(1, -1)
        return one, two.exp(), three, four.exp()


def test_a_policy_of_several_heads():
    loss = SACLoss(*two_headed(), target_entropy=-2.0)
    data = transitions((6,))
    data["move"], data["turn"] = torch.randn(6, 1), torch.rand(6, 1)
    given = with_noise(loss, data)
    assert given["action_noise", "move"].shape == (6, 1)
    outputs = loss(given.clone())
    assert all(grad is not None for grad in gradients(loss, total(loss, outputs)))
    wider = given.clone()
    wider["action_noise", "turn"] += 1.0
    assert loss(wider)["loss_actor"] != outputs["loss_actor"]


class Given(TensorDictModule):
    """A policy that gives a distribution of its own."""

    def get_dist(self, data: Any) -> Any:
        loc = self(data)["loc"]
        return torch.distributions.Independent(
            torch.distributions.Normal(loc, torch.ones_like(loc)), 1
        )


def test_a_policy_that_gives_an_object_is_reparametrised():
    actor = Given(nn.Linear(OBSERVATION, ACTION), ["observation"], ["loc"])
    loss = SACLoss(actor, critic("normal"), fixed_alpha=True, alpha_init=1e-6, **ENTROPY)
    (grad, _) = torch.autograd.grad(loss(SAC.data(6))["loss_actor"], list(actor.parameters()))
    assert grad.abs().sum() > 1e-3  # that of the score alone is smaller than alpha


# ---- noise ---------------------------------------------------------------------------------------


def test_noise_that_is_not_given_is_drawn():
    loss = make()
    data = SAC.data(6)
    torch.manual_seed(3)
    drawn = loss(data.clone())
    torch.manual_seed(3)
    noisy = with_noise(loss, data)
    given = loss(noisy.clone())
    assert all(torch.equal(x, given[name]) for name, x in drawn.items())
    for key in NOISE:
        assert key in loss.in_keys
        other = noisy.clone()
        other[key] += 1.0
        assert (loss(other)["loss_actor"] == given["loss_actor"]) == (key != "action_noise")
    generator = torch.Generator().manual_seed(3)
    one = loss.draw_noise({"action": data["action"]}, generator)
    other = loss.draw_noise({"action": data["action"]}, generator.manual_seed(3))
    assert one.keys() == other.keys() == set(NOISE)
    assert all(torch.equal(one[key], other[key]) for key in NOISE)
    assert not torch.equal(one[NOISE[0]], one[NOISE[1]])


@pytest.mark.slow
def test_noise_that_is_drawn_in_a_graph_is_as_in_eager():
    """Two draws of one shape stay two."""
    assert_compiles_once(make(), [SAC.data(n) for n in (2, 3, 5)])


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"alpha_init": 0.0}, "`alpha_init` must be positive, got 0"),
        ({"max_alpha": 0.0}, "`max_alpha` must be positive, got 0"),
        ({"min_alpha": 2.0, "max_alpha": 1.0}, "`min_alpha` must not be above `max_alpha`, got 2"),
        ({"scalar_output_mode": "all"}, "`scalar_output_mode` must be None, 'exclude' or 'non_te"),
        ({"num_qvalue_nets": 0}, "`num_qvalue_nets` must be an integer of at least 1, got 0"),
        (
            {"target_entropy": "half"},
            "`target_entropy` must be a float or a 0-d tensor, got 'half'",
        ),
    ],
)
def test_arguments_are_checked_when_they_are_given(arguments, words):
    with pytest.raises(ValueError, match=words):
        make(**arguments)


def test_networks_are_checked_when_they_are_given():
    actor, q = soft("normal")
    with pytest.raises(
        TypeError, match="must have samples with a gradient, got Categorical; of di"
    ):
        SACLoss(policy("categorical"), q, **ENTROPY)
    with pytest.raises(KeyError, match="the critic must read the action 'action' of the policy"):
        SACLoss(actor, critic("categorical"), **ENTROPY)
    with pytest.raises(TypeError, match=r"`qvalue_network` must be an nn\.Module or a list"):
        SACLoss(actor, None, **ENTROPY)
    with pytest.raises(TypeError, match=r"`value_network` must be an nn\.Module, got int"):
        SACLoss(actor, q, 3, **ENTROPY)
    with pytest.raises(AttributeError, match="`qvalue_network` is fixed when it is made"):
        make().qvalue_network = q
