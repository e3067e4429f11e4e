"""Every loss in one graph, estimator inside: six batch sizes, four values of each number."""

from typing import Any, NamedTuple

import pytest
from torch import nn

from compiled_rl.testing import assert_compiles_once
from tests.losses.peers import keywords, make, record

SIZES = (2, 3, 5, 8, 13, 21)
VALUES = (0.1, 0.15, 0.2, 0.25)
INCREMENTS = (1.5, 2.0, 3.0, 4.0)


class Row(NamedTuple):
    name: str
    form: str
    head: str
    arguments: dict[str, Any]
    trunk: Any = None
    estimator: str = "gae"


ROWS = [
    Row("A2CLoss", "keywords", "normal", {"clip_value": 0.2}),
    Row("A2CLoss", "tensordict", "composite", {}, "once", "td_lambda"),
    Row("PPOLoss", "keywords", "categorical", {"normalize_advantage": True}, None, "vtrace"),
    Row("PPOLoss", "tensordict", "one_hot", {"delay_actor": True, "max_importance_ratio": 2.0}),
    Row("ClipPPOLoss", "keywords", "tanh_normal", {"clip_epsilon": (0.1, 0.2)}, "twice", "td0"),
    Row("ClipPPOLoss", "tensordict", "normal", {"separate_losses": True}, "once"),
    Row("KLPENPPOLoss", "keywords", "normal", {"clip_value": 0.2}),
    Row("KLPENPPOLoss", "tensordict", "composite", {"separate_losses": True}, "twice", "td1"),
    Row("ReinforceLoss", "keywords", "categorical", {"delay_value": True}, None, "td1"),
    Row("ReinforceLoss", "tensordict", "tanh_normal", {"reduction": "none"}, "twice"),
]


class Discounted(nn.Module):
    """A loss whose estimator's discount can be set as a coefficient."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, data: Any) -> Any:
        return self.loss(data)

    @property
    def gamma(self) -> Any:
        return self.loss.value_estimator.gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        self.loss.value_estimator.gamma = value


def sequences(loss: Any) -> list[Any]:
    batches = [record(loss.actor_network, (n, 4)) for n in SIZES]
    return [batch.exclude("advantage", "value_target") for batch in batches]


def once_a_loss() -> list[Any]:
    """Each loss in one form, each estimator once; the other form is slow."""
    fast = {"A2CLoss": "tensordict", "PPOLoss": "keywords", "KLPENPPOLoss": "tensordict"}
    return [
        pytest.param(
            row,
            id=f"{row.name}-{row.form}-{row.head}",
            marks=[] if fast.get(row.name, "keywords") == row.form else [pytest.mark.slow],
        )
        for row in ROWS
    ]


@pytest.mark.parametrize("row", once_a_loss())
def test_compiles_whole_and_seldom(row: Row) -> None:
    loss = make(row.name, row.head, row.trunk, **row.arguments).make_value_estimator(row.estimator)
    batches = sequences(loss)
    if row.form == "keywords":
        batches = [keywords(loss, batch) for batch in batches]
    numbers = [name for name, x in loss._buffers.items() if x is not None]
    values = {name: INCREMENTS if name == "increment" else VALUES for name in numbers}
    assert_compiles_once(loss, batches, coefficients=values)


def test_a_discount_compiles_no_new_graph() -> None:
    loss = make("A2CLoss").make_value_estimator("gae")
    values = {"gamma": (0.8, 0.9, 0.95, 1.0)}
    assert_compiles_once(Discounted(loss), sequences(loss), coefficients=values)
