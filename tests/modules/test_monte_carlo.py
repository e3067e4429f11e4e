"""Entropies estimated from samples, against sums and quadrature: values and gradients."""

import pytest
import torch
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import distributions, nn
from torchrl import objectives as torchrl

from compiled_rl import PPOLoss
from compiled_rl import modules as ours
from compiled_rl.modules.families import monte_carlo_entropy
from tests.losses.networks import make_data, mlp, plain_networks

SAMPLES = 40_000
GRID = torch.linspace(-12, 12, 4001, dtype=torch.float64)


def mixture(logits, loc, scale):
    parts = distributions.Normal(loc, scale, validate_args=False)
    weights = distributions.Categorical(logits=logits, validate_args=False)
    return distributions.MixtureSameFamily(weights, parts, validate_args=False)


def mixture_params():
    values = ([[0.3, -0.5]], [[-1.0, 1.5]], [[0.6, 1.1]])
    return tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in values)


def quadrature(params):
    """-integral of p log p, ``[B]``."""
    log_prob = mixture(*params).log_prob(GRID.unsqueeze(-1)).mT
    return -torch.trapezoid(log_prob.exp() * log_prob, GRID)


@pytest.mark.filterwarnings("ignore:family_of")
def test_the_entropy_of_what_cannot_be_reparametrised_has_its_gradient():
    torch.manual_seed(0)
    family, params = ours.family_of(mixture, ("logits", "loc", "scale")), mixture_params()
    assert (family.analytic_entropy, family.reparametrized) == (False, False)
    got, expected = monte_carlo_entropy(family, params, SAMPLES), quadrature(params)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    got, expected = (torch.autograd.grad(x.sum(), params) for x in (got, expected))
    assert max(x.abs().max() for x in expected) > 0.1
    torch.testing.assert_close(got, expected, rtol=0.03, atol=0.03)


FAMILIES = {
    "categorical": ours.Categorical(),
    "bernoulli": ours.Bernoulli(),
    "several": ours.Composite({"move": ours.Normal(), "choose": ours.Categorical()}),
    "apart": ours.Independent(ours.Categorical()),
    "normal": ours.Normal(),
    "many": ours.MultiCategorical([2, 3]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_estimate_has_the_gradient_of_the_formula(name):
    torch.manual_seed(1)
    family = FAMILIES[name]
    assert family.reparametrized is (name == "normal")
    size = 5 if name == "many" else 2
    params = [torch.randn(2, size, dtype=torch.float64) for _ in family.param_names]
    params = [
        (x.exp() if key.endswith("scale") else x).requires_grad_()
        for key, x in zip(family.param_names, params, strict=True)
    ]
    got, expected = monte_carlo_entropy(family, params, SAMPLES), family.entropy(params)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    slopes = [torch.autograd.grad(x.sum(), params, allow_unused=True) for x in (got, expected)]
    assert max(x.abs().max() for x in slopes[1] if x is not None) > 0.1
    near = 0.1 if name == "several" else 0.04  # the more dimensions, the more noise
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=0.05, atol=near)


def test_objects_are_reparametrised_if_they_can_be():
    for distribution, names, expected in (
        (distributions.Laplace, ("loc", "scale"), True),
        (distributions.Poisson, ("rate",), False),
    ):
        assert ours.FromDistribution(distribution, names).reparametrized is expected


class Parts(nn.Module):
    def forward(self, x):
        logits, loc, scale = x.chunk(3, -1)
        return logits, loc, scale.exp()


@pytest.mark.filterwarnings("ignore")
def test_a_bonus_raises_the_entropy_of_a_mixture():
    """TorchRL's PPO has a gradient of zero in the mean, its A2C none."""
    torch.manual_seed(0)
    names = ["logits", "loc", "scale"]
    network, critic = mlp(6, Parts()), mlp(1)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(network, ["observation"], names),
        ProbabilisticTensorDictModule(names, ["action"], distribution_class=mixture),
    )
    data = make_data(plain_networks("normal")[0], (8,))
    data["action"] = torch.randn(8)
    expected = gradients(-0.01 * quadrature(network(data["observation"].double().float())), network)
    value = TensorDictModule(critic, ["observation"], ["state_value"])
    arguments = {"samples_mc_entropy": 4000}
    for made, right in ((PPOLoss, True), (torchrl.PPOLoss, False)):
        got = gradients(made(actor, value, **arguments)(data.clone())["loss_entropy"], network)
        cosine = torch.nn.functional.cosine_similarity(got, expected, dim=0)
        assert bool(cosine > 0.95) is right
        assert bool(0.8 < got.norm() / expected.norm() < 1.25) is right


def gradients(x, network):
    grads = torch.autograd.grad(x.mean(), list(network.parameters()))
    return torch.cat([grad.flatten().double() for grad in grads])
