"""Every family equals its distribution object, samples it, compiles, and is exported."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch import distributions as D
from torchrl import modules as rl

from compiled_rl import Policy
from compiled_rl.export import OnnxModel, to_onnx
from compiled_rl.modules import StateIndependentScale
from compiled_rl.modules import families as ours
from compiled_rl.testing import count_graphs
from tests.modules.family_rows import ROWS, Network, kl, mode

N = 20_000

every_family = pytest.mark.parametrize("name", ROWS)
with_formula = pytest.mark.parametrize("name", [name for name in ROWS if name != "object"])


def flat(action) -> Tensor:
    """An action as numbers ``[*B, D]``."""
    if isinstance(action, dict):
        return torch.cat([flat(x) for x in action.values()], -1)
    return action.double().reshape(action.shape[0], -1)


def leaves(params):
    return tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in params)


def gradients(x: Tensor, params) -> list[Tensor]:
    wanted = [p for p in params if p.requires_grad]
    return list(torch.autograd.grad(x.sum(), wanted, materialize_grads=True, retain_graph=True))


def equal(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def check_both(ours_of, theirs_of, params):
    """The same values and the same gradients."""
    mine, theirs = leaves(params), leaves(params)
    got, expected = ours_of(mine), theirs_of(theirs)
    equal(got, expected)
    equal(gradients(got, mine), gradients(expected, theirs))


@every_family
def test_log_prob_equals_the_objects(name):
    row, params = ROWS[name], ROWS[name].params(6)
    torch.manual_seed(0)
    action = row.reference(*params).sample()
    if "deterministic" in name:  # TorchRL says inf, a density; a probability is at most one
        assert torch.equal(row.family.log_prob(params, action), torch.zeros(6).double())
        assert (row.family.log_prob(params, action + 1e-3) == -math.inf).all()
        return
    check_both(
        lambda p: row.family.log_prob(p, action),
        lambda p: row.reference(*p).log_prob(action),
        params,
    )


@every_family
def test_entropy_equals_the_objects_or_has_no_closed_form(name):
    row, params = ROWS[name], ROWS[name].params(6)
    if not row.family.analytic_entropy:
        with pytest.raises(NotImplementedError, match="the entropy has no closed form"):
            row.family.entropy(params)
    elif "deterministic" in name:
        assert torch.equal(row.family.entropy(params), torch.zeros(6).double())
    else:
        check_both(row.family.entropy, lambda p: row.reference(*p).entropy(), params)


@every_family
def test_kl_equals_the_objects_or_has_no_closed_form(name):
    row, params = ROWS[name], ROWS[name].params(6)
    others = tuple(
        p if p.dtype == torch.bool else x
        for p, x in zip(params, row.params(6, seed=1), strict=True)
    )
    if not row.family.analytic_kl:
        with pytest.raises(NotImplementedError, match="the KL divergence has no closed form"):
            row.family.kl(params, others)
    elif "deterministic" in name:
        assert (row.family.kl(params, others) == math.inf).all()
        assert torch.equal(row.family.kl(params, params), torch.zeros(6).double())
    else:
        expected = kl(row.reference(*params), row.reference(*others))
        equal(row.family.kl(params, others), expected)


@every_family
def test_mode_equals_the_objects(name):
    row, params = ROWS[name], ROWS[name].params(6)
    equal(flat(row.family.mode(params)), flat(mode(row.reference(*params))))


def distance(a: Tensor, b: Tensor) -> float:
    """Kolmogorov-Smirnov: the largest distance of two empirical distribution functions."""
    a, b = a.sort().values, b.sort().values
    at = torch.cat([a, b])
    shares = [torch.searchsorted(x, at, right=True) / len(x) for x in (a, b)]
    return float((shares[0] - shares[1]).abs().max())


@every_family
def test_samples_have_the_objects_distribution(name):
    row = ROWS[name]
    params = tuple(x.expand(N, *row.shape) for x in row.params(1, seed=3))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    mine = flat(row.family.sample(params, row.family.draw_noise(params, generator)))
    theirs = flat(row.reference(*params).sample())
    critical = 1.95 * math.sqrt(2 / N)  # one in a thousand
    for d in range(mine.shape[-1]):
        if "deterministic" in name:
            equal(mine[:, d], theirs[:, d])
        else:
            assert distance(mine[:, d], theirs[:, d]) < critical


def is_near(samples: Tensor, expected: Tensor):
    error = samples.std() / math.sqrt(len(samples))
    assert abs(samples.mean() - expected) < 5 * error + 1e-9


@with_formula
def test_samples_agree_with_entropy_kl_and_the_sum_of_probabilities(name):
    family, row = ROWS[name].family, ROWS[name]
    one, other = row.params(1, seed=3), row.params(1, seed=4)
    # Near each other, so that the ratio of their probabilities has a variance.
    pairs = zip(one, other, strict=True)
    other = tuple(p if p.dtype == torch.bool else (4 * p + x) / 5 for p, x in pairs)
    params, others = (tuple(x.expand(N, *row.shape) for x in p) for p in (one, other))
    noise = family.draw_noise(params, torch.Generator().manual_seed(1))
    action, log_prob = family.sample_with_log_prob(params, noise)
    equal(log_prob, family.log_prob(params, action), 1e-6)
    log_ratio = family.log_prob(others, action) - log_prob
    if family.analytic_entropy:
        is_near(-log_prob, family.entropy(one))
    if "deterministic" in name:
        return
    is_near(log_ratio.exp().clamp(max=1e3), torch.tensor(1.0))
    if family.analytic_kl:
        is_near(-log_ratio, family.kl(one, other))


@pytest.mark.parametrize(
    "name", ["normal", "tanh", "tanh-bounds", "truncated", "truncated-bounds", "composite"]
)
def test_gradcheck(name):
    family, row = ROWS[name].family, ROWS[name]
    params = leaves(row.params(3))
    noise = family.draw_noise(params, torch.Generator().manual_seed(0))

    def sample_with_log_prob(*p):
        action, log_prob = family.sample_with_log_prob(p, noise)
        return (action["move"] if isinstance(action, dict) else action), log_prob

    assert torch.autograd.gradcheck(sample_with_log_prob, params)
    if family.analytic_entropy:
        assert torch.autograd.gradcheck(lambda *p: family.entropy(p), params)
    if family.analytic_kl:
        other = row.params(3, seed=1)
        assert torch.autograd.gradcheck(lambda *p: family.kl(p, other), params)


def extreme(kind: str, shape: tuple[int, ...], loc: float, scale: float) -> Tensor:
    if kind == "positive":
        return torch.full(shape, scale)
    sign = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0])[: shape[-1]]
    x = (loc * sign).expand(shape)
    return {
        "probs": x.softmax(-1),
        "chances": (x > 0).float(),
        "mask": x > 0,
        "normal": x,
    }[kind]


@with_formula
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1e-3), (1e3, 1e-3), (1e3, 1.0), (30.0, 1e3)])
def test_extreme_parameters_are_finite(name, loc, scale):
    family, row = ROWS[name].family, ROWS[name]
    params = leaves(extreme(kind, (2, *row.shape), loc, scale) for kind in row.kinds)
    noise = family.draw_noise(params, torch.Generator().manual_seed(0))
    action, log_prob = family.sample_with_log_prob(params, noise)
    results = [log_prob, family.log_prob(params, action), flat(action), flat(family.mode(params))]
    if family.analytic_entropy:
        results.append(family.entropy(params))
    if family.analytic_kl:
        results.append(family.kl(params, params))
    for x in results:
        assert x.isfinite().all()
        if x.requires_grad:
            assert all(grad.isfinite().all() for grad in gradients(x, params))


def test_a_scale_of_nothing_is_as_small_as_torchrls():
    (loc,) = ROWS["deterministic"].params(4)
    scale, family = torch.full_like(loc, 1e-9), ours.TruncatedNormal()
    reference, action = rl.TruncatedNormal(loc, scale), loc.clamp(-0.5, 0.5)
    equal(family.log_prob((loc, scale), action), reference.log_prob(action))
    equal(family.entropy((loc, scale)), reference.entropy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["tanh", "tanh-bounds", "truncated", "truncated-bounds"])
def test_an_action_at_a_bound_is_finite(name, dtype):
    family, row = ROWS[name].family, ROWS[name]
    params = leaves(row.params(2, dtype))
    for bound in (family.low, family.high):
        action = ours.base.option_like(bound, params[0])
        log_prob = family.log_prob(params, action)
        assert log_prob.isfinite().all()
        assert all(grad.isfinite().all() for grad in gradients(log_prob, params))
        beyond = family.log_prob(params, torch.nextafter(action, 2 * action + 1e-3))
        assert beyond.isfinite().all() or "truncated" in name


def test_a_saturated_sample_knows_its_log_prob():
    family = ours.TanhNormal()
    params = leaves((torch.full((4, 1), 12.0), torch.full((4, 1), 0.5)))
    _, log_prob = family.sample_with_log_prob(params, torch.zeros(4, 1))
    slope = torch.tensor(12.0).double().cosh().square().reciprocal()
    expected = -math.log(0.5 * math.sqrt(2 * math.pi)) - slope.log()
    torch.testing.assert_close(log_prob.double(), expected.expand(4), rtol=1e-6, atol=0)
    assert gradients(log_prob, params)[0].abs().min() > 1.9  # less density, the further out


METHODS = ("log_prob", "entropy", "kl", "mode", "sample", "sample_with_log_prob")


@every_family
@pytest.mark.parametrize(
    "method", ["log_prob", *[pytest.param(m, marks=pytest.mark.slow) for m in METHODS[1:]]]
)
def test_every_method_compiles_into_at_most_two_graphs(name, method):
    family, row = ROWS[name].family, ROWS[name]
    if (method, True) in (
        ("entropy", not family.analytic_entropy),
        ("kl", not family.analytic_kl),
    ):
        return
    with count_graphs() as graphs:
        run = torch.compile(getattr(family, method), fullgraph=True, backend=graphs.backend)
        for batch in (3, 5, 8, 13):
            params = row.params(batch, torch.float32)
            noise = family.draw_noise(params, torch.Generator().manual_seed(0))
            second = {
                "log_prob": (family.sample(params, noise),),
                "kl": (row.params(batch, torch.float32, seed=1),),
                "sample": (noise,),
                "sample_with_log_prob": (noise,),
            }.get(method, ())
            got, expected = run(params, *second), getattr(family, method)(params, *second)
            if name != "object" or "sample" not in method:  # whose noise is its own
                torch.testing.assert_close(got, expected)
    assert 0 < graphs.count <= 2


def test_an_object_is_exported_though_torch_validates(monkeypatch, tmp_path):
    monkeypatch.setattr(D.Distribution, "_validate_args", True)
    family = ours.FromDistribution(D.Laplace, ("loc", "scale"))
    policy = Policy(Network(ROWS["object"]), family)
    example = {"observation": torch.randn(6, 4)}
    assert to_onnx(policy, example, tmp_path / "policy.onnx").max_error < 1e-5


@every_family
def test_copies_and_files_keep_a_family(name):
    row, params = ROWS[name], ROWS[name].params(4)
    family, expected = row.family, flat(row.family.mode(params))
    assert not list(family.parameters())
    for other in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        equal(flat(other.mode(params)), expected)
        assert repr(other) == repr(family)
    file = io.BytesIO()
    torch.save(family.state_dict(), file)
    file.seek(0)
    copy.deepcopy(family).load_state_dict(torch.load(file))
    bounds = {"low", "high"} if isinstance(getattr(family, "low", None), Tensor) else set()
    assert bounds <= set(family.state_dict())


@every_family
def test_a_policy_acts_with_it(name):
    row = ROWS[name]
    torch.manual_seed(0)
    policy, observation = Policy(Network(row), row.family), torch.randn(5, 4)
    action, log_prob, params = policy.act(observation, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_prob, row.family.log_prob(params, action))
    assert log_prob.shape == (5,)
    assert not log_prob.requires_grad
    assert flat(policy(observation)).shape == flat(action).shape


def test_a_policy_acts_by_sample_with_log_prob():
    network = torch.nn.Linear(4, 1)
    torch.nn.init.constant_(network.bias, 20.0)
    policy = Policy(torch.nn.Sequential(network, StateIndependentScale(1)), ours.TanhNormal())
    observation = torch.zeros(3, 4)
    noise = policy.family.draw_noise(policy.params(observation), torch.Generator().manual_seed(0))
    expected = policy.family.sample_with_log_prob(policy.params(observation), noise)[1]
    got = policy.act(observation, generator=torch.Generator().manual_seed(0)).log_prob
    torch.testing.assert_close(got, expected.detach())


@pytest.mark.parametrize("name", ["truncated", "truncated-bounds"])
def test_sampling_is_exported_to_the_tails(name, tmp_path):
    family, row = ROWS[name].family, ROWS[name]
    params = row.params(6, torch.float32)
    noise = family.draw_noise(params, torch.Generator().manual_seed(0))
    example = {"loc": params[0], "scale": params[1], "noise": noise}

    def sample(loc, scale, noise):
        return family.sample((loc, scale), noise)

    model = OnnxModel(to_onnx(sample, example, tmp_path / "sample.onnx").path)
    loc, scale, noise = torch.zeros(7, 3), torch.full((7, 3), 0.2), torch.zeros(7, 3)
    noise[:, 0] = torch.tensor([0.0, 1e-6, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-5, 1 - 1e-6])
    got = model(loc=loc.numpy(), scale=scale.numpy(), noise=noise.numpy())["output"]
    expected = sample(loc, scale, noise)
    # Next to one, a number of float32 has few digits for its distance from it.
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-3, atol=1e-3)


@with_formula
def test_the_deterministic_action_is_exported(name, tmp_path):
    torch.manual_seed(0)
    policy = Policy(Network(ROWS[name]), ROWS[name].family).eval()
    example = {"observation": torch.randn(6, 4)}
    model = OnnxModel(to_onnx(policy, example, tmp_path / "policy.onnx").path)
    observation = torch.randn(3, 4)
    got, expected = model(observation=observation.numpy()), policy(observation)
    heads = expected if isinstance(expected, dict) else {}
    named = {f"action_{head}": x for head, x in heads.items()} or {"action": expected}
    assert list(got) == list(named)
    for key, x in got.items():
        torch.testing.assert_close(torch.from_numpy(x), named[key], rtol=1e-5, atol=1e-5)


def test_a_state_without_an_allowed_action_is_no_nan():
    (logits,) = leaves((torch.randn(2, 3),))
    mask = torch.tensor([[False, False, False], [True, False, True]])
    family = ours.MaskedCategorical()
    entropy = family.entropy((logits, mask))
    torch.testing.assert_close(entropy[0], ours.Categorical().entropy((logits[0],)))
    assert gradients(entropy, (logits,))[0].isfinite().all()


@pytest.mark.parametrize("parameter", ["logits", "probs"])
def test_what_is_forbidden_has_no_probability_and_no_gradient(parameter):
    (x,) = leaves((torch.rand(2, 3),))
    mask, family = torch.tensor([True, False, True]).expand(2, 3), ours.MaskedCategorical(parameter)
    assert (family.log_prob((x, mask), torch.ones(2, dtype=torch.long)) == -math.inf).all()
    for y in (family.entropy((x, mask)), family.log_prob((x, mask), torch.tensor([0, 2]))):
        (grad,) = gradients(y, (x,))
        assert grad.isfinite().all()
        assert not grad[:, 1].any()
    others = torch.tensor([True, True, True]).expand(2, 3)
    assert family.kl((x, mask), (x, others)).isfinite().all()
    assert (family.kl((x, others), (x, mask)) == math.inf).all()


@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_certain_probabilities_have_finite_gradients(zero):
    (probs,) = leaves((torch.tensor([[zero, 1 - zero]]),))
    for family in (ours.Categorical("probs"), ours.Bernoulli("probs")):
        _, log_prob = family.sample_with_log_prob((probs,), torch.full((1, 2), 0.5))
        for y in (family.entropy((probs,)), log_prob):
            assert y.isfinite().all()
            assert gradients(y, (probs,))[0].isfinite().all()


def test_an_action_that_misses_its_bounds_has_no_probability():
    family, params = ours.TruncatedNormal(), (torch.zeros(1, 2), torch.ones(1, 2))
    assert family.log_prob(params, torch.tensor([[0.0, 1.01]])) == -math.inf


def test_a_composite_names_its_parameters_and_heads():
    composite = ROWS["composite"].family
    assert composite.param_names == ("move_loc", "move_scale", "fire_logits")
    assert {name: part for name, (_, part) in composite.heads.items()} == {
        "move": slice(0, 2),
        "fire": slice(2, 3),
    }
    squashed = ours.Composite({"a": ours.TanhNormal(), "b": ours.TruncatedNormal()})
    assert (squashed.analytic_entropy, squashed.analytic_kl) == (False, False)
    with pytest.raises(KeyError, match=r"`action` must have a tensor for each head, got no"):
        composite.log_prob(ROWS["composite"].params(2), {"move": torch.zeros(2, 3)})


def test_refusals():
    for family in (ours.TanhNormal, ours.TruncatedNormal, ours.TanhDeterministic):
        for low, high in ((1.0, 1.0), (0.0, math.inf), (torch.zeros(2), torch.tensor([1.0, 0.0]))):
            with pytest.raises(ValueError, match=f"{family.__name__}: `low` and `high` must be"):
                family(low, high)
    for make, sentence in (
        (lambda: ours.Categorical("logit"), "`parameter` must be 'logits' or 'probs', got 'logit'"),
        (lambda: ours.MultiCategorical([]), r"`nvec` must be positive integers, got \[\]"),
        (lambda: ours.Composite({}), "`heads` must be families by name, got {}"),
        (
            lambda: ours.Independent(ours.Categorical(), 0),
            "`axes` must be an integer of at least 1, got 0",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()
    mask = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"MaskedCategorical: `mask` must be torch\.bool"):
        ours.MaskedCategorical().mode((mask, mask))
