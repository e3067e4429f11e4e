"""A loss with every value estimator: by name, class or instance."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from compiled_rl import ClipPPOLoss
from compiled_rl.estimators import (
    GAE,
    TD0Estimator,
    TDLambdaEstimator,
    ValueEstimators,
    VTrace,
)
from compiled_rl.functional import vtrace
from compiled_rl.testing import count_graphs
from compiled_rl.training import UpdateStep
from tests.losses import peers
from tests.losses.networks import as_keywords, make_data, mlp, plain_networks
from tests.losses.teams import KEYS, for_each_agent, team_actor, team_critic, team_steps

OF_ONE_AGENT = [member for member in ValueEstimators if member is not ValueEstimators.MAGAE]


def sequences(actor, shape=(4, 6), seed=0):
    data = make_data(actor, shape, seed=seed)
    return data.exclude("advantage", "value_target", "state_value")


def test_vtrace_corrects_for_the_policy_that_acted():
    actor, critic = plain_networks("normal")
    data = sequences(actor)
    loss = ClipPPOLoss(actor, critic, reduction="none").make_value_estimator("vtrace", gamma=0.9)
    log_prob = actor.family.log_prob(actor.params(data["observation"]), data["action"])
    values = (critic(data["observation"]), critic(data["next", "observation"]))
    flags = (data["next", "terminated"], data["next", "done"])
    inputs = [x.squeeze(-1) for x in (data["next", "reward"], *values, *flags)]
    expected = vtrace(*inputs, log_prob, data["action_log_prob"], 0.9)
    given = data.clone()
    given["advantage"] = expected.advantage.unsqueeze(-1)
    given["value_target"] = expected.value_target.unsqueeze(-1)
    for name in ("loss_objective", "loss_critic"):
        torch.testing.assert_close(loss(data)[name], loss(given)[name])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["keywords", "tensordict"])
@pytest.mark.parametrize("value_type", OF_ONE_AGENT, ids=lambda member: member.name)
def test_compiles_whole_with_every_estimator(value_type, form):
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic).make_value_estimator(value_type)

    def call(run, seed, size):
        data = sequences(actor, size, seed)
        out = run(data) if form == "tensordict" else run(**as_keywords(data))._asdict()
        total = out["loss_objective"] + out["loss_critic"] + out["loss_entropy"]
        return [total, *torch.autograd.grad(total, list(loss.parameters()))]

    with count_graphs() as graphs:
        run = torch.compile(loss, fullgraph=True, backend=graphs.backend, isolate_recompiles=True)
        for seed, size in enumerate([(4, 6), (5, 9), (3, 17)]):
            torch.testing.assert_close(call(run, seed, size), call(loss, seed, size))
    assert graphs.count <= 2


@pytest.mark.parametrize(
    ("value_type", "kind"),
    [(None, GAE), ("td0", TD0Estimator), (TDLambdaEstimator, TDLambdaEstimator)],
)
def test_the_estimator_may_be_named_or_a_class(value_type, kind):
    loss = ClipPPOLoss(*plain_networks("normal"))
    assert loss.make_value_estimator(value_type, gamma=0.5) is loss
    assert type(loss.value_estimator) is kind
    assert float(loss.value_estimator.gamma) == 0.5
    assert loss.value_type == (ValueEstimators.GAE if value_type is None else value_type)


def test_an_estimator_is_taken_as_it_is():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic)
    for estimator in (GAE(gamma=0.5), GAE(gamma=0.5, value_network=critic)):
        loss.make_value_estimator(estimator)
        assert loss.value_estimator is estimator
        assert loss.value_type is GAE
        loss(sequences(actor))
    with pytest.raises(ValueError, match="`value_network` must be None or the loss's own critic"):
        loss.make_value_estimator(GAE(value_network=nn.Linear(4, 1)))
    assert loss.value_estimator is estimator


def test_lent_networks_are_not_registered_twice():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic)
    assert len(list(loss.modules())) == len(set(map(id, loss.modules())))
    names = [name for name in loss.state_dict() if "_value_estimator" in name]
    assert sorted(names) == ["_value_estimator.gamma", "_value_estimator.lmbda"]
    data = {k: x for k, x in as_keywords(sequences(actor)).items() if not k.startswith("action")}
    assert loss.value_estimator(**data).advantage.shape == (4, 6, 1)


def test_steps_that_a_shifted_call_has_no_room_for_are_masked():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic, reduction="none").make_value_estimator("gae", shifted=True)
    data = sequences(actor)
    data["next", "done"][:, 1] = True
    data["next", "terminated"][:] = False
    outputs = loss(data)
    valid = GAE(value_network=critic, shifted=True)(data.clone())["shifted_valid"].squeeze(-1)
    assert not valid.all()
    for name in ("loss_objective", "loss_critic", "loss_entropy"):
        assert not outputs[name][~valid].any()
        assert outputs[name][valid].all()


def test_keys_of_the_loss_are_those_of_its_estimator():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic)
    data = sequences(actor)
    expected = loss(data)["loss_objective"]
    data["next", "gain"] = data["next"].pop("reward")
    loss.set_keys(reward="gain")
    torch.testing.assert_close(loss(data)["loss_objective"], expected)
    loss.make_value_estimator("gae", gamma=0.99)
    torch.testing.assert_close(loss(data)["loss_objective"], expected)


@pytest.mark.parametrize("name", ["loss_objective", "loss_critic"])
def test_a_learned_discount_has_a_gradient_through_the_loss(name):
    actor, critic = plain_networks("normal")
    gamma = nn.Parameter(torch.tensor(0.9))
    loss = ClipPPOLoss(actor, critic).make_value_estimator("gae", gamma=gamma)
    (grad,) = torch.autograd.grad(loss(sequences(actor))[name], gamma)
    assert grad.abs() > 0


@pytest.mark.parametrize("value_type", ["gae", "vtrace"])
def test_no_gradient_reaches_a_network_through_its_own_target(value_type):
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic).make_value_estimator(value_type)
    data = sequences(actor)
    inputs = {"actor_network": actor, "value_network": critic}
    estimator = VTrace(**inputs) if value_type == "vtrace" else GAE(value_network=critic)
    given = estimator(data.clone())

    def gradients(batch):
        outputs = loss(batch)
        total = outputs["loss_objective"] + outputs["loss_critic"]
        return torch.autograd.grad(total, list(loss.parameters()))

    torch.testing.assert_close(gradients(data), gradients(given))


def test_the_critic_is_called_once_for_each_state():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic)
    calls = []
    critic[0].register_forward_hook(lambda *seen: calls.append(seen))
    loss(sequences(actor))
    assert len(calls) == 2


def test_time_may_be_the_first_axis():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic)
    data = sequences(actor)
    expected = loss(data)["loss_objective"]
    loss.make_value_estimator("gae", time_dim=0)
    torch.testing.assert_close(loss(data.transpose(0, 1).contiguous())["loss_objective"], expected)


def test_rewards_may_sum_up_several_steps():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic).make_value_estimator("td0", gamma=0.9)
    data = sequences(actor)
    data["steps_to_next_obs"] = torch.full((4, 6, 1), 2)
    squared = ClipPPOLoss(actor, critic).make_value_estimator("td0", gamma=0.81)
    torch.testing.assert_close(
        loss(data)["loss_critic"], squared(data.exclude("steps_to_next_obs"))["loss_critic"]
    )


def test_vtrace_needs_no_actor_of_its_own():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic).make_value_estimator(VTrace, rho_thresh=2.0)
    assert loss(sequences(actor))["loss_objective"].isfinite()


def test_a_team_with_rewards_of_its_own():
    """Agents are the last batch axis, so time is the one before it."""
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic).make_value_estimator("magae")
    data = sequences(actor, (4, 6, 2))
    alone = ClipPPOLoss(actor, critic).make_value_estimator("gae")
    agents = [alone(data[:, :, i])["loss_objective"] for i in range(2)]
    torch.testing.assert_close(loss(data)["loss_objective"], sum(agents) / 2)
    loss.make_value_estimator("magae", time_dim=-1)
    with pytest.raises(ValueError, match="`agent_dim` must be an axis of `value` other than"):
        loss(data)


def test_an_estimator_is_lent_one_critic():
    estimator = GAE()
    ClipPPOLoss(*plain_networks("normal")).make_value_estimator(estimator)
    second = ClipPPOLoss(*plain_networks("normal"))
    with pytest.raises(ValueError, match="must be lent one critic, got that of a second loss"):
        second.make_value_estimator(estimator)


def test_a_refused_critic_is_not_lent():
    actor, _ = plain_networks("normal")
    critic = TensorDictSequential(
        TensorDictModule(mlp(2), ["observation"], ["hidden"]),
        TensorDictModule(nn.Linear(2, 1), ["hidden"], ["v"]),
    )
    estimator = GAE()
    estimator.set_keys(value="w")
    with pytest.raises(KeyError, match="GAE: the key 'w' for `value` must be an output"):
        ClipPPOLoss(actor, critic).make_value_estimator(estimator)
    assert estimator._lent is None
    assert estimator._lent_actor is None
    critic_of_w = TensorDictModule(mlp(1), ["observation"], ["w"])
    loss = ClipPPOLoss(actor, critic_of_w).make_value_estimator(estimator)
    assert loss(sequences(actor))["loss_critic"].isfinite()


def test_a_dimension_named_time_is_time():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic)
    data = sequences(actor)
    last = loss(data)["loss_critic"]
    first = loss.make_value_estimator("gae", time_dim=0)(data)["loss_critic"]
    data.names = ["time", None]
    for asked, expected in ((None, first), (0, first), (-1, last)):
        loss.make_value_estimator("gae", time_dim=asked)
        torch.testing.assert_close(loss(data)["loss_critic"], expected)
    with pytest.raises(ValueError, match="`time_dim` must be one of the 2 batch axes, got -3"):
        loss.make_value_estimator("gae", time_dim=-3)(data)


def test_time_is_an_axis_of_the_tensordict_and_not_the_agents():
    """Of a team's rollout ``[B, T]``, what is each agent's has an axis more."""
    actor = team_actor()
    loss = ClipPPOLoss(actor, team_critic())
    loss.set_keys(**KEYS)
    data = for_each_agent(team_steps(actor, given=False))
    expected = loss(loss.value_estimator(data.clone()))
    for names in ([None, None], [None, "time"]):
        data.names = names
        torch.testing.assert_close(loss(data).to_dict(), expected.to_dict())
    taken = UpdateStep(loss, torch.optim.SGD(loss.parameters(), 0.0), mode="eager")(data)
    torch.testing.assert_close(taken["loss_critic"], expected["loss_critic"])


def test_keys_of_an_estimator_stay_unless_the_loss_sets_them():
    actor, critic = plain_networks("normal")
    estimator = GAE()
    estimator.set_keys(value_target="aim")
    loss = ClipPPOLoss(actor, critic).make_value_estimator(estimator)
    assert estimator.tensor_keys["value_target"] == "aim"
    loss.set_keys(value_target="goal")
    assert estimator.tensor_keys["value_target"] == "goal"
    loss.set_keys(value_target=None)
    assert estimator.tensor_keys["value_target"] == "value_target"


def test_vtrace_of_a_loss_can_be_called_by_itself():
    actor, critic = plain_networks("normal")
    loss = ClipPPOLoss(actor, critic).make_value_estimator("vtrace")
    data = sequences(actor)
    expected = VTrace(actor_network=actor, value_network=critic)(data.clone())["advantage"]
    torch.testing.assert_close(loss.value_estimator(data)["advantage"], expected)
    assert len(list(loss.modules())) == len(set(map(id, loss.modules())))


@pytest.mark.parametrize("name", ["A2CLoss", "ClipPPOLoss"])
def test_several_heads_are_corrected_together(name):
    loss = peers.make(name, "composite").make_value_estimator("vtrace")
    data = peers.sequences(loss)
    one, other = loss.tensor_keys["sample_log_prob"]
    before = loss(data)["loss_critic"]
    data[one] = data[one] + 0.3
    assert not torch.isclose(loss(data)["loss_critic"], before)
    data[other] = data[other] - 0.3  # of both together, nothing has changed
    torch.testing.assert_close(loss(data)["loss_critic"], before)
    heads = loss.tensor_keys["action"]
    with pytest.raises(TypeError, match="`action` must be a string or a tuple of strings"):
        loss.value_estimator.set_keys(action=heads[:1])
