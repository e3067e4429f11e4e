"""Tensors to tensors: returns, distributions, objectives, reduction. No state, no TensorDict."""

from compiled_rl.functional.categorical import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
)
from compiled_rl.functional.metrics import (
    clip_fraction,
    effective_sample_size,
    explained_variance,
    kl_k1,
    kl_k3,
)
from compiled_rl.functional.normal import (
    normal_entropy,
    normal_kl,
    normal_log_prob,
    normal_mode,
    normal_sample,
)
from compiled_rl.functional.objectives import ppo_clip, value_loss
from compiled_rl.functional.reduction import reduce, standardize, variance
from compiled_rl.functional.returns import AdvantageOutput, gae
from compiled_rl.kernels import linear_recurrence

__all__ = [
    "AdvantageOutput",
    "categorical_entropy",
    "categorical_kl",
    "categorical_log_prob",
    "categorical_mode",
    "categorical_sample",
    "clip_fraction",
    "effective_sample_size",
    "explained_variance",
    "gae",
    "kl_k1",
    "kl_k3",
    "linear_recurrence",
    "normal_entropy",
    "normal_kl",
    "normal_log_prob",
    "normal_mode",
    "normal_sample",
    "ppo_clip",
    "reduce",
    "standardize",
    "value_loss",
    "variance",
]
