"""Value estimators as modules: the function is the mathematics, the module critic and coefficients.

``docs/estimators.md`` says which is for what.
"""

from compiled_rl.estimators.base import ValueEstimatorBase
from compiled_rl.estimators.gae import GAE, MultiAgentGAE
from compiled_rl.estimators.registry import (
    ValueEstimators,
    default_value_kwargs,
    make_estimator,
)
from compiled_rl.estimators.steps import Steps
from compiled_rl.estimators.td import TD0Estimator, TD1Estimator, TDLambdaEstimator
from compiled_rl.estimators.vtrace import VTrace

__all__ = [
    "GAE",
    "MultiAgentGAE",
    "Steps",
    "TD0Estimator",
    "TD1Estimator",
    "TDLambdaEstimator",
    "VTrace",
    "ValueEstimatorBase",
    "ValueEstimators",
    "default_value_kwargs",
    "make_estimator",
]
