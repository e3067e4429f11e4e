"""Entropy and divergence estimated from samples, for families without a formula."""

from typing import Optional

from torch import Tensor

from compiled_rl.modules.families.base import Family, Params


def monte_carlo_entropy(
    family: Family, params: Params, samples: int, noise: Optional[Tensor] = None
) -> Tensor:
    """An unbiased estimate of the entropy, reparametrised: gradients reach the parameters.

        -mean over the samples of  log_prob(sample)

    Args:
        family: the distribution.
        params: its parameters, ``[*B, ...]``.
        samples: how many, at least 1.
        noise: one ``draw_noise`` a sample, stacked along the last axis; None: drawn here.

    Returns:
        ``[*B]``, in nats.

    Reference: Mohamed et al. 2019, arXiv:1906.10652, sec. 5 (the pathwise estimator).
    """
    _, log_prob = _draw(family, params, samples, noise)
    return -log_prob.mean(0)


def monte_carlo_kl(
    family: Family, params: Params, other: Params, samples: int, noise: Optional[Tensor] = None
) -> Tensor:
    """An unbiased estimate of ``KL(params || other)``; a single one may be negative.

        mean over the samples of  log_prob(sample; params) - log_prob(sample; other)

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
    action, log_prob = _draw(family, params, samples, noise)
    return (log_prob - family.log_prob(_repeated(other, samples), action)).mean(0)


def _draw(
    family: Family, params: Params, samples: int, noise: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    repeated = _repeated(params, samples)
    drawn = family.draw_noise(repeated) if noise is None else noise.movedim(-1, 0)
    return family.sample_with_log_prob(repeated, drawn)


def _repeated(params: Params, samples: int) -> Params:
    """``[*B, A]`` as ``[samples, *B, A]``."""
    return tuple(x.expand(samples, *x.shape) for x in params)
