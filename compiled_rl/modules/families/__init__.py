"""Distribution families: what a policy's parameters mean. No parameters, no state."""

from compiled_rl.modules.families.base import Action, Family, Noise, Params
from compiled_rl.modules.families.composite import Composite, Independent
from compiled_rl.modules.families.continuous import Normal, TanhNormal, TruncatedNormal
from compiled_rl.modules.families.deterministic import Deterministic, TanhDeterministic
from compiled_rl.modules.families.discrete import (
    Bernoulli,
    Categorical,
    MaskedCategorical,
    MaskedOneHotCategorical,
    MultiCategorical,
    MultiOneHotCategorical,
    OneHotCategorical,
)
from compiled_rl.modules.families.lookup import family_of
from compiled_rl.modules.families.monte_carlo import monte_carlo_entropy, monte_carlo_kl
from compiled_rl.modules.families.objects import FromDistribution

__all__ = [
    "Action",
    "Bernoulli",
    "Categorical",
    "Composite",
    "Deterministic",
    "Family",
    "FromDistribution",
    "Independent",
    "MaskedCategorical",
    "MaskedOneHotCategorical",
    "MultiCategorical",
    "MultiOneHotCategorical",
    "Noise",
    "Normal",
    "OneHotCategorical",
    "Params",
    "TanhDeterministic",
    "TanhNormal",
    "TruncatedNormal",
    "family_of",
    "monte_carlo_entropy",
    "monte_carlo_kl",
]
