"""Independent yes-or-no actions over the last axis, as functions of their logits."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from compiled_rl.kernels.checks import check_last, check_shape, check_shapes


def bernoulli_log_prob(action: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of a vector of yes-or-no actions.

        sum over the last axis of (log(sigmoid(logits)) if action else log(sigmoid(-logits)))

    Args:
        action: zeros and ones, any dtype, ``[*B, A]``.
        logits: log-odds of a one, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, eq. 2.2.
    """
    check_last("bernoulli_log_prob", "logits", logits)
    check_shape("bernoulli_log_prob", "action", action, "logits", logits)
    return logsigmoid(torch.where(action != 0, logits, -logits)).sum(-1)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy of a vector of yes-or-no actions.

        -sum over the last axis of  p * log(p) + (1 - p) * log(1 - p),   p = sigmoid(logits)

    Args:
        logits: log-odds of a one, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats, between 0 and A * log(2).

    Raises:
        ValueError: ``logits`` is not floating point or has no axis.

    Reference: Shannon 1948, A Mathematical Theory of Communication, sec. 6.
    """
    check_last("bernoulli_entropy", "logits", logits)
    yes, no = logits.sigmoid(), (-logits).sigmoid()
    return -(yes * logsigmoid(logits) + no * logsigmoid(-logits)).sum(-1)


def bernoulli_kl(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``KL(p || q)`` of two vectors of yes-or-no actions.

        sum over the last axis of  p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))

    The order matters: PPO penalises KL(old || new), so ``logits`` are the old policy's.

    Args:
        logits: of p, ``[*B, A]``.
        other_logits: of q, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats, never negative but for rounding.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Cover and Thomas 2006, Elements of Information Theory, eq. 2.26.
    """
    check_last("bernoulli_kl", "logits", logits)
    check_shapes("bernoulli_kl", {"logits": logits, "other_logits": other_logits})
    yes = logits.sigmoid() * (logsigmoid(logits) - logsigmoid(other_logits))
    no = (-logits).sigmoid() * (logsigmoid(-logits) - logsigmoid(-other_logits))
    return (yes + no).sum(-1)


def bernoulli_mode(logits: Tensor) -> Tensor:
    """The most probable vector of yes-or-no actions; no among equals.

        1 if logits > 0 else 0

    Args:
        logits: log-odds of a one, ``[*B, A]``.

    Returns:
        Zeros and ones of the dtype of ``logits``, ``[*B, A]``; no gradient.

    Raises:
        ValueError: ``logits`` is not floating point or has no axis.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, sec. 2.1.
    """
    check_last("bernoulli_mode", "logits", logits)
    return (logits > 0).to(logits.dtype)


def bernoulli_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """A sample of a vector of yes-or-no actions from given noise.

        1 if noise < sigmoid(logits) else 0

    Args:
        logits: log-odds of a one, ``[*B, A]``.
        noise: uniform in [0, 1), ``[*B, A]``.

    Returns:
        Zeros and ones of the dtype of ``logits``, ``[*B, A]``; no gradient.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, sec. 2.1.
    """
    check_last("bernoulli_sample", "logits", logits)
    check_shapes("bernoulli_sample", {"logits": logits, "noise": noise})
    return (noise < logits.sigmoid()).to(logits.dtype)
