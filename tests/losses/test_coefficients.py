"""What a constructor asks of a coefficient, an assignment asks, too."""

import copy
from typing import Any

import pytest
import torch

from compiled_rl import losses
from compiled_rl.estimators import GAE, VTrace
from tests.losses.networks import make_data, mlp, plain_networks
from tests.losses.test_keys import every_loss, made
from tests.losses.transitions import SUBJECTS


def clipped() -> Any:
    return losses.ClipPPOLoss(
        *plain_networks("normal"), clip_value=0.5, max_importance_ratio=3.0, clip_epsilon=(0.2, 0.3)
    )


def atoms() -> Any:
    network = torch.nn.Sequential(mlp(2 * 3), torch.nn.Unflatten(-1, (2, 3)))
    return losses.DistributionalDQNLoss(
        network, gamma=0.9, support=torch.linspace(-1, 1, 3), action_space="categorical"
    )


OUTSIDE = [
    (clipped, "clip_value", "positive", 0.0),
    (clipped, "max_importance_ratio", "positive", -1.0),
    (clipped, "clip_epsilon_low", "in [0, 1)", 1.0),
    (clipped, "clip_epsilon_high", "at least 0", -0.5),
    (lambda: losses.ClipPPOLoss(*plain_networks("normal")), "clip_epsilon", "in [0, 1)", 2.0),
    *(
        (lambda: losses.KLPENPPOLoss(*plain_networks("normal")), name, range_, wrong)
        for name, range_, wrong in (
            ("beta", "at least 0", -1.0),
            ("dtarg", "positive", 0.0),
            ("increment", "at least 1", 0.5),
            ("decrement", "in (0, 1]", 0.0),
        )
    ),
    (SUBJECTS["sac"].ours, "alpha_init", "positive", 0.0),
    (SUBJECTS["sac"].ours, "target_entropy", "finite", float("inf")),
    (SUBJECTS["td3"].ours, "policy_noise", "at least 0", -0.5),
    (SUBJECTS["td3"].ours, "noise_clip", "at least 0", -0.5),
    (atoms, "gamma", "in [0, 1]", 1.5),
    (GAE, "gamma", "in [0, 1]", 7.0),
    (GAE, "lmbda", "in [0, 1]", -0.5),
    (VTrace, "rho_thresh", "positive", 0.0),
    (VTrace, "c_thresh", "positive", -1.0),
]


@pytest.mark.parametrize("form", [float, torch.tensor])
@pytest.mark.parametrize(
    ("make", "name", "range_", "wrong"), OUTSIDE, ids=[name for _, name, *_ in OUTSIDE]
)
def test_an_assignment_is_held_to_the_range(make, name, range_, wrong, form):
    module = make()
    before = float(getattr(module, name))
    with pytest.raises(ValueError, match=name) as refused:
        setattr(module, name, form(wrong))
    said = f"{type(module).__name__}: `{name}` must be {range_}, got {wrong}"
    assert str(refused.value) == said
    assert float(getattr(module, name)) == before


@every_loss
def test_every_range_is_tried(name):
    """Fails where a coefficient with a range is not in the table."""
    ranged = {
        x for x, range_ in vars(made(name)).get("_ranges", {}).items() if range_ != "a number"
    }
    assert ranged <= {x for _, x, *_ in OUTSIDE}


@pytest.mark.parametrize(
    "several", [torch.full([5], 0.5), torch.full([5], 0.5, dtype=torch.double)]
)
def test_a_discount_may_become_one_a_step_and_back(several):
    estimator = GAE(gamma=0.9)
    estimator.gamma = several
    assert estimator.gamma is not several
    assert torch.equal(estimator.gamma, torch.full([5], 0.5))
    with pytest.raises(ValueError, match=r"`gamma` must be in \[0, 1\], got values from 0.5 to 2"):
        estimator.gamma = torch.tensor([0.5, 2.0])
    with pytest.raises(ValueError, match=r"`gamma` must be floating point, got torch\.int64"):
        estimator.gamma = torch.ones(5, dtype=torch.long)
    buffer = estimator.gamma
    estimator.gamma = 0.25
    assert estimator.gamma is buffer
    assert torch.equal(buffer, torch.full([5], 0.25))


def test_a_threshold_is_one_number():
    with pytest.raises(ValueError, match="`rho_thresh` must be a float or a 0-d tensor, got"):
        VTrace().rho_thresh = torch.ones(3)


REQUIRED = {
    "gamma": lambda x: GAE(gamma=x),
    "lmbda": lambda x: GAE(lmbda=x),
    "rho_thresh": lambda x: VTrace(rho_thresh=x),
    "beta": lambda x: losses.KLPENPPOLoss(*plain_networks("normal"), beta=x),
    "increment": lambda x: losses.KLPENPPOLoss(*plain_networks("normal"), increment=x),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_not_optional_is_given(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a float or a 0-d tensor, got None"):
        REQUIRED[name](None)


def test_a_schedule_may_end_a_rounding_beyond():
    estimator = GAE(lmbda=0.0)
    for _ in range(10):
        estimator.lmbda = estimator.lmbda + 0.1
    assert 1 < float(estimator.lmbda) < 1 + 1e-6


def test_advantages_may_be_the_targets():
    """Of complete data a loss reads, and no estimator writes."""
    loss = losses.A2CLoss(*plain_networks("categorical"))
    data = make_data(loss.actor_network, (6,))
    loss.set_keys(advantage="value_target")
    del data["advantage"]
    assert loss(data)["loss_objective"].isfinite()


def test_a_tensor_that_is_the_users_is_not_written():
    theirs = torch.full([5], 0.5, requires_grad=True)
    estimator = copy.deepcopy(GAE(gamma=(theirs * 1)))
    GAE(gamma=theirs).gamma = 0.25
    assert torch.equal(theirs, torch.full([5], 0.5))
    assert torch.equal(estimator.gamma, torch.full([5], 0.5))


@pytest.mark.parametrize("gamma", [0.9, torch.full([3], 0.9)])
def test_a_coefficient_on_meta_is_replaced(gamma):
    with torch.device("meta"):
        estimator = GAE(gamma=gamma)
    estimator.load_state_dict(GAE(gamma=gamma).state_dict(), assign=True)
    assert torch.equal(estimator.gamma, torch.as_tensor(gamma))


def test_what_is_given_has_no_rounding():
    loss = atoms()
    with pytest.raises(ValueError, match=r"`gamma` must be in \[0, 1\], got -1e-09"):
        loss.make_value_estimator(gamma=-1e-9)
    assert float(loss.gamma) == pytest.approx(0.9)
