"""Last layers: from features to a distribution's parameters, to a value, to actuator units."""

import math

import torch
from torch import Tensor, nn

from compiled_rl.kernels.checks import (
    check_device,
    check_floating,
    check_last,
    check_number,
    check_tensor,
)
from compiled_rl.modules.arguments import check_count, check_features, check_tail
from compiled_rl.modules.coefficients import holds


class StateDependentScale(nn.Module):
    """Split the last axis into a mean and a positive scale that depends on the state.

        loc, raw = split(features);   scale = softplus(raw + log(e - 1)) + min_scale

    A raw output of zero is a scale of one.

    Args:
        min_scale: lower bound of the scale, at least 0.

    Raises:
        ValueError: ``min_scale`` is negative, or the features are not two for each action.

    Reference: Haarnoja et al. 2018, arXiv:1801.01290, for a state-dependent scale.
    """

    def __init__(self, min_scale: float = 1e-4) -> None:
        super().__init__()
        check_number("StateDependentScale", "min_scale", min_scale, "at least 0")
        self.min_scale = min_scale

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``[*B, 2 A]`` to ``loc`` and ``scale``, both ``[*B, A]``."""
        check_last("StateDependentScale", "features", features)
        if features.shape[-1] % 2:
            raise ValueError(
                "StateDependentScale: `features` must have an even last axis, "
                f"got {list(features.shape)}"
            )
        loc, raw = features.chunk(2, -1)
        return loc, nn.functional.softplus(raw + 0.5413248546129181) + self.min_scale


class StateIndependentScale(nn.Module):
    """Append a learned scale that is the same in every state: PPO's usual choice.

        scale = exp(log_scale)

    Args:
        action_dim: number of action dimensions.
        initial_scale: the scale before training, positive.

    Raises:
        ValueError: a number is out of its range, or ``loc`` has not ``action_dim`` columns.

    Reference: Schulman et al. 2017, arXiv:1707.06347, sec. 6.1.
    """

    def __init__(self, action_dim: int, initial_scale: float = 1.0) -> None:
        super().__init__()
        action_dim = check_count("StateIndependentScale", "action_dim", action_dim)
        check_number("StateIndependentScale", "initial_scale", initial_scale, "positive")
        self.log_scale = nn.Parameter(torch.full((action_dim,), math.log(float(initial_scale))))

    def forward(self, loc: Tensor) -> tuple[Tensor, Tensor]:
        """``loc`` ``[*B, A]`` to ``loc`` and ``scale``, both ``[*B, A]``."""
        tail = list(self.log_scale.shape)
        check_floating("StateIndependentScale", "loc", loc)
        check_tail("StateIndependentScale", "loc", loc, tail, "log_scale", self.log_scale)
        return loc, self.log_scale.exp().expand_as(loc)


class ValueHead(nn.Module):
    """A linear layer to one value a state, without a trailing axis of one.

        value = bias + sum over k of weight[k] * features[k]

    Args:
        in_features: size of the last axis of the features.

    Raises:
        ValueError: ``in_features`` is not at least 1, or the features have another size.

    Reference: Sutton and Barto 2018, Reinforcement Learning, sec. 9.4.
    """

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(check_count("ValueHead", "in_features", in_features), 1)

    def forward(self, features: Tensor) -> Tensor:
        """``[*B, in_features]`` to ``[*B]``."""
        weight = self.linear.weight
        check_features("ValueHead", "features", features, self.linear.in_features, weight)
        value: Tensor = self.linear(features).squeeze(-1)
        return value


class ActionRescaler(nn.Module):
    """Map a policy's action from [-1, 1] to the actuators' range.

        action = low + (clip(action, -1, 1) + 1) / 2 * (high - low)

    Args:
        low: lower bounds in actuator units, ``[A]``, finite.
        high: upper bounds in actuator units, ``[A]``, finite.

    Raises:
        ValueError: the bounds' shapes differ, are not finite, or are not ordered.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        low, high = _bound("low", low), _bound("high", high)
        check_device("ActionRescaler", "high", high, "low", low)
        if low.shape != high.shape or not holds((low < high) & (high - low).isfinite()):
            raise ValueError(
                "ActionRescaler: `low` and `high` must be finite, of one shape, and ordered, "
                f"got {low.tolist()} and {high.tolist()}"
            )
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, action: Tensor) -> Tensor:
        """``[*B, A]`` in [-1, 1] to ``[*B, A]`` in actuator units; what is outside is clipped."""
        check_floating("ActionRescaler", "action", action)
        check_tail("ActionRescaler", "action", action, list(self.low.shape), "low", self.low)
        return self.low + (action.clamp(-1.0, 1.0) + 1) / 2 * (self.high - self.low)


def _bound(name: str, bound: Tensor) -> Tensor:
    """A bound in float32; numbers of a list or an array are taken, too."""
    if isinstance(bound, list | tuple) or hasattr(bound, "__array__"):
        bound = torch.as_tensor(bound)
    check_tensor("ActionRescaler", name, bound)
    return bound.to(torch.float32)
