"""Plain ``nn.Module`` building blocks: policies, families, heads, normalisers."""

from compiled_rl.modules.coefficients import CoefficientModule
from compiled_rl.modules.families import (
    Categorical,
    Composite,
    Family,
    Normal,
    OneHotCategorical,
    family_of,
)
from compiled_rl.modules.heads import (
    ActionRescaler,
    StateDependentScale,
    StateIndependentScale,
    ValueHead,
)
from compiled_rl.modules.normalizer import ObservationNormalizer
from compiled_rl.modules.policy import ActionOutput, Policy
from compiled_rl.modules.targets import frozen_copy

__all__ = [
    "ActionOutput",
    "ActionRescaler",
    "Categorical",
    "CoefficientModule",
    "Family",
    "Normal",
    "ObservationNormalizer",
    "OneHotCategorical",
    "Policy",
    "StateDependentScale",
    "StateIndependentScale",
    "ValueHead",
    "family_of",
    "frozen_copy",
]
