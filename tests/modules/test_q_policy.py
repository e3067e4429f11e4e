"""Policies that act by values: the best action in every space, exploration, artefacts."""

import gymnasium as gym
import pytest
import torch
from torch import nn
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiOneHot, OneHot

from compiled_rl import modules
from compiled_rl.export import OnnxModel, to_onnx
from compiled_rl.functional import chosen_action_value
from compiled_rl.modules import ExpectedActionValue, QPolicy, action_family

N = 5
BLOCKS = modules.MultiOneHotCategorical([2, 3])
SPACES = {"categorical": "categorical", "one_hot": "one-hot", "blocks": BLOCKS, "binary": "binary"}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def every_action(space) -> torch.Tensor:
    if space == "categorical":
        return torch.arange(N)
    if space == "one-hot":
        return torch.eye(N)
    bits = torch.cartesian_prod(*[torch.arange(2)] * N)
    if space == "binary":
        return bits
    return bits[(bits[:, :2].sum(-1) == 1) & (bits[:, 2:].sum(-1) == 1)]


def make(space) -> QPolicy:
    torch.manual_seed(0)
    return QPolicy(nn.Linear(4, N), space)


@every_space
def test_no_action_is_worth_more_than_the_greedy_one(space):
    policy, observation = make(space), torch.randn(50, 4)
    value, actions = policy.network(observation), every_action(space)
    each = [chosen_action_value(value, a.expand(50, *a.shape)) for a in actions]
    greedy = chosen_action_value(value, policy(observation))
    torch.testing.assert_close(greedy, torch.stack(each).max(0).values)


@every_space
def test_exploration_takes_every_action_as_often(space):
    policy, actions = make(space), every_action(space).tolist()
    observation = torch.randn(1, 4).expand(400 * len(actions), 4)
    taken = policy.act(observation, epsilon=1.0, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([sum(t == a for t in taken.tolist()) for a in actions])
    assert counts.sum() == len(observation)
    assert (counts - 400).abs().max() < 100  # five standard deviations


@pytest.mark.parametrize("epsilon", [0.0, 0.3, torch.tensor(0.3)])
def test_epsilon_is_how_often_every_action_is_as_likely(epsilon):
    values = torch.tensor([10.0, 0.0, 20.0, 5.0, -10.0])
    policy, generator = QPolicy(nn.Identity()), torch.Generator().manual_seed(0)
    taken = policy.act(values.expand(20_000, N), epsilon=epsilon, generator=generator)
    expected = torch.full((N,), float(epsilon) / N)
    expected[2] += 1 - float(epsilon)
    often = taken.bincount(minlength=N) / 20_000
    torch.testing.assert_close(often, expected, atol=0.01, rtol=0)


def test_epsilon_may_be_one_an_environment():
    """As many environments as actions, where the axes could be taken for each other."""
    values, epsilon = torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0, 0, 0, 1])
    policy, generator = QPolicy(nn.Identity()), torch.Generator().manual_seed(0)
    taken = policy.act(
        values.expand(1000, N, N), epsilon=epsilon.expand(1000, N), generator=generator
    )
    often = (taken == 0).float().mean(0)
    torch.testing.assert_close(often, torch.tensor([1.0, 1, 1, 1, 1 / N]), atol=0.05, rtol=0)
    one = QPolicy(nn.Identity()).act(values.expand(N, N), epsilon=epsilon)
    assert one[:-1].eq(0).all()
    with pytest.raises(ValueError, match=r"`epsilon` must be .* of shape \[6\], got \[6, 1\]"):
        policy.act(values.expand(6, N), epsilon=torch.ones(6, 1))


def test_no_gradient_reaches_an_action():
    assert not make("binary").act(torch.randn(2, 4)).requires_grad


def test_each_row_explores_on_its_own_and_a_generator_repeats():
    policy, observation = make("one-hot"), torch.randn(3, 7, 4)
    one, other = (
        policy.act(observation, epsilon=0.5, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, other)
    assert one.shape == (3, 7, N)
    differs = (one != policy(observation)).any(-1)
    assert 0 < differs.sum() < 21


@every_space
def test_an_artefact_acts_as_the_policy_does(space, tmp_path):
    policy, observation = make(space), torch.randn(6, 4)
    model = OnnxModel(to_onnx(policy, torch.randn(2, 4), tmp_path / "policy.onnx").path)
    (action,) = model(observation=observation.numpy()).values()
    assert torch.equal(torch.from_numpy(action), policy(observation))


def test_a_distribution_of_returns_acts_by_its_mean():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3 * 2), nn.Unflatten(-1, (3, 2)))
    support = torch.tensor([-1.0, 0.0, 1.0])
    policy, observation = QPolicy(ExpectedActionValue(network, support)), torch.randn(9, 4)
    probs = network(observation).softmax(1)
    better = (probs[:, 2] - probs[:, 0]).argmax(-1)
    assert torch.equal(policy(observation), better)
    assert "network.support" in policy.state_dict()


@pytest.mark.parametrize(
    ("given", "family"),
    [
        ("multi-categorical", None),
        ("mult-one-hot", None),
        (None, None),
        (Bounded(-1, 1, (2,)), None),
        (modules.Normal(), None),
        (modules.Categorical("probs"), None),
        (modules.MaskedCategorical(), None),
        ("one-hot", "OneHotCategorical"),
        (Categorical(3), "Categorical"),
        (OneHot(3), "OneHotCategorical"),
        (MultiOneHot([2, 3]), "MultiOneHotCategorical"),
        (Binary(3), "Bernoulli"),
        (Composite(action=OneHot(3)), "OneHotCategorical"),
        (Composite(agent=Composite(state=Categorical(3), action=OneHot(3))), "OneHotCategorical"),
        (Composite(move=OneHot(3)), None),
        (gym.spaces.Discrete(3), "Categorical"),
        (gym.spaces.Discrete(3, start=1), None),
        (gym.spaces.MultiBinary(3), "Bernoulli"),
        (modules.Bernoulli(), "Bernoulli"),
    ],
    ids=str,
)
def test_a_space_is_known_by_its_name_its_spec_or_its_family(given, family):
    if family is None:
        with pytest.raises(ValueError, match="`action_space` must"):
            action_family(given)
    else:
        found = action_family(given)
        assert type(found).__name__ == family
        assert getattr(found, "nvec", [2, 3]) == [2, 3]
