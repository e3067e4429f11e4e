"""Every return and advantage at its edges, in every layout, and on whatever hypothesis finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiled_rl import functional
from tests.cases import ESTIMATORS, Case

DOUBLE = torch.float64
every_estimator = pytest.mark.parametrize("case", ESTIMATORS, ids=lambda case: case.name)
with_lmbda = pytest.mark.parametrize(
    "case", [c for c in ESTIMATORS if "lmbda" in c.scalars], ids=lambda c: c.name
)
with_gamma = pytest.mark.parametrize(
    "case", [c for c in ESTIMATORS if "gamma" in c.scalars], ids=lambda c: c.name
)
with_flags = pytest.mark.parametrize(
    "case", [c for c in ESTIMATORS if "done" in c.inputs], ids=lambda c: c.name
)
with_bootstrap = pytest.mark.parametrize(
    "case", [c for c in ESTIMATORS if "next_value" in c.inputs], ids=lambda c: c.name
)
in_both_tiers = pytest.mark.parametrize("differentiable", [False, True], ids=["fused", "composed"])


def expected(case: Case, inputs: dict[str, Tensor], **scalars: float) -> list[Tensor]:
    case = case._replace(scalars={**case.scalars, **scalars})
    return [torch.tensor(x, dtype=DOUBLE) for x in case.call(case.oracle, inputs)]


def computed(case: Case, inputs: dict[str, Tensor], differentiable: bool, **scalars: float):
    """The outputs without a gradient to compute, which may be fused, or with one."""
    case = case._replace(scalars={**case.scalars, **scalars})
    if differentiable:
        inputs = inputs | {"reward": inputs["reward"].clone().requires_grad_()}
    return [x.detach() for x in case.call(case.function, inputs)]


def agree(got: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape or not b.numel()
        scale = float(b.abs().max()) if b.numel() else 1.0
        if b.numel():
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, scale))


@with_lmbda
@in_both_tiers
@pytest.mark.parametrize("lmbda", [0.0, 1e-9, 1.0])
def test_trace_decays_at_the_edges(case, differentiable, lmbda):
    inputs = case.draw(3, 7)
    agree(computed(case, inputs, differentiable, lmbda=lmbda), expected(case, inputs, lmbda=lmbda))


@with_gamma
@in_both_tiers
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_discounts_at_the_edges(case, differentiable, gamma):
    inputs = case.draw(3, 7)
    agree(computed(case, inputs, differentiable, gamma=gamma), expected(case, inputs, gamma=gamma))


@with_flags
@in_both_tiers
@pytest.mark.parametrize("ends", ["all", "none"])
def test_all_or_none_done(case, differentiable, ends):
    inputs = case.draw(3, 7)
    for name in {"done", "terminated"} & set(inputs):
        inputs[name] = torch.full_like(inputs[name], ends == "all")
    agree(computed(case, inputs, differentiable), expected(case, inputs))


@with_flags
@in_both_tiers
@pytest.mark.parametrize("flag", ["done", "terminated"])
def test_one_end_at_every_position(case, differentiable, flag):
    """Truncated without a termination, and terminated without being flagged as done."""
    inputs = case.draw(6, 6)
    if flag not in inputs:
        return
    for name in {"done", "terminated"} & set(inputs):
        inputs[name] = torch.zeros_like(inputs[name])
    inputs[flag] = torch.eye(6, dtype=torch.bool)
    agree(computed(case, inputs, differentiable), expected(case, inputs))


@every_estimator
@in_both_tiers
@pytest.mark.parametrize("time", [0, 1, 2])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_short_and_empty(case, differentiable, batch, time):
    inputs = {
        name: torch.zeros([batch, time, *([3] if "A" in axes else [])], dtype=torch.bool)
        if kind in ("flag", "mask")
        else torch.randn([batch, time, *([3] if "A" in axes else [])], dtype=DOUBLE)
        for name, (kind, axes) in case.inputs.items()
    }
    got = computed(case, inputs, differentiable)
    agree(got, expected(case, inputs))
    like = inputs.get("value", inputs["reward"])
    assert all(x.shape == like.shape for x in got)


@every_estimator
@in_both_tiers
def test_a_hundred_thousand_steps(case, differentiable):
    """One after another, and by doubling, which TorchScript runs."""
    inputs = case.draw(1, 100_000)
    if not case.scriptable:
        return
    doubled = case.call(torch.jit.script(case.function), inputs)
    agree(computed(case, inputs, differentiable), list(doubled))


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand(x.shape),
    "stepped": lambda x: x.repeat_interleave(2, 1)[:, ::2],
}


@every_estimator
@in_both_tiers
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(case, differentiable, layout):
    inputs = {name: LAYOUTS[layout](x) for name, x in case.draw(4, 9).items()}
    dense = {name: x.contiguous() for name, x in inputs.items()}
    agree(computed(case, inputs, differentiable), computed(case, dense, differentiable), 1e-14)


@every_estimator
@in_both_tiers
def test_time_may_be_the_first_axis(case, differentiable):
    if "td0" in case.name:  # which has no time axis
        return
    inputs = case.draw(4, 9)
    agents = "agent" in case.name
    turned = {name: x.transpose(0, 1).contiguous() for name, x in inputs.items()}
    moved = case._replace(fixed=case.fixed | {"time_dim": 0 if not agents else -3})
    got = [x.transpose(0, 1) for x in computed(moved, turned, differentiable)]
    agree(got, computed(case, inputs, differentiable), 1e-14)


@with_bootstrap
@in_both_tiers
def test_what_follows_a_termination_is_never_read(case, differentiable):
    inputs = case.draw(5, 9)
    next_value, ended = inputs["next_value"], inputs["terminated"]
    ended = ended if ended.shape == next_value.shape else ended.unsqueeze(-1).expand_as(next_value)
    assert ended.any()
    poisoned = inputs | {"next_value": next_value.masked_fill(ended, torch.nan)}
    got, clean = (computed(case, x, differentiable) for x in (poisoned, inputs))
    agree(got, clean, 0)
    held = poisoned | {
        name: poisoned[name].clone().requires_grad_() for name in ("reward", "next_value")
    }
    total = sum(x.sum() for x in case.call(case.function, held))
    for grad in torch.autograd.grad(total, [held["reward"], held["next_value"]]):
        assert grad.isfinite().all()


@every_estimator
@in_both_tiers
@pytest.mark.parametrize("dtype", [torch.uint8, DOUBLE])
def test_flags_of_another_dtype_are_refused(case, differentiable, dtype):
    inputs = case.draw(2, 3)
    for name in [name for name, (kind, _) in case.inputs.items() if kind in ("flag", "mask")]:
        wrong = inputs | {name: inputs[name].to(dtype)}
        with pytest.raises(ValueError, match=f"`{name}` must be torch.bool, got {dtype}"):
            computed(case, wrong, differentiable)


@pytest.mark.parametrize(
    "case", [c for c in ESTIMATORS if c.scriptable and "td0" not in c.name], ids=lambda c: c.name
)
def test_a_time_axis_that_is_not_there_is_refused(case):
    inputs = case.draw(2, 3)
    wrong = case._replace(fixed=case.fixed | {"time_dim": 5})
    with pytest.raises(ValueError, match=r"`time_dim`.*got 5|`agent_dim`.*"):
        wrong.call(case.function, inputs)


@pytest.mark.parametrize("name", ["gamma", "lmbda"])
@pytest.mark.parametrize("function", ["td_lambda_return", "gae", "vtrace"])
def test_a_coefficient_of_another_shape_is_refused(function, name):
    case = next(c for c in ESTIMATORS if c.name == function)
    inputs = case.draw(2, 3)
    with pytest.raises(ValueError, match=rf"{function}: `{name}` must have the shape of `reward`"):
        getattr(functional, function)(**inputs, **{name: torch.rand(3)})


@pytest.mark.parametrize("function", ["n_step_return", "n_step_advantage"])
def test_no_steps_are_refused(function):
    case = next(c for c in ESTIMATORS if c.name == function)
    with pytest.raises(ValueError, match="`n_steps` must be at least 1, got 0"):
        getattr(functional, function)(**case.draw(2, 3), n_steps=0)


@with_gamma
def test_learnable_scalars_have_gradients(case):
    inputs = case.draw(3, 7)
    names = [name for name in case.scalars if name in ("gamma", "lmbda")]
    scalars = [torch.tensor(case.scalars[name], dtype=DOUBLE).requires_grad_() for name in names]

    def run(*values):
        learned = case._replace(scalars={**case.scalars, **dict(zip(names, values, strict=True))})
        return learned.call(case.function, inputs)

    assert torch.autograd.gradcheck(run, scalars)


@st.composite
def situations(draw):
    """An estimator, data of some size and layout, and discounts."""
    case = draw(st.sampled_from(ESTIMATORS))
    batch, time = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    inputs = case.draw(batch, time, seed=draw(st.integers(0, 10_000)))
    layout = draw(st.sampled_from(["contiguous", *LAYOUTS]))
    for name in draw(st.sets(st.sampled_from(sorted(inputs)))):
        inputs[name] = LAYOUTS.get(layout, lambda x: x)(inputs[name])
    unit = st.floats(0, 1, allow_subnormal=False)
    scalars = {name: draw(unit) for name in case.scalars if name in ("gamma", "lmbda")}
    return case, inputs, scalars, draw(st.booleans())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(situations())
def test_anything_equals_the_oracle(situation):
    case, inputs, scalars, differentiable = situation
    agree(computed(case, inputs, differentiable, **scalars), expected(case, inputs, **scalars))


@pytest.mark.slow
def test_single_precision_is_near_double():
    """The error of float32, relative to the largest output, at a long horizon."""
    for case in ESTIMATORS:
        if "gamma" not in case.scalars:
            continue
        inputs = case.draw(2, 1000)
        single = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        for a, b in zip(computed(case, single, False), computed(case, inputs, False), strict=True):
            error = float((a.double() - b).abs().max() / b.abs().max())
            assert error < 2e-6, (case.name, error)
        assert np.isfinite(error)
