"""What lies under a mask, whatever it is and in whichever input, changes not a bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compiled_rl.adapters.fields import Key
from tests.numbers.owners import (
    ESTIMATORS,
    LOSSES,
    Data,
    estimator,
    every_loss,
    of_actors,
    sequences,
)
from tests.numbers.test_hostile import results

pytestmark = pytest.mark.filterwarnings("ignore:.*no updater was made of its targets")

SHAPE = (4, 6)
MASK = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.6
BAD = {"NaN": torch.nan, "inf": torch.inf, "minus inf": -torch.inf}


def spoilt(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """``x`` with a value where the mask forbids; an index is then none, and a flag is turned."""
    mask = mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
    if x.dtype == torch.bool:
        return torch.where(mask, x, ~x)
    return torch.where(mask, x, value if x.is_floating_point() else 10**6)


def ways(data: Data, mask: Tensor) -> dict[str, Data]:
    """One input at a time, and all at once."""
    found = {str(key): data | {key: spoilt(x, mask, torch.nan)} for key, x in data.items()}
    for name, value in BAD.items():
        found[name] = {key: spoilt(x, mask, value) for key, x in data.items()}
    return found


def assert_the_same(got: Any, expected: Any, what: str) -> None:
    torch.testing.assert_close(
        got, expected, rtol=0, atol=0, equal_nan=True, msg=lambda words: f"{what}: {words}"
    )


@every_loss
def test_nothing_under_a_mask_changes_a_loss(name: str) -> None:
    """Outputs, metrics and gradients, to the bit; they are those of the valid steps alone."""
    loss, data = LOSSES[name].make(), LOSSES[name].data(SHAPE)
    expected = assert_nothing_is_read(loss, data)
    alone = results(loss, {key: x[MASK] for key, x in data.items()})
    for key in loss.minimised:
        torch.testing.assert_close(alone[0][key], expected[0][key])
    torch.testing.assert_close(alone[1], expected[1])


@of_actors
def test_nothing_under_a_mask_changes_a_loss_that_estimates(name: str) -> None:
    data = LOSSES[name].data(SHAPE)
    given = ("advantage", "value_target")
    assert_nothing_is_read(LOSSES[name].make(), {k: x for k, x in data.items() if k not in given})


def assert_nothing_is_read(loss: Any, data: Data) -> Any:
    """Nothing under the mask; returned are the outputs and gradients."""
    mask: dict[Key, Tensor] = {"shifted_valid": MASK}
    expected = results(loss, data | mask)
    assert all(x is None or x.isfinite().all() for x in expected[1])
    for what, other in ways(data, MASK).items():
        assert_the_same(results(loss, other | mask), expected, what)
    return expected


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_under_a_mask_changes_an_estimate(name: str) -> None:
    """Nor its gradient by what was recorded, which is zero there."""
    module = estimator(name)
    data = sequences(name, SHAPE)
    found = []
    for what, other in ({"": data} | ways(data, MASK)).items():
        leaves = {
            key: x.clone().requires_grad_() if x.is_floating_point() else x
            for key, x in other.items()
        }
        outputs = module(leaves | {("collector", "mask"): MASK})
        wanted = [x for x in leaves.values() if x.requires_grad]
        total = sum(outputs[key].sum() for key in ("advantage", "value_target"))
        grads = torch.autograd.grad(total, wanted, materialize_grads=True)
        kept = {key: outputs[key].detach() for key in ("advantage", "value_target")}
        with torch.no_grad():  # by another kernel
            again = module({**other, ("collector", "mask"): MASK})
        found.append((kept, grads, {key: again[key] for key in kept}))
        assert_the_same(found[-1], found[0], what)
        for x in grads:
            assert not x[~MASK].any(), what
