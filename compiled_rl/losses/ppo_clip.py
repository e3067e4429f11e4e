"""Proximal policy optimisation with a clipped ratio."""

from typing import Any, Optional, Unpack

from torch import Tensor, nn

from compiled_rl.adapters import Data, Field
from compiled_rl.functional import clip_fraction, effective_sample_size, ppo_clip, reduce
from compiled_rl.functional.reduction import largest
from compiled_rl.losses.actor_critic import ENTROPY, INPUTS, Steps
from compiled_rl.losses.ppo import (
    CRITIC,
    KL_APPROX,
    VARIANCE,
    PPOLoss,
    PPOOptions,
    Ratio,
)
from compiled_rl.modules.coefficients import check_range

_RANGES = {
    "clip_epsilon": "in [0, 1)",
    "clip_epsilon_low": "in [0, 1)",
    "clip_epsilon_high": "at least 0",
}


class ClipPPOLoss(PPOLoss):
    """PPO with the clipped surrogate objective.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -min(ratio * advantage, clip(ratio, 1 - eps, 1 + eps) * advantage)
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

    The stored action is the one that was sampled, not the one that was clipped for the
    environment, and the stored log-probability is that action's.

    A ratio that overflows, of a log-ratio above 88 in float32, has no gradient where it is clipped.
    With a negative advantage it is not: neither the surrogate nor its gradient is finite then, but
    for ``max_importance_ratio``. ``max_ratio`` and ``mean_ratio`` are infinite either way.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: a plain module from ``observation`` to values, or a ``TensorDictModule``;
            None: no ``loss_critic``, and ``advantage`` must be given.
        clip_epsilon: how far the ratio may move from one, in [0, 1); or how far down, in [0, 1),
            and how far up, at least 0. They are then the coefficients ``clip_epsilon_low`` and
            ``clip_epsilon_high``.
        clip_value: bound on the value's distance from the stored value; True: ``clip_epsilon``;
            None or False: no bound.
        **options: see ``PPOLoss`` and ``ActorCriticLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9; two bounds, Yu et al. 2025,
    arXiv:2503.14476, eq. 10.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("loss_objective", "loss_objective", "output", "[]", "the clipped surrogate"),
        Field("clip_fraction", "clip_fraction", "output", "[]", "share of clipped ratios"),
        *ENTROPY,
        *CRITIC,
        Field("ESS", "ESS", "output", "[]", "effective sample size, a share of the samples"),
        KL_APPROX._replace(kind="output"),
        Field("max_ratio", "max_ratio", "output", "[]", "largest ratio"),
        Field("mean_ratio", "mean_ratio", "output", "[]", "mean ratio"),
        VARIANCE,
    )

    clip_epsilon: float
    clip_epsilon_low: float
    clip_epsilon_high: float

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        clip_epsilon: float | tuple[float, float] = 0.2,
        clip_value: Optional[float | bool | Tensor] = None,
        **options: Unpack[PPOOptions],
    ) -> None:
        bounds = _clip_bounds(type(self).__name__, clip_epsilon)
        if clip_value is True:
            if len(bounds) > 1:
                raise ValueError(
                    f"{type(self).__name__}: `clip_value` must be a number where `clip_epsilon` "
                    "is two, got True"
                )
            clip_value = bounds["clip_epsilon"]
        super().__init__(actor_network, critic_network, clip_value=clip_value, **options)
        for name, bound in bounds.items():
            self.register_coefficient(name, bound, _RANGES[name])

    def __setattr__(self, name: str, value: Any) -> None:
        bounds = [x for x in self.__dict__.get("_ranges", {}) if x.startswith("clip_epsilon")]
        if name.startswith("clip_epsilon") and bounds and name not in bounds:
            raise AttributeError(
                f"{self.name}: the bounds are {bounds}, as `clip_epsilon` was given, got {name!r}"
            )
        super().__setattr__(name, value)

    def _bounds(self) -> tuple[float, float]:
        """How far the ratio may move from one, down and up."""
        if hasattr(self, "clip_epsilon"):
            return self.clip_epsilon, self.clip_epsilon
        return self.clip_epsilon_low, self.clip_epsilon_high

    def surrogate(
        self, data: Data, policy: Data, proximal: Data, ratio: Ratio, steps: Steps
    ) -> dict[str, Tensor]:
        """The clipped surrogate, and the metrics of the ratio."""
        low, high = self._bounds()
        log_probs = (ratio.log_prob, ratio.proximal)
        loss = ppo_clip(*log_probs, steps.advantage, low, high, ratio.log_weight)
        clipped = clip_fraction(ratio.log_ratio().exp(), 1 - low, 1 + high, steps.mask)
        return {
            "loss_objective": reduce(loss, steps.mask, self.reduction),
            "clip_fraction": clipped,
            **_ratio_metrics(ratio.behavior_log_ratio(), steps.mask),
        }


def _ratio_metrics(log_ratio: Tensor, mask: Optional[Tensor]) -> dict[str, Tensor]:
    ratio = log_ratio.exp()
    return {
        "ESS": effective_sample_size(log_ratio, mask),
        "max_ratio": largest(ratio, mask, 0.0),
        "mean_ratio": reduce(ratio, mask),
    }


def _clip_bounds(owner: str, clip_epsilon: Any) -> dict[str, Any]:
    """The bounds by the names of their coefficients."""
    if not isinstance(clip_epsilon, tuple | list):
        bounds = {"clip_epsilon": clip_epsilon}
    elif len(clip_epsilon) == 2:
        bounds = dict(zip(("clip_epsilon_low", "clip_epsilon_high"), clip_epsilon, strict=True))
    else:
        raise ValueError(
            f"{owner}: `clip_epsilon` must be one number or two, got {len(clip_epsilon)}"
        )
    for name, bound in bounds.items():  # `clip_value` may become one of them
        check_range(owner, name, bound, _RANGES[name])
    return bounds
