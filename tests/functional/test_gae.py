"""GAE against published numbers, the peer's loop, its identities, and at its edges."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torchrl.objectives.value.functional import generalized_advantage_estimate

from compiled_rl.functional import gae, linear_recurrence

DOUBLE = torch.float64


def rollout(batch: int, time: int, dtype: torch.dtype = DOUBLE, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(batch, time, generator=generator, dtype=dtype) for _ in range(3)]
    done = torch.rand(batch, time, generator=generator) < 0.2
    terminated = done & (torch.rand(batch, time, generator=generator) < 0.5)
    return (*values, terminated, done)


def table(rows) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


# rlax's hand-computed arrays; a row has one discount but for a zero, which is a termination.
RLAX = {
    1.0: [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3, 2, 1, 0, -4.9]],
    0.7: [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1, 0, -4.9]],
    0.4: [[0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1, 0, -4.9]],
}


@pytest.mark.parametrize("lmbda", RLAX)
def test_golden_numbers_of_rlax(lmbda):
    values = table([[1, 4, -3, -2, -1, -1], [-3, -2, -1, 0, 5, -1]])
    reward = table([[0, 0, 1, 0, -0.5], [0, 0, 0, 0, 1]])
    terminated = torch.tensor([[False] * 5, [False, False, False, True, False]])
    for row, gamma in enumerate((0.99, 0.9)):
        inputs = (reward[row], values[row, :-1], values[row, 1:], terminated[row], terminated[row])
        advantage = gae(*inputs, gamma, lmbda).advantage
        # The arrays were published to three decimals.
        torch.testing.assert_close(advantage, table(RLAX[lmbda][row]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("done_at", "terminated_at", "expected"),
    [
        (None, None, [4.167896, 4.281800, 3.065000]),
        (1, None, [2.579000, 2.075000, 3.065000]),
        (1, 1, [2.093000, 1.400000, 3.065000]),
    ],
    ids=["none done", "truncated", "terminated"],
)
def test_golden_numbers_of_the_flags(done_at, terminated_at, expected):
    flags = [
        torch.arange(3) == at if at is not None else torch.zeros(3, dtype=torch.bool)
        for at in (terminated_at, done_at)
    ]
    inputs = (table([1, 2, 3]), table([0.5, 0.6, 0.7]), table([0.65, 0.75, 0.85]))
    advantage, target = gae(*inputs, *flags, 0.9, 0.8)
    torch.testing.assert_close(advantage, table(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(target, table(expected) + inputs[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("gamma", "lmbda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.9)])
def test_equals_the_loop_of_torchrl(gamma, lmbda):
    reward, value, next_value, terminated, done = rollout(5, 37)
    columns = [x.unsqueeze(-1) for x in (value, next_value, reward, done, terminated)]
    expected = generalized_advantage_estimate(gamma, lmbda, *columns)
    got = gae(reward, value, next_value, terminated, done, gamma, lmbda)
    for a, b in zip(got, expected, strict=True):
        # Its loop multiplies a python float by a bool, which is float32.
        torch.testing.assert_close(a, b.squeeze(-1), rtol=1e-6, atol=1e-6)


def test_lambda_zero_is_the_td_error():
    reward, value, next_value, terminated, done = rollout(4, 9)
    expected = reward + 0.9 * next_value.masked_fill(terminated, 0) - value
    got = gae(reward, value, next_value, terminated, done, 0.9, 0.0).advantage
    torch.testing.assert_close(got, expected)


def test_lambda_one_is_the_discounted_return_less_the_value():
    reward, value, next_value, terminated, done = rollout(4, 9)
    done[:, -1] = True
    bootstrap = 0.9 * next_value * (done & ~terminated)
    expected = linear_recurrence(reward + bootstrap, 0.9 * (~done).to(DOUBLE)) - value
    # A Monte Carlo return knows the values within an episode only by its own rewards.
    inside = torch.cat([value[:, 1:], value[:, :1]], 1)
    consistent = torch.where(done, next_value, inside)
    got = gae(reward, value, consistent, terminated, done, 0.9, 1.0).advantage
    torch.testing.assert_close(got, expected)


def test_a_terminated_step_is_done_whatever_its_flag_says():
    reward, value, next_value, terminated, done = rollout(4, 9)
    lying = gae(reward, value, next_value, terminated, torch.zeros_like(done))
    honest = gae(reward, value, next_value, terminated, terminated)
    torch.testing.assert_close(lying, honest)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1), (2, 2)])
@pytest.mark.parametrize("differentiable", [False, True])
def test_empty_and_tiny_sequences(shape, differentiable):
    inputs = rollout(*shape)
    inputs[1].requires_grad_(differentiable)
    assert gae(*inputs).advantage.shape == shape


def test_a_long_sequence_is_exact_in_float64():
    inputs = rollout(1, 100_000)
    fused = gae(*inputs, 0.999, 1.0).advantage
    composed = gae(inputs[0], inputs[1].clone().requires_grad_(), *inputs[2:], 0.999, 1.0).advantage
    torch.testing.assert_close(fused, composed.detach(), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("differentiable", [False, True], ids=["fused", "composed"])
def test_what_follows_a_termination_is_never_read(differentiable):
    reward, value, next_value, terminated, done = rollout(4, 9)
    poisoned = next_value.masked_fill(terminated, torch.nan)
    assert terminated.any()
    value.requires_grad_(differentiable)
    got = gae(reward, value, poisoned, terminated, done).advantage
    torch.testing.assert_close(got, gae(reward, value, next_value, terminated, done).advantage)
    if differentiable:
        (grad,) = torch.autograd.grad(got.sum(), value)
        assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["terminated", "done"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
@pytest.mark.parametrize("differentiable", [False, True], ids=["fused", "composed"])
def test_flags_of_another_dtype_are_refused(name, dtype, differentiable):
    names = ("reward", "value", "next_value", "terminated", "done")
    inputs = dict(zip(names, rollout(2, 3), strict=True))
    inputs[name] = inputs[name].to(dtype)
    inputs["value"].requires_grad_(differentiable)
    with pytest.raises(ValueError, match=f"gae: `{name}` must be torch.bool, got {dtype}"):
        gae(**inputs)


def test_learnable_scalars_have_gradients():
    inputs = rollout(3, 7)
    gamma = torch.tensor(0.9, dtype=DOUBLE, requires_grad=True)
    lmbda = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g, b: gae(*inputs, g, b).advantage, (gamma, lmbda))


@pytest.mark.parametrize("layout", ["transposed", "expanded", "stepped"])
def test_layouts_give_the_same_numbers(layout):
    made = {
        "transposed": lambda x: x.T.contiguous().T,
        "expanded": lambda x: x[:1].expand(4, -1),
        "stepped": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    }[layout]
    inputs = [made(x) for x in rollout(4, 9)]
    torch.testing.assert_close(gae(*inputs), gae(*[x.contiguous() for x in inputs]))


def test_time_may_be_any_axis():
    inputs = rollout(4, 9)
    turned = gae(*[x.T for x in inputs], time_dim=0)
    torch.testing.assert_close(turned.advantage.T, gae(*inputs).advantage)
    trailing = gae(*[x.unsqueeze(-1) for x in inputs], time_dim=-2)
    torch.testing.assert_close(trailing.advantage.squeeze(-1), gae(*inputs).advantage)


def loss_of(value: Tensor, others) -> Tensor:
    return gae(others[0], value, *others[2:]).advantage.square().sum()


def reference_gradient(inputs) -> Tensor:
    value = inputs[1].clone().requires_grad_()
    return torch.autograd.grad(loss_of(value, inputs), value)[0]


def test_functional_gradients():
    inputs = rollout(3, 7)
    torch.testing.assert_close(
        torch.func.grad(loss_of)(inputs[1], inputs), reference_gradient(inputs)
    )


def test_gradient_of_a_mapped_call():
    inputs = rollout(3, 7)

    def mapped(value):
        return torch.vmap(loss_of)(value, inputs).sum()

    torch.testing.assert_close(torch.func.grad(mapped)(inputs[1]), reference_gradient(inputs))


@pytest.mark.parametrize("in_dim", [0, 1])
def test_mapped_over_a_batch_and_over_coefficients(in_dim):
    stacked = [torch.stack(x) for x in zip(rollout(3, 7), rollout(3, 7, seed=1), strict=True)]
    gammas = torch.tensor([0.9, 0.99], dtype=DOUBLE)
    moved = [x.movedim(0, in_dim) for x in stacked]
    got = torch.vmap(gae, (in_dim,) * 5 + (0, None))(*moved, gammas, 0.9).advantage
    for k, gamma in enumerate(gammas.tolist()):
        torch.testing.assert_close(got[k], gae(*[x[k] for x in stacked], gamma, 0.9).advantage)


def test_forward_mode_is_refused_rather_than_dropped():
    inputs = rollout(3, 7)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda v: loss_of(v, inputs), (inputs[1],), (inputs[1],))
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        loss_of(forward_ad.make_dual(inputs[1], inputs[1]), inputs)
