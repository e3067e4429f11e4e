"""Value estimators by name."""

from enum import Enum
from typing import Any

from compiled_rl.estimators.base import ValueEstimatorBase
from compiled_rl.estimators.gae import GAE, MultiAgentGAE
from compiled_rl.estimators.td import TD0Estimator, TD1Estimator, TDLambdaEstimator
from compiled_rl.estimators.vtrace import VTrace


class ValueEstimators(Enum):
    """The estimators that a loss can be asked for by name."""

    TD0 = "one reward, then the value of the state entered"
    TD1 = "every reward of the trajectory, then the value of its end"
    TDLambda = "the average of all n-step returns, with weights that fall by lambda"
    GAE = "generalised advantage estimation"
    MAGAE = "generalised advantage estimation for each agent of a team"
    VTrace = "off-policy correction by bounded ratios of probability"


_CLASSES: dict[ValueEstimators, type[ValueEstimatorBase]] = {
    ValueEstimators.TD0: TD0Estimator,
    ValueEstimators.TD1: TD1Estimator,
    ValueEstimators.TDLambda: TDLambdaEstimator,
    ValueEstimators.GAE: GAE,
    ValueEstimators.MAGAE: MultiAgentGAE,
    ValueEstimators.VTrace: VTrace,
}
_WITH_LMBDA = (ValueEstimators.TDLambda, ValueEstimators.GAE, ValueEstimators.MAGAE)


def named_estimator(value_type: ValueEstimators | str) -> ValueEstimators:
    """The member that is meant: itself, or its name in any case, with or without underscores.

    A member of TorchRL's own enumeration is known by its name.

    Raises:
        KeyError: there is none of that name.
        TypeError: it is neither a member nor a string.
    """
    if isinstance(value_type, Enum):
        value_type = value_type.name
    if not isinstance(value_type, str):
        raise TypeError(
            "make_value_estimator: `value_type` must be a ValueEstimators or its name, "
            f"got a {type(value_type).__name__}"
        )
    for member in ValueEstimators:
        if member.name.lower() == value_type.lower().replace("_", ""):
            return member
    names = [member.name for member in ValueEstimators]
    raise KeyError(f"make_value_estimator: `value_type` must be one of {names}, got {value_type!r}")


def default_value_kwargs(value_type: ValueEstimators | str) -> dict[str, Any]:
    """The hyper-parameters that an estimator has in a loss unless it is told otherwise.

    Args:
        value_type: a member of ``ValueEstimators``, or its name.

    Raises:
        KeyError: there is none of that name.
        TypeError: it is neither a member nor a string.
    """
    member = named_estimator(value_type)
    defaults: dict[str, Any] = {"gamma": 0.99, "differentiable": True}
    return defaults | {"lmbda": 0.95} if member in _WITH_LMBDA else defaults


def make_estimator(value_type: Any, hyperparams: dict[str, Any]) -> ValueEstimatorBase:
    """An estimator from a name, a class, or an instance, which is taken as it is.

    Raises:
        KeyError: there is none of that name.
        TypeError: it is nothing of the kind, or an instance and hyper-parameters.
        ValueError: a hyper-parameter is out of its range.
    """
    if isinstance(value_type, ValueEstimatorBase):
        if hyperparams:
            raise TypeError(
                "an estimator that is made has its hyper-parameters, "
                f"got {sorted(hyperparams)} beside it"
            )
        return value_type
    if isinstance(value_type, type) and issubclass(value_type, ValueEstimatorBase):
        return value_type(**hyperparams)
    member = named_estimator(value_type)
    return _CLASSES[member](**default_value_kwargs(member) | hyperparams)
