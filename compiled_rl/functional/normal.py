"""The diagonal normal distribution over the last axis, as functions of its parameters."""

import math

import torch
from torch import Tensor

from compiled_rl.kernels.checks import check_last, check_shapes


def normal_log_prob(action: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density of an action under a diagonal normal.

        sum over the last axis of  -((action - loc) / scale)^2 / 2 - log(scale) - log(2 pi) / 2

    Pass the action as it was sampled, not as it was clipped for the environment.

    Args:
        action: ``[*B, A]``.
        loc: mean, ``[*B, A]``.
        scale: standard deviation, positive, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, eq. 2.43.
    """
    check_last("normal_log_prob", "loc", loc)
    check_shapes("normal_log_prob", {"loc": loc, "action": action, "scale": scale})
    density = -((action - loc) / scale).square() / 2 - scale.log() - math.log(2 * math.pi) / 2
    return density.sum(-1)


def normal_entropy(loc: Tensor, scale: Tensor) -> Tensor:
    """Differential entropy of a diagonal normal.

        sum over the last axis of  log(scale) + (1 + log(2 pi)) / 2

    It is negative for small scales; that is no error.

    Args:
        loc: mean, ``[*B, A]``; only its shape matters.
        scale: standard deviation, positive, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Cover and Thomas 2006, Elements of Information Theory, th. 8.4.1.
    """
    check_last("normal_entropy", "loc", loc)
    check_shapes("normal_entropy", {"loc": loc, "scale": scale})
    return (scale.log() + (1 + math.log(2 * math.pi)) / 2).sum(-1)


def normal_kl(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``KL(p || q)`` of two diagonal normals.

        sum over the last axis of
        log(other_scale / scale) + (scale^2 + (loc - other_loc)^2) / (2 other_scale^2) - 1/2

    The order matters: PPO penalises KL(old || new), so ``loc, scale`` are the old policy's.

    Args:
        loc: mean of p, ``[*B, A]``.
        scale: standard deviation of p, positive, ``[*B, A]``.
        other_loc: mean of q, ``[*B, A]``.
        other_scale: standard deviation of q, positive, ``[*B, A]``.

    Returns:
        ``[*B]``, in nats, never negative.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Kingma and Welling 2013, arXiv:1312.6114, appendix B, for a general q.
    """
    check_last("normal_kl", "loc", loc)
    check_shapes(
        "normal_kl",
        {"loc": loc, "scale": scale, "other_loc": other_loc, "other_scale": other_scale},
    )
    ratio = scale / other_scale
    distance = (loc - other_loc) / other_scale
    return ((ratio.square() + distance.square() - 1) / 2 - ratio.log()).sum(-1)


def normal_mode(loc: Tensor, scale: Tensor) -> Tensor:
    """The most probable action of a diagonal normal: its mean.

        mode = loc

    Args:
        loc: mean, ``[*B, A]``.
        scale: standard deviation, ``[*B, A]``; only its shape matters.

    Returns:
        ``[*B, A]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Bishop 2006, Pattern Recognition and Machine Learning, sec. 2.3.
    """
    check_shapes("normal_mode", {"loc": loc, "scale": scale})
    return loc.clone()


def normal_sample(loc: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
    """A reparametrised sample of a diagonal normal from given noise.

        action = loc + scale * noise

    Args:
        loc: mean, ``[*B, A]``.
        scale: standard deviation, positive, ``[*B, A]``.
        noise: standard normal, ``[*B, A]``.

    Returns:
        ``[*B, A]``; gradients reach ``loc`` and ``scale``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Kingma and Welling 2013, arXiv:1312.6114, sec. 2.4.
    """
    check_shapes("normal_sample", {"loc": loc, "scale": scale, "noise": noise})
    return torch.addcmul(loc, scale, noise)
