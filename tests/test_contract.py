"""Every property of the contract, times every case, times every variant."""

import copy

import pytest
import torch
from torch import Tensor

from compiled_rl import functional
from compiled_rl.testing import count_graphs
from tests import variants
from tests.cases import CASES, Case, is_nearly_another

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
differentiable = pytest.mark.parametrize(
    "case", [case for case in CASES if case.differentiable], ids=lambda case: case.name
)
with_scalars = pytest.mark.parametrize(
    "case", [case for case in CASES if case.scalars], ids=lambda case: case.name
)
with_mask = pytest.mark.parametrize(
    "case", [case for case in CASES if "mask" in case.inputs], ids=lambda case: case.name
)
SIZES = [(4, 6), (1, 5), (7, 1), (5, 23)]


def in_variants(some, cases=CASES, is_slow=lambda case, variant: False):
    """Every case in every way in which it can be run: TorchScript takes no tensor for a float."""
    return pytest.mark.parametrize(
        ("case", "variant"),
        [
            pytest.param(
                case,
                variant,
                id=f"{case.name}-{variant.__name__}",
                marks=[pytest.mark.slow] if is_slow(case, variant) else [],
            )
            for case in cases
            for variant in some
            if case.scriptable or variant is not variants.scripted
        ],
    )


def close(got, expected, tolerance):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def leaves(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: x.clone().requires_grad_() if name in case.differentiable else x
        for name, x in inputs.items()
    }


def gradients(case: Case, outputs, inputs: dict[str, Tensor]):
    generator = torch.Generator().manual_seed(1)
    total = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in outputs
    )
    wanted = [inputs[name] for name in case.differentiable]
    return torch.autograd.grad(total, wanted, materialize_grads=True)


def test_every_public_function_has_a_case():
    functions = {name for name in functional.__all__ if name[0].islower()}
    assert functions == {case.name.split()[0] for case in CASES}


@every_case
@pytest.mark.parametrize(("batch", "time"), SIZES)
def test_equals_the_oracle(case, batch, time):
    inputs = case.draw(batch, time)
    expected = case.call(case.oracle, inputs)
    got = case.call(case.function, inputs)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, torch.tensor(b, dtype=a.dtype), rtol=1e-8, atol=1e-8)


def is_held_elsewhere(case: Case, variant) -> bool:
    """In ONNX Runtime recurrences are run by ``tests/export``, at greater lengths."""
    if variant is variants.onnx:
        return "time" in case.dynamic
    return variant is variants.compiled and is_nearly_another(case)


@in_variants(variants.FAST, is_slow=is_held_elsewhere)
def test_variants_agree(case, variant, tmp_path):
    run = variant(case, case.draw(4, 6, torch.float32), tmp_path)
    for batch, time in SIZES:
        inputs = case.draw(batch, time, torch.float32)
        close(run(inputs), case.call(case.function, inputs), 1e-5)


@pytest.mark.slow
@in_variants(variants.SLOW)
def test_slow_variants_agree(case, variant, tmp_path):
    test_variants_agree(case, variant, tmp_path)


def takes_seconds(case: Case, variant) -> bool:
    """A recurrence whose gradient is compiled; a return without a mask is held in every run."""
    compiled = variant is variants.compiled and "time" in case.dynamic
    return compiled and ("mask" in case.inputs or "_advantage" in case.name)


@in_variants(
    variants.DIFFERENTIABLE, [case for case in CASES if case.differentiable], takes_seconds
)
def test_gradients_agree(case, variant, tmp_path):
    run = variant(case, case.draw(4, 6, torch.float32), tmp_path)
    for batch, time in SIZES[1:]:
        inputs = case.draw(batch, time, torch.float32)
        mine, theirs = leaves(case, inputs), leaves(case, inputs)
        expected = gradients(case, case.call(case.function, theirs), theirs)
        close(gradients(case, run(mine), mine), expected, 1e-4)


@differentiable
def test_gradcheck(case):
    inputs = leaves(case, case.draw(3, 4))

    def function(*tensors):
        return case.call(
            case.function, inputs | dict(zip(case.differentiable, tensors, strict=True))
        )

    assert torch.autograd.gradcheck(function, [inputs[name] for name in case.differentiable])


@every_case
def test_no_gradient_where_none_is_promised(case):
    inputs = case.draw(3, 4)
    floating = {name for name, x in inputs.items() if x.is_floating_point()}
    held = {
        name: x.clone().requires_grad_() if name in floating - set(case.differentiable) else x
        for name, x in inputs.items()
    }
    outputs = case.call(case.function, held)
    for x in outputs:
        if x.requires_grad:
            wanted = [held[name] for name in held if held[name].requires_grad]
            grads = torch.autograd.grad(x.sum(), wanted, allow_unused=True, retain_graph=True)
            assert all(grad is None or not grad.any() for grad in grads)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.per_row], ids=lambda case: case.name
)
def test_rows_are_independent(case):
    inputs, others = case.draw(5, 6), case.draw(5, 6, seed=1)
    mixed = {name: torch.cat([others[name][:1], x[1:]]) for name, x in inputs.items()}
    before, after = case.call(case.function, inputs), case.call(case.function, mixed)
    close([x[1:] for x in after], [x[1:] for x in before], 0)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(case, dtype):
    for x in case.call(case.function, case.draw(4, 6, dtype)):
        assert x.dtype == dtype or not x.is_floating_point()


@every_case
def test_inputs_are_untouched_and_outputs_are_new(case):
    inputs = case.draw(4, 6)
    before = copy.deepcopy(inputs)
    outputs = case.call(case.function, inputs)
    close(list(inputs.values()), list(before.values()), 0)
    addresses = {x.data_ptr() for x in inputs.values()}
    assert not any(x.data_ptr() in addresses for x in outputs if x.numel())


@in_variants([variants.eager, variants.scripted])
def test_wrong_shapes_are_named(case, variant):
    scripted = variant is variants.scripted
    function = torch.jit.script(case.function) if scripted else case.function
    inputs = case.draw(4, 6, torch.float32)
    reference = next(iter(inputs))
    for name in list(inputs)[1:]:
        for wrong in (inputs[name][1:], inputs[name].unsqueeze(-1)):
            with pytest.raises((ValueError, torch.jit.Error)) as error:
                case.call(function, inputs | {name: wrong})
            words = str(error.value)
            assert case.name.split()[0] in words
            assert f"`{name}`" in words or f"`{reference}`" in words
            assert str(list(wrong.shape)) in words or "dtype" in words


@with_scalars
def test_new_scalars_make_no_new_graph(case):
    inputs = case.draw(4, 6, torch.float32)
    for name in case.scalars:
        with count_graphs() as graphs:
            run = torch.compile(
                case.function, fullgraph=True, backend=graphs.backend, isolate_recompiles=True
            )
            for shift in (0.0, 0.01, 0.02, 0.03):
                value = case.scalars[name] + shift
                run(**inputs, **case.fixed, **{**case.scalars, name: value})
        assert graphs.count <= 2


@with_scalars
def test_tensor_scalars_are_equal_and_make_one_graph(case):
    inputs = case.draw(4, 6, torch.float32)
    as_tensors = {name: torch.tensor(value) for name, value in case.scalars.items()}
    expected = case.call(case.function, inputs)
    got = case.function(**inputs, **case.fixed, **as_tensors)
    close((got,) if isinstance(got, Tensor) else tuple(got), expected, 1e-6)
    with count_graphs() as graphs:
        run = torch.compile(
            case.function, fullgraph=True, backend=graphs.backend, isolate_recompiles=True
        )
        for shift in (0.0, 0.01, 0.02, 0.03):
            run(**inputs, **case.fixed, **{k: x + shift for k, x in as_tensors.items()})
    assert graphs.count == 1


def poison(x: Tensor, mask: Tensor) -> Tensor:
    """NaN under the mask, which an agent axis may follow."""
    return torch.where(mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim())), x, torch.nan)


@with_mask
def test_nothing_under_the_mask_is_read(case):
    inputs = case.draw(6, 5)
    poisoned = {
        name: poison(x, inputs["mask"]) if x.is_floating_point() else x
        for name, x in inputs.items()
    }
    clean, dirty = leaves(case, inputs), leaves(case, poisoned)
    expected, got = case.call(case.function, clean), case.call(case.function, dirty)
    close(got, expected, 0)
    if case.differentiable:
        close(gradients(case, got, dirty), gradients(case, expected, clean), 0)
