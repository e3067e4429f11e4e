"""Several independent categorical actions side by side, as functions of their logits.

``nvec`` has the number of classes of each, as gymnasium's ``MultiDiscrete``; the logits of all are
concatenated over the last axis.
"""

import torch
from torch import Tensor

from compiled_rl.functional.categorical import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
)
from compiled_rl.kernels.checks import (
    check_device,
    check_floating,
    check_last,
    check_shape,
    check_sizes,
    check_tensor,
)


def multi_categorical_log_prob(action: Tensor, logits: Tensor, nvec: list[int]) -> Tensor:
    """Log-probability of several categorical actions.

        sum over k of  categorical_log_prob(action[k], logits[k])

    Args:
        action: indices, an integer dtype, ``[*B, K]``; or one-hot vectors side by side, any dtype,
            ``[*B, sum(nvec)]``.
        logits: unnormalised log-probabilities, ``[*B, sum(nvec)]``.
        nvec: number of classes of each action, K integers.

    Returns:
        ``[*B]``, in nats; minus infinity if one is forbidden.

    Raises:
        ValueError: ``logits`` do not fit ``nvec``, or ``action`` has neither shape.

    Reference: Tavakoli et al. 2017, arXiv:1711.08946, for one output a dimension.
    """
    parts = _split("multi_categorical_log_prob", logits, nvec)
    check_tensor("multi_categorical_log_prob", "action", action)
    check_device("multi_categorical_log_prob", "action", action, "logits", logits)
    indices = list(logits.shape[:-1]) + [len(nvec)]  # noqa: RUF005  (TorchScript has no stars)
    if action.shape == logits.shape:
        actions = torch.split_with_sizes(action, nvec, -1)
    elif list(action.shape) == indices:
        actions = action.unbind(-1)
    else:
        raise ValueError(
            f"multi_categorical_log_prob: `action` must have the shape {indices} of indices or "
            f"{list(logits.shape)} of one-hot vectors, got {list(action.shape)}"
        )
    each = [categorical_log_prob(actions[k], parts[k]) for k in range(len(nvec))]
    return torch.stack(each).sum(0)


def multi_categorical_entropy(logits: Tensor, nvec: list[int]) -> Tensor:
    """Entropy of several categorical actions.

        sum over k of  categorical_entropy(logits[k])

    Args:
        logits: unnormalised log-probabilities, ``[*B, sum(nvec)]``.
        nvec: number of classes of each action, K integers.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: ``logits`` do not fit ``nvec``.

    Reference: Cover and Thomas 2006, Elements of Information Theory, th. 2.6.6.
    """
    parts = _split("multi_categorical_entropy", logits, nvec)
    return torch.stack([categorical_entropy(part) for part in parts]).sum(0)


def multi_categorical_kl(logits: Tensor, other_logits: Tensor, nvec: list[int]) -> Tensor:
    """Kullback-Leibler divergence ``KL(p || q)`` of several categorical actions.

        sum over k of  categorical_kl(logits[k], other_logits[k])

    Args:
        logits: of p, ``[*B, sum(nvec)]``.
        other_logits: of q, ``[*B, sum(nvec)]``; infinite where q forbids what p allows.
        nvec: number of classes of each action, K integers.

    Returns:
        ``[*B]``, in nats, never negative but for rounding.

    Raises:
        ValueError: the tensors' shapes differ or do not fit ``nvec``.

    Reference: Cover and Thomas 2006, Elements of Information Theory, th. 2.5.3.
    """
    check_floating("multi_categorical_kl", "other_logits", other_logits)
    check_shape("multi_categorical_kl", "other_logits", other_logits, "logits", logits)
    parts = _split("multi_categorical_kl", logits, nvec)
    others = torch.split_with_sizes(other_logits, nvec, -1)
    each = [categorical_kl(parts[k], others[k]) for k in range(len(nvec))]
    return torch.stack(each).sum(0)


def multi_categorical_mode(logits: Tensor, nvec: list[int]) -> Tensor:
    """The most probable of several categorical actions.

        mode[k] = argmax(logits[k])

    Args:
        logits: unnormalised log-probabilities, ``[*B, sum(nvec)]``.
        nvec: number of classes of each action, K integers.

    Returns:
        Indices, int64 ``[*B, K]``.

    Raises:
        ValueError: ``logits`` do not fit ``nvec``.

    Reference: Tavakoli et al. 2017, arXiv:1711.08946.
    """
    parts = _split("multi_categorical_mode", logits, nvec)
    return torch.stack([categorical_mode(part) for part in parts], -1)


def multi_categorical_sample(logits: Tensor, noise: Tensor, nvec: list[int]) -> Tensor:
    """A sample of several categorical actions from given noise.

        action[k] = categorical_sample(logits[k], noise[k])

    Args:
        logits: unnormalised log-probabilities, ``[*B, sum(nvec)]``.
        noise: uniform in [0, 1), ``[*B, sum(nvec)]``.
        nvec: number of classes of each action, K integers.

    Returns:
        Indices, int64 ``[*B, K]``; no gradient.

    Raises:
        ValueError: the tensors' shapes differ or do not fit ``nvec``.

    Reference: Maddison et al. 2014, arXiv:1411.0030, sec. 2.
    """
    check_shape("multi_categorical_sample", "noise", noise, "logits", logits)
    parts = _split("multi_categorical_sample", logits, nvec)
    noises = torch.split_with_sizes(noise, nvec, -1)
    each = [categorical_sample(parts[k], noises[k]) for k in range(len(nvec))]
    return torch.stack(each, -1)


def _split(function: str, logits: Tensor, nvec: list[int]) -> list[Tensor]:
    """The logits of each action."""
    check_last(function, "logits", logits)
    check_sizes(function, "nvec", nvec)
    if logits.shape[-1] != sum(nvec):
        raise ValueError(
            f"{function}: `logits` must end in the sum of `nvec` {nvec}, got {list(logits.shape)}"
        )
    return list(torch.split_with_sizes(logits, nvec, -1))
