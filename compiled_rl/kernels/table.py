"""The fused estimators: one row each. Schemas, checks and the order of addresses derive from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Optional

from torch import Tensor

from compiled_rl.kernels.checks import check_number, check_steps

RANGES = {
    "gamma": "in [0, 1]",
    "lmbda": "in [0, 1]",
    "rho_thresh": "positive",
    "c_thresh": "positive",
}


@dataclass(frozen=True)
class Kernel:
    """What a fused estimator reads and returns; its flags always are ``terminated`` and ``done``.

    All its tensors have one shape, and time is an axis of it.
    """

    name: str
    reals: tuple[str, ...]  # before the flags
    policy: tuple[str, ...]  # further reals, after the flags
    scalars: tuple[str, ...]
    outputs: int

    @cached_property
    def inputs(self) -> list[str]:
        """The names of its tensors, in order; a mask may come after the scalars."""
        return [*self.reals, "terminated", "done", *self.policy]

    @property
    def schema(self) -> str:
        """Its declaration as an operator."""
        arguments = ", ".join(f"Tensor {name}" for name in (*self.inputs, *self.scalars))
        results = ", ".join(["Tensor"] * self.outputs)
        return f"{self.name}({arguments}, Tensor? mask, int time_dim) -> ({results})"

    def sorted(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Its flags and its reals."""
        k = len(self.reals)
        return tensors[k : k + 2], tensors[:k] + tensors[k + 2 :]

    def check(
        self,
        tensors: tuple[Tensor, ...],
        scalars: tuple[float | Tensor, ...],
        mask: Optional[Tensor],
        time_dim: int,
    ) -> None:
        """What its loops rely on when they read memory."""
        check_steps(self.name, dict(zip(self.inputs, tensors, strict=True)), mask, time_dim)
        for name, x in zip(self.scalars, scalars, strict=True):
            check_number(self.name, name, x, RANGES[name])  # type: ignore[arg-type]


_STEPS = ("reward", "value", "next_value")
_POLICIES = ("log_prob", "behavior_log_prob")
_THRESHOLDS = ("gamma", "lmbda", "rho_thresh", "c_thresh")

KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("gae", _STEPS, (), ("gamma", "lmbda"), outputs=2),
        Kernel("td_lambda_return", ("reward", "next_value"), (), ("gamma", "lmbda"), outputs=1),
        Kernel("vtrace", _STEPS, _POLICIES, _THRESHOLDS, outputs=2),
    )
}
