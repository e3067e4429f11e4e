"""What the kernel tests share: random inputs, memory layouts, tolerances."""

import torch
from torch import Tensor

from compiled_rl.kernels import fused
from tests.kernels import oracles

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}
OPCHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)
LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "reversed axes": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "expanded batch": lambda x: x[:1].expand(x.shape),
    "expanded time": lambda x: x[:, :1].expand(x.shape),
    "expanded scalar": lambda x: x.flatten()[0].expand(x.shape),
    "stepped": lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, 2)[:, ::2, ::3],
    "not collapsible": lambda x: torch.cat([x, x, x], 2)[:, :, : x.shape[2]],
    "not collapsible, permuted": lambda x: (
        torch.cat([x, x], 1).repeat_interleave(2, 0).permute(1, 2, 0)[: x.shape[1], :, ::2]
    ).permute(2, 0, 1),
}
# Thresholds that bound some of the ratios and not others.
SCALARS = {
    "gae": (0.97, 0.9),
    "td_lambda_return": (0.97, 0.9),
    "vtrace": (0.97, 0.9, 1.3, 1.1),
}


def validity(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9)) < 0.8


def draw(name: str, *shape: int, dtype=torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs of a fused estimator; the flags are independent: some terminated are not done."""
    generator = torch.Generator().manual_seed(seed)
    reals = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(5)]
    flags = [torch.rand(shape, generator=generator) < 0.15 for _ in range(2)]
    reward, value, next_value, log_prob, behavior = (x.to(dtype) for x in reals)
    if name == "td_lambda_return":
        return (reward, next_value, *flags)
    steps = (reward, value, next_value, *flags)
    return (*steps, log_prob, behavior) if name == "vtrace" else steps


def assert_close(actual: Tensor, expected: Tensor, dtype=torch.float64) -> None:
    assert actual.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)


def assert_right(name: str, inputs, mask=None, time_dim=-1, scalars=None) -> None:
    """The fused estimator equals its oracle in every output."""
    scalars = scalars or SCALARS[name]
    actual = fused(name, tuple(inputs), scalars, mask, time_dim)
    expected = getattr(oracles, name)(inputs, *scalars, mask, time_dim)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, inputs[0].dtype)
        assert one.stride() == torch.empty_like(inputs[0]).stride()
