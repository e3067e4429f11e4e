"""Every loss against TorchRL's: outputs and gradients on the same weights and the same data.

What TorchRL computes differently on purpose or by mistake is in docs/differences.md.
"""

import warnings
from collections.abc import Iterator
from itertools import cycle
from typing import Any, NamedTuple, Optional

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl import objectives as torchrl

from compiled_rl import losses
from tests.losses.peers import ACTION, LOSSES, gradients, networks, record, unestimated

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
every_loss = pytest.mark.parametrize("loss", LOSSES)

Arguments = dict[str, Any]
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


@pytest.fixture(autouse=True)
def _the_warnings_of_estimates_are_known() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def both(
    loss: str, actor: nn.Module, critic: nn.Module, arguments: Arguments, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Our loss and TorchRL's on the same networks, the coefficients in the dtype, too."""
    if loss == "KLPENPPOLoss":  # TorchRL's moves the weight between the loss and its gradient
        arguments = {"increment": 1.0, "decrement": 1.0, **arguments}
    ours = getattr(losses, loss)(actor, critic, **arguments)
    theirs = getattr(torchrl, loss)(actor, critic, **arguments)
    return ours.to(dtype), theirs.to(dtype)


def estimate_with(member: str, ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    ours.make_value_estimator(member, gamma=0.9)
    theirs.make_value_estimator(torchrl.ValueEstimators[member], gamma=0.9)
    ours.to(dtype)
    theirs.to(dtype)


def move_targets(ours: Any, theirs: Any) -> None:
    """Away from the networks that they are copies of, by the same on both sides."""
    for name in ("actor", "critic"):
        copy = getattr(ours, f"target_{name}_network", None)
        if copy is not None:
            for x in copy.buffers():
                x.add_(0.1)
            view = getattr(theirs, f"target_{name}_network_params")
            view.data.apply_(lambda x: x.add_(0.1))


def entropy_noise(ours: Any, shape: torch.Size, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """What TorchRL's draws after the seed, of a tanh-normal: samples first there, last here."""
    if "entropy_noise" not in ours.in_keys:
        return {}
    torch.manual_seed(seed)
    zeros = torch.zeros(ours.samples_mc_entropy, *shape, ACTION, dtype=dtype)
    return {"entropy_noise": torch.normal(zeros, torch.ones_like(zeros)).movedim(0, -1)}


def assert_parity(
    ours: Any, theirs: Any, data: TensorDictBase, given: bool = True, metrics: bool = True
) -> None:
    parameters = list(ours.parameters())
    dtype = parameters[0].dtype
    noise = entropy_noise(ours, data.batch_size, dtype, seed=2)
    data = data if given else unestimated(data)
    before = data.clone()
    torch.manual_seed(2)
    expected = theirs(data.clone())
    mine = ours(data.clone().update(noise))
    assert (data == before).all()
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for name, x in expected.items(include_nested=True, leaves_only=True):
        if metrics or str(name).startswith("loss_"):
            compare(mine, name, x, close)
    for name in expected.keys():
        if name.startswith("loss_"):
            a, b = (gradients(out[name], ours) for out in (mine, expected))
            assert [x is None for x in a] == [x is None for x in b], name
            torch.testing.assert_close(a, b, **close, msg=lambda m, n=name: f"{n}: {m}")


def compare(mine: TensorDictBase, name: Any, x: Tensor, close: dict[str, float]) -> None:
    if name in ("ESS", "explained_variance"):
        if x.numel() > 1:
            return  # one for each time there, one for all here
        x = x.squeeze()
    if name == "kl" or "composite_entropy" in name:
        x = x.mean()  # one for each step there
    torch.testing.assert_close(mine[name], x, **close, msg=lambda m: f"{name}: {m}")


@dtypes
@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_outputs_and_gradients(case: Case, dtype: torch.dtype) -> None:
    actor, critic = (network.to(dtype) for network in networks(case.head, case.trunk))
    ours, theirs = both(case.loss, actor, critic, case.arguments, dtype)
    if case.estimator:
        estimate_with(case.estimator, ours, theirs, dtype)
    move_targets(ours, theirs)
    assert_parity(ours, theirs, record(actor, case.shape, dtype), given=case.estimator is None)


MASKS: list[tuple[Any, Any, Arguments]] = [
    (("collector", "mask"), "auto", {}),
    ("shifted_valid", "auto", {"reduction": "sum"}),
    ("shifted_valid", "auto", {"reduction": "none", "clip_value": 0.2}),
    ("valid", "valid", {}),
    (("agent", "valid"), ("agent", "valid"), {"clip_value": 0.2}),
    ("auto", ("auto",), {}),
    ("shifted_valid", None, {}),
]


@every_loss
@pytest.mark.parametrize(("key", "loss_mask_key", "arguments"), MASKS, ids=str)
def test_masks(loss: str, key: Any, loss_mask_key: Any, arguments: Arguments) -> None:
    actor, critic = networks("normal", "twice")
    data = record(actor, (4, 5))
    data[key] = torch.rand(4, 5, 1) < 0.6
    pair = both(loss, actor, critic, arguments, torch.float32)
    for module in pair:
        module.loss_mask_key = loss_mask_key
    assert_parity(*pair, data, metrics=False)


KEYS = {"observation": ("agent", "observation"), "value": ("agent", "value")}
RENAMED = {
    "action": "a",
    "sample_log_prob": ("agent", "log_prob"),
    "advantage": ("agent", "advantage"),
    "value_target": "goal",
    "reward": ("agent", "gain"),
    "done": "stop",
    "terminated": ("agent", "end"),
}


@every_loss
@pytest.mark.parametrize("given", [True, False], ids=["given", "estimated"])
def test_keys_renamed_and_nested(loss: str, given: bool) -> None:
    actor, critic = networks("categorical", **KEYS)
    data = record(actor, (4, 5), **KEYS)
    arguments = {"clip_value": 0.2} if given else {}
    pair = both(loss, actor, critic, arguments, torch.float32)
    for module in pair:
        module.set_keys(**RENAMED, value=KEYS["value"])
        module.make_value_estimator(module.default_value_estimator, gamma=0.9)
    for name, key in RENAMED.items():
        within = data["next"] if name in ("reward", "done", "terminated") else data
        within.rename_key_("action_log_prob" if name == "sample_log_prob" else name, key)
    if not given:
        data = data.exclude(RENAMED["advantage"], RENAMED["value_target"], KEYS["value"])
    assert_parity(*pair, data)


@pytest.mark.parametrize("loss", ["PPOLoss", "ClipPPOLoss"])
def test_an_entropy_coefficient_for_each_head(loss: str) -> None:
    actor, critic = networks("composite")
    weights = {("agent", "move_entropy"): 0.3, ("agent", "choose_entropy"): 0.7}
    arguments = {"entropy_coeff": weights}
    assert_parity(*both(loss, actor, critic, arguments, torch.float32), record(actor, (4, 5)))


@every_loss
def test_a_truncated_normal(loss: str) -> None:
    """Without its divergence, which has no formula: samples estimate it, on both sides."""
    actor, critic = networks("truncated_normal")
    data = record(actor, (4, 5))
    arguments: Arguments = {"beta": 0.0} if loss == "KLPENPPOLoss" else {}
    pair = both(loss, actor, critic, arguments, torch.float32)
    if loss == "KLPENPPOLoss":
        for module in pair:
            module.samples_mc_kl = 4000
        means = [float(module(data)["kl"].mean()) for module in pair]
        assert means[0] == pytest.approx(means[1], rel=0.05)
    assert_parity(*pair, data, metrics=False)


@every_loss
def test_the_other_spellings(loss: str) -> None:
    actor, critic = networks()
    arguments = {} if loss == "ReinforceLoss" else {"entropy_coeff": 0.3, "critic_coeff": 0.4}
    _, theirs = both(loss, actor, critic, arguments, torch.float32)
    old = {name.replace("coeff", "coef"): x for name, x in arguments.items()}
    ours = getattr(losses, loss)(actor=actor, critic=critic, **old)
    if loss == "KLPENPPOLoss":
        ours.increment = ours.decrement = 1.0
    assert_parity(ours, theirs, record(actor, (4, 5)))


def test_a_value_that_is_delayed() -> None:
    actor, critic = networks()
    pair = both("ReinforceLoss", actor, critic, {"delay_value": True}, torch.float64)
    estimate_with("TD1", *pair, torch.float64)
    move_targets(*pair)
    assert_parity(*pair, record(actor.double(), (4, 5), torch.float64), given=False)


def test_agents_are_normalised_apart() -> None:
    """Advantages ``[*B, T, agents, 1]``, with the agents' dimension excluded."""
    actor, critic = networks()
    arguments = {"normalize_advantage": True, "normalize_advantage_exclude_dims": (-2,)}
    data = record(actor, (4, 5, 3))
    assert_parity(*both("ClipPPOLoss", actor, critic, arguments, torch.float32), data)


@every_loss
@pytest.mark.parametrize("team", [False, True], ids=["each", "team"])
def test_rewards_of_agents_and_of_their_team(loss: str, team: bool) -> None:
    actor, critic = networks()
    data = unestimated(record(actor, (4, 5, 2)))
    data.batch_size = data["next"].batch_size = (4, 5)
    for name in ("reward", "done", "terminated") if team else ():
        data["next", name] = data["next", name][:, :, 0]
    pair = both(loss, actor, critic, {}, torch.float32)
    estimate_with("MAGAE", *pair, torch.float32)
    assert_parity(*pair, data)


@pytest.mark.parametrize("dtarg", [1e-4, 0.05, 10.0], ids=["raised", "kept", "lowered"])
def test_beta_moves_by_the_same_rule(dtarg: float) -> None:
    actor, critic = networks()
    data = record(actor, (4, 5))
    arguments = {"dtarg": dtarg, "beta": 2.0, "increment": 1.5, "decrement": 0.75}
    ours, theirs = both("KLPENPPOLoss", actor, critic, arguments, torch.float32)
    if dtarg == 0.05:  # in the middle of the band that is left alone
        ours.dtarg = theirs.dtarg = float(theirs(data)["kl"].mean())
        theirs.reset()
    for _ in range(3):
        mine, expected = ours(data), theirs(data)
        torch.testing.assert_close(mine["loss_objective"], expected["loss_objective"])
        torch.testing.assert_close(ours.beta, theirs.beta)
    ours.reset()
    assert ours.beta == 2.0
