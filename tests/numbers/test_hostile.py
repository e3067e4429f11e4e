"""Numbers that ruin an update: what they give is finite, with a finite gradient, or documented."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import pytest
import torch
from torch import Tensor

from compiled_rl import estimators, losses
from compiled_rl.functional import categorical_kl, categorical_sample, standardize
from tests.cases import CASES, Case
from tests.modules.family_rows import ROWS as FAMILIES
from tests.numbers.owners import (
    ESTIMATORS,
    LOC,
    LOSSES,
    SCALE,
    VALUE,
    Data,
    estimator,
    every_loss,
    is_estimator,
    is_loss,
    on_policy,
    recorded,
    sequences,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*no updater was made of its targets")


def signs(x: Tensor) -> Tensor:
    """One and minus one by turns."""
    return (1 - 2 * (torch.arange(x.numel()) % 2)).reshape(x.shape).to(x.dtype)


# ---- functions -----------------------------------------------------------------------------------

EXTREMES: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "normal": (
        lambda x: 1e4 * signs(x),
        lambda x: 200 * signs(x),
        lambda x: 1e6 * signs(x),
        torch.zeros_like,
        lambda x: torch.full_like(x, 1e6),
    ),
    "positive": (lambda x: 1e-8 * x, lambda x: 1e8 * x),
    "uniform": (torch.zeros_like, lambda x: torch.full_like(x, 1 - 2**-24)),
    "probs": (lambda x: (x == x.max(-1, keepdim=True).values).to(x.dtype),),
}
# What a docstring calls infinite, by function: the inputs of which one makes it so.
INFINITE = {
    "ppo_surrogate": ("log_prob", "behavior_log_prob", "log_weight"),
    "ppo_kl_penalty": ("log_prob", "behavior_log_prob", "log_weight"),
    "ppo_clip": ("log_prob", "behavior_log_prob", "log_weight"),
    "kl_k3": ("log_prob", "behavior_log_prob"),
    "deterministic_log_prob": ("action", "param"),
    "truncated_normal_log_prob": (),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_function_of_extremes_is_finite_or_documented(case: Case) -> None:
    """One input at a time; then all of those that may have any sign."""
    function = case.name.split()[0]
    for batch, time in ((4, 6), (1, 1)):
        inputs = case.draw(batch, time, torch.float32)
        for name, (kind, _) in case.inputs.items():
            if name in INFINITE.get(function, ()):
                continue
            for extreme in EXTREMES.get(kind, ()):
                assert_finite(case, inputs | {name: extreme(inputs[name])})
        free = [name for name, (kind, _) in case.inputs.items() if kind == "normal"]
        if function not in INFINITE:
            assert_finite(case, inputs | {name: 1e4 * inputs[name] for name in free})


def assert_finite(case: Case, inputs: dict[str, Tensor]) -> None:
    given = {k: x.clone().requires_grad_(k in case.differentiable) for k, x in inputs.items()}
    outputs = case.call(case.function, given)
    for x in outputs:
        assert x.isfinite().all(), (case.name, x)
    wanted = [given[name] for name in case.differentiable]
    if wanted:
        total = sum(x.sum() for x in outputs if x.requires_grad)
        for name, grad in zip(
            case.differentiable,
            torch.autograd.grad(total, wanted, materialize_grads=True),
            strict=True,
        ):
            assert grad.isfinite().all(), (case.name, name, grad)


def test_what_one_policy_forbids_and_the_other_never_does_makes_no_divergence() -> None:
    """It is zero times infinity, where the probability is zero by rounding."""
    never = torch.tensor([[0.0, -1e4, 1.0]])
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
    kl = categorical_kl(never, logits)
    assert kl.item() == pytest.approx(0, abs=1e-7)
    (grad,) = torch.autograd.grad(kl.sum(), logits)
    assert grad.isfinite().all()
    assert categorical_kl(torch.zeros(1, 3), logits).item() == torch.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_noise_of_zero_never_draws_a_forbidden_action(dtype: torch.dtype) -> None:
    """Uniform noise is zero once in 2^24 numbers of float32, and in 2^8 of bfloat16."""
    logits = torch.tensor([-torch.inf, -torch.inf, 0.0], dtype=dtype)
    assert categorical_sample(logits, torch.zeros(3, dtype=dtype)) == 2


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123456.789, 1e6 + 0.3, -1e30])
@pytest.mark.parametrize("count", [1, 24, 1000])
def test_equal_values_have_no_deviation(value: float, count: int) -> None:
    """However their mean is rounded; a single one has none, and is left."""
    x = torch.full((count,), value)
    assert torch.equal(standardize(x), torch.zeros_like(x) if count > 1 else x)


# ---- losses --------------------------------------------------------------------------------------

OBSERVATIONS = ("observation", ("agents", "observation"))
ENTERED = (("next", "observation"), ("next", "agents", "observation"))


def seen(part: Any, value: Callable[[Tensor], Tensor], *keys: Any) -> Callable[[Data], Data]:
    """What networks give: of a part of the observations."""

    def change(data: Data) -> Data:
        changed = {}
        for key in keys or OBSERVATIONS + ENTERED:
            if key in data:
                changed[key] = data[key].clone()
                changed[key][..., part] = value(changed[key][..., part])
        return data | changed

    return change


def given(key: Any, value: Callable[[Tensor], Tensor]) -> Callable[[Data], Data]:
    """What was recorded under a key, if it was, for agents or not."""

    def change(data: Data) -> Data:
        keys = [k for k in (key, ("agents", key)) if k in data]
        return data | {k: value(data[k]) for k in keys if data[k].is_floating_point()}

    return change


HOSTILE: dict[str, Callable[[Data], Data]] = {
    "log-ratios of -200": given("action_log_prob", lambda x: x + 200),
    "log-ratios of -10,000": given("action_log_prob", lambda x: x + 1e4),
    "advantages of 1e6": given("advantage", lambda x: 1e6 * x),
    "advantages all the same": given("advantage", lambda x: torch.full_like(x, 0.1)),
    "advantages of zero": given("advantage", torch.zeros_like),
    "value targets of 1e6": given("value_target", lambda x: 1e6 * x),
    "rewards of 1e8": given(("next", "reward"), lambda x: 1e8 * x),
    "weights of zero": given("priority_weight", torch.zeros_like),
    "actions on the bounds": given("action", signs),
    "actions far away": given("action", lambda x: 1e4 * signs(x)),
    "deviations of 1e-8": seen(SCALE, lambda x: 1e-8 * x),
    "deviations of 1e-8 from one": seen(SCALE, lambda x: 1e-8 * x, *OBSERVATIONS),
    "deviations of 1e8": seen(SCALE, lambda x: 1e8 * x),
    "means and logits of 1e4": seen(LOC, lambda x: 1e4 * signs(x)),
    "means and logits of 1e4 from zero": seen(LOC, lambda x: 1e4 * signs(x), *OBSERVATIONS),
    "values of 1e6": seen(VALUE, lambda x: 1e6 * signs(x)),
    "noise of 100": lambda data: (
        data | {k: 100 * signs(x) for k, x in data.items() if "action_noise" in k}
    ),
}
OVERFLOWING: dict[str, Callable[[Data], Data]] = {
    "log-ratios of 200": given("action_log_prob", lambda x: x - 200),
    "log-probabilities of -10,000 then": given("action_log_prob", lambda x: x - 1e4),
}
RATIOS = ("PPOLoss", "ClipPPOLoss", "KLPENPPOLoss", "MAPPOLoss", "IPPOLoss")


def test_every_public_loss_and_estimator_has_a_row() -> None:
    assert {name for name in losses.__all__ if is_loss(name)} == {x.split()[0] for x in LOSSES}
    assert {name for name in estimators.__all__ if is_estimator(name)} == {
        x.split()[0] for x in ESTIMATORS
    }


def data_of(name: str, shape: tuple[int, ...], change: Callable[[Data], Data]) -> list[Data]:
    """What is given; for an actor-critic also without the advantage, which is estimated then."""
    data = LOSSES[name].data(shape)
    estimated = {k: x for k, x in data.items() if k not in ("advantage", "value_target")}
    found = [data] if len(estimated) == len(data) else [data, estimated]
    return [change(x) for x in found]


def results(loss: Any, data: Data) -> tuple[dict[str, Tensor], list[Any]]:
    """The outputs, and the gradient of what is minimised by every parameter."""
    outputs = loss(data)
    total = sum(outputs[name].sum() for name in loss.minimised)
    parameters = [p for p in loss.parameters() if p.requires_grad]
    return outputs, list(torch.autograd.grad(total, parameters, allow_unused=True))


def infinite(outputs: Mapping[str, Tensor], grads: Sequence[Optional[Tensor]]) -> list[str]:
    """The names of what is not finite."""
    named = {**outputs, **{f"gradient {k}": x for k, x in enumerate(grads)}}
    return [name for name, x in named.items() if x is not None and not x.isfinite().all()]


@every_loss
@pytest.mark.parametrize("row", HOSTILE)
def test_a_loss_of_extremes_is_finite(name: str, row: str) -> None:
    # Outside of the bounds a log-probability is minus infinity.
    documented = "truncated" in name and row == "actions far away"
    loss = LOSSES[name].make()
    for data in data_of(name, (4, 6), HOSTILE[row]):
        outputs, grads = results(loss, data)
        assert bool(infinite(outputs, grads)) == documented, outputs


@every_loss
def test_a_loss_of_one_sample_is_finite(name: str) -> None:
    loss = LOSSES[name].make()
    for row in ("advantages of 1e6", "rewards of 1e8", "value targets of 1e6"):
        for data in data_of(name, (1, 1), HOSTILE[row]):
            outputs, grads = results(loss, data)
            assert not infinite(outputs, grads), (row, outputs)


@every_loss
@pytest.mark.parametrize("row", OVERFLOWING)
def test_only_a_ratio_is_infinite_and_only_where_that_is_said(name: str, row: str) -> None:
    loss = LOSSES[name].make()
    for data in data_of(name, (4, 6), OVERFLOWING[row]):
        outputs, grads = results(loss, data)
        wrong = infinite(outputs, grads)
        assert bool(wrong) == (name.split()[0] in RATIOS)
        assert not {"loss_critic", "loss_entropy", "ESS", "kl_approx"} & set(wrong)
        if wrong:
            assert any("overflow" in (kind.__doc__ or "") for kind in type(loss).__mro__)


@pytest.mark.parametrize("name", RATIOS[:3])
@pytest.mark.parametrize("row", OVERFLOWING)
def test_a_bound_on_the_ratio_keeps_it_finite(name: str, row: str) -> None:
    loss = on_policy(name, "normal", max_importance_ratio=2.0)
    outputs, grads = results(loss, OVERFLOWING[row](recorded("normal", (4, 6))))
    wrong = infinite(outputs, grads)
    assert set(wrong) <= {"max_ratio", "mean_ratio"}


@pytest.mark.parametrize("row", OVERFLOWING)
def test_a_clipped_ratio_has_no_gradient_however_large(row: str) -> None:
    loss = on_policy("ClipPPOLoss", "normal")
    data = OVERFLOWING[row](recorded("normal", (4, 6)))
    outputs, grads = results(loss, data | {"advantage": data["advantage"].abs()})
    wrong = infinite(outputs, grads)
    assert set(wrong) == {"max_ratio", "mean_ratio"}


TEMPERATURES = ("SACLoss", "SACLoss normal", "DiscreteSACLoss")


@pytest.mark.parametrize("log_alpha", [-80.0, 80.0])
@pytest.mark.parametrize("name", TEMPERATURES)
def test_a_temperature_may_be_extreme(name: str, log_alpha: float) -> None:
    loss = LOSSES[name].make()
    with torch.no_grad():
        loss.log_alpha.fill_(log_alpha)
    outputs, grads = results(loss, LOSSES[name].data((4, 6)))
    assert not infinite(outputs, grads)


@pytest.mark.parametrize("beta", [1e-38, 1e-8, 1e8, 1e30])
def test_a_penalty_may_be_extreme(beta: float) -> None:
    loss = on_policy("KLPENPPOLoss", "normal", beta=beta)
    outputs, grads = results(loss, recorded("normal", (4, 6)))
    assert not infinite(outputs, grads)


# ---- estimators ----------------------------------------------------------------------------------

HOSTILE_STEPS: dict[str, Callable[[Data], Data]] = {
    "rewards of 1e8": HOSTILE["rewards of 1e8"],
    "values of 1e6": HOSTILE["values of 1e6"],
    "rewards all the same": given(("next", "reward"), lambda x: torch.full_like(x, 0.1)),
    "log-ratios of 200": given("action_log_prob", lambda x: x - 200),
    "log-ratios of 10,000": given("action_log_prob", lambda x: x - 1e4),
    "log-ratios of -10,000": given("action_log_prob", lambda x: x + 1e4),
    "nothing is done": lambda data: data | {k: x & False for k, x in data.items() if "done" in k},
}


@pytest.mark.parametrize("row", HOSTILE_STEPS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimate_of_extremes_is_finite(name: str, row: str) -> None:
    module = estimator(name)
    for shape in ((3, 6), (1, 1)):
        data = HOSTILE_STEPS[row](sequences(name, shape))
        wanted = {k: x.requires_grad_() for k, x in data.items() if x.is_floating_point()}
        outputs = module(data)
        grads = torch.autograd.grad(
            sum(x.sum() for x in outputs.values()), list(wanted.values()), materialize_grads=True
        )
        assert not infinite(outputs, grads), outputs
        with torch.no_grad():  # by another kernel
            assert not infinite(module(data), [])


# ---- distributions -------------------------------------------------------------------------------

PARAMETERS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "normal": (lambda x: 1e4 * signs(x), torch.zeros_like),
    "positive": (lambda x: 1e-8 * x, lambda x: 1e8 * x, torch.ones_like),
    "probs": (lambda x: (x == x.max(-1, keepdim=True).values).to(x.dtype),),
    "chances": (lambda x: (x > 0.5).to(x.dtype),),
    "mask": (lambda x: x,),
}


def extremes(name: str) -> list[tuple[Tensor, ...]]:
    """Parameters of a family in all combinations of extremes."""
    row = FAMILIES[name]
    found: list[tuple[Tensor, ...]] = [()]
    for kind, x in zip(row.kinds, row.params(4, torch.float32), strict=True):
        found = [(*before, change(x)) for before in found for change in PARAMETERS[kind]]
    if row.kinds == ("probs", "mask"):  # something that is allowed must be possible
        return [(probs, mask | (probs > 0)) for probs, mask in found]
    return found


def with_gradients(params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in params)


def slopes(x: Tensor, params: tuple[Tensor, ...]) -> list[Tensor]:
    wanted = [p for p in params if p.requires_grad]
    if not x.requires_grad:
        return []
    return list(torch.autograd.grad(x.sum(), wanted, materialize_grads=True, retain_graph=True))


def quantities(name: str, params: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What a loss asks of a family, of the actions that the family gives and of the bounds."""
    family = FAMILIES[name].family
    noise = family.draw_noise(params, torch.Generator().manual_seed(0))
    action, log_prob = family.sample_with_log_prob(params, noise)
    found = {"of a sample": log_prob}
    found["of the mode"] = family.log_prob(params, family.mode(params))
    if hasattr(family, "low") and "deterministic" not in name:
        for bound in ("low", "high"):
            on_it = torch.as_tensor(getattr(family, bound)).to(action).expand_as(action)
            found[f"of actions at the bound {bound}"] = family.log_prob(params, on_it)
    if family.analytic_entropy:
        found["entropy"] = family.entropy(params)
    return found


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "object"])
def test_a_distribution_of_extremes_is_finite(name: str) -> None:
    for values in extremes(name):
        params = with_gradients(values)
        for what, x in quantities(name, params).items():
            assert not infinite({what: x}, slopes(x, params)), (what, values)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "object"])
def test_a_divergence_of_extremes_is_finite_or_documented(name: str) -> None:
    """The policy that learns is the other one, or both are extreme."""
    row = FAMILIES[name]
    if not row.family.analytic_kl or "deterministic" in name:
        return
    usual = row.params(4, torch.float32)
    for values in extremes(name):
        masks = {k: x for k, x in enumerate(values) if x.dtype == torch.bool}
        usual = tuple(masks.get(k, x) for k, x in enumerate(usual))
        for old, new in ((values, usual), (usual, values), (values, values)):
            params = with_gradients(new)
            x = row.family.kl(old, params)
            if "probs" in row.kinds and new is values:  # it forbids what the old one allows
                continue
            assert not infinite({"kl": x}, slopes(x, params)), (old, new)


# ---- compiled ------------------------------------------------------------------------------------


@pytest.mark.slow
@every_loss
def test_one_graph_takes_every_extreme(name: str) -> None:
    """By Inductor, as eagerly: what is not finite there is not finite here."""
    loss = LOSSES[name].make()
    torch._dynamo.reset()
    run = torch.compile(loss, fullgraph=True, dynamic=True)
    changes = {**HOSTILE, **OVERFLOWING}
    with torch._dynamo.config.patch(error_on_recompile=True):
        for row, change in changes.items():
            data = data_of(name, (4, 6), change)[0]
            outputs, grads = results(loss, data)
            total = sum(x.sum() for key, x in run(data).items() if key in loss.minimised)
            parameters = [p for p in loss.parameters() if p.requires_grad]
            compiled = torch.autograd.grad(total, parameters, allow_unused=True)
            for a, b in zip(compiled, grads, strict=True):
                close_where_finite(a, b, row)
            for key, x in run(data).items():
                close_where_finite(x, outputs[key], f"{row}: {key}")


def close_where_finite(got: Optional[Tensor], expected: Optional[Tensor], what: str) -> None:
    assert (got is None) == (expected is None), what
    if got is None or expected is None:
        return
    assert torch.equal(got.isfinite(), expected.isfinite()), what
    finite = expected.isfinite()
    size = expected[finite].abs().max().item() if finite.any() else 0.0
    torch.testing.assert_close(
        got[finite], expected[finite], rtol=1e-3, atol=1e-4 * (1 + size), msg=what
    )
