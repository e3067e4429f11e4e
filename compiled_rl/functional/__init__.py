"""Tensors to tensors: returns, distributions, objectives, reduction. No state, no TensorDict."""

from compiled_rl.functional.action_values import (
    categorical_cross_entropy,
    chosen_action_value,
    expected_action_value,
    project_categorical,
)
from compiled_rl.functional.advantages import (
    AdvantageOutput,
    discounted_advantage,
    gae,
    multi_agent_gae,
    n_step_advantage,
    td0_advantage,
    td1_advantage,
    td_lambda_advantage,
)
from compiled_rl.functional.bernoulli import (
    bernoulli_entropy,
    bernoulli_kl,
    bernoulli_log_prob,
    bernoulli_mode,
    bernoulli_sample,
)
from compiled_rl.functional.categorical import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
)
from compiled_rl.functional.deterministic import deterministic_log_prob, smoothed_action
from compiled_rl.functional.metrics import (
    clip_fraction,
    effective_sample_size,
    explained_variance,
    kl_k1,
    kl_k3,
)
from compiled_rl.functional.mixing import monotonic_mix, vdn_mix
from compiled_rl.functional.multi_categorical import (
    multi_categorical_entropy,
    multi_categorical_kl,
    multi_categorical_log_prob,
    multi_categorical_mode,
    multi_categorical_sample,
)
from compiled_rl.functional.normal import (
    normal_entropy,
    normal_kl,
    normal_log_prob,
    normal_mode,
    normal_sample,
)
from compiled_rl.functional.objectives import (
    distance_loss,
    importance_correction,
    policy_gradient,
    ppo_clip,
    ppo_kl_penalty,
    ppo_surrogate,
    value_loss,
)
from compiled_rl.functional.off_policy import retrace, upgo_return, vtrace
from compiled_rl.functional.reduction import reduce, standardize, variance
from compiled_rl.functional.returns import (
    discounted_return,
    n_step_return,
    td0_return,
    td1_return,
    td_lambda_return,
)
from compiled_rl.functional.schedules import (
    cosine_schedule,
    exponential_schedule,
    kl_adaptive_learning_rate,
    linear_schedule,
    next_beta,
)
from compiled_rl.functional.soft_values import (
    categorical_soft_value,
    soft_value,
    temperature_loss,
)
from compiled_rl.functional.tanh_normal import (
    SampleOutput,
    tanh_normal_log_prob,
    tanh_normal_mode,
    tanh_normal_sample,
    tanh_normal_sample_with_log_prob,
)
from compiled_rl.functional.targets import hard_update, soft_update
from compiled_rl.functional.truncated_normal import (
    truncated_normal_entropy,
    truncated_normal_log_prob,
    truncated_normal_mode,
    truncated_normal_sample,
)
from compiled_rl.kernels import linear_recurrence

__all__ = [
    "AdvantageOutput",
    "SampleOutput",
    "bernoulli_entropy",
    "bernoulli_kl",
    "bernoulli_log_prob",
    "bernoulli_mode",
    "bernoulli_sample",
    "categorical_cross_entropy",
    "categorical_entropy",
    "categorical_kl",
    "categorical_log_prob",
    "categorical_mode",
    "categorical_sample",
    "categorical_soft_value",
    "chosen_action_value",
    "clip_fraction",
    "cosine_schedule",
    "deterministic_log_prob",
    "discounted_advantage",
    "discounted_return",
    "distance_loss",
    "effective_sample_size",
    "expected_action_value",
    "explained_variance",
    "exponential_schedule",
    "gae",
    "hard_update",
    "importance_correction",
    "kl_adaptive_learning_rate",
    "kl_k1",
    "kl_k3",
    "linear_recurrence",
    "linear_schedule",
    "monotonic_mix",
    "multi_agent_gae",
    "multi_categorical_entropy",
    "multi_categorical_kl",
    "multi_categorical_log_prob",
    "multi_categorical_mode",
    "multi_categorical_sample",
    "n_step_advantage",
    "n_step_return",
    "next_beta",
    "normal_entropy",
    "normal_kl",
    "normal_log_prob",
    "normal_mode",
    "normal_sample",
    "policy_gradient",
    "ppo_clip",
    "ppo_kl_penalty",
    "ppo_surrogate",
    "project_categorical",
    "reduce",
    "retrace",
    "smoothed_action",
    "soft_update",
    "soft_value",
    "standardize",
    "tanh_normal_log_prob",
    "tanh_normal_mode",
    "tanh_normal_sample",
    "tanh_normal_sample_with_log_prob",
    "td0_advantage",
    "td0_return",
    "td1_advantage",
    "td1_return",
    "td_lambda_advantage",
    "td_lambda_return",
    "temperature_loss",
    "truncated_normal_entropy",
    "truncated_normal_log_prob",
    "truncated_normal_mode",
    "truncated_normal_sample",
    "upgo_return",
    "value_loss",
    "variance",
    "vdn_mix",
    "vtrace",
]
