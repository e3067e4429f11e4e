"""Value estimators as modules: the function is the mathematics, the module its coefficients."""

from compiled_rl.estimators.gae import GAE

__all__ = ["GAE"]
