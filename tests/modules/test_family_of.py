"""Which family a class or a function stands for, and what stands for none."""

import functools
import warnings

import pytest
import torch
from torch import distributions as D
from torchrl import modules as rl

from compiled_rl.modules import families as ours


def equal(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


SAME = {
    "torch-normal": (D.Normal, ours.Normal),
    "torch-bernoulli": (D.Bernoulli, ours.Bernoulli),
    "torch-categorical": (D.Categorical, ours.Categorical),
    "torch-one-hot": (D.OneHotCategorical, ours.OneHotCategorical),
    "one-hot": (rl.OneHotCategorical, ours.OneHotCategorical),
    "masked": (rl.MaskedCategorical, ours.MaskedCategorical),
    "masked-one-hot": (rl.MaskedOneHotCategorical, ours.MaskedOneHotCategorical),
    "normal": (rl.IndependentNormal, ours.Normal),
    "tanh": (rl.TanhNormal, ours.TanhNormal),
    "truncated": (rl.TruncatedNormal, ours.TruncatedNormal),
    "delta": (rl.Delta, ours.Deterministic),
    "tanh-delta": (rl.TanhDelta, ours.TanhDeterministic),
    "ours": (ours.Bernoulli, ours.Bernoulli),
    "function-normal": (lambda loc, scale: D.Independent(D.Normal(loc, scale), 1), ours.Normal),
    "function-bernoulli": (
        lambda logits: D.Independent(D.Bernoulli(logits=logits), 1),
        ours.Bernoulli,
    ),
    "function-heads": (
        lambda logits: D.Independent(D.Categorical(logits=logits), 1),
        ours.Independent,
    ),
    "function-probs": (lambda probs: D.Categorical(probs), ours.Categorical),
    "function-tanh": (lambda loc, scale: rl.TanhNormal(loc, scale), ours.TanhNormal),
    "function-order": (lambda scale, loc: rl.IndependentNormal(loc, scale), ours.Normal),
    "partial": (functools.partial(rl.TanhNormal, safe_tanh=False), ours.TanhNormal),
}


@pytest.mark.parametrize("name", SAME)
def test_what_stands_for_a_family(name):
    distribution, family = SAME[name]
    state = torch.get_rng_state()
    assert type(ours.family_of(distribution)) is family
    assert torch.equal(torch.get_rng_state(), state)
    instance = family(ours.Categorical()) if family is ours.Independent else family()
    assert ours.family_of(instance) is instance


def doubled(loc, scale):
    return D.Independent(D.Normal(loc, 2 * scale), 1)


OTHER = {
    "class": (D.Beta, None, {}),
    "bounded-parameter": (
        lambda loc, scale: D.Independent(D.Normal(loc, scale.clamp(max=1e4)), 1),
        None,
        {},
    ),
    "changed-parameter": (doubled, None, {}),
    "swapped": (lambda loc, scale: D.Independent(D.Normal(scale, loc.exp()), 1), None, {}),
    "given-scale": (rl.IndependentNormal, ("loc",), {"scale": 0.5}),
    "no-event": (rl.TanhNormal, ("loc", "scale"), {"event_dims": 0}),
    "finite-mask": (rl.MaskedCategorical, ("logits", "mask"), {"neg_inf": -1e3}),
    "derived-logits": (rl.OneHotOrdinal, None, {}),
    "tensor-option": (rl.TanhNormal, ("loc", "scale"), {"low": -torch.ones(3), "event_dims": 0}),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_stands_for_none_is_its_object(name):
    distribution, names, options = OTHER[name]
    with pytest.warns(UserWarning, match="its object is built at every call") as caught:
        family = ours.family_of(distribution, names, **options)
    assert len(caught) == 1
    assert distribution.__name__ in str(caught[0].message)
    assert isinstance(family, ours.FromDistribution)
    drawn = ours.objects.probe(family.param_names, {"low": torch.ones(3)})
    params = tuple(x.flatten(0, 1) for x in drawn)
    built = distribution(**dict(zip(family.param_names, params, strict=True)), **options)
    action = built.sample()
    expected = built.log_prob(action).reshape(6, -1).sum(-1)
    equal(family.log_prob(params, action), expected)
    assert family.mode(params).shape == family.sample(params, params[0]).shape == action.shape
    assert family.analytic_entropy != (distribution is rl.TanhNormal)


def test_options_are_honoured():
    family = ours.family_of(
        rl.TanhNormal, ("loc", "scale"), low=-2.0, high=torch.tensor([3.0]), tanh_loc=True
    )
    assert (family.low, family.high.item(), family.tanh_loc) == (-2.0, 3.0, True)
    assert ours.family_of(rl.MaskedCategorical, ("probs", "mask")).param_names == ("probs", "mask")
    assert ours.family_of(D.Bernoulli, ("probs",)).param_names == ("probs",)
    assert ours.family_of(rl.Delta, atol=0.5).atol == 0.5


def test_torchrls_normal_does_not_bound_its_location():
    """It takes ``tanh_loc`` and uses it in ``update`` only, so that ``Normal`` stands for it."""
    loc, scale = torch.full((2, 3), 50.0), torch.ones(2, 3)
    reference = rl.IndependentNormal(loc, scale, tanh_loc=True, upscale=2.0)
    family = ours.family_of(rl.IndependentNormal, tanh_loc=True, upscale=2.0)
    equal(family.log_prob((loc, scale), loc), reference.log_prob(loc), 1e-6)


def test_a_known_class_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.family_of(rl.TanhNormal, ("loc", "scale"), low=torch.zeros(2), high=torch.ones(2))


def test_what_cannot_be_looked_up():
    with pytest.raises(TypeError, match=r"`distribution` must be a Family, or a class .* got int"):
        ours.family_of(3)
    with pytest.raises(TypeError, match=r"`param_names` must name the parameters of torch\.Geo"):
        ours.family_of(D.Geometric)
