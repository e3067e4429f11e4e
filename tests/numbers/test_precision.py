"""Every loss, estimator and function is as near to float64 as was measured, within a factor."""

import pytest
import torch

from benchmarks.precision import OWNERS, Errors, errors_of, errors_of_case, main
from tests.cases import CASES, ESTIMATORS, Case
from tests.numbers import figures
from tests.numbers.owners import ESTIMATORS as MODULES
from tests.numbers.owners import LOSSES

FACTOR = 3  # of another processor, which sums in another order
ROUNDING = (6e-8, 6e-8, 2e-3, 2e-3)  # of one number


def assert_within(errors: Errors, figure: tuple[float | None, ...]) -> None:
    assert [x is None for x in errors] == [x is None for x in figure]
    for got, known, least, what in zip(errors, figure, ROUNDING, Errors._fields, strict=True):
        if got is not None and known is not None:
            bound = max(FACTOR * known, least)
            assert got <= bound, f"{what}: {got:.1e}, of {bound:.1e}"


def test_every_loss_estimator_and_function_has_a_figure() -> None:
    assert figures.OWNERS.keys() == OWNERS.keys()
    assert {x.split()[0] for x in (*LOSSES, *MODULES)} == OWNERS.keys()
    assert figures.FUNCTIONS.keys() == {case.name for case in CASES}


@pytest.mark.parametrize("name", OWNERS)
def test_a_loss_or_an_estimator_is_as_precise_as_measured(name: str) -> None:
    assert_within(errors_of(OWNERS[name], OWNERS[name].ours), figures.OWNERS[name])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_function_is_as_precise_as_measured(case: Case) -> None:
    assert_within(errors_of_case(case), figures.FUNCTIONS[case.name])


@pytest.mark.parametrize(
    "case",
    [case for case in ESTIMATORS if "masked" not in case.name and "gamma" in case.scalars],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [0.99, 0.999])
def test_half_precision_keeps_a_long_horizon(case: Case, dtype: torch.dtype, gamma: float) -> None:
    """What is summed is summed in float32, and a discount of 0.999 is no one."""
    inputs = case.draw(2, 1024, dtype)
    inputs = {name: x & False if x.dtype == torch.bool else x for name, x in inputs.items()}
    fine = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    case = case._replace(scalars=case.scalars | {"gamma": gamma})
    rounding = torch.finfo(dtype).eps
    for got, exact in zip(
        case.call(case.function, inputs), case.call(case.function, fine), strict=True
    ):
        assert (got.double() - exact).norm() < rounding * exact.norm()


@pytest.mark.slow
def test_the_benchmark_prints_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*OWNERS, *figures.FUNCTIONS))
