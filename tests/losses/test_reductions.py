"""How a loss that a user writes is reduced: every cell of the table, and TorchRL's beside it."""

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.objectives import LossModule as TheirModule

import compiled_rl

N = 6
LOSS = torch.tensor([1.0, -2.0, 4.0, 8.0, -16.0, 32.0], dtype=torch.float64)
WEIGHT = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], dtype=torch.float64)
MASK = torch.tensor([True, False, True, True, False, True])
MASKED = torch.where(MASK, LOSS, 0)
WEIGHED = torch.where(MASK, LOSS * WEIGHT, 0)

# reduction, whose mask, whether weighted, what comes out
TABLE = [
    ("none", None, False, LOSS),
    ("none", "data", False, MASKED),
    ("none", "code", False, LOSS[MASK]),
    ("none", None, True, LOSS * WEIGHT),
    ("none", "data", True, WEIGHED),
    ("none", "code", True, (LOSS * WEIGHT)[MASK]),
    ("mean", None, False, LOSS.sum() / N),
    ("mean", "data", False, MASKED.sum() / 4),
    ("mean", "code", False, MASKED.sum() / 4),
    ("mean", None, True, (LOSS * WEIGHT).sum() / WEIGHT.sum()),
    ("mean", "data", True, WEIGHED.sum() / WEIGHT[MASK].sum()),
    ("mean", "code", True, WEIGHED.sum() / WEIGHT[MASK].sum()),
    ("sum", None, False, LOSS.sum()),
    ("sum", "data", False, MASKED.sum()),
    ("sum", "code", False, MASKED.sum()),
    ("sum", None, True, (LOSS * WEIGHT).sum()),
    ("sum", "data", True, WEIGHED.sum()),
    ("sum", "code", True, WEIGHED.sum()),
]


def data(mask: Tensor, key: Any = "shifted_valid") -> TensorDict:
    return TensorDict({key: mask, "priority_weight": WEIGHT}, mask.shape[:1])


def arguments(whose: Any, weighted: bool) -> dict[str, Any]:
    given = {"data": {"tensordict": data(MASK)}, "code": {"mask": MASK}}.get(whose, {})
    return given | ({"weights": WEIGHT} if weighted else {})


@pytest.mark.parametrize(("reduction", "whose", "weighted", "expected"), TABLE)
@pytest.mark.parametrize("base", [compiled_rl.LossModule, TheirModule])
def test_the_table(base: Any, reduction: str, whose: Any, weighted: bool, expected: Any) -> None:
    loss = base()
    loss.reduction = reduction
    x = LOSS.clone().requires_grad_()
    found = loss._reduce_loss(x, **arguments(whose, weighted))
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    forbidden = torch.zeros_like(MASK) if whose is None else ~MASK
    assert torch.equal(gradient == 0, forbidden)


@pytest.mark.parametrize("base", [compiled_rl.LossModule, TheirModule])
def test_what_a_mask_hides_may_be_anything(base: Any) -> None:
    spoilt = torch.where(MASK, LOSS, torch.nan).requires_grad_()
    found = base()._reduce_loss(spoilt, data(MASK), reduction="mean")
    found.backward()
    assert found.isfinite()
    assert spoilt.grad.isfinite().all()


@pytest.mark.parametrize("base", [compiled_rl.LossModule, TheirModule])
def test_nothing_valid_is_zero(base: Any) -> None:
    found = base()._reduce_loss(LOSS, data(torch.zeros_like(MASK)), reduction="mean")
    assert found == 0


@pytest.mark.parametrize("base", [compiled_rl.LossModule, TheirModule])
def test_masks_meet_and_have_the_axes_of_the_loss_or_less(base: Any) -> None:
    loss = torch.arange(12.0).reshape(4, 3)
    rows, steps = torch.tensor([True, True, False, True]), torch.ones(4, 3, 1, dtype=torch.bool)
    steps[0, 1] = False
    both = TensorDict({"shifted_valid": rows, "collector": {"mask": steps}}, [4])
    found = base()._reduce_loss(loss, both, reduction="sum")
    assert found == loss[rows].sum() - loss[0, 1]


def test_masks_of_other_shapes_and_reductions_of_other_names_are_refused() -> None:
    loss = compiled_rl.LossModule()
    with pytest.raises(ValueError, match=r"`mask` must have the shape \[6\] .*, got \[6, 2\]"):
        loss._reduce_loss(LOSS, data(torch.ones(6, 2, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"`weights` must have the shape \[6\] .*, got \[3\]"):
        loss._reduce_loss(LOSS, weights=WEIGHT[:3])
    with pytest.raises(ValueError, match=r"must be torch\.bool"):
        loss._reduce_loss(LOSS, data(WEIGHT))
    with pytest.raises(NotImplementedError, match=r"`reduction` must be in .*, got 'median'"):
        loss._reduce_loss(LOSS, reduction="median")


def test_the_mask_is_found_where_it_was_said() -> None:
    loss = compiled_rl.LossModule()
    loss.loss_mask_key = ("mine", "valid")
    assert loss._reduce_loss(LOSS, data(MASK, ("mine", "valid"))) == MASKED.sum() / 4
    with pytest.raises(KeyError, match="was not found"):
        loss._reduce_loss(LOSS, data(MASK))
    loss.loss_mask_key = None
    assert loss._reduce_loss(LOSS, data(MASK)) == LOSS.mean()
    with pytest.raises(ValueError, match="`loss_mask_key` must be 'auto', None or a key, got 3"):
        loss.loss_mask_key = 3


def test_a_mask_that_is_missing_is_missed_among_what_is_there() -> None:
    loss, data = compiled_rl.LossModule(loss_mask_key="valid"), TensorDict({"x": torch.ones(3)}, 3)
    data["next"] = {"reward": torch.ones(3)}
    with pytest.raises(KeyError, match=r"the mask 'valid' .* the keys are .'x', 'next_reward'"):
        loss._reduce_loss(torch.ones(3), data)
