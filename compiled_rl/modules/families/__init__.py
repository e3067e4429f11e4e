"""Distribution families: what a policy's parameters mean. No parameters, no state."""

from compiled_rl.modules.families.base import Family, Params
from compiled_rl.modules.families.continuous import Normal
from compiled_rl.modules.families.discrete import Categorical, Composite, OneHotCategorical
from compiled_rl.modules.families.lookup import family_of
from compiled_rl.modules.families.monte_carlo import monte_carlo_entropy, monte_carlo_kl

__all__ = [
    "Categorical",
    "Family",
    "Normal",
    "OneHotCategorical",
    "Params",
    "family_of",
    "monte_carlo_entropy",
    "monte_carlo_kl",
]
