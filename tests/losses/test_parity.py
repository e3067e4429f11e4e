"""Every loss against TorchRL's: outputs and gradients on the same weights and the same data.

What TorchRL computes differently on purpose or by mistake is in docs/differences.md.
"""

from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple, Optional

import pytest
import torch

from tests.losses.parity import Arguments, assert_parity, both, estimate_with, move_targets
from tests.losses.peers import LOSSES, networks, record

# Those of TorchRL's estimates, which are known.
pytestmark = pytest.mark.filterwarnings("ignore")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])

ANY: list[Arguments] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"functional": False},
    {"separate_losses": True},
    {"loss_critic_type": "l1"},
    {"loss_critic_type": "l2", "clip_value": 0.3},
    {"clip_value": 0.2, "reduction": "none"},
    {"functional": False, "clip_value": 0.2},
    {"separate_losses": True, "loss_critic_type": "l2", "reduction": "sum"},
]
ENTROPY: list[Arguments] = [
    {"entropy_bonus": False},
    {"entropy_coeff": 0.5, "critic_coeff": 0.3},
    {"samples_mc_entropy": 3, "entropy_coeff": 0.2},
]
PPO: list[Arguments] = [
    {"normalize_advantage": True},
    {"normalize_advantage": True, "normalize_advantage_exclude_dims": (0,)},
    {"delay_actor": True},
    {"max_importance_ratio": 1.1},
    {"delay_actor": True, "max_importance_ratio": 0.9, "reduction": "none"},
    {"log_explained_variance": False},
    {"critic_coeff": 0.0},
]
OWN: dict[str, list[Arguments]] = {
    "A2CLoss": [*ENTROPY, {"entropy_coeff": 0.0}, {"critic_coeff": None}],
    "PPOLoss": [*ENTROPY, *PPO],
    "ClipPPOLoss": [
        *ENTROPY,
        *PPO,
        {"clip_epsilon": (0.05, 0.3)},
        {"clip_epsilon": 0.05, "clip_value": True},
        {"clip_epsilon": (0.1, 0.2), "delay_actor": True},
    ],
    "KLPENPPOLoss": [*ENTROPY, *PPO, {"beta": 3.0}],
    "ReinforceLoss": [{"delay_value": True}],
}
# Lengths without a common divisor, so that each is met with each other.
LAYOUTS = [
    ((7,), None),
    ((4, 5), "GAE"),
    ((4, 5), None),
    ((4, 5), "TD0"),
    ((2, 3, 4), None),
    ((4, 5), "TD1"),
    ((4, 5), "TDLambda"),
]
FIVE = ("normal", "tanh_normal", "categorical", "one_hot", "composite")
TRUNKS = (None, "twice", "once")


class Case(NamedTuple):
    loss: str
    arguments: Arguments
    head: str
    shape: tuple[int, ...]
    estimator: Optional[str]
    trunk: Optional[str]

    def __str__(self) -> str:
        options = ",".join(f"{name}={x}" for name, x in self.arguments.items())
        words = (self.loss, options or "defaults", self.head, self.estimator, self.trunk)
        return "-".join([*map(str, words), "x".join(map(str, self.shape))])


def cases() -> Iterator[Case]:
    heads, layouts, trunks = cycle(FIVE), cycle(LAYOUTS), cycle(TRUNKS)
    for loss in LOSSES:
        for arguments in [*ANY, *OWN[loss]]:
            head, (shape, estimator), trunk = next(heads), next(layouts), next(trunks)
            if arguments.get("separate_losses") and trunk is None:
                trunk = "twice"
            finds_hidden = not estimator and loss not in ("A2CLoss", "ReinforceLoss")
            if trunk == "once" and (not finds_hidden or "delay_actor" in arguments):
                trunk = "twice"  # TorchRL's finds no hidden state, or that of the other actor
            if estimator and "clip_value" in arguments:
                estimator = None  # TorchRL's clips around the value that it has just computed
            if head == "composite" and loss in ("A2CLoss", "KLPENPPOLoss"):
                head = "normal"  # TorchRL's takes one head; its divergence is sampled
            if len(shape) == 1 and "normalize_advantage_exclude_dims" in arguments:
                shape = (4, 5)
            yield Case(loss, arguments, head, shape, estimator, trunk)


@dtypes
@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_outputs_and_gradients(case: Case, dtype: torch.dtype) -> None:
    actor, critic = (network.to(dtype) for network in networks(case.head, case.trunk))
    ours, theirs = both(case.loss, actor, critic, case.arguments, dtype)
    if case.estimator:
        estimate_with(case.estimator, ours, theirs, dtype)
    move_targets(ours, theirs)
    assert_parity(ours, theirs, record(actor, case.shape, dtype), given=case.estimator is None)
