"""Policies, families, heads, the normaliser and annealed coefficients."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from compiled_rl import GAE, ObservationNormalizer, Policy, ValueHead
from compiled_rl.modules import (
    ActionRescaler,
    Categorical,
    CoefficientModule,
    Concatenated,
    Normal,
    OneHotCategorical,
    StateDependentScale,
    StateIndependentScale,
)


def policies() -> dict[str, Policy]:
    torch.manual_seed(0)
    return {
        "categorical": Policy(nn.Linear(4, 3), Categorical),
        "one-hot": Policy(nn.Linear(4, 3), OneHotCategorical),
        "state-dependent": Policy(nn.Sequential(nn.Linear(4, 6), StateDependentScale()), Normal),
        "state-independent": Policy(
            nn.Sequential(nn.Linear(4, 3), StateIndependentScale(3, 0.5)), Normal()
        ),
    }


@pytest.mark.parametrize("kind", policies())
def test_a_policy_samples_what_it_says(kind):
    policy = policies()[kind]
    observation = torch.randn(5, 7, 4)
    action, log_prob, _ = policy.act(observation)
    params = policy.params(observation)
    torch.testing.assert_close(policy.family.log_prob(params, action), log_prob)
    assert log_prob.shape == (5, 7)
    assert policy.family.entropy(params).shape == (5, 7)
    torch.testing.assert_close(policy.family.kl(params, params), torch.zeros(5, 7))
    assert policy(observation).shape == action.shape
    assert not log_prob.requires_grad


@pytest.mark.parametrize("kind", policies())
def test_noise_from_a_generator_repeats(kind):
    policy, observation = policies()[kind], torch.randn(9, 4)
    one, other = (
        policy.act(observation, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(one.action, other.action)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("categorical", lambda p: torch.distributions.Categorical(logits=p[0])),
        ("one-hot", lambda p: torch.distributions.OneHotCategorical(logits=p[0])),
        (
            "state-dependent",
            lambda p: torch.distributions.Independent(torch.distributions.Normal(*p), 1),
        ),
    ],
)
def test_families_equal_torchs_distributions(kind, reference):
    policy = policies()[kind]
    params, others = policy.params(torch.randn(6, 4)), policy.params(torch.randn(6, 4))
    family, expected, other = policy.family, reference(params), reference(others)
    action = expected.sample()
    torch.testing.assert_close(family.log_prob(params, action), expected.log_prob(action))
    torch.testing.assert_close(family.entropy(params), expected.entropy())
    kl = torch.distributions.kl_divergence(expected, other)
    torch.testing.assert_close(family.kl(params, others), kl)
    torch.testing.assert_close(family.mode(params).to(expected.mode.dtype), expected.mode)


def test_the_deployed_action_is_rescaled_and_the_stored_one_is_not():
    rescale = ActionRescaler(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0]))
    network = nn.Sequential(nn.Linear(4, 2), StateIndependentScale(2))
    policy = Policy(network, Normal, rescale)
    nn.init.constant_(policy.network[0].weight, 0)
    policy.network[0].bias.data = torch.tensor([0.5, 3.0])
    torch.testing.assert_close(policy(torch.zeros(1, 4)), torch.tensor([[1.0, 10.0]]))
    action, log_prob, _ = policy.act(torch.zeros(1000, 4))
    assert (action > 1).any()
    expected = policy.family.log_prob(policy.params(torch.zeros(1000, 4)), action)
    torch.testing.assert_close(log_prob, expected.detach())


@pytest.mark.parametrize("bounds", [([0.0], [0.0]), ([0.0], [1.0, 2.0]), ([0.0], [torch.inf])])
def test_bounds_that_make_no_sense(bounds):
    with pytest.raises(ValueError, match="`low` and `high` must be finite, of one shape"):
        ActionRescaler(*[torch.tensor(x) for x in bounds])


def test_a_zero_output_is_a_scale_of_one():
    _, scale = StateDependentScale(min_scale=0.0)(torch.zeros(1, 2))
    torch.testing.assert_close(scale, torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"must have an even last axis, got \[1, 3\]"):
        StateDependentScale()(torch.zeros(1, 3))


def test_heads_and_normalizers_refuse_what_would_broadcast():
    with pytest.raises(ValueError, match=r"`loc` must end in \[1\], got \[2, 3\]"):
        StateIndependentScale(1)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`initial_scale` must be positive, got -1"):
        StateIndependentScale(1, -1.0)
    with pytest.raises(ValueError, match=r"`observation` must end in \[3\], got \[2, 1\]"):
        ObservationNormalizer(3)(torch.zeros(2, 1))


def test_a_discount_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"GAE: `gamma` must be in \[0, 1\], got 2"):
        GAE(gamma=2.0)


def test_a_value_head_has_no_trailing_axis():
    assert ValueHead(4)(torch.zeros(5, 6, 4)).shape == (5, 6)


def test_normalizer_tracks_mean_and_variance_over_ragged_batches():
    normalizer, generator = ObservationNormalizer(3), torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 3, generator=generator) * 3 + 5 for n in (4, 1, 200, 33)]
    for part in parts:
        normalizer.update(part)
    everything = torch.cat(parts)
    torch.testing.assert_close(normalizer.mean, everything.mean(0))
    torch.testing.assert_close(normalizer.var, everything.var(0, correction=0))
    assert normalizer.count == len(everything)
    scaled = normalizer(everything)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_normalizer_reads_valid_observations_only_and_learns_in_update_only():
    normalizer, mask = ObservationNormalizer((2,)), torch.tensor([[True, False], [True, True]])
    observation = torch.randn(2, 2, 2)
    observation[0, 1] = torch.nan
    normalizer.update(observation, mask)
    torch.testing.assert_close(normalizer.mean, observation[mask].mean(0))
    before = normalizer.mean.clone()
    normalizer(torch.randn(9, 2))
    normalizer.update(observation, torch.zeros_like(mask))
    assert torch.equal(normalizer.mean, before)
    assert normalizer(torch.full((1, 2), 1e9)).max() == 10


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_pixels_and_contacts_are_normalised(dtype):
    observation = torch.tensor([[0, 1], [1, 1], [1, 0], [1, 0]]).to(dtype)
    normalizer, of_floats = ObservationNormalizer(2), ObservationNormalizer(2)
    for each, x in ((normalizer, observation), (of_floats, observation.float())):
        each.update(x)
    assert torch.equal(normalizer.mean, torch.tensor([0.75, 0.5]))
    assert torch.equal(normalizer(observation), of_floats(observation.float()))


def test_observations_of_several_dtypes_are_put_side_by_side():
    joints, contacts = torch.randn(3, 2), torch.tensor([[True], [False], [True]])
    got = Concatenated(nn.Identity())(joints, contacts)
    assert torch.equal(got, torch.cat([joints, contacts.float()], -1))


@pytest.mark.parametrize(
    ("observation", "mask", "sentence"),
    [
        (torch.zeros(4, 3), None, r"`observation` must end in \[2\], got \[4, 3\]"),
        (torch.zeros(4, 2), torch.ones(4), r"`mask` must be torch.bool of shape \[4\]"),
        (torch.zeros(4, 2), torch.ones(3, dtype=torch.bool), r"of shape \[4\], got .* \[3\]"),
    ],
)
def test_normalizer_refuses(observation, mask, sentence):
    normalizer = ObservationNormalizer(2)
    with pytest.raises(ValueError, match=sentence):
        normalizer.update(observation, mask)
    assert normalizer.count == 0


def test_a_number_is_copied_into_a_coefficient_and_a_learned_one_replaces_it():
    module = CoefficientModule()
    module.register_coefficient("alpha", 0.5)
    buffer = module.alpha
    module.alpha = torch.tensor(0.25, dtype=torch.float64)  # of a schedule, for instance
    assert module.alpha is buffer
    assert buffer.item() == 0.25
    learned = torch.tensor(2.0, requires_grad=True)
    module.alpha = learned
    assert module.alpha is learned


def test_a_learned_coefficient_stays_what_it_is():
    module = CoefficientModule()
    learned, computed = torch.nn.Parameter(torch.tensor(0.5)), torch.tensor(2.0).requires_grad_()
    module.register_coefficient("alpha", learned)
    module.register_coefficient("beta", computed)
    assert module.alpha is learned
    assert list(module.parameters()) == [learned]
    (module.alpha * module.beta).backward()
    assert learned.grad == 2
    assert computed.grad == 0.5
    module.alpha, module.beta = 0.25, 3
    assert module.alpha is learned
    assert (learned.item(), computed.item()) == (0.25, 3)


@pytest.mark.parametrize("value", ["text", [0.1], np.array(0.1), 1j, True, float("nan"), object()])
def test_what_is_no_number_is_not_assigned(value):
    module = CoefficientModule()
    module.register_coefficient("alpha", 0.5)
    with pytest.raises(ValueError, match="CoefficientModule: `alpha` must be a"):
        module.alpha = value
    assert float(module.alpha) == 0.5


RANGED = [
    ("finite", [-1e30, 0.0], [float("inf"), -float("inf")]),
    ("positive", [1e-9, float("inf")], [0.0, -1]),
    ("at least 0", [0, 7.0], [-1e-5]),
    ("at least 1", [1, 7.0], [0.999]),
    ("in [0, 1]", [0, 1], [-0.001, 1.001]),
    ("in [0, 1)", [0, 0.999], [1, -0.001]),
    ("in (0, 1]", [0.001, 1], [0, 1.001]),
]


@pytest.mark.parametrize(
    "form", [float, torch.tensor, lambda x: torch.tensor(float(x)).requires_grad_()]
)
@pytest.mark.parametrize(("range_", "inside", "outside"), RANGED)
def test_a_coefficient_stays_in_its_range(range_, inside, outside, form):
    for x in inside:
        module = CoefficientModule()
        module.register_coefficient("alpha", form(x), range_)
        module.alpha = form(x)
        assert float(module.alpha) == pytest.approx(float(x))
    for x in [*outside, float("nan")]:
        before = float(module.alpha)
        with pytest.raises(ValueError, match=f"`alpha` must be {re.escape(range_)}, got"):
            module.alpha = form(x)
        assert float(module.alpha) == before
        with pytest.raises(ValueError, match=f"`beta` must be {re.escape(range_)}, got"):
            module.register_coefficient("beta", form(x), range_)
        assert not hasattr(module, "beta")


def test_rounding_is_no_fault_of_what_is_assigned():
    module = CoefficientModule()
    module.register_coefficient("alpha", 0.5, "at least 0")
    module.alpha = -1e-9
    assert module.alpha == -1e-9
    with pytest.raises(ValueError, match="`beta` must be at least 0, got -1e-09"):
        module.register_coefficient("beta", -1e-9, "at least 0")


@pytest.mark.parametrize("several", [torch.ones(1), torch.ones(3), torch.ones(3).requires_grad_()])
def test_several_numbers_are_no_coefficient(several):
    module = CoefficientModule()
    module.register_coefficient("alpha", 0.5)
    with pytest.raises(ValueError, match="`alpha` must be a float or a 0-d tensor, got"):
        module.alpha = several
    assert module.alpha.shape == ()


def test_other_buffers_are_torchs():
    module = CoefficientModule()
    module.register_buffer("several", torch.zeros(3))
    module.register_buffer("one", torch.tensor(0.0))
    module.register_buffer("none", None)
    with pytest.raises(TypeError, match="cannot assign 'int' as buffer 'several'"):
        module.several = 3
    module.one, module.several, module.none = 2, torch.ones(2), torch.ones(4)
    assert module.one.item() == 2
    assert (len(module.several), len(module.none)) == (2, 4)
    module.one = torch.ones(3)
    assert len(module.one) == 3


def test_a_value_is_asked_where_nothing_traces():
    """Else an assignment could not be compiled, traced, or mapped."""

    class Counts(CoefficientModule):
        def __init__(self):
            super().__init__()
            self.register_coefficient("alpha", 0.5, "in [0, 1]")

        def forward(self, x):
            self.alpha = x
            return self.alpha * 2

    for x in (torch.tensor(0.25), torch.tensor(7.0)):
        module = Counts()
        assert torch.compile(module, backend="eager", fullgraph=True)(x) == 2 * x
        assert make_fx(module)(x)(x) == 2 * x
        assert torch.jit.trace(module, x, check_trace=False)(x) == 2 * x
    with FakeTensorMode():
        assert Counts()(torch.tensor(7.0)).shape == ()
    stacked = torch.tensor([0.25, 7.0])
    mapped = torch.vmap(torch.func.grad(lambda x: Counts()(x).square()))
    assert torch.equal(mapped(stacked), 8 * stacked)


def test_a_coefficient_that_was_deleted_is_no_more():
    module = CoefficientModule()
    module.register_coefficient("alpha", 0.5, "in [0, 1]")
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        module.register_coefficient("alpha", -3, "positive")
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):  # as before
        module.alpha = 5.0
    del module.alpha
    module.alpha = torch.nn.Parameter(torch.ones(2))
    assert len(module.alpha) == 2


def test_a_coefficient_may_be_parametrised():
    class Sigmoid(torch.nn.Module):
        forward = staticmethod(torch.sigmoid)
        right_inverse = staticmethod(torch.logit)

    module = CoefficientModule()
    module.register_coefficient("alpha", torch.nn.Parameter(torch.tensor(0.5)))
    torch.nn.utils.parametrize.register_parametrization(module, "alpha", Sigmoid())
    module.alpha = torch.tensor(0.9)
    torch.testing.assert_close(module.alpha, torch.tensor(0.9))


def test_a_coefficient_takes_scalars_only():
    module = CoefficientModule()
    module.register_coefficient("alpha", 0.5)
    module.alpha = 2
    assert module.state_dict()["alpha"].item() == 2
    with pytest.raises(ValueError, match=r"`range_` must be in \('a number', .*, got 'small'"):
        module.register_coefficient("beta", 0.5, "small")
    assert not hasattr(module, "beta")
    for wrong in (True, "1", torch.ones(1)):
        with pytest.raises(ValueError, match="`beta` must be a float or a 0-d tensor, got"):
            module.register_coefficient("beta", wrong)
