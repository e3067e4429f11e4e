"""Plain ``nn.Module`` building blocks: policies, families, heads, normalisers."""

from compiled_rl.modules.coefficients import CoefficientModule
from compiled_rl.modules.concatenated import Concatenated
from compiled_rl.modules.ensemble import Ensemble
from compiled_rl.modules.families import (
    Bernoulli,
    Categorical,
    Composite,
    Deterministic,
    Family,
    FromDistribution,
    Independent,
    MaskedCategorical,
    MaskedOneHotCategorical,
    MultiCategorical,
    MultiOneHotCategorical,
    Normal,
    OneHotCategorical,
    TanhDeterministic,
    TanhNormal,
    TruncatedNormal,
    family_of,
)
from compiled_rl.modules.heads import (
    ActionRescaler,
    StateDependentScale,
    StateIndependentScale,
    ValueHead,
)
from compiled_rl.modules.memory import FrameStack
from compiled_rl.modules.mixers import QMixer, VDNMixer
from compiled_rl.modules.named import NamedModule, NamedPolicy
from compiled_rl.modules.normalizer import ObservationNormalizer
from compiled_rl.modules.percentile_norm import PercentileValueNorm
from compiled_rl.modules.policy import ActionOutput, Policy
from compiled_rl.modules.q_policy import ExpectedActionValue, QPolicy, action_family
from compiled_rl.modules.reads import Reads
from compiled_rl.modules.recurrent import GRU
from compiled_rl.modules.recurrent_policy import RecurrentPolicy
from compiled_rl.modules.sampled import SampledPolicy
from compiled_rl.modules.targets import frozen_copy
from compiled_rl.modules.value_norm import PopArtValueNorm, RunningValueNorm, ValueNorm

__all__ = [
    "GRU",
    "ActionOutput",
    "ActionRescaler",
    "Bernoulli",
    "Categorical",
    "CoefficientModule",
    "Composite",
    "Concatenated",
    "Deterministic",
    "Ensemble",
    "ExpectedActionValue",
    "Family",
    "FrameStack",
    "FromDistribution",
    "Independent",
    "MaskedCategorical",
    "MaskedOneHotCategorical",
    "MultiCategorical",
    "MultiOneHotCategorical",
    "NamedModule",
    "NamedPolicy",
    "Normal",
    "ObservationNormalizer",
    "OneHotCategorical",
    "PercentileValueNorm",
    "Policy",
    "PopArtValueNorm",
    "QMixer",
    "QPolicy",
    "Reads",
    "RecurrentPolicy",
    "RunningValueNorm",
    "SampledPolicy",
    "StateDependentScale",
    "StateIndependentScale",
    "TanhDeterministic",
    "TanhNormal",
    "TruncatedNormal",
    "VDNMixer",
    "ValueHead",
    "ValueNorm",
    "action_family",
    "family_of",
    "frozen_copy",
]
