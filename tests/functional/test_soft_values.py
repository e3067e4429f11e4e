"""Soft values and the temperature: what is never read, and where gradients go."""

import math

import pytest
import torch

from compiled_rl.functional import (
    categorical_entropy,
    categorical_soft_value,
    soft_value,
    temperature_loss,
)


@pytest.mark.parametrize("forbidden", [-math.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_a_forbidden_action_is_never_read(forbidden, alpha):
    logits = torch.tensor([[0.3, forbidden, -0.2]], requires_grad=True)
    action_value = torch.tensor([[[1.0, math.nan, 2.0]], [[3.0, math.inf, 1.5]]])
    action_value.requires_grad_()
    value = categorical_soft_value(action_value, logits, alpha)
    allowed = categorical_soft_value(action_value[..., ::2], logits[..., ::2], alpha)
    torch.testing.assert_close(value, allowed)
    of_values, of_logits = torch.autograd.grad(value.sum(), (action_value, logits))
    assert of_values[..., 1].eq(0).all()
    assert of_logits[0, 1] == 0
    assert of_logits.isfinite().all()


def test_a_probability_that_rounds_to_zero_is_harmless():
    logits = torch.tensor([[0.0, -1e4]], requires_grad=True)
    value = categorical_soft_value(torch.ones(2, 1, 2), logits, 0.5)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert value == 1
    assert grad.eq(0).all()


def test_without_a_preference_the_value_is_alpha_times_the_entropy():
    logits = torch.randn(4, 3)
    value = categorical_soft_value(torch.zeros(2, 4, 3), logits, 0.7)
    torch.testing.assert_close(value, 0.7 * categorical_entropy(logits))


def test_the_gradient_is_that_of_the_least_critic():
    action_value = torch.tensor([[1.0, 5.0], [2.0, 4.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(soft_value(action_value, torch.zeros(2)).sum(), action_value)
    assert grad.tolist() == [[1, 0], [0, 1]]


def test_a_learned_temperature_rises_while_the_entropy_is_low():
    log_alpha = torch.tensor(-1.0, requires_grad=True)
    log_prob = torch.tensor([2.0, 4.0], requires_grad=True)  # an entropy of minus three
    loss = temperature_loss(log_prob, log_alpha, -1.0).mean()
    of_alpha, of_log_prob = torch.autograd.grad(loss, (log_alpha, log_prob), allow_unused=True)
    assert of_alpha == -2
    assert of_log_prob is None
