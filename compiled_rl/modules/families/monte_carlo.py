"""Entropy and divergence estimated from samples, for families without a formula."""

from typing import Optional

from torch import Tensor

from compiled_rl.modules.families.base import Family, Noise, Params


def monte_carlo_entropy(
    family: Family, params: Params, samples: int, noise: Optional[Tensor] = None
) -> Tensor:
    """An unbiased estimate of the entropy, in its value and in its gradient.

        -mean over the samples of  log_prob(sample)

    Gradients reach the parameters through the samples. Where these are not ``reparametrized`` the
    gradient is that of the score function, ``-log_prob * grad(log_prob)`` at a sample held fast:
    that of ``-log_prob`` alone is zero in the mean.

    Args:
        family: the distribution.
        params: its parameters, ``[*B, ...]``.
        samples: how many, at least 1.
        noise: one ``draw_noise`` a sample, stacked along the last axis; None: drawn here.

    Returns:
        ``[*B]``, in nats.

    Reference: Mohamed et al. 2019, arXiv:1906.10652, sec. 5 (the pathwise estimator) and sec. 4
    (the score function).
    """
    repeated = _repeated(params, samples)
    drawn = _noise(family, repeated, noise)
    if family.reparametrized:
        return -family.sample_with_log_prob(repeated, drawn)[1].mean(0)
    action = family.sample(tuple(x.detach() for x in repeated), drawn)
    return score_entropy(family.log_prob(repeated, action))


def score_entropy(log_prob: Tensor) -> Tensor:
    """``-log_prob`` of samples ``[samples, *B]`` held fast, with the entropy's gradient."""
    fixed = log_prob.detach()
    return -(fixed * (1 + log_prob - fixed)).mean(0)


def monte_carlo_kl(
    family: Family, params: Params, other: Params, samples: int, noise: Optional[Tensor] = None
) -> Tensor:
    """An unbiased estimate of ``KL(params || other)``; a single one may be negative.

        mean over the samples of  log_prob(sample; params) - log_prob(sample; other)

    Its gradient is for ``other``, and for ``params`` only where samples are ``reparametrized``.

    Args:
        family: of both distributions.
        params: of the one that is sampled, ``[*B, ...]``.
        other: of the other one, of the same shapes.
        samples: how many, at least 1.
        noise: one ``draw_noise`` a sample, stacked along the last axis; None: drawn here.

    Returns:
        ``[*B]``, in nats.

    Reference: Schulman 2020, Approximating KL Divergence (joschu.net/blog/kl-approx.html), k1.
    """
    repeated = _repeated(params, samples)
    action, log_prob = family.sample_with_log_prob(repeated, _noise(family, repeated, noise))
    return (log_prob - family.log_prob(_repeated(other, samples), action)).mean(0)


def _noise(family: Family, repeated: Params, noise: Optional[Tensor]) -> Noise:
    return family.draw_noise(repeated) if noise is None else noise.movedim(-1, 0)


def _repeated(params: Params, samples: int) -> Params:
    """``[*B, A]`` as ``[samples, *B, A]``."""
    return tuple(x.expand(samples, *x.shape) for x in params)
