"""Generalised advantage estimation as a module, for one agent and for several."""

from typing import Any, Optional, Unpack

import torch
from torch import Tensor

from compiled_rl.adapters import Data, Key, given
from compiled_rl.estimators.axes import Axes
from compiled_rl.estimators.base import EstimatorOptions, ValueEstimatorBase
from compiled_rl.estimators.steps import Steps
from compiled_rl.estimators.values import Values
from compiled_rl.functional import AdvantageOutput, gae, standardize
from compiled_rl.functional.advantages import check_agents, for_each_agent
from compiled_rl.functional.reduction import standardize_groups
from compiled_rl.kernels.checks import check_integer, check_shape
from compiled_rl.modules.arguments import check_flags, check_key

_LEAST_DEVIATION = 1e-4
_MAY_BE_SHARED = (
    "reward",
    "next_value",
    "terminated",
    "done",
    "steps_to_next",
    "group",
    "mask",
)


class GAEOptions(EstimatorOptions, total=False):
    """Keyword arguments of ``GAE``."""

    gamma: float | Tensor
    lmbda: float | Tensor
    average_gae: bool
    group_key: Optional[Key]
    auto_reset_env: bool
    vectorized: Optional[bool]


class GAE(ValueEstimatorBase):
    """``functional.gae`` with a critic and coefficients; see there for the formula.

    Args:
        gamma: discount in [0, 1]: a float, a ``Parameter``, one a time step ``[T]``, or one a step.
        lmbda: trace decay in [0, 1], in the same forms.
        average_gae: shift and scale the advantages over the valid steps; the target keeps theirs.
        group_key: where the number of each step's group is found, integers ``[*B, T]``, if they
            are to be averaged within groups.
        auto_reset_env: the states entered by a truncated step are lost to a reset: bootstrap them
            from the state left, and take every done step for terminated.
        vectorized: accepted and ignored: there is one implementation.
        **options: those of ``ValueEstimatorBase``.

    Raises:
        ValueError: a coefficient is not in [0, 1].

    Reference: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """

    lmbda: Tensor

    def __init__(
        self,
        *,
        gamma: float | Tensor = 0.99,
        lmbda: float | Tensor = 0.95,
        average_gae: bool = False,
        group_key: Optional[Key] = None,
        auto_reset_env: bool = False,
        vectorized: Optional[bool] = None,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        if group_key is not None:
            check_key(type(self).__name__, "group_key", group_key)
        self.group_key = group_key
        super().__init__(gamma=gamma, **options)
        check_flags(self.name, average_gae=average_gae, auto_reset_env=auto_reset_env)
        self.average_gae = average_gae
        self.auto_reset_env = auto_reset_env
        self.register_discount("lmbda", lmbda)

    def other_keys(self) -> tuple[Key, ...]:
        """Those of every estimator, and the groups'."""
        return super().other_keys() + (() if self.group_key is None else (self.group_key,))

    def estimate(self, steps: Steps) -> AdvantageOutput:
        """Advantage and value target."""
        if self.auto_reset_env:
            steps = self._without_entered_states(steps)
        assert steps.value is not None
        scalars = (self.discount(steps), self.along_time(self.lmbda, steps))
        values = (steps.value, steps.next_value, steps.terminated, steps.done)
        advantage, target = gae(steps.reward, *values, *scalars, steps.mask, steps.time_dim)
        if not self.average_gae:
            return AdvantageOutput(advantage, target)
        return AdvantageOutput(self.standardized(advantage, steps), target)

    def standardized(self, advantage: Tensor, steps: Steps) -> Tensor:
        """The advantages on one scale, or on one a group."""
        if steps.group is None:
            return standardize(advantage, steps.mask, _LEAST_DEVIATION)
        return standardize_groups(advantage, steps.group, steps.mask, _LEAST_DEVIATION)

    def _without_entered_states(self, steps: Steps) -> Steps:
        assert steps.value is not None
        truncated = steps.done & ~steps.terminated
        bootstrap = torch.where(truncated, self.discount(steps) * steps.value, 0)
        return steps._replace(reward=steps.reward + bootstrap, terminated=steps.done)

    def _steps(
        self,
        data: Data,
        axes: Axes,
        values: Values,
        log_prob: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Steps:
        steps = super()._steps(data, axes, values, log_prob, mask)
        if self.group_key is None:
            return steps
        if self.group_key not in data:
            raise KeyError(
                f"{self.name}: the key {self.group_key!r} of `group_key` was not found; "
                f"the keys are {given(data)}"
            )
        group = axes.like(data[self.group_key], steps.reward)
        assert group is not None
        check_shape(self.name, "group_key", group, "reward", steps.reward)
        return steps._replace(group=group)


class MultiAgentGAE(GAE):
    """``functional.multi_agent_gae`` with a critic and coefficients; see there for the formula.

    Values are ``[*B, T, n, 1]``; a reward, flag or mask of the team is ``[*B, T, 1]``, and so is
    the value of the state entered if the critic values the team.

    Args:
        agent_dim: the agent axis of the values.
        **options: those of ``GAE``; advantages are averaged for each agent by itself.

    Reference: Yu et al. 2021, arXiv:2103.01955.
    """

    def __init__(self, *, agent_dim: int = -2, **options: Unpack[GAEOptions]) -> None:
        check_integer(type(self).__name__, "agent_dim", agent_dim)
        self.agent_dim = agent_dim
        super().__init__(**options)

    def estimate(self, steps: Steps) -> AdvantageOutput:
        """Advantage and value target of every agent."""
        assert steps.value is not None
        check_agents(steps.value, steps.time_dim, self.agent_dim)
        shared = {name: getattr(steps, name) for name in _MAY_BE_SHARED}
        own: dict[str, Any] = {
            name: None if x is None else for_each_agent(name, x, steps.value, self.agent_dim)
            for name, x in shared.items()
        }
        return super().estimate(steps._replace(**own))

    def time_within(self, data: Data, batch: int, value: Tensor) -> Optional[int]:
        """The axis before the agents', if theirs is the last and none was asked for."""
        time, agents = super().time_within(data, batch, value), self.agent_dim % value.dim()
        taken = self.time_dim is None and time in (None, agents)
        return agents - 1 if taken and agents == batch - 1 > 0 else time

    def shared_out(self, data: Data, value: Tensor) -> Data:
        """The data with the rewards and flags of the team for each agent."""
        keys = {name: self.tensor_keys[name] for name in ("reward", "terminated", "done")}
        return data | {
            key: for_each_agent(name, data[key], value, self.agent_dim)
            for name, key in keys.items()
            if key in data
        }

    def standardized(self, advantage: Tensor, steps: Steps) -> Tensor:
        """The advantages of each agent on a scale of its own."""
        agents = advantage.shape[self.agent_dim]
        shape = [1] * advantage.dim()
        shape[self.agent_dim] = agents
        agent = torch.arange(agents, device=advantage.device).view(shape).expand_as(advantage)
        group = agent if steps.group is None else steps.group * agents + agent
        return super().standardized(advantage, steps._replace(group=group))
