"""Coefficients and learning rates that move in the graph of the update."""

import pytest
import torch

from compiled_rl import ClipPPOLoss, UpdateStep
from compiled_rl.functional import kl_adaptive_learning_rate, linear_schedule
from tests.losses.networks import make_data, plain_networks
from tests.training.test_update import by_hand
from tests.training.test_update_targets import made, steps

SLOW = pytest.param("default", marks=pytest.mark.slow)
MODES = pytest.mark.parametrize("mode", ["eager", "default"])


def anneal(now, metrics):
    done = now["updates"] / 10
    return {
        "learning_rate": linear_schedule(done, 1e-2, 0.0),
        "clip_epsilon": linear_schedule(done, 0.2, 0.1),
    }


def adapt(now, metrics):
    return {"learning_rate": kl_adaptive_learning_rate(now["learning_rate"], metrics["kl_approx"])}


def learner(rule, mode="eager", lr=1e-2):
    loss = ClipPPOLoss(*plain_networks("normal"))
    adam = torch.optim.Adam(loss.parameters(), lr=lr)
    return loss, adam, UpdateStep(loss, adam, mode=mode, rule=rule)


@MODES
def test_annealing_is_that_of_a_loop_by_hand(mode, counted):
    """The numbers of a step are those that the step before it has left."""
    loss, adam, step = learner(anneal, mode)
    mine, my_adam, _ = learner(None)
    for k in range(6):
        data = make_data(loss.actor_network, (8 if k % 2 else 5,), seed=k)
        by_hand(mine, my_adam, data, None)
        step(data)
        my_adam.param_groups[0]["lr"] = 1e-2 * (1 - (k + 1) / 10)
        mine.clip_epsilon = 0.2 - 0.1 * (k + 1) / 10
        torch.testing.assert_close(loss.clip_epsilon, mine.clip_epsilon)
        assert adam.param_groups[0]["lr"] == pytest.approx(my_adam.param_groups[0]["lr"])
    assert type(adam.param_groups[0]["lr"]) is float
    for a, b in zip(loss.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert mode == "eager" or 1 <= counted.count <= 2


@MODES
def test_a_rate_follows_the_divergence(mode, counted):
    _, adam, step = learner(adapt, mode)
    data = make_data(plain_networks("normal")[0], (8,))
    data["action_log_prob"] = data["action_log_prob"] + 1.0  # far from the policy
    step(data)
    assert adam.param_groups[0]["lr"] == pytest.approx(1e-2 / 1.5)
    adam.param_groups[0]["lr"] = 3e-3  # what a user sets is taken from there
    step(data)
    assert adam.param_groups[0]["lr"] == pytest.approx(3e-3 / 1.5)


def test_a_rate_that_is_a_tensor_stays_that_tensor():
    rate = torch.tensor(1e-2)
    _, adam, step = learner(adapt, lr=rate)
    data = make_data(plain_networks("normal")[0], (8,))
    data["action_log_prob"] = data["action_log_prob"] + 1.0
    step(data)
    assert adam.param_groups[0]["lr"] is rate
    torch.testing.assert_close(rate, torch.tensor(1e-2 / 1.5))


@pytest.mark.parametrize("mode", ["eager", SLOW])
def test_rates_of_several_optimisers_have_numbers(mode, counted):
    one = made("sac")

    def rule(now, metrics):
        return {"learning_rate_1": now["learning_rate_1"] / 2}

    step = one.step(mode=mode, rule=rule)
    before = [each.param_groups[0]["lr"] for each in one.optimizers]
    for k in range(2):
        step(steps(4, k))
    after = [each.param_groups[0]["lr"] for each in one.optimizers]
    assert after == [before[0], pytest.approx(before[1] / 4)]


def test_numbers_may_be_returned_as_they_are_or_change_places():
    def rule(now, metrics):
        stays = {"learning_rate": now["learning_rate"]}
        return stays | {"clip_epsilon": now["entropy_coeff"], "entropy_coeff": now["clip_epsilon"]}

    loss, adam, step = learner(rule)
    data = make_data(plain_networks("normal")[0], (8,))
    before = (float(loss.clip_epsilon), float(loss.entropy_coeff))
    step(data)
    assert (float(loss.entropy_coeff), float(loss.clip_epsilon)) == before
    assert adam.param_groups[0]["lr"] == pytest.approx(1e-2)


def test_names_may_come_in_any_order():
    def rule(now, metrics):
        names = ["clip_epsilon", "entropy_coeff"]
        return {name: now[name] for name in (names if now["updates"] < 1 else names[::-1])}

    _, _, step = learner(rule)
    assert step(make_data(plain_networks("normal")[0], (8,)))["grad_norm"].isfinite()


def test_other_names_than_at_first_are_refused():
    def rule(now, metrics):
        return {"clip_epsilon": now["clip_epsilon"] / 2} if now["updates"] < 2 else {}

    _, _, step = learner(rule)
    data = make_data(plain_networks("normal")[0], (8,))
    step(data)
    with pytest.raises(
        ValueError, match=r"`rule` must move \('clip_epsilon',\) every time, got \(\)"
    ):
        step(data)


def test_a_rule_gets_the_metrics_that_are_returned():
    loss, adam, _ = learner(None)
    with pytest.raises(KeyError, match="kl_approx"):
        UpdateStep(loss, adam, mode="eager", minimise=["loss_critic"], rule=adapt)


REFUSED = [
    ("fast", TypeError, "`rule` must be a function or None, got 'fast'"),
    (lambda now, metrics: 1.0, TypeError, "`rule` must return a dict of 0-d tensors, got 1.0"),
    (lambda now, metrics: {"clip_epsilon": 0.1}, TypeError, "must return a dict of 0-d tensors"),
    (
        lambda now, metrics: {"gamma": torch.tensor(0.9)},
        ValueError,
        r"`rule` must move some of \[.*'clip_epsilon'.*'learning_rate'\], got 'gamma'",
    ),
    (lambda now, metrics: {"updates": now["updates"]}, ValueError, "got 'updates'"),
]


@pytest.mark.parametrize(("rule", "kind", "sentence"), REFUSED)
def test_refusals(rule, kind, sentence):
    with pytest.raises(kind, match=sentence):
        learner(rule)
