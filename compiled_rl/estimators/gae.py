"""Generalised advantage estimation as a module."""

from typing import Optional

from torch import Tensor

from compiled_rl.functional import AdvantageOutput, gae
from compiled_rl.modules import CoefficientModule


class GAE(CoefficientModule):
    """``functional.gae`` with ``gamma`` and ``lmbda`` as buffers; see there for the formula.

    Args:
        gamma: discount in [0, 1].
        lmbda: trace decay in [0, 1].

    Raises:
        ValueError: a coefficient is not a scalar in [0, 1].

    Reference: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """

    gamma: float  # 0-d buffers both
    lmbda: float

    def __init__(self, *, gamma: float | Tensor = 0.99, lmbda: float | Tensor = 0.95) -> None:
        super().__init__()
        self.register_coefficient("gamma", gamma)
        self.register_coefficient("lmbda", lmbda)
        for name, value in (("gamma", self.gamma), ("lmbda", self.lmbda)):
            if not 0 <= float(value) <= 1:
                raise ValueError(f"GAE: `{name}` must be in [0, 1], got {float(value):g}")

    def forward(
        self,
        reward: Tensor,
        value: Tensor,
        next_value: Tensor,
        terminated: Tensor,
        done: Tensor,
        mask: Optional[Tensor] = None,
        time_dim: int = -1,
    ) -> AdvantageOutput:
        """``advantage`` and ``value_target``, of the reward's shape."""
        return gae(
            reward,
            value,
            next_value,
            terminated,
            done,
            self.gamma,
            self.lmbda,
            mask,
            time_dim,
        )
