"""Temporal differences as modules: one step, the whole trajectory, and what lies between."""

from typing import Any, ClassVar, Optional, Unpack

from torch import Tensor

from compiled_rl.estimators.base import EstimatorOptions, ValueEstimatorBase
from compiled_rl.estimators.steps import Steps
from compiled_rl.estimators.values import Values
from compiled_rl.functional import (
    AdvantageOutput,
    standardize,
    td0_return,
    td1_return,
    td_lambda_return,
)
from compiled_rl.functional.scalars import where_valid
from compiled_rl.kernels.checks import check_shape
from compiled_rl.modules.arguments import check_flags


class _TemporalDifference(ValueEstimatorBase):
    """An estimator whose advantage is its value target less the value.

    Args:
        average_rewards: shift and scale the rewards of the call; the data keep theirs.
        **options: those of ``ValueEstimatorBase``.
    """

    needs_value: ClassVar[bool] = False

    def __init__(
        self,
        *,
        gamma: float | Tensor = 0.99,
        average_rewards: bool = False,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(gamma=gamma, **options)
        check_flags(self.name, average_rewards=average_rewards)
        self.average_rewards = average_rewards

    def estimate(self, steps: Steps) -> AdvantageOutput:
        """The value target, and how far it is from the value."""
        target = self.target(steps)
        assert steps.value is not None
        return AdvantageOutput(target - where_valid(steps.mask, steps.value), target)

    def reward(self, steps: Steps) -> Tensor:
        """The rewards, on the scale that was asked for."""
        return standardize(steps.reward, steps.mask, 1e-5) if self.average_rewards else steps.reward

    def value_estimate(
        self, tensordict: Any = None, *, next_value: Optional[Tensor] = None, **others: Any
    ) -> Tensor:
        """The value target alone; nothing is written. Other arguments as of ``forward``.

        Args:
            tensordict: a TensorDict or a mapping, if the inputs are no keywords.
            next_value: of the states entered, instead of the critic's.
            **others: as of ``forward``.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: as of ``forward``.
        """
        if next_value is None:
            return super().value_estimate(tensordict, **others)
        time_dim = others.pop("time_dim", None)
        data, axes = self._read(tensordict, others, time_dim)
        with self._gradients():
            return self.target(self._steps(data, axes, Values(None, next_value)))


class TD0Estimator(_TemporalDifference):
    """``functional.td0_advantage`` with a critic and coefficients; see there for the formula.

    Args:
        gamma: discount in [0, 1]: a float, a ``Parameter``, one a time step ``[T]``, or one a step.
        average_rewards: shift and scale the rewards of the call; the data keep theirs.
        **options: those of ``ValueEstimatorBase``.

    Reference: Sutton 1988, Learning to predict by the methods of temporal differences.
    """

    def __init__(
        self,
        *,
        gamma: float | Tensor = 0.99,
        average_rewards: bool = False,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        shifted = options.get("shifted", False)
        # One step at a time: any axis does, and need not be told from a batch of single steps.
        if options.get("time_dim") is None and not shifted:
            options["time_dim"] = 0
        super().__init__(gamma=gamma, average_rewards=average_rewards, **options)
        self.sequential = shifted

    def target(self, steps: Steps) -> Tensor:
        """The one-step bootstrapped return."""
        check_shape(self.name, "done", steps.done, "reward", steps.reward)  # it is not read
        inputs = (self.reward(steps), steps.next_value, steps.terminated)
        return td0_return(*inputs, self.discount(steps), steps.mask)


class TD1Estimator(_TemporalDifference):
    """``functional.td1_advantage`` with a critic and coefficients; see there for the formula.

    Args:
        gamma: discount in [0, 1]: a float, a ``Parameter``, one a time step ``[T]``, or one a step.
        average_rewards: shift and scale the rewards of the call; the data keep theirs.
        **options: those of ``ValueEstimatorBase``.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 12.2 at lambda 1.
    """

    def target(self, steps: Steps) -> Tensor:
        """The discounted rewards up to the end of the trajectory, bootstrapped there."""
        inputs = (self.reward(steps), steps.next_value, steps.terminated, steps.done)
        return td1_return(*inputs, self.discount(steps), steps.mask, steps.time_dim)


class TDLambdaEstimator(_TemporalDifference):
    """``functional.td_lambda_advantage`` with a critic and coefficients; see there.

    Args:
        gamma: discount in [0, 1]: a float, a ``Parameter``, one a time step ``[T]``, or one a step.
        lmbda: trace decay in [0, 1], in the same forms.
        average_rewards: shift and scale the rewards of the call; the data keep theirs.
        vectorized: accepted and ignored: there is one implementation.
        **options: those of ``ValueEstimatorBase``.

    Reference: Sutton and Barto 2018, Reinforcement Learning, eq. 12.3.
    """

    lmbda: Tensor

    def __init__(
        self,
        *,
        gamma: float | Tensor = 0.99,
        lmbda: float | Tensor = 0.95,
        average_rewards: bool = False,
        vectorized: Optional[bool] = None,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(gamma=gamma, average_rewards=average_rewards, **options)
        self.register_discount("lmbda", lmbda)

    def target(self, steps: Steps) -> Tensor:
        """The average of all n-step returns."""
        inputs = (self.reward(steps), steps.next_value, steps.terminated, steps.done)
        scalars = (self.discount(steps), self.along_time(self.lmbda, steps))
        return td_lambda_return(*inputs, *scalars, steps.mask, steps.time_dim)
