"""The categorical distribution over the last axis, as functions of its logits.

A logit of minus infinity forbids its action: probability zero, no gradient, no NaN.
"""

import torch
from torch import Tensor

from compiled_rl.functional.scalars import at_index, where_valid
from compiled_rl.kernels.checks import (
    check_device,
    check_last,
    check_shape,
    check_shapes,
    check_tensor,
)


def categorical_log_prob(action: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of an action under a categorical distribution.

        logits[action] - log(sum(exp(logits)))

    Args:
        action: indices, an integer dtype, ``[*B]``; or one-hot, any dtype, ``[*B, N]``.
        logits: unnormalised log-probabilities, ``[*B, N]``.

    Returns:
        ``[*B]``, in nats; minus infinity for a forbidden action.

    Raises:
        ValueError: ``action`` has neither shape, indices are not of an integer dtype or, on a
            CPU, one is out of range; a GPU does not survive it.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.104.
    """
    check_last("categorical_log_prob", "logits", logits)
    check_tensor("categorical_log_prob", "action", action)
    check_device("categorical_log_prob", "action", action, "logits", logits)
    log_prob = torch.log_softmax(logits, -1)
    if action.dim() == logits.dim():
        check_shape("categorical_log_prob", "action", action, "logits", logits)
        return torch.where(action != 0, log_prob, torch.zeros_like(log_prob)).sum(-1)
    if action.shape != logits.shape[:-1]:
        raise ValueError(
            f"categorical_log_prob: `action` must have the shape {list(logits.shape[:-1])} of "
            f"indices or {list(logits.shape)} of one-hot vectors, got {list(action.shape)}"
        )
    return at_index("categorical_log_prob", log_prob, action)


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy of a categorical distribution.

        -sum over n of  p[n] * log(p[n]),   with 0 * log(0) = 0

    Args:
        logits: unnormalised log-probabilities, ``[*B, N]``.

    Returns:
        ``[*B]``, in nats, between 0 and log(N).

    Raises:
        ValueError: ``logits`` is not floating point or has no axis.

    Reference: Shannon 1948, A Mathematical Theory of Communication, sec. 6.
    """
    check_last("categorical_entropy", "logits", logits)
    log_prob = torch.log_softmax(logits, -1)
    probs = log_prob.exp()
    return -(probs * where_valid(probs > 0, log_prob)).sum(-1)


def categorical_kl(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``KL(p || q)`` of two categorical distributions.

        sum over n of  p[n] * (log(p[n]) - log(q[n])),   with 0 * log(0 / q) = 0

    The order matters: PPO penalises KL(old || new), so ``logits`` are the old policy's.

    Args:
        logits: of p, ``[*B, N]``.
        other_logits: of q, ``[*B, N]``; infinite where q forbids what p allows.

    Returns:
        ``[*B]``, in nats, never negative but for rounding.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Cover and Thomas 2006, Elements of Information Theory, eq. 2.26.
    """
    check_last("categorical_kl", "logits", logits)
    check_shapes("categorical_kl", {"logits": logits, "other_logits": other_logits})
    log_prob, other = torch.log_softmax(logits, -1), torch.log_softmax(other_logits, -1)
    probs = log_prob.exp()
    # Not where logits are finite: a probability may be zero by rounding, too.
    allowed = probs > 0
    return (probs * (where_valid(allowed, log_prob) - where_valid(allowed, other))).sum(-1)


def categorical_mode(logits: Tensor) -> Tensor:
    """The most probable action of a categorical distribution; the first among equals.

        mode = argmax(logits)

    Args:
        logits: unnormalised log-probabilities, ``[*B, N]``.

    Returns:
        Indices, int64 ``[*B]``.

    Raises:
        ValueError: ``logits`` is not floating point or has no axis of at least one action.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, sec. 4.2.
    """
    check_some("categorical_mode", logits)
    return logits.argmax(-1)


def categorical_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """A sample of a categorical distribution from given noise, by the Gumbel-max trick.

        action = argmax(logits - log(-log(noise)))

    Args:
        logits: unnormalised log-probabilities, ``[*B, N]``.
        noise: uniform in [0, 1), ``[*B, N]``: one number a class, not one a sample.

    Returns:
        Indices, int64 ``[*B]``; no gradient.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Maddison et al. 2014, arXiv:1411.0030, sec. 2.
    """
    check_some("categorical_sample", logits)
    check_shapes("categorical_sample", {"logits": logits, "noise": noise})
    # Of a noise of zero it were minus infinity, as that of a forbidden action is.
    gumbel = (-torch.log(-torch.log(noise))).clamp(min=-7.0)
    return (logits + gumbel).argmax(-1)


def check_some(function: str, logits: Tensor) -> None:
    """Refuse a choice among no actions."""
    check_last(function, "logits", logits)
    if logits.shape[-1] == 0:
        raise ValueError(
            f"{function}: `logits` must be of at least one action, got {list(logits.shape)}"
        )
