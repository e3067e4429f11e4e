"""What must hold of action values and of the projection, beside their formulas."""

import pytest
import torch

from compiled_rl.functional import (
    categorical_cross_entropy,
    chosen_action_value,
    expected_action_value,
    project_categorical,
)

DOUBLE = torch.float64
ATOMS = 21
SUPPORT = torch.linspace(-10, 10, ATOMS, dtype=DOUBLE)
NEVER = torch.zeros(3, 5, dtype=torch.bool)


def probs(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, ATOMS, dtype=DOUBLE).softmax(-1)


def rewards(scale: float) -> torch.Tensor:
    torch.manual_seed(1)
    return scale * torch.randn(3, 5, dtype=DOUBLE)


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_no_probability_is_lost(scale, gamma):
    terminated = rewards(1.0) > 0.5
    projected = project_categorical(rewards(scale), probs(3, 5), terminated, SUPPORT, gamma)
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.sum(-1), torch.ones(3, 5, dtype=DOUBLE))


def test_what_lies_on_the_atoms_stays_there():
    nothing = torch.zeros(3, 5, dtype=DOUBLE)
    projected = project_categorical(nothing, probs(3, 5), NEVER, SUPPORT, 1.0)
    torch.testing.assert_close(projected, probs(3, 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, -2])
def test_whole_steps_move_whole_atoms(steps):
    reward = torch.full((3, 5), float(steps), dtype=DOUBLE)
    inside = probs(3, 5) * (SUPPORT.abs() <= 8)
    projected = project_categorical(reward, inside, NEVER, SUPPORT, 1.0)
    torch.testing.assert_close(projected, inside.roll(steps, -1), rtol=0, atol=1e-12)


def test_the_mean_is_that_of_the_return_where_nothing_is_cut_off():
    inside = probs(3, 5) * (SUPPORT.abs() <= 5)
    inside = inside / inside.sum(-1, keepdim=True)
    reward = rewards(1.0).clamp(-4, 4)
    projected = project_categorical(reward, inside, NEVER, SUPPORT, 0.9)
    torch.testing.assert_close(projected @ SUPPORT, reward + 0.9 * inside @ SUPPORT)


@pytest.mark.parametrize(("reward", "atom"), [(-10, 0), (10, -1), (-1e9, 0), (1e9, -1)])
def test_the_ends_of_the_support_keep_what_is_beyond(reward, atom):
    reward = torch.full((3, 5), float(reward), dtype=DOUBLE)
    projected = project_categorical(reward, probs(3, 5), ~NEVER, SUPPORT)
    torch.testing.assert_close(projected[..., atom], torch.ones(3, 5, dtype=DOUBLE))


def test_where_terminated_the_next_state_is_not_read():
    nothing = torch.full((3, 5, ATOMS), torch.nan, dtype=DOUBLE, requires_grad=True)
    projected = project_categorical(rewards(1.0), nothing, ~NEVER, SUPPORT)
    torch.testing.assert_close(projected @ SUPPORT, rewards(1.0))
    projected.sum().backward()
    assert not nothing.grad.any()


@pytest.mark.parametrize("reward", [torch.nan, torch.inf])
def test_what_is_no_number_stays_in_its_row(reward):
    odd = rewards(1.0).clone()
    odd[1, 2] = reward
    projected = project_categorical(odd, probs(3, 5), NEVER, SUPPORT)
    ordinary = project_categorical(rewards(1.0), probs(3, 5), NEVER, SUPPORT)
    differs = (projected != ordinary).any(-1)
    assert differs.nonzero().tolist() == [[1, 2]]


def test_a_discount_a_sample_is_that_of_n_steps():
    gamma = torch.tensor(0.9, dtype=DOUBLE)
    steps = torch.tensor([1, 2, 3, 4, 5]).expand(3, 5)
    together = project_categorical(rewards(1.0), probs(3, 5), NEVER, SUPPORT, gamma**steps)
    for k in range(5):
        one = (rewards(1.0)[:, k], probs(3, 5)[:, k], NEVER[:, k])
        torch.testing.assert_close(
            together[:, k], project_categorical(*one, SUPPORT, 0.9 ** (k + 1))
        )


@pytest.mark.parametrize("atoms", [SUPPORT[:1], SUPPORT[0], SUPPORT[:7]])
def test_a_support_that_does_not_fit_is_refused(atoms):
    with pytest.raises(ValueError, match=r"`support` must be at least two|`next_probs` must have"):
        project_categorical(rewards(1.0), probs(3, 5), NEVER, atoms)


def test_precisions_do_not_mix():
    with pytest.raises(ValueError, match="`next_probs` must have the dtype of `reward`, got"):
        project_categorical(rewards(1.0), probs(3, 5).float(), NEVER, SUPPORT)


def test_a_distribution_is_nearest_to_itself():
    target = probs(3, 5)
    closest = categorical_cross_entropy(target.log(), target)
    torch.testing.assert_close(closest, torch.distributions.Categorical(target).entropy())
    assert (categorical_cross_entropy(rewards(1.0).unsqueeze(-1) * SUPPORT, target) > closest).all()


def test_one_action_a_block_and_every_bit_that_is_on():
    value = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
    for action, expected in (([0, 1, 0, 0, 1], 18), ([1, 0, 1, 1, 0], 13), ([0] * 5, 0)):
        assert chosen_action_value(value, torch.tensor([action])) == expected


def test_values_that_are_not_chosen_may_be_infinite():
    value = torch.tensor([[1.0, -torch.inf, torch.nan]], requires_grad=True)
    chosen = chosen_action_value(value, torch.tensor([[True, False, False]]))
    chosen.sum().backward()
    assert chosen == 1
    assert value.grad.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (torch.zeros(2, 1, dtype=torch.long), r"`action` must have the shape of `action_value`"),
        (torch.zeros(3, dtype=torch.long), r"must have the shape \[2\] of indices"),
        (torch.zeros(2), "must be of an integer dtype, got torch.float32"),
    ],
)
def test_an_action_of_no_kind_is_refused(action, words):
    with pytest.raises(ValueError, match=words):
        chosen_action_value(torch.zeros(2, 4), action)


def test_any_leading_axes():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, ATOMS, 4, dtype=DOUBLE)
    action = torch.randint(4, (2, 3))
    value = expected_action_value(logits, SUPPORT)
    for i in range(2):
        for j in range(3):
            alone = logits[i, j].softmax(0).T @ SUPPORT
            torch.testing.assert_close(value[i, j], alone)
            assert chosen_action_value(value, action)[i, j] == value[i, j, action[i, j]]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_index_out_of_range_is_refused(wrong, compiled):
    def chosen(action):
        return chosen_action_value(torch.ones(4096, 3), action)

    function = torch.compile(chosen, fullgraph=True) if compiled else chosen
    action = torch.zeros(4096, dtype=torch.long)
    assert torch.equal(function(action), torch.ones(4096))
    action[7] = wrong
    with pytest.raises(ValueError, match=r"`action` must be in \[0, 2\], got"):
        function(action)


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 1), (0, None)])
def test_indices_may_be_mapped_in_a_graph(in_dims):
    values, action = (
        torch.randn(4, 4, 3),
        torch.randint(0, 3, (4, 4) if in_dims[1] is not None else (4,)),
    )
    mapped = torch.vmap(chosen_action_value, in_dims)
    expected = mapped(values, action)
    compiled = torch.compile(mapped, fullgraph=True)
    assert torch.equal(compiled(values, action), expected)
    action[(0,) * action.dim()] = 9
    for function in (mapped, compiled):
        with pytest.raises(ValueError, match=r"`action` must be in \[0, 2\], got 0 to 9"):
            function(values, action)
