"""The fused estimators against scalar loops: layouts, sizes, masks, compilation, refusals."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from compiled_rl.kernels import cpu, fusable, fused
from compiled_rl.kernels.table import KERNELS
from tests.kernels import oracles
from tests.kernels.inputs import (
    LAYOUTS,
    OPCHECKS,
    SCALARS,
    TOLERANCE,
    assert_close,
    assert_right,
    draw,
    validity,
)

pytestmark = pytest.mark.parametrize("name", KERNELS)
DOUBLE = torch.float64


def as_tensors(name: str, dtype=DOUBLE) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(x, dtype=dtype) for x in SCALARS[name])


def flags_of(name: str, inputs) -> tuple[Tensor, Tensor]:
    at = KERNELS[name].inputs.index("terminated")
    return inputs[at], inputs[at + 1]


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_layouts(name, layout, mixed, masked):
    mask = LAYOUTS[layout](validity(5, 9, 10)) if masked else None
    inputs = draw(name, 5, 9, 10)
    inputs = [LAYOUTS[layout](x) if k % 2 or not mixed else x for k, x in enumerate(inputs)]
    for time_dim in (0, 1, 2, -2):
        assert_right(name, inputs, mask, time_dim)


def test_four_dimensions_that_do_not_merge(name):
    inputs = [z.permute(3, 1, 0, 2)[:2, ::2, :, 1:] for z in draw(name, 3, 6, 7, 5)]
    for time_dim in range(4):
        assert_right(name, inputs, None, time_dim)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 130, 255, 256, 257, 1000, 1030])
def test_sizes(name, length, masked, dtype):
    inputs = draw(name, 9, length, dtype=dtype)
    mask = validity(9, length) if masked else None
    expected = getattr(oracles, name)(inputs, *SCALARS[name], mask, 1)
    for rows in (0, 1, 2, 3, 4, 5, 7, 8, 9):
        for time_dim in (0, 1):
            layout = (lambda x: x.T.contiguous()) if time_dim == 0 else lambda x: x.clone()
            some = tuple(layout(x[:rows]) for x in inputs)
            valid = layout(mask[:rows]) if masked else None
            actual = fused(name, some, SCALARS[name], valid, time_dim)
            for one, other in zip(actual, expected, strict=True):
                assert_close(one if time_dim == 1 else one.T, other[:rows], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_long_row(name, dtype):
    inputs = draw(name, 1, 100_000, dtype=dtype)
    expected = getattr(oracles, name)(inputs, *SCALARS[name], None, 1)
    for one, other in zip(fused(name, inputs, SCALARS[name], None, 1), expected, strict=True):
        assert_close(one, other, dtype)


@pytest.mark.parametrize(
    "discounts", [(0.0, 0.9), (1.0, 0.9), (0.97, 0.0), (0.97, 1e-9), (1.0, 1.0)]
)
@pytest.mark.parametrize("flags", ["none", "all done", "all terminated", "as drawn"])
def test_extreme_discounts_and_flags(name, discounts, flags):
    inputs = draw(name, 5, 70)
    terminated, done = flags_of(name, inputs)
    if flags != "as drawn":
        done.fill_(flags == "all done")
        terminated.fill_(flags == "all terminated")
    assert_right(name, inputs, validity(5, 70), -1, (*discounts, *SCALARS[name][2:]))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_scalars_may_be_tensors_of_any_dtype(name, dtype):
    inputs = draw(name, 4, 20)
    exact = (0.5,) * len(SCALARS[name])
    tensors = tuple(torch.tensor(x, dtype=dtype) for x in exact)
    expected = fused(name, inputs, exact, None, -1)
    for one, other in zip(fused(name, inputs, tensors, None, -1), expected, strict=True):
        assert torch.equal(one, other)


def test_inputs_are_not_written(name):
    inputs = draw(name, 5, 9, 10)
    copies = [x.clone() for x in inputs]
    fused(name, inputs, SCALARS[name], validity(5, 9, 10), -1)
    assert all(torch.equal(one, other) for one, other in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("time_dim", [0, 1])
@pytest.mark.parametrize("shape", [(1100, 1100), (8, 90_000), (90_000, 8), (700_003, 2)])
def test_bits_do_not_depend_on_the_number_of_threads(name, shape, time_dim, monkeypatch):
    inputs = draw(name, *shape, dtype=torch.float32)
    several = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        several.append(fused(name, inputs, SCALARS[name], None, time_dim))
    for other in several[1:]:
        assert all(torch.equal(*pair) for pair in zip(several[0], other, strict=True))


# ---- what must not spread ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(6, 40), (3, 1300)])
@pytest.mark.parametrize("time_dim", [0, 1])
def test_what_it_must_ignore(name, bad, shape, time_dim):
    inputs, mask = draw(name, *shape), validity(*shape)
    terminated, _ = flags_of(name, inputs)
    poisoned = [
        torch.where(mask, x, bad) if x.is_floating_point() else torch.where(mask, x, True)
        for x in inputs
    ]
    at = KERNELS[name].inputs.index("next_value")
    poisoned[at] = torch.where(terminated, bad, poisoned[at])
    actual = fused(name, tuple(poisoned), SCALARS[name], mask, time_dim)
    expected = getattr(oracles, name)(inputs, *SCALARS[name], mask, time_dim)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)
        assert (one[~mask] == 0).all()


@pytest.mark.parametrize("time_dim", [0, 1])
def test_a_nan_of_one_row_stays_in_it(name, time_dim):
    inputs = [x.T.contiguous().T if time_dim == 0 else x for x in draw(name, 9, 16)]
    clean = fused(name, tuple(inputs), SCALARS[name], None, 1)
    inputs[0][3] = math.nan
    others = [k for k in range(9) if k != 3]
    for one, other in zip(fused(name, tuple(inputs), SCALARS[name], None, 1), clean, strict=True):
        assert one[3].isnan().all()
        assert torch.equal(one[others], other[others])


# ---- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "reversed axes", "expanded time"])
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(name, layout, masked):
    inputs = [LAYOUTS[layout](z) for z in draw(name, 2, 3, 4)]
    mask = validity(2, 3, 4) if masked else None
    operator = getattr(torch.ops.compiled_rl, name).default
    torch.library.opcheck(operator, (*inputs, *as_tensors(name), mask, 1), test_utils=OPCHECKS)


class Counter:
    """A backend that keeps the graphs it was given."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def operators(self) -> list[str]:
        targets = [node.target for node in self.graphs[-1].graph.nodes]
        return [str(target) for target in targets if "compiled_rl" in str(target)]


def compiled(name, backend):
    def run(inputs, scalars, mask):
        assert fusable(inputs, scalars, mask)
        return fused(name, inputs, scalars, mask, -1)

    torch._dynamo.reset()
    return torch.compile(run, fullgraph=True, backend=backend)


def test_compiled_is_one_node_at_any_size(name):
    counter = Counter()
    run = compiled(name, counter)
    for shape in ((4, 6), (3, 9), (7, 130)):
        inputs, mask = draw(name, *shape), validity(*shape)
        expected = fused(name, inputs, SCALARS[name], mask, -1)
        for one, other in zip(run(inputs, as_tensors(name), mask), expected, strict=True):
            assert_close(one, other)
        assert counter.operators() == [f"compiled_rl.{name}.default"]


@pytest.mark.parametrize("kind", ["float", "buffer"])
def test_compiled_again_for_no_value_of_a_scalar(name, kind):
    counter = Counter()
    run = compiled(name, counter)
    inputs = draw(name, 4, 6)
    for value in (0.9, 0.8, 0.7, 0.6):
        scalars = (value, *SCALARS[name][1:])
        expected = fused(name, inputs, scalars, None, -1)
        if kind == "buffer":
            scalars = tuple(torch.tensor(x) for x in scalars)
        for one, other in zip(run(inputs, scalars, None), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert len(counter.graphs) <= (2 if kind == "float" else 1)


# ---- when it may run, and what it refuses --------------------------------------------------------


class Subclass(Tensor):
    """Not a plain tensor."""


def test_fusable(name):
    inputs, scalars = draw(name, 3, 5), SCALARS[name]
    mask = validity(3, 5)
    assert fusable(inputs, scalars, mask)
    assert fusable(inputs, as_tensors(name), None)
    assert fusable((torch.nn.Parameter(inputs[0], requires_grad=False), *inputs[1:]), scalars, None)
    learnable = inputs[0].clone().requires_grad_()
    with torch.no_grad():
        assert fusable((learnable, *inputs[1:]), scalars, None)
    assert not fusable((learnable, *inputs[1:]), scalars, None)
    assert not fusable(inputs, (torch.tensor(0.9, requires_grad=True), *scalars[1:]), None)
    assert not fusable(inputs, (inputs[0], *scalars[1:]), None)
    assert not fusable((inputs[0].as_subclass(Subclass), *inputs[1:]), scalars, None)
    assert not fusable(inputs, scalars, mask.as_subclass(Subclass))
    assert not fusable((torch._neg_view(inputs[0]), *inputs[1:]), scalars, None)
    assert not fusable(tuple(x.to("meta") for x in inputs), scalars, None)
    for dtype in TOLERANCE:
        some = draw(name, 3, 5, dtype=dtype)
        assert fusable(some, scalars, None) == (dtype in (torch.float32, DOUBLE))


def test_not_fusable_inside_transforms_and_exports(name):
    inputs, scalars = draw(name, 3, 5), SCALARS[name]
    answers = []

    def ask(reward):
        answers.append(fusable((reward, *inputs[1:]), scalars, None))
        return reward.sum()

    class Asking(torch.nn.Module):
        def forward(self, reward):
            return ask(reward)

    torch.func.grad(ask)(inputs[0])
    torch.vmap(ask)(inputs[0])
    torch.jit.trace(ask, inputs[0], check_trace=False)  # which would call it untraced
    with forward_ad.dual_level():
        ask(inputs[0])
    torch.export.export(Asking(), (inputs[0],), strict=False)
    assert answers
    assert not any(answers)


def test_not_fusable_without_loops(name, monkeypatch):
    monkeypatch.setattr(cpu, "works", lambda dtype: False)
    assert not fusable(draw(name, 3, 5), SCALARS[name], None)


@pytest.mark.parametrize("through", ["function", "operator"])
def test_it_never_trusts_its_caller(name, through):
    inputs, names = draw(name, 3, 5), KERNELS[name].inputs
    run = getattr(torch.ops.compiled_rl, name) if through == "operator" else None

    def call(tensors, scalars, mask=None, time_dim=-1):
        if run is None:
            return fused(name, tuple(tensors), scalars, mask, time_dim)
        return run(*tensors, *scalars, mask, time_dim)

    scalars = as_tensors(name)
    for k, argument in enumerate(names):
        is_flag = argument in ("terminated", "done")
        bad = [(list(inputs), "shape of"), (list(inputs), "be torch.bool" if is_flag else "dtype")]
        bad[0][0][k] = inputs[k][:, :2]
        bad[1][0][k] = inputs[k].to(DOUBLE if is_flag else torch.float32)
        blamed = argument if k else rf"({'|'.join(names)})"
        for tensors, reason in bad:
            with pytest.raises(ValueError, match=f"^{name}: `{blamed}` must (have the )?{reason}"):
                call(tensors, scalars)
    with pytest.raises(ValueError, match=f"^{name}: `mask` must have the shape of `reward`"):
        call(inputs, scalars, validity(3, 4))
    with pytest.raises(ValueError, match=f"^{name}: `mask` must be torch.bool"):
        call(inputs, scalars, inputs[0])
    with pytest.raises(
        ValueError, match=f"^{name}: `lmbda` must be a number or a 0-d tensor, got .*\\[2\\]"
    ):
        call(inputs, (scalars[0], torch.ones(2), *scalars[2:]))
    for time_dim in (2, -3):
        with pytest.raises(ValueError, match=f"^{name}: `time_dim` must be in"):
            call(inputs, scalars, None, time_dim)
    with pytest.raises(ValueError, match=f"^{name}: `{names[1]}` must be on the device of"):
        call((inputs[0], inputs[1].to("meta"), *inputs[2:]), scalars)
