"""Estimators as modules: how they are called, what they write, and that TorchRL's say the same."""

import copy
import pickle

import pytest
import torch
import torchrl.objectives.value as peer
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from compiled_rl import ValueHead
from compiled_rl.estimators import (
    GAE,
    MultiAgentGAE,
    TD0Estimator,
    TD1Estimator,
    TDLambdaEstimator,
    ValueEstimators,
    VTrace,
    default_value_kwargs,
    make_estimator,
)
from compiled_rl.functional import gae, td0_return, td_lambda_return, vtrace
from compiled_rl.testing import count_graphs
from tests.losses.networks import make_data, plain_networks, tensordict_networks

NAMES = {
    "TD0Estimator": {},
    "TD1Estimator": {},
    "TDLambdaEstimator": {"lmbda": 0.9},
    "GAE": {"lmbda": 0.9},
}
OURS = {"TD0Estimator": TD0Estimator, "TD1Estimator": TD1Estimator, "GAE": GAE}
OURS["TDLambdaEstimator"] = TDLambdaEstimator
KEYS = ("advantage", "value_target", "state_value", ("next", "state_value"))
every_estimator = pytest.mark.parametrize("name", NAMES)


def make_critic(features: int = 3) -> TensorDictModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, 1))
    return TensorDictModule(net, in_keys=["obs"], out_keys=["state_value"])


def sequences(batch: int = 4, time: int = 7, seed: int = 0) -> TensorDict:
    """Sequences whose next state is the following one's unless an episode ends in between."""
    torch.manual_seed(seed)
    states = torch.randn(batch, time + 1, 3)
    done = torch.rand(batch, time, 1) < 0.3
    entered = torch.where(done, torch.randn(batch, time, 3), states[:, 1:])
    return TensorDict(
        {
            "obs": states[:, :-1].clone(),
            "next": {
                "obs": entered,
                "reward": torch.randn(batch, time, 1),
                "done": done,
                "terminated": done & (torch.rand(batch, time, 1) < 0.5),
            },
        },
        [batch, time],
    )


def keywords(data: TensorDict) -> dict:
    flat = data.flatten_keys("_").to_dict()
    return {name: x for name, x in flat.items() if not name.endswith("state_value")}


def pair(name: str, **arguments):
    critic = make_critic()
    arguments = {"gamma": 0.97, "value_network": critic, **NAMES[name], **arguments}
    theirs = arguments | {"device": None}
    return OURS[name](**arguments), getattr(peer, name)(**theirs)


# ---- parity --------------------------------------------------------------------------------------


@every_estimator
@pytest.mark.parametrize(
    "options", [{}, {"differentiable": True}, {"average": True}, {"time_dim": 0}], ids=str
)
def test_equal_to_torchrl(name, options):
    options = dict(options)
    if options.pop("average", False):
        options = {"average_gae" if name == "GAE" else "average_rewards": True}
    if "time_dim" in options and name == "TD0Estimator":
        return  # TorchRL's has no time axis
    ours, theirs = pair(name, **options)
    got, expected = ours(sequences()), theirs(sequences())
    for key in KEYS:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-5)


@every_estimator
def test_value_estimate_is_torchrls(name):
    ours, theirs = pair(name)
    got = ours.value_estimate(sequences())
    torch.testing.assert_close(got, theirs.value_estimate(sequences()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, ours(sequences())["value_target"])


@every_estimator
def test_n_step_data_are_discounted_by_their_steps(name):
    ours, theirs = pair(name)
    data = sequences()
    data["steps_to_next_obs"] = torch.randint(1, 4, (4, 7, 1))
    for key in KEYS[:2]:
        torch.testing.assert_close(ours(data.clone())[key], theirs(data.clone())[key])


@pytest.mark.parametrize("budget", [1, 2, 7])
@every_estimator
def test_shifted_is_torchrls(name, budget):
    ours, theirs = pair(name, shifted=True, shifted_budget=budget)
    data = sequences()
    got, expected = ours(data.clone()), theirs(data.clone())
    for key in KEYS[:2]:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        got["shifted_valid"].reshape(4, 7), expected["shifted_valid"].reshape(4, 7)
    )
    if budget == 7:  # room for every truncation
        assert got["shifted_valid"].all()
        plain, _ = pair(name)
        torch.testing.assert_close(got["advantage"], plain(data.clone())["advantage"])


def test_auto_reset_is_torchrls():
    ours, theirs = pair("GAE", auto_reset_env=True)
    data = sequences()
    data["next", "truncated"] = data["next", "done"] & ~data["next", "terminated"]
    for key in KEYS[:2]:
        torch.testing.assert_close(ours(data.clone())[key], theirs(data.clone())[key])


def test_groups_are_averaged_as_torchrl_does():
    ours, theirs = pair("GAE", average_gae=True, group_key="task")
    data = sequences()
    data["task"] = torch.tensor([7, 3, 7, 3]).view(4, 1, 1).expand(4, 7, 1).clone()
    torch.testing.assert_close(ours(data.clone())["advantage"], theirs(data.clone())["advantage"])


def masked() -> tuple[TensorDict, torch.Tensor]:
    data = sequences()
    data["collector", "mask"] = mask = torch.rand(4, 7) < 0.6
    return data, mask


def test_groups_are_averaged_over_what_is_valid():
    data, mask = masked()
    data["task"] = torch.tensor([7, 3, 7, 3]).view(4, 1, 1).expand(4, 7, 1).clone()
    plain = pair("GAE")[0](data.clone())["advantage"]
    got = pair("GAE", average_gae=True, group_key="task")[0](data.clone())["advantage"]
    for number in (3, 7):
        valid = mask & (data["task"].squeeze(-1) == number)
        x = plain[valid]
        torch.testing.assert_close(got[valid], (x - x.mean()) / x.std())
    assert not got[~mask].any()


def test_a_group_of_one_is_left_as_it_is():
    data = sequences(1, 3)
    data["task"] = torch.tensor([[[1], [2], [1]]])
    plain = pair("GAE")[0](data.clone())["advantage"]
    got = pair("GAE", average_gae=True, group_key="task")[0](data.clone())["advantage"]
    torch.testing.assert_close(got[0, 1], plain[0, 1])


def test_rewards_are_averaged_over_what_is_valid():
    data, mask = masked()
    got = pair("TD0Estimator", average_rewards=True)[0](data.clone())["value_target"]
    reward = data["next", "reward"]
    scaled = data.clone()
    scaled["next", "reward"] = (reward - reward[mask].mean()) / reward[mask].std()
    torch.testing.assert_close(got, pair("TD0Estimator")[0](scaled)["value_target"])


def team_critic() -> TensorDictModule:
    return TensorDictModule(make_critic().module, in_keys=["obs"], out_keys=["state_value"])


def team_data() -> TensorDict:
    data = sequences()
    for key in ("obs", ("next", "obs")):
        data[key] = torch.stack([data[key] + i for i in range(2)], -2)
    return data


@pytest.mark.parametrize("average", [False, True])
def test_a_team_is_torchrls(average):
    arguments = {"gamma": 0.97, "lmbda": 0.9, "average_gae": average}
    ours = MultiAgentGAE(value_network=team_critic(), **arguments)(team_data())
    theirs = peer.MultiAgentGAE(value_network=team_critic(), **arguments)(team_data())
    for key in KEYS[:2]:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-5)


def test_what_a_team_shares_may_be_truncated_and_masked():
    estimator = MultiAgentGAE(
        gamma=torch.linspace(0.8, 0.9, 7), value_network=team_critic(), auto_reset_env=True
    )
    data = team_data()
    data["collector", "mask"] = torch.rand(4, 7) < 0.8
    shared = estimator(data.clone())["advantage"]
    for i in range(2):
        alone = data.clone()
        for key in ("obs", ("next", "obs")):
            alone[key] = data[key][..., i, :]
        single = GAE(gamma=estimator.gamma, value_network=make_critic(), auto_reset_env=True)
        torch.testing.assert_close(shared[..., i, :], single(alone)["advantage"])


def test_each_agent_of_each_group_is_averaged_by_itself():
    data = team_data()
    data["task"] = torch.tensor([0, 1, 0, 1]).view(4, 1, 1).expand(4, 7, 1).clone()
    arguments = {"gamma": 0.97, "value_network": team_critic()}
    plain = MultiAgentGAE(**arguments)(data.clone())["advantage"]
    got = MultiAgentGAE(**arguments, average_gae=True, group_key="task")(data)["advantage"]
    for agent in range(2):
        for rows in ([0, 2], [1, 3]):
            x = plain[rows, :, agent]
            torch.testing.assert_close(got[rows, :, agent], (x - x.mean()) / x.std())


def test_agents_may_have_flags_of_their_own():
    arguments = {"gamma": 0.9, "value_network": team_critic()}
    data = team_data()
    for name in ("done", "terminated"):
        data["next", name] = data["next", name].unsqueeze(-2).repeat(1, 1, 2, 1)
    data["next", "reward"] = data["next", "reward"].unsqueeze(-2).repeat(1, 1, 2, 1)
    expected = MultiAgentGAE(**arguments)(team_data())["advantage"]
    got = MultiAgentGAE(**arguments, differentiable=True)(data.clone())["advantage"]
    torch.testing.assert_close(got, expected)
    with pytest.raises(ValueError, match=r"`done` must be one flag a step where `shifted`"):
        MultiAgentGAE(**arguments, shifted=True)(data)
    shifted = MultiAgentGAE(**arguments, shifted=True, shifted_budget=7)(team_data())["advantage"]
    torch.testing.assert_close(shifted, expected)


# ---- ways of calling -----------------------------------------------------------------------------


@every_estimator
@pytest.mark.parametrize("shifted", [False, True])
def test_keywords_mapping_and_tensordict_are_equal(name, shifted):
    estimator, _ = pair(name, shifted=shifted)
    data = sequences()
    written = estimator(data)
    assert written is data
    by_keyword = estimator(**keywords(sequences()))
    assert type(by_keyword)._fields == ("advantage", "value_target")
    mapping = {"obs": data["obs"], "next": data["next"].to_dict()}
    for got in (by_keyword._asdict(), estimator(mapping)):
        for key in KEYS[:2]:
            torch.testing.assert_close(got[key], written[key])
    assert set(mapping) == {"obs", "next"}


def test_a_plain_critic_without_trailing_axes():
    critic = ValueHead(3)
    data = {name: x.squeeze(-1) for name, x in keywords(sequences()).items()}
    data = {"observation": data.pop("obs"), "next_observation": data.pop("next_obs"), **data}
    got = GAE(gamma=0.97, lmbda=0.9, value_network=critic)(**data)
    value, next_value = critic(data["observation"]), critic(data["next_observation"])
    flags = (data["next_terminated"], data["next_done"])
    expected = gae(data["next_reward"], value, next_value, *flags, 0.97, 0.9)
    torch.testing.assert_close(tuple(got), tuple(expected))
    assert not got.advantage.requires_grad


def test_without_a_critic_the_values_are_data():
    with_critic = pair("GAE")[0](sequences())
    without = GAE(gamma=0.97, lmbda=0.9)
    names = {"next_reward", "next_done", "next_terminated", "next_state_value", "state_value"}
    data = {k: x for k, x in with_critic.flatten_keys("_").items() if k in names}
    torch.testing.assert_close(without(**data).advantage, with_critic["advantage"])
    data.pop("next_state_value")
    with pytest.raises(KeyError, match=r"\('next', 'state_value'\) was not found, needed without"):
        without(**data)


def test_values_in_the_data_are_replaced_unless_they_may_stay():
    data = sequences()
    data["state_value"] = data["next", "state_value"] = torch.zeros(4, 7, 1)
    fresh, kept = pair("TD0Estimator")[0], pair("TD0Estimator", skip_existing=True)[0]
    torch.testing.assert_close(kept(data.clone())["advantage"], data["next", "reward"])
    assert not fresh(data.clone())["state_value"].eq(0).any()


@pytest.mark.parametrize("trailing", [False, True])
@pytest.mark.parametrize("time_dim", [0, 1, None])
def test_where_time_is(trailing, time_dim):
    """Without a critic, so that only the tensors of one value a step tell the axes."""
    data = pair("GAE")[0](sequences()).flatten_keys("_")
    data = {name: data[name] for name in ("next_reward", "next_done", "next_terminated")}
    data |= {name: torch.randn(4, 7, 1) for name in ("state_value", "next_state_value")}
    shaped = data if trailing else {name: x.squeeze(-1) for name, x in data.items()}
    got = GAE(gamma=0.9, time_dim=time_dim)(**shaped).advantage
    order = ("next_reward", "state_value", "next_state_value", "next_terminated", "next_done")
    expected = gae(*[data[k].squeeze(-1) for k in order], 0.9, time_dim=0 if time_dim == 0 else 1)
    torch.testing.assert_close(got.reshape(4, 7), expected.advantage)


def test_a_batch_that_cannot_be_told_from_time_is_refused():
    x, flag = torch.randn(8, 1), torch.zeros(8, 1, dtype=torch.bool)
    data = {"next_reward": x, "state_value": x, "next_state_value": x}
    data |= {"next_done": flag, "next_terminated": flag}
    with pytest.raises(ValueError, match=r"`time_dim` must be given for rewards of shape \[8, 1\]"):
        GAE()(**data)
    over_time = GAE()(**data, time_dim=0).advantage
    single = GAE()(**data, time_dim=1).advantage
    assert not torch.allclose(over_time, single)
    torch.testing.assert_close(single, x + 0.99 * x - x)


def test_a_dimension_named_time_is_time():
    data = sequences()
    data.names = ["time", None]
    got = pair("GAE")[0](data)["advantage"]
    torch.testing.assert_close(got, pair("GAE", time_dim=0)[0](sequences())["advantage"])


def test_other_parameters_may_stand_in():
    estimator, theirs = pair("TD0Estimator")
    other = copy.deepcopy(estimator.value_network)
    nn.init.ones_(other.module[2].weight)
    theirs_next = TensorDict.from_module(other)
    data = sequences()
    got = estimator(data.clone(), target_params=dict(other.named_parameters()))
    also = estimator(data.clone(), target_params=theirs_next)
    own = TensorDict.from_module(theirs.value_network)
    expected = theirs(data.clone(), params=own, target_params=theirs_next)
    for key in KEYS:
        torch.testing.assert_close(got[key], also[key])
        torch.testing.assert_close(got[key], expected[key])
    assert not torch.allclose(got["advantage"], estimator(data.clone())["advantage"])


@every_estimator
def test_other_parameters_value_both_states(name):
    estimator, _ = pair(name)
    other = copy.deepcopy(estimator)
    nn.init.ones_(other.value_network.module[2].weight)
    params = dict(other.value_network.named_parameters())
    got, expected = estimator(sequences(), params=params), other(sequences())
    for key in KEYS:
        torch.testing.assert_close(got[key], expected[key])


@every_estimator
def test_coefficients_are_where_they_are_asked_to_be(name):
    critic = make_critic()
    estimator, _ = pair(name, device="meta", value_network=critic)
    assert {x.device.type for x in estimator.buffers()} == {"meta"}
    assert {x.device.type for x in critic.parameters()} == {"cpu"}


def test_a_shifted_call_has_one_set_of_parameters():
    estimator, _ = pair("GAE", shifted=True)
    other = dict(make_critic().named_parameters())
    with pytest.raises(ValueError, match="`target_params` must be None where `shifted`"):
        estimator(sequences(), target_params=other)


def test_a_shifted_call_is_one_call():
    estimator, _ = pair("GAE", shifted=True)
    seen = []
    estimator.value_network.module[0].register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape))
    )
    estimator(sequences())
    assert seen == [(4, 8, 3)]


@pytest.mark.parametrize("options", [{"value_chunk_size": 3}, {"num_chunks": 2}], ids=str)
def test_a_critic_may_be_called_in_pieces(options):
    estimator, _ = pair("GAE", **options)
    seen = []
    estimator.value_network.module[0].register_forward_hook(
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )
    whole, _ = pair("GAE")
    torch.testing.assert_close(estimator(sequences())["advantage"], whole(sequences())["advantage"])
    assert max(seen) < 4


def test_keys_can_be_set():
    estimator, _ = pair("GAE")
    estimator.set_keys(reward="gain", advantage="better", value_target=("to", "reach"))
    data = sequences()
    data["next", "gain"] = data["next"].pop("reward")
    got = estimator(data)
    expected = pair("GAE")[0](sequences())
    torch.testing.assert_close(got["better"], expected["advantage"])
    torch.testing.assert_close(got["to", "reach"], expected["value_target"])


# ---- masks and gradients -------------------------------------------------------------------------


@every_estimator
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("trailing", [False, True])
def test_nothing_under_the_mask_is_read(name, differentiable, trailing):
    estimator, _ = pair(name, differentiable=differentiable)
    data = sequences()
    mask = torch.rand(4, 7) < 0.7
    data["collector", "mask"] = mask.unsqueeze(-1) if trailing else mask
    poisoned = data.clone()
    for key in ("obs", ("next", "obs"), ("next", "reward")):
        poisoned[key][~mask] = torch.nan
    inputs = poisoned["obs"].requires_grad_(differentiable)
    got, clean = estimator(poisoned), estimator(data)
    torch.testing.assert_close(got["advantage"], clean["advantage"])
    assert not got["advantage"][~mask].any()
    if differentiable:
        (grad,) = torch.autograd.grad(got["advantage"].sum(), inputs)
        assert grad.isfinite().all()


def test_a_lost_state_that_ended_the_task_harms_no_gradient():
    estimator, _ = pair("GAE", differentiable=True)
    data = sequences()
    ended = data["next", "terminated"].squeeze(-1)
    assert ended.any()
    data["next", "obs"][ended] = torch.nan
    data["next", "obs"].requires_grad_()
    advantage = estimator(data)["advantage"]
    (grad,) = torch.autograd.grad(advantage.sum(), data["next", "obs"])
    assert grad.isfinite().all()


def test_a_lost_state_that_ended_nothing_is_not_hidden():
    estimator, _ = pair("GAE", differentiable=True)
    data = sequences()
    going_on = ~data["next", "terminated"].squeeze(-1)
    data["next", "obs"][going_on] = torch.nan
    assert estimator(data)["advantage"][going_on].isnan().all()


@pytest.mark.parametrize("differentiable", [False, True])
def test_gradients_reach_the_data_if_they_are_asked_for_and_never_the_critic(differentiable):
    estimator, _ = pair("GAE", differentiable=differentiable)
    data = sequences()
    data["next", "reward"].requires_grad_()
    output = estimator(data)["advantage"]
    assert output.requires_grad == differentiable
    if differentiable:
        wanted = [data["next", "reward"], *estimator.value_network.parameters()]
        reward, *critic = torch.autograd.grad(output.sum(), wanted, allow_unused=True)
        assert reward.any()
        assert all(grad is None for grad in critic)


def test_where_gradients_are_off_they_stay_off():
    estimator, _ = pair("GAE", differentiable=True)
    data = sequences()
    data["next", "reward"].requires_grad_()
    with torch.no_grad():
        assert not estimator(data)["advantage"].requires_grad


def test_discounts_can_be_learned():
    gamma = nn.Parameter(torch.tensor(0.9))
    lmbda = nn.Parameter(torch.full((7,), 0.8))
    estimator = GAE(gamma=gamma, lmbda=lmbda, value_network=make_critic(), differentiable=True)
    assert {"gamma", "lmbda"} <= {name for name, _ in estimator.named_parameters()}
    assert estimator.gamma is gamma
    estimator(sequences())["advantage"].square().sum().backward()
    assert gamma.grad.abs() > 0
    assert lmbda.grad.shape == (7,)
    assert lmbda.grad[:-1].all()


def test_a_discount_a_time_step_is_one_for_all_rows():
    rolling = torch.linspace(0.8, 0.99, 7)
    got = TDLambdaEstimator(gamma=rolling, lmbda=0.9, value_network=make_critic())(sequences())
    x = got["next"]
    inputs = [t.squeeze(-1) for t in (x["reward"], x["state_value"], x["terminated"], x["done"])]
    expected = td_lambda_return(*inputs, rolling.expand(4, 7), 0.9)
    torch.testing.assert_close(got["value_target"].squeeze(-1), expected)


# ---- V-trace -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "tensordict"])
def test_vtrace_asks_for_the_recorded_action(form):
    actor, critic = plain_networks("normal")
    data = make_data(actor, (4, 6))
    networks = (actor, critic) if form == "plain" else tensordict_networks(actor, critic)
    estimator = VTrace(gamma=0.9, actor_network=networks[0], value_network=networks[1])
    got = estimator(data)
    params = actor.params(data["observation"])
    log_prob = actor.family.log_prob(params, data["action"])
    values = (critic(data["observation"]), critic(data["next", "observation"]))
    inputs = (data["next", "reward"], *values, data["next", "terminated"], data["next", "done"])
    inputs = (x.squeeze(-1) for x in inputs)
    expected = vtrace(*inputs, log_prob, data["action_log_prob"], 0.9)
    torch.testing.assert_close(got["advantage"].squeeze(-1), expected.advantage)
    torch.testing.assert_close(got["value_target"].squeeze(-1), expected.value_target)
    torch.manual_seed(5)  # nothing is drawn
    torch.testing.assert_close(estimator(data)["advantage"], got["advantage"])


def test_vtrace_without_an_actor_reads_the_log_probability():
    actor, critic = plain_networks("normal")
    data = make_data(actor, (4, 6))
    expected = VTrace(gamma=0.9, actor_network=actor, value_network=critic)(data.clone())
    estimator = VTrace(gamma=0.9, value_network=critic)
    with pytest.raises(KeyError, match="`log_prob` was not found, needed without an `actor_net"):
        estimator(data.clone())
    params = actor.params(data["observation"])
    data["log_prob"] = actor.family.log_prob(params, data["action"])
    torch.testing.assert_close(estimator(data)["advantage"], expected["advantage"])


def test_vtrace_averages_over_what_is_valid():
    actor, critic = plain_networks("normal")
    data = make_data(actor, (4, 6))
    data["collector", "mask"] = mask = torch.rand(4, 6) < 0.7
    got = VTrace(actor_network=actor, value_network=critic, average_adv=True)(data)["advantage"]
    assert abs(float(got[mask].mean())) < 1e-6
    assert float(got[mask].std()) == pytest.approx(1, abs=1e-5)


# ---- compiled ------------------------------------------------------------------------------------


def estimators():
    actor, critic = plain_networks("normal")
    arguments = {"gamma": 0.97, "value_network": critic, "differentiable": True}
    return {
        "TD0": TD0Estimator(**arguments, average_rewards=True),
        "TD1": TD1Estimator(**arguments),
        "TDLambda": TDLambdaEstimator(**arguments),
        "GAE": GAE(**arguments, average_gae=True),
        "grouped": GAE(**arguments, average_gae=True, group_key="task"),
        "shifted": GAE(**arguments, shifted=True),
        "reset": GAE(**arguments, auto_reset_env=True),
        "VTrace": VTrace(**arguments, actor_network=actor),
    }


@pytest.mark.parametrize(
    ("name", "form"),
    [
        # In every run each is compiled once, the two forms in turns.
        pytest.param(name, form, marks=[] if (k + j) % 2 else [pytest.mark.slow])
        for k, name in enumerate(estimators())
        for j, form in enumerate(["keywords", "tensordict"])
    ],
)
def test_compiles_whole_with_gradients(name, form):
    actor, _ = plain_networks("normal")
    estimator = estimators()[name]

    def call(run, size, seed=0):
        data = make_data(actor, size, seed=seed)
        data = data.select("observation", "action", "action_log_prob", "next")
        data["task"] = torch.arange(size[0]).view(-1, 1, 1).expand(*size, 1) % 2
        data["next", "reward"].requires_grad_()
        if form == "keywords":
            flat = data.flatten_keys("_").to_dict()
            if name != "grouped":
                flat.pop("task")
            if name != "VTrace":
                flat = {k: x for k, x in flat.items() if not k.startswith("action")}
            advantage = run(**flat).advantage
        else:
            advantage = run(data)["advantage"]
        return advantage, torch.autograd.grad(advantage.square().sum(), data["next", "reward"])[0]

    with count_graphs() as graphs:
        run = torch.compile(
            estimator, fullgraph=True, backend=graphs.backend, isolate_recompiles=True
        )
        for seed, size in enumerate([(4, 6), (5, 9), (3, 17)]):
            for value in (0.9, 0.95):
                estimator.gamma = value
                got, expected = call(run, size, seed), call(estimator, size, seed)
                torch.testing.assert_close(got, expected)
    assert graphs.count <= 2


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value_type", "expected"),
    [
        (ValueEstimators.TD0, TD0Estimator),
        ("td1", TD1Estimator),
        ("TDLambda", TDLambdaEstimator),
        ("td_lambda", TDLambdaEstimator),
        ("gae", GAE),
        (ValueEstimators.MAGAE, MultiAgentGAE),
        ("VTRACE", VTrace),
        (TD0Estimator, TD0Estimator),
    ],
)
def test_estimators_by_name_and_class(value_type, expected):
    estimator = make_estimator(value_type, {"gamma": 0.5})
    assert type(estimator) is expected
    assert float(estimator.gamma) == 0.5
    assert make_estimator(estimator, {}) is estimator


def test_the_defaults_are_those_of_torchrl():
    from torchrl.objectives import utils

    for member in ValueEstimators:
        theirs = utils.default_value_kwargs(getattr(utils.ValueEstimators, member.name))
        assert default_value_kwargs(member) == theirs
        assert default_value_kwargs(member.name.lower()) == theirs


def keyed(**keys):
    estimator, _ = pair("GAE")
    estimator.set_keys(**keys)
    return estimator


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda: make_estimator("gea", {}), KeyError, "must be one of .*'GAE'.* got 'gea'"),
        (lambda: make_estimator(3, {}), TypeError, "must be a ValueEstimators or its name, got"),
        (lambda: make_estimator(GAE(), {"gamma": 1}), TypeError, r"got \['gamma'\] beside it"),
        (lambda: default_value_kwargs("x"), KeyError, "must be one of"),
        (lambda: GAE(gamma=2.0), ValueError, r"GAE: `gamma` must be in \[0, 1\], got 2"),
        (lambda: GAE(lmbda=-1.0), ValueError, r"GAE: `lmbda` must be in \[0, 1\], got -1"),
        (lambda: GAE(gamma=torch.tensor([0.5, 1.5])), ValueError, "values from 0.5 to 1.5"),
        (lambda: GAE(value_network=3), TypeError, "`value_network` must be an nn.Module or None"),
        (
            lambda: GAE(shifted_budget=0),
            ValueError,
            "`shifted_budget` must be an integer of at least 1, got 0",
        ),
        (
            lambda: GAE(num_chunks=0),
            ValueError,
            "`num_chunks` must be an integer of at least 1, got 0",
        ),
        (lambda: GAE(gama=0.9), TypeError, "unexpected keyword argument 'gama'"),
        (lambda: VTrace(rho_thresh=0.0), ValueError, "`rho_thresh` must be positive, got 0"),
        (lambda: GAE().set_keys(advantag="a"), KeyError, "`advantag` is not an accepted key"),
        (lambda: GAE().set_keys(advantage=None), ValueError, "must be a string or a tuple"),
        (
            lambda: keyed(advantage="value_target")(sequences()),
            ValueError,
            "GAE: `value_target` must have another key than `advantage`, got 'value_target'",
        ),
        (
            lambda: keyed(advantage=("value_target",))(sequences()),
            ValueError,
            "GAE: `value_target` must have another key than `advantage`, got 'value_target'",
        ),
        (
            lambda: keyed(value_target=("next", "state_value"))(sequences()),
            ValueError,
            "GAE: `next_value` must have another key than `value_target`",
        ),
        (
            lambda: pair("GAE")[0](sequences().set("steps_to_next_obs", torch.ones(4, 7, 2))),
            ValueError,
            "GAE: `steps_to_next_obs` must have the shape of `reward`",
        ),
        (lambda: pair("GAE")[0].set_keys(value="v"), KeyError, "must be an output of the critic"),
        (lambda: GAE()(torch.zeros(2)), TypeError, "expected keyword tensors, a mapping"),
        (lambda: GAE()(rewards=torch.zeros(2)), TypeError, "`rewards` is not an input"),
        (lambda: pair("GAE")[0](sequences()[0, 0]), RuntimeError, "at least one batch axis"),
        (lambda: pair("GAE")[0](sequences(), time_dim=3), ValueError, "one of the 2 batch axes"),
        (lambda: GAE(group_key="g", value_network=make_critic())(sequences()), KeyError, "'g' of"),
    ],
)
def test_what_is_refused(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()


def test_a_refusal_changes_nothing():
    data = sequences().exclude(("next", "reward"))
    before = data.clone()
    with pytest.raises(KeyError, match="`reward` was not found"):
        pair("GAE")[0](data)
    assert set(data.keys(True, True)) == set(before.keys(True, True))


def test_copies_and_state():
    estimator, _ = pair("GAE")
    expected = estimator(sequences())["advantage"]
    for copied in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        torch.testing.assert_close(copied(sequences())["advantage"], expected)
        nn.init.zeros_(copied.value_network.module[2].weight)
        torch.testing.assert_close(estimator(sequences())["advantage"], expected)
    other, _ = pair("GAE", lmbda=0.1)
    other.load_state_dict(estimator.state_dict())
    torch.testing.assert_close(other(sequences())["advantage"], expected)
    assert {"gamma", "lmbda"} <= set(estimator.state_dict())


def test_td0_needs_no_value_of_the_state_left():
    estimator, _ = pair("TD0Estimator")
    data = sequences().exclude("obs")
    got = estimator.value_estimate(data)
    assert "state_value" not in data.keys()
    next_value = make_critic().module(data["next", "obs"])
    inputs = (data["next", "reward"], next_value, data["next", "terminated"])
    torch.testing.assert_close(got, td0_return(*inputs, 0.97))
    given = estimator.value_estimate(data, next_value=torch.zeros(4, 7, 1))
    torch.testing.assert_close(given, data["next", "reward"])


# ---- found by a second reading -------------------------------------------------------------------


def test_an_axis_of_one_behind_the_reward_is_not_time():
    """Grey images: the channel is no batch axis."""
    critic = TensorDictModule(
        nn.Sequential(nn.Flatten(-3), nn.Linear(16, 1)), in_keys=["obs"], out_keys=["state_value"]
    )
    data = sequences()
    for key in ("obs", ("next", "obs")):
        data[key] = torch.randn(4, 7, 1, 4, 4)
    expected = GAE(value_network=critic)(data.clone())["advantage"]
    torch.testing.assert_close(GAE(value_network=critic)(**keywords(data)).advantage, expected)
    one = data[0]
    with pytest.raises(ValueError, match=r"`time_dim` must be given for rewards of shape \[7, 1\]"):
        GAE(value_network=critic)(**keywords(one))
    got = GAE(value_network=critic)(**keywords(one), time_dim=0).advantage
    torch.testing.assert_close(got, expected[0])


def test_one_step_at_a_time_needs_no_time_axis():
    data = keywords(sequences(1, 9)[0])
    critic = TensorDictModule(nn.Linear(1, 1), in_keys=["obs"], out_keys=["state_value"])
    data["obs"], data["next_obs"] = torch.randn(2, 9, 1)
    assert TD0Estimator(value_network=critic)(**data).advantage.shape == (9, 1)


@every_estimator
def test_a_shifted_call_values_what_was_entered_before_a_masked_step(name):
    data = sequences()
    data["collector", "mask"] = mask = torch.arange(7).expand(4, 7) < 4
    data["next", "done"][:] = data["next", "terminated"][:] = False
    data["next", "obs"][:, :-1] = data["obs"][:, 1:]
    shifted = pair(name, shifted=True, shifted_budget=3)[0](data.clone())
    torch.testing.assert_close(shifted["advantage"], pair(name)[0](data.clone())["advantage"])
    assert shifted["shifted_valid"].reshape(4, 7)[mask].all()


def test_a_shifted_call_of_n_step_data_is_refused():
    data = sequences()
    data["steps_to_next_obs"] = torch.full((4, 7, 1), 2)
    with pytest.raises(ValueError, match="`shifted` must be False for n-step data"):
        pair("TD0Estimator", shifted=True)[0](data)


def test_an_estimators_networks_are_what_they_were():
    estimator, _ = pair("GAE")
    with pytest.raises(AttributeError, match="`value_network` is fixed when it is made"):
        estimator.value_network = make_critic()


@pytest.mark.parametrize("params", [{}, {"bad": torch.zeros(1)}, {"weight": torch.zeros(1)}])
def test_parameters_of_another_network_are_refused(params):
    with pytest.raises(ValueError, match="`params` must be the parameters of the network by name"):
        pair("GAE")[0](sequences(), params=params)


@pytest.mark.parametrize("name", ["done", "terminated", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("options", [{"shifted": True}, {"auto_reset_env": True}, {}], ids=str)
def test_flags_that_are_not_bool_are_refused_before_anything(name, dtype, options):
    data = sequences()
    key = ("collector", "mask") if name == "mask" else ("next", name)
    data[key] = torch.ones(4, 7, 1, dtype=dtype)
    with pytest.raises(ValueError, match=rf"`\w*{name}` must be torch.bool, got {dtype}"):
        pair("GAE", **options)[0](data)


def test_a_critic_may_call_its_output_as_it_likes():
    critic = TensorDictModule(make_critic().module, in_keys=["obs"], out_keys=["v"])
    estimator = GAE(gamma=0.97, lmbda=0.9, value_network=critic)
    got = estimator(sequences())
    torch.testing.assert_close(got["v"], pair("GAE")[0](sequences())["state_value"])
    assert estimator.out_keys == ("advantage", "value_target")
    estimator.set_keys(advantage="better")
    assert estimator.out_keys == ("better", "value_target")


def test_the_enumeration_of_torchrl_is_known():
    from torchrl.objectives import ValueEstimators as Theirs

    for member in Theirs:
        assert isinstance(make_estimator(member, {}), type(make_estimator(member.name, {})))


def test_a_keyword_calls_output_can_be_sent_to_another_process():
    output = pair("GAE")[0](**keywords(sequences()))
    sent = pickle.loads(pickle.dumps(output))
    torch.testing.assert_close(tuple(sent), tuple(output))
    assert sent._fields == output._fields


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GAE(num_chunks=2, value_chunk_size=2), "must not both be given, got 2 and 2"),
        (
            lambda: pair("GAE", num_chunks=2, value_chunk_dim=5)[0](sequences()),
            "`value_chunk_dim` must be one of the 2 batch axes, got 5",
        ),
        (
            lambda: pair("GAE", gamma=torch.rand(5))[0](sequences()),
            "one for each of 7 steps, got 5",
        ),
        (
            lambda: pair("GAE", group_key="g")[0](sequences().set("g", torch.zeros(4, 7, 2))),
            "`group_key` must have the shape of `reward`",
        ),
    ],
)
def test_sizes_that_do_not_fit(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_an_empty_call_says_what_is_missing():
    with pytest.raises(KeyError, match="`reward` was not found"):
        GAE()()


def test_chunks_may_be_of_the_last_batch_axis():
    estimator, _ = pair("GAE", value_chunk_size=3, value_chunk_dim=-1)
    expected = pair("GAE")[0](sequences())["advantage"]
    torch.testing.assert_close(estimator(sequences())["advantage"], expected)


def test_equal_rewards_have_a_gradient():
    data = sequences()
    data["next", "reward"] = torch.ones(4, 7, 1).requires_grad_()
    estimator, _ = pair("TD0Estimator", average_rewards=True, differentiable=True)
    output = estimator(data)["advantage"].sum()
    (grad,) = torch.autograd.grad(output, data["next", "reward"])
    assert grad.isfinite().all()


def test_a_lone_step_of_a_group_has_a_gradient():
    gamma = nn.Parameter(torch.tensor(0.9))
    options = {"average_gae": True, "group_key": "task", "differentiable": True}
    estimator = GAE(gamma=gamma, value_network=make_critic(), **options)
    data = sequences(1, 3)
    data["task"] = torch.tensor([[[1], [2], [1]]])
    (grad,) = torch.autograd.grad(estimator(data)["advantage"].sum(), gamma)
    assert grad.isfinite()


@every_estimator
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 0), (0, 7)])
def test_no_steps_at_all(name, shifted, size):
    data = sequences()[: size[0], : size[1]]
    estimator, _ = pair(name, shifted=shifted)
    assert estimator(data)["advantage"].shape == (*size, 1)
