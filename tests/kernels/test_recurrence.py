"""The recurrence against a scalar loop, in every layout and transform."""

import math

import pytest
import torch
from torch import Tensor

from compiled_rl.kernels import cpu, doubling, linear_recurrence
from tests.kernels.inputs import LAYOUTS, OPCHECKS, TOLERANCE, assert_close, validity
from tests.kernels.oracles import recurrence as recurrence_oracle

# ---- inputs --------------------------------------------------------------------------------------


def operands(*shape: int, dtype=torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    decay = torch.rand(shape, generator=generator, dtype=torch.float64) * 1.2 - 0.2
    return x.to(dtype), decay.to(dtype)


@pytest.fixture(params=["numba", "plain"])
def form(request, monkeypatch):
    """Both forms of the operators on CPU."""
    if request.param == "plain":
        monkeypatch.setattr(cpu, "works", lambda dtype: False)
    return request.param


# ---- numbers -------------------------------------------------------------------------------------


def test_numba_is_what_runs_here():
    for dtype in (torch.float32, torch.float64):
        assert cpu.works(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("decay_layout", ["contiguous", "reversed axes", "same"])
def test_recurrence_layouts(layout, decay_layout, form):
    x, decay = operands(5, 9, 10)
    x = LAYOUTS[layout](x)
    decay = LAYOUTS[layout if decay_layout == "same" else decay_layout](decay)
    for time_dim in (0, 1, 2, -1, -2, -3):
        for reverse in (True, False):
            y = linear_recurrence(x, decay, None, time_dim, reverse)
            assert_close(y, recurrence_oracle(x, decay, time_dim, reverse))
            assert y.stride() == torch.empty_like(x).stride()


def test_four_dimensions_that_do_not_merge(form):
    x, decay = (z.permute(3, 1, 0, 2)[:2, ::2, :, 1:] for z in operands(3, 6, 7, 5))
    for time_dim in range(4):
        y = linear_recurrence(x, decay, None, time_dim)
        assert_close(y, recurrence_oracle(x, decay, time_dim, True))


@pytest.mark.parametrize("length", [0, 1, 2, 7, 130])
@pytest.mark.parametrize("batch", [0, 1, 3, 4, 9])
def test_sizes(length, batch, form):
    for shape, time_dim in (((batch, length), 1), ((length, batch), 0), ((batch, length, 1), -2)):
        x, decay = operands(*shape)
        for reverse in (True, False):
            y = linear_recurrence(x, decay, None, time_dim, reverse)
            assert_close(y, recurrence_oracle(x, decay, time_dim, reverse))


@pytest.mark.parametrize(("shape", "time_dim"), [((2, 1100), 1), ((3, 4100), 0), ((1100,), 0)])
def test_longer_than_one_stretch_of_the_loops(shape, time_dim):
    x, decay = operands(*shape)
    for reverse in (True, False):
        y = linear_recurrence(x, decay, None, time_dim, reverse)
        assert_close(y, recurrence_oracle(x, decay, time_dim, reverse))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes(dtype, form):
    x, decay = operands(6, 37, dtype=dtype)
    assert_close(linear_recurrence(x, decay), recurrence_oracle(x, decay, -1, True), dtype)
    assert_close(doubling(x, decay, -1, True), recurrence_oracle(x, decay, -1, True), dtype)


def test_half_precision_is_computed_in_single():
    x, decay = torch.ones(1, 4000), torch.full((1, 4000), 0.991)
    half = decay.to(torch.bfloat16)
    exact = recurrence_oracle(x, half, -1, True)
    y = doubling(x.to(torch.bfloat16), half, -1, True)
    torch.testing.assert_close(y.double(), exact, rtol=4e-3, atol=0)


def test_inputs_are_not_written(form):
    x, decay = operands(5, 1)
    y = linear_recurrence(x, decay)
    y += 1
    torch.testing.assert_close(x, operands(5, 1)[0])


# ---- what must not spread ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("reverse", [True, False])
def test_masked_steps_vanish(bad, reverse, form):
    x, decay = operands(4, 30)
    mask = validity(4, 30)
    clean = [torch.where(mask, z, 0.0).requires_grad_() for z in (x, decay)]
    dirty = [torch.where(mask, z, bad).requires_grad_() for z in (x, decay)]
    results = []
    for pair in (clean, dirty):
        y = linear_recurrence(*pair, mask, -1, reverse)
        results.append([y, *torch.autograd.grad(y.square().sum(), pair)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
        assert (one[~mask] == 0).all()
    assert_close(results[1][0], recurrence_oracle(*clean, -1, reverse))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("reverse", [True, False])
def test_decay_is_not_read_where_the_recurrence_starts(bad, reverse, form):
    for shape, time_dim in (((5, 9), 1), ((9, 10), 0), ((3, 700), 1)):
        x, decay = operands(*shape)
        decay.select(time_dim, -1 if reverse else 0).fill_(bad)
        x, decay = x.requires_grad_(), decay.requires_grad_()
        y = linear_recurrence(x, decay, None, time_dim, reverse)
        gradients = torch.autograd.grad(y.sum(), (x, decay))
        assert all(z.isfinite().all() for z in (y, *gradients))


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "time_dim"), [((2, 5), -1), ((4, 3), 0), ((2, 3, 2), 1)])
def test_gradients(reverse, masked, shape, time_dim, form):
    pair = [z.requires_grad_() for z in operands(*shape)]
    mask = validity(*shape) if masked else None
    assert torch.autograd.gradcheck(linear_recurrence, (*pair, mask, time_dim, reverse))
    assert torch.autograd.gradgradcheck(linear_recurrence, (*pair, mask, time_dim, reverse))


@pytest.mark.parametrize("length", [0, 1])
def test_gradients_of_short_rows(length):
    x, decay = (z.requires_grad_() for z in operands(3, length))
    grad_x, grad_decay = torch.autograd.grad(linear_recurrence(x, decay).sum(), (x, decay))
    assert (grad_x == 1).all()
    assert (grad_decay == 0).all()


def test_gradient_of_one_operand_only():
    x, decay = operands(3, 4)
    for k in (0, 1):
        pair = [x.clone(), decay.clone()]
        pair[k].requires_grad_()
        assert torch.autograd.gradcheck(linear_recurrence, tuple(pair))


# ---- transforms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "expanded batch", "stepped"])
@pytest.mark.parametrize("differentiable", [False, True])
def test_opcheck_recurrence(layout, differentiable):
    x, decay = (LAYOUTS[layout](z) for z in operands(2, 3, 4))
    x, decay = x.requires_grad_(differentiable), decay.requires_grad_(differentiable)
    arguments = (x, decay, 1, True)
    torch.library.opcheck(
        torch.ops.compiled_rl.linear_recurrence.default, arguments, test_utils=OPCHECKS
    )


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 1), (0, None), (None, 2), (-1, 0)])
@pytest.mark.parametrize("time_dim", [0, 1, -1])
def test_vmap_recurrence(in_dims, time_dim):
    x, decay = operands(4, 4, 4)
    x = x if in_dims[0] is not None else x[0]
    decay = decay if in_dims[1] is not None else decay[0]

    def f(a, b):
        return linear_recurrence(a, b, None, time_dim)

    def loss(a, b):
        return f(a, b).square().sum()

    singles = [
        tuple(
            z if dim is None else z.select(dim, k)
            for z, dim in zip((x, decay), in_dims, strict=True)
        )
        for k in range(4)
    ]
    for function in (f, torch.func.grad(loss, argnums=(0, 1)), torch.func.grad(loss, argnums=1)):
        actual = torch.vmap(function, in_dims)(x, decay)
        expected = [function(*single) for single in singles]
        if isinstance(actual, Tensor):
            actual, expected = (actual,), [(z,) for z in expected]
        for k, one in enumerate(actual):
            assert_close(one, torch.stack([z[k] for z in expected]))


def test_per_sample_and_second_gradients():
    x, decay = operands(3, 5)

    def total(d):
        return linear_recurrence(x[0], d).sum()

    hessian = torch.func.jacrev(torch.func.jacrev(total))(decay[0])
    expected = torch.autograd.functional.hessian(total, decay[0])
    assert_close(hessian, expected)
    assert hessian.abs().max() > 0.1


def test_forward_mode_is_refused():
    x, decay = operands(3, 5)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"jvp|forward"):
        torch.func.jvp(lambda a: linear_recurrence(a, decay), (x,), (x,))


def test_compiled_with_dynamic_shapes():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(linear_recurrence, fullgraph=True, dynamic=True, backend=backend)
    for shape in ((4, 6), (3, 9), (7, 130)):
        mask = validity(*shape)
        pairs = [[z.requires_grad_() for z in operands(*shape)] for _ in range(2)]
        for function, pair in zip((linear_recurrence, compiled), pairs, strict=True):
            function(*pair, mask).square().sum().backward()
        for one, other in zip(*pairs, strict=True):
            assert_close(one.grad, other.grad)
    assert len(graphs) == 1


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_scripted(reverse, masked):
    scripted = torch.jit.script(linear_recurrence)
    x, decay = operands(4, 37)
    mask = validity(4, 37) if masked else None
    for time_dim in (0, 1, -1):
        expected = linear_recurrence(x, decay, mask, time_dim, reverse)
        assert_close(scripted(x, decay, mask, time_dim, reverse), expected)
    with pytest.raises(torch.jit.Error, match="`decay` must have the shape of `x`"):
        scripted(x, decay[:3])


def test_doubling_compiles_whole():
    compiled = torch.compile(doubling, fullgraph=True, backend="aot_eager")
    x, decay = operands(4, 37)
    assert_close(compiled(x, decay, -1, True), recurrence_oracle(x, decay, -1, True))


class Recurrence(torch.nn.Module):
    def forward(self, x: Tensor, decay: Tensor) -> Tensor:
        return linear_recurrence(x, decay)


class Doubling(torch.nn.Module):
    def forward(self, x: Tensor, decay: Tensor) -> Tensor:
        return doubling(x, decay, -1, True)


def test_exported_keeps_one_operator():
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
    program = torch.export.export(Recurrence(), operands(4, 6), dynamic_shapes=(sizes, sizes))
    program = program.run_decompositions()
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    assert [n.target for n in nodes] == [torch.ops.compiled_rl.linear_recurrence.default]
    for shape in ((4, 6), (1, 9), (7, 130)):
        x, decay = operands(*shape)
        assert_close(program.module()(x, decay), recurrence_oracle(x, decay, -1, True))


def test_doubling_exports_with_dynamic_batch():
    sizes = {0: torch.export.Dim("batch")}
    program = torch.export.export(Doubling(), operands(4, 37), dynamic_shapes=(sizes, sizes))
    x, decay = operands(9, 37)
    assert_close(program.module()(x, decay), recurrence_oracle(x, decay, -1, True))


# ---- errors --------------------------------------------------------------------------------------


def test_errors_name_what_was_expected_and_what_came():
    x = torch.zeros(4, 5)
    sentences = {
        "`decay` must have the shape of `x`, got [4, 37] and [4, 5]": (x, torch.zeros(4, 37)),
        "`decay` must have the dtype of `x`, got torch.float64 and torch.float32": (x, x.double()),
        "`mask` must have the shape of `x`, got [4] and [4, 5]": (x, x, torch.ones(4).bool()),
        "`mask` must be torch.bool, got torch.uint8": (x, x, x.to(torch.uint8)),
        "`x` must be floating point, got torch.int64": (x.long(), x.long()),
        "`x` must have a time axis, got a 0-d tensor": (x.sum(), x.sum()),
        "`time_dim` must be in [-2, 1], got 2": (x, x, None, 2),
    }
    for sentence, arguments in sentences.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            linear_recurrence(*arguments)
        assert str(caught.value) == f"linear_recurrence: {sentence}"


def test_the_operator_never_trusts_its_caller():
    x, decay = operands(3, 5)
    with pytest.raises(ValueError, match="linear_recurrence: `decay` must have the shape"):
        torch.ops.compiled_rl.linear_recurrence(x, decay[:1], -1, True)
