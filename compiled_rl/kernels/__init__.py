"""The recurrence over time, and the fused estimators on it: Numba on CPU, plain torch elsewhere."""

from compiled_rl.kernels.doubling import doubling
from compiled_rl.kernels.functions import fusable, fused, linear_recurrence

__all__ = ["doubling", "fusable", "fused", "linear_recurrence"]
