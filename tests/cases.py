"""One row a public function and way of calling it; ``test_contract.py`` does the rest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from compiled_rl import functional
from tests.oracles import action_values, estimators, formulas

ACTIONS = 3
NVEC = [2, 3]
ORACLES = (estimators, formulas, action_values)


class Case(NamedTuple):
    """A function, its oracle, and its inputs: ``name: (kind, axes)``.

    Kinds are those of ``draw``; axes are ``B`` (batch), ``T`` (time), ``A`` (actions,
    agents), ``K`` (categorical actions side by side) and ``N`` (the classes of all of them).
    """

    name: str
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    inputs: dict[str, tuple[str, str]]
    differentiable: tuple[str, ...] = ()
    scalars: dict[str, float] = {}  # noqa: RUF012
    fixed: dict[str, Any] = {}  # noqa: RUF012
    per_row: bool = True
    scriptable: bool = True

    @property
    def dynamic(self) -> tuple[str, ...]:
        """The leading axes that may have any size."""
        axes = next(iter(self.inputs.values()))[1]
        return ("batch", "time") if "T" in axes else ("batch",)

    def draw(
        self, batch: int, time: int, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> dict[str, Tensor]:
        """Fresh inputs."""
        generator = Generator().manual_seed(seed + 100 * batch + time)
        sizes = {"B": batch, "T": time, "A": ACTIONS, "K": len(NVEC), "N": sum(NVEC)}
        return {
            name: draw(kind, [sizes[axis] for axis in axes.split()], dtype, generator)
            for name, (kind, axes) in self.inputs.items()
        }

    def call(self, function: Callable[..., Any], inputs: dict[str, Tensor]) -> tuple[Any, ...]:
        """The function's outputs, always as a tuple."""
        outputs = function(**inputs, **self.scalars, **self.fixed)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def draw(kind: str, shape: list[int], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Random values of a kind."""
    if kind == "flag":
        return torch.rand(shape, generator=generator) < 0.3
    if kind == "mask":
        mask = torch.rand(shape, generator=generator) < 0.7
        mask[..., -1] = True  # something is always valid
        return mask
    if kind == "index":
        return torch.randint(ACTIONS, shape, generator=generator)
    if kind == "binary":
        return torch.randint(2, shape, generator=generator)
    if kind == "multi-one-hot":
        parts = [draw("one-hot", [*shape[:-1], n], dtype, generator) for n in NVEC]
        return torch.cat(parts, -1)
    if kind == "one-hot":
        index = torch.randint(shape[-1], shape[:-1], generator=generator)
        return torch.nn.functional.one_hot(index, shape[-1]).to(dtype)
    if kind == "probs":
        return torch.randn(shape, generator=generator, dtype=dtype).softmax(-1)
    if kind == "uniform":
        return torch.rand(shape, generator=generator, dtype=dtype)
    normal = torch.randn(shape, generator=generator, dtype=dtype)
    if kind == "normal":
        return normal
    positive = normal.abs() / 2 + 0.5
    return {"positive": positive, "below": -positive, "above": 1 + positive}[kind]


def _of(kind: str, axes: str, *names: str) -> dict[str, tuple[str, str]]:
    return dict.fromkeys(names, (kind, axes))


_FLAGS = _of("flag", "B T", "terminated", "done")
_RETURN = _of("normal", "B T", "reward", "next_value") | _FLAGS
_SEQUENCE = _of("normal", "B T", "reward", "value", "next_value") | _FLAGS
_LOG_PROBS = _of("normal", "B T", "log_prob", "behavior_log_prob")
_Q_VALUES = _of("normal", "B T", "reward", "action_value", "next_value") | _FLAGS | _LOG_PROBS
_TEAM = _of("normal", "B T", "reward") | _of("normal", "B T A", "value", "next_value") | _FLAGS
_ROLLING = _of("uniform", "B T", "gamma", "lmbda")
_MASK = {"mask": ("mask", "B")}
_MASK_T = {"mask": ("mask", "B T")}
_NORMAL = {"loc": ("normal", "B A"), "scale": ("positive", "B A")}
_ACTION = {"action": ("normal", "B A")}
_OTHER = {"other_loc": ("normal", "B A"), "other_scale": ("positive", "B A")}
_LOGITS = {"logits": ("normal", "B A")}
_LOW_HIGH = {"low": ("below", "B A"), "high": ("above", "B A")}
_INSIDE = {"action": ("uniform", "B A")}
_BOUNDED = ("loc", "scale", "low", "high")
_MANY = {"logits": ("normal", "B N")}
_HEADS = {"fixed": {"nvec": NVEC}}
_RATIO = _of("normal", "B", "log_prob", "behavior_log_prob")
_SURROGATE = _RATIO | _of("normal", "B", "advantage")
_WEIGHTED = _SURROGATE | _of("normal", "B", "log_weight")
_ATOMS = {"support": torch.linspace(-1.5, 2.0, ACTIONS, dtype=torch.float64)}
_MIXED = (
    _of("normal", "B A", "local_value")
    | _of("normal", "B A K", "hidden_weight")
    | _of("normal", "B K", "hidden_bias", "last_weight")
    | _of("normal", "B", "last_bias")
)
_KL = {"kl": ("positive", "B")}
_PROXIMAL = _RATIO | _of("normal", "B", "proximal_log_prob")
_VALUES = _of("normal", "B", "value", "value_target")
_COPY = _of("normal", "B A", "target", "source")


def _case(
    name: str,
    inputs: dict[str, tuple[str, str]],
    differentiable: tuple[str, ...] = (),
    **others: Any,
) -> Case:
    """A row; the function and its oracle bear the first word of the name."""
    function = name.split()[0]
    return Case(
        name,
        _CRITICS_LAST.get(function) or getattr(functional, function),
        next(getattr(home, function) for home in ORACLES if hasattr(home, function)),
        inputs,
        differentiable,
        **others,
    )


def soft_value(action_value: Tensor, log_prob: Tensor, alpha: float = 1.0) -> Tensor:
    """With the critics last: the first axis of a row's inputs is the batch."""
    return functional.soft_value(action_value.movedim(-1, 0), log_prob, alpha)


def categorical_soft_value(action_value: Tensor, logits: Tensor, alpha: float = 1.0) -> Tensor:
    """Likewise."""
    return functional.categorical_soft_value(action_value.movedim(-1, 0), logits, alpha)


_CRITICS_LAST = {f.__name__: f for f in (soft_value, categorical_soft_value)}
_RECURRENCE = _of("normal", "B T", "x") | _of("uniform", "B T", "decay")
_SCALARS = {"gamma": 0.97, "lmbda": 0.9}
_EPSILON = {"clip_epsilon_low": 0.3, "clip_epsilon_high": 0.2}
_BOUNDS = {"low": -0.4, "high": 0.7}
_BETA = {"target_kl": 0.4, "increment": 1.7, "decrement": 0.6}
_RATE = {
    "target_kl": 0.4,
    "factor": 1.3,
    "min_learning_rate": 0.2,
    "max_learning_rate": 0.9,
}
_ENDS = {"start": 0.3, "end": 0.02}
_FLOW = ("reward", "value", "next_value")
_AHEAD = ("reward", "next_value")
_GAMMA = {"gamma": 0.97}
_THREE = {"n_steps": 3}
_THRESHOLDS = {"gamma": 0.97, "lmbda": 0.9, "rho_thresh": 1.2, "c_thresh": 0.8}
_ROLLED = {"scriptable": False}
_BATCHWISE = {"per_row": False}


def _masked(name: str, inputs: dict[str, tuple[str, str]], *others: Any, **more: Any) -> list[Case]:
    """A row without a mask and one with it."""
    return [
        _case(name, inputs, *others, **more),
        _case(f"{name} masked", inputs | _MASK_T, *others, **more),
    ]


ESTIMATORS = [
    *_masked(
        "discounted_return",
        _of("normal", "B T", "reward") | _of("flag", "B T", "done"),
        ("reward",),
        scalars=_GAMMA,
    ),
    *_masked(
        "discounted_advantage",
        _of("normal", "B T", "reward", "value") | _of("flag", "B T", "done"),
        ("reward", "value"),
        scalars=_GAMMA,
    ),
    *_masked("n_step_return", _RETURN, _AHEAD, scalars=_GAMMA, fixed=_THREE),
    *_masked("n_step_advantage", _SEQUENCE, _FLOW, scalars=_GAMMA, fixed=_THREE),
    *_masked(
        "td0_return",
        _of("normal", "B T", "reward", "next_value") | _of("flag", "B T", "terminated"),
        _AHEAD,
        scalars=_GAMMA,
    ),
    *_masked(
        "td0_advantage",
        _of("normal", "B T", "reward", "value", "next_value") | _of("flag", "B T", "terminated"),
        _FLOW,
        scalars=_GAMMA,
    ),
    *_masked("td1_return", _RETURN, _AHEAD, scalars=_GAMMA),
    *_masked("td1_advantage", _SEQUENCE, _FLOW, scalars=_GAMMA),
    *_masked("td_lambda_return", _RETURN, _AHEAD, scalars=_SCALARS),
    *_masked("td_lambda_advantage", _SEQUENCE, _FLOW, scalars=_SCALARS),
    *_masked("gae", _SEQUENCE, _FLOW, scalars=_SCALARS),
    *_masked(
        "multi_agent_gae", _TEAM, _FLOW, scalars=_SCALARS, fixed={"time_dim": 1, "agent_dim": -1}
    ),
    *_masked(
        "vtrace",
        _SEQUENCE | _LOG_PROBS,
        (*_FLOW, *_LOG_PROBS),
        scalars=_THRESHOLDS,
    ),
    *_masked(
        "retrace",
        _Q_VALUES,
        ("reward", "action_value", "next_value", *_LOG_PROBS),
        scalars=_SCALARS,
    ),
    *_masked("upgo_return", _RETURN, _AHEAD, scalars=_GAMMA),
    *_masked(
        "td_lambda_return rolling", _RETURN | _ROLLING, (*_AHEAD, "gamma", "lmbda"), **_ROLLED
    ),
    *_masked("gae rolling", _SEQUENCE | _ROLLING, (*_FLOW, "gamma", "lmbda"), **_ROLLED),
    *_masked(
        "vtrace rolling",
        _SEQUENCE | _LOG_PROBS | _ROLLING,
        (*_FLOW, *_LOG_PROBS, "gamma", "lmbda"),
        **_ROLLED,
    ),
]

CASES = [
    *ESTIMATORS,
    _case("linear_recurrence", _RECURRENCE, ("x", "decay")),
    _case("linear_recurrence masked", _RECURRENCE | _MASK_T, ("x", "decay")),
    _case("linear_recurrence forward", _RECURRENCE, ("x", "decay"), fixed={"reverse": False}),
    _case(
        "policy_gradient", _of("normal", "B", "log_prob", "advantage"), ("log_prob", "advantage")
    ),
    _case("ppo_clip", _SURROGATE, tuple(_SURROGATE), scalars=_EPSILON),
    _case("ppo_clip weighted", _WEIGHTED, tuple(_WEIGHTED), scalars=_EPSILON),
    _case("ppo_surrogate", _SURROGATE, tuple(_SURROGATE)),
    _case("ppo_surrogate weighted", _WEIGHTED, tuple(_WEIGHTED)),
    _case("ppo_kl_penalty", _SURROGATE | _KL, (*_SURROGATE, "kl"), scalars={"beta": 0.7}),
    _case("ppo_kl_penalty weighted", _WEIGHTED | _KL, (*_WEIGHTED, "kl"), scalars={"beta": 0.7}),
    _case("importance_correction", _PROXIMAL),
    _case("importance_correction bounded", _PROXIMAL, scalars={"max_importance_ratio": 1.5}),
    *[
        _case(f"distance_loss {kind}", _VALUES, tuple(_VALUES), fixed={"loss_function": kind})
        for kind in ("l1", "l2", "smooth_l1")
    ],
    _case("value_loss", _VALUES, ("value", "value_target")),
    _case("value_loss l1", _VALUES, ("value", "value_target"), fixed={"loss_function": "l1"}),
    _case("value_loss l2", _VALUES, ("value", "value_target"), fixed={"loss_function": "l2"}),
    _case(
        "value_loss clipped",
        _VALUES | _of("normal", "B", "old_value"),
        ("value", "value_target", "old_value"),
        scalars={"clip_value": 0.3},
    ),
    _case(
        "soft_value",
        _of("normal", "B K", "action_value") | _of("normal", "B", "log_prob"),
        ("action_value", "log_prob"),
        scalars={"alpha": 0.3},
    ),
    _case(
        "categorical_soft_value",
        _of("normal", "B A K", "action_value") | _LOGITS,
        ("action_value", "logits"),
        scalars={"alpha": 0.3},
    ),
    _case(
        "temperature_loss",
        _of("normal", "B", "log_prob"),
        scalars={"log_alpha": -1.2, "target_entropy": 0.4},
    ),
    _case("normal_log_prob", _ACTION | _NORMAL, ("action", "loc", "scale")),
    _case("normal_entropy", _NORMAL, ("scale",)),
    _case("normal_kl", _NORMAL | _OTHER, ("loc", "scale", "other_loc", "other_scale")),
    _case("normal_mode", _NORMAL, ("loc",)),
    _case("normal_sample", _NORMAL | _of("normal", "B A", "noise"), ("loc", "scale", "noise")),
    _case("categorical_log_prob", {"action": ("index", "B")} | _LOGITS, ("logits",)),
    _case("categorical_log_prob one-hot", {"action": ("one-hot", "B A")} | _LOGITS, ("logits",)),
    _case("categorical_entropy", _LOGITS, ("logits",)),
    _case(
        "categorical_kl", _LOGITS | _of("normal", "B A", "other_logits"), ("logits", "other_logits")
    ),
    _case("categorical_mode", _LOGITS),
    _case("categorical_sample", _LOGITS | _of("uniform", "B A", "noise")),
    _case("tanh_normal_log_prob", _INSIDE | _NORMAL | _LOW_HIGH, ("action", *_BOUNDED)),
    _case("tanh_normal_mode", {"loc": ("normal", "B A")} | _LOW_HIGH, ("loc", "low", "high")),
    *[
        _case(
            name,
            _NORMAL | _of("normal", "B A", "noise") | _LOW_HIGH,
            (*_BOUNDED, "noise"),
        )
        for name in ("tanh_normal_sample", "tanh_normal_sample_with_log_prob")
    ],
    _case("truncated_normal_log_prob", _INSIDE | _NORMAL | _LOW_HIGH, ("action", *_BOUNDED)),
    _case("truncated_normal_entropy", _NORMAL | _LOW_HIGH, _BOUNDED),
    _case("truncated_normal_mode", {"loc": ("normal", "B A")} | _LOW_HIGH, ("loc", "low", "high")),
    _case(
        "truncated_normal_sample",
        _NORMAL | _of("uniform", "B A", "noise") | _LOW_HIGH,
        (*_BOUNDED, "noise"),
    ),
    _case(
        "deterministic_log_prob",
        _of("normal", "B A", "action", "param"),
        scalars={"atol": 1.5, "rtol": 0.5},
    ),
    _case(
        "smoothed_action",
        _of("normal", "B A", "action", "noise") | _LOW_HIGH,
        ("action", "noise", "low", "high"),
        scalars={"policy_noise": 0.4, "noise_clip": 0.3},
    ),
    _case("bernoulli_log_prob", {"action": ("binary", "B A")} | _LOGITS, ("logits",)),
    _case("bernoulli_entropy", _LOGITS, ("logits",)),
    _case(
        "bernoulli_kl", _LOGITS | _of("normal", "B A", "other_logits"), ("logits", "other_logits")
    ),
    _case("bernoulli_mode", _LOGITS),
    _case("bernoulli_sample", _LOGITS | _of("uniform", "B A", "noise")),
    _case(
        "multi_categorical_log_prob", {"action": ("binary", "B K")} | _MANY, ("logits",), **_HEADS
    ),
    _case(
        "multi_categorical_log_prob one-hot",
        {"action": ("multi-one-hot", "B N")} | _MANY,
        ("logits",),
        **_HEADS,
    ),
    _case("multi_categorical_entropy", _MANY, ("logits",), **_HEADS),
    _case(
        "multi_categorical_kl",
        _MANY | _of("normal", "B N", "other_logits"),
        ("logits", "other_logits"),
        **_HEADS,
    ),
    _case("multi_categorical_mode", _MANY, **_HEADS),
    _case("multi_categorical_sample", _MANY | _of("uniform", "B N", "noise"), **_HEADS),
    _case(
        "chosen_action_value",
        {"action_value": ("normal", "B A"), "action": ("index", "B")},
        ("action_value",),
    ),
    _case(
        "chosen_action_value multi-one-hot",
        {"action_value": ("normal", "B N"), "action": ("multi-one-hot", "B N")},
        ("action_value",),
    ),
    _case("expected_action_value", {"logits": ("normal", "B A K")}, ("logits",), fixed=_ATOMS),
    _case(
        "project_categorical",
        _of("normal", "B", "reward")
        | {"next_probs": ("probs", "B A"), "terminated": ("flag", "B")},
        ("next_probs",),
        scalars={"gamma": 0.9},
        fixed=_ATOMS,
    ),
    _case(
        "project_categorical a discount a sample",
        _of("normal", "B", "reward")
        | {"next_probs": ("probs", "B A"), "terminated": ("flag", "B"), "gamma": ("uniform", "B")},
        ("next_probs",),
        fixed=_ATOMS,
        scriptable=False,
    ),
    _case(
        "categorical_cross_entropy",
        _LOGITS | {"target_probs": ("probs", "B A")},
        ("logits", "target_probs"),
    ),
    _case("vdn_mix", _of("normal", "B A", "local_value"), ("local_value",)),
    _case("monotonic_mix", _MIXED, tuple(_MIXED)),
    _case("reduce", _of("normal", "B", "x"), ("x",), **_BATCHWISE),
    _case("reduce mean masked", _of("normal", "B", "x") | _MASK, ("x",), **_BATCHWISE),
    _case(
        "reduce sum masked",
        _of("normal", "B", "x") | _MASK,
        ("x",),
        fixed={"reduction": "sum"},
        **_BATCHWISE,
    ),
    _case(
        "reduce none masked",
        _of("normal", "B", "x") | _MASK,
        ("x",),
        fixed={"reduction": "none"},
    ),
    _case(
        "reduce weighted",
        _of("normal", "B", "x") | _of("positive", "B", "weight"),
        ("x", "weight"),
        **_BATCHWISE,
    ),
    _case(
        "reduce weighted masked",
        _of("normal", "B", "x") | _of("positive", "B", "weight") | _MASK,
        ("x", "weight"),
        **_BATCHWISE,
    ),
    _case(
        "reduce weighted none",
        _of("normal", "B", "x") | _of("positive", "B", "weight"),
        ("x", "weight"),
        fixed={"reduction": "none"},
    ),
    _case("variance", _of("normal", "B", "x"), ("x",), **_BATCHWISE),
    _case("variance masked", _of("normal", "B", "x") | _MASK, ("x",), **_BATCHWISE),
    _case("standardize", _of("normal", "B", "x"), ("x",), **_BATCHWISE),
    _case("standardize masked", _of("normal", "B", "x") | _MASK, ("x",), **_BATCHWISE),
    _case(
        "standardize exclude_dims",
        _of("normal", "B T A", "x") | {"mask": ("mask", "B T A")},
        ("x",),
        fixed={"exclude_dims": [-1]},
        **_BATCHWISE,
    ),
    _case("explained_variance", _VALUES, **_BATCHWISE),
    _case("explained_variance masked", _VALUES | _MASK, **_BATCHWISE),
    _case("effective_sample_size", _of("normal", "B", "log_ratio"), **_BATCHWISE),
    _case("effective_sample_size masked", _of("normal", "B", "log_ratio") | _MASK, **_BATCHWISE),
    _case("kl_k1", _RATIO),
    _case("kl_k3", _RATIO),
    _case("next_beta", _of("uniform", "B", "beta", "kl"), ("beta",), scalars=_BETA),
    _case(
        "kl_adaptive_learning_rate",
        _of("uniform", "B", "learning_rate", "kl"),
        ("learning_rate",),
        scalars=_RATE,
    ),
    _case("soft_update", _COPY, ("target", "source"), scalars={"tau": 0.3}),
    _case(
        "hard_update due", _COPY, ("target", "source"), scalars={"counter": 7.0, "interval": 7.0}
    ),
    _case(
        "hard_update early", _COPY, ("target", "source"), scalars={"counter": 6.0, "interval": 7.0}
    ),
    *[
        _case(name, _of("uniform", "B", "fraction"), ("fraction",), scalars=_ENDS)
        for name in ("linear_schedule", "exponential_schedule", "cosine_schedule")
    ],
    _case("clip_fraction", _of("normal", "B", "x"), scalars=_BOUNDS, **_BATCHWISE),
    _case("clip_fraction masked", _of("normal", "B", "x") | _MASK, scalars=_BOUNDS, **_BATCHWISE),
]
_NAMES = {case.name for case in CASES}


def is_nearly_another(case: Case) -> bool:
    """Whether it is a recurrence that another row has with a mask, or less the value."""
    masked_too = f"{case.name} masked" in _NAMES
    return "time" in case.dynamic and (masked_too or "_advantage" in case.name)
