"""Every estimator in every file: exact at any length, whatever length was exported.

A row of ``tests/cases.py`` with a time axis is all that an estimator needs to be tested here.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import variants
from tests.cases import CASES, Case, is_nearly_another

Variant = Callable[..., Any]
every_estimator = pytest.mark.parametrize(
    "case", [case for case in CASES if "time" in case.dynamic], ids=lambda case: case.name
)


def undiscounted(case: Case) -> Case:
    """So that the first step depends on the last as much as on its neighbour."""
    return case._replace(scalars=dict.fromkeys(case.scalars, 1.0))


def endless(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Nothing is done, masked or fades."""
    values = {"flag": False, "mask": True, "uniform": 1.0}
    kinds = {name: kind for name, (kind, _) in case.inputs.items()}
    return {
        name: torch.full_like(x, values[kinds[name]]) if kinds[name] in values else x
        for name, x in inputs.items()
    }


def exact_at_every_length(case, variant, folder):
    case = undiscounted(case)
    run = variant(case, case.draw(1, 1, torch.float32), folder)
    sizes = ((1, 1), (5, 7), (64, 23), (2, 700))
    drawn = [case.draw(*size, torch.float32) for size in sizes]
    for inputs in (*drawn, endless(case, drawn[-1])):
        for got, expected in zip(run(inputs), case.call(case.function, inputs), strict=True):
            atol = 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=atol)


def tier(case: Case, variant: Variant) -> Any:
    """Slow are programs of what another row is nearly."""
    slow = is_nearly_another(case) and variant is not variants.torchscript
    slow = slow or (variant is variants.pt2 and case.name not in ("gae masked", "vtrace masked"))
    return [pytest.mark.slow] if slow else []


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        pytest.param(case, variant, id=f"{case.name}-{variant.__name__}", marks=tier(case, variant))
        for case in CASES
        for variant in (variants.onnx, variants.pt2, variants.torchscript)
        if "time" in case.dynamic and (case.scriptable or variant is not variants.torchscript)
    ],
)
def test_exact_at_every_length(case, variant, tmp_path):
    exact_at_every_length(case, variant, tmp_path)


@pytest.mark.slow
@every_estimator
def test_compiled_packages_are_exact_at_every_length(case, tmp_path):
    exact_at_every_length(case, variants.aotinductor, tmp_path)
