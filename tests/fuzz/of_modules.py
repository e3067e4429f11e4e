"""A valid call of every public module: its constructor, and what its instances are called for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compiled_rl import modules
from compiled_rl.modules import families
from tests.fuzz.call import AT_LEAST_ONE, Call, Made
from tests.fuzz.mutations import FRACTION, NOT_NEGATIVE, POSITIVE, Range

N, D, A, H = 4, 5, 3, 6


def made(name: str, cls: Any, **arguments: Any) -> Call:
    """A constructor; arguments that are functions of nothing are called for every attempt."""
    options = {k: arguments.pop(k) for k in Call._fields if k in arguments}

    def make() -> Made:
        torch.manual_seed(0)
        return cls, fresh(arguments)

    constructs = name.rpartition(".")[2][0].isupper()
    return Call(f"{name}()" if constructs else name, make, **options)


def called(name: str, subject: Callable[[], Any], method: str = "", **arguments: Any) -> Call:
    """A method of an instance; without one, the instance itself."""
    options = {k: arguments.pop(k) for k in Call._fields if k in arguments}

    def make() -> Made:
        torch.manual_seed(0)
        instance = subject()
        return getattr(instance, method) if method else instance, fresh(arguments)

    return Call(f"{name}.{method or 'forward'}", make, **options)


class Fresh:
    """An argument that is made anew for every attempt."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def fresh(arguments: dict[str, Any]) -> dict[str, Any]:
    found = {k: x.make() if isinstance(x, Fresh) else x for k, x in arguments.items()}
    return {k: x.clone() if isinstance(x, Tensor) else x for k, x in found.items()}


def linear(inputs: int = D, outputs: int = A) -> Fresh:
    return Fresh(lambda: nn.Linear(inputs, outputs))


def observation() -> Fresh:
    return Fresh(lambda: torch.randn(N, D))


def normal() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 2 * A), modules.StateDependentScale())


def policy() -> modules.Policy:
    return modules.Policy(normal(), families.Normal())


FEATURES = {"names": {"observation": {"features"}}, "users": frozenset({"observation"})}
BOUNDS = {"low": -torch.ones(A), "high": torch.ones(A)}
ACTION_RANGE = {
    "low": Range(high=1.0, open_high=True, relative=True),
    "high": Range(-1.0, open_low=True, relative=True),
}
TARGETS = Fresh(lambda: torch.randn(N, 1))
MASK = Fresh(lambda: torch.tensor([True, False, True, True]))
SIZES = {"shape": AT_LEAST_ONE}
POSITIVES = {
    "epsilon": POSITIVE, "clip": POSITIVE, "min_scale": NOT_NEGATIVE, "initial_scale": POSITIVE,
    "beta": Range(0.0, 1.0, open_high=True), "rate": FRACTION, "upscale": POSITIVE,
    "atol": NOT_NEGATIVE, "rtol": NOT_NEGATIVE, **SIZES,
}  # fmt: skip
COUNTED = "in_features action_dim n_agents size input_size hidden_size mixing_embed_dim"
COUNTS = dict.fromkeys(COUNTED.split(), AT_LEAST_ONE)
ANY_SHAPE = {"shape": {"a list", "a number"}, "state_shape": {"a number", "one more"}}
RANGES: dict[str, Any] = {"ranges": {**POSITIVES, **COUNTS}, "allowed": ANY_SHAPE}
STARTS = {"allowed": {"is_init": {"an axis more"}}}
BUFFERS = {"a 0-d tensor", "a 0-d float64 tensor", "a NumPy float32"}
EACH = {"a list", "a tensor with an axis", *BUFFERS}
BOUNDED: dict[str, Any] = {
    "ranges": {**POSITIVES, **ACTION_RANGE},
    "allowed": {"low": EACH, "high": EACH, "upscale": EACH},
}


def of_family(family: families.Family, **params: Tensor) -> list[Call]:
    """Every method of a family; its parameters are given by name."""
    name = f"modules.{type(family).__name__}"
    names = list(params)

    def method(which: str, *others: str) -> Call:
        def make() -> Made:
            torch.manual_seed(0)
            given = fresh(params)
            noise = family.draw_noise(tuple(given.values()))
            action = family.sample(tuple(given.values()), noise)
            known = {"noise": noise, "action": action}

            def call(**tensors: Any) -> Any:
                own = tuple(tensors[k] for k in names)
                return getattr(family, which)(own, *[tensors[k] for k in others])

            call.stands_for = getattr(family, which)  # type: ignore[attr-defined]
            return call, given | {k: known[k] for k in others}

        own = {k: {"logits", "loc", "scale", "param", k} for k in names}
        skipped = (
            {"noise": "nothing is drawn"} if isinstance(family, families.Deterministic) else {}
        )
        alone = (which == "mode" and "mask" not in names) or skipped != {}
        if which == "mode" and not isinstance(family, families.Normal):
            skipped["scale"] = "it does not move the mode"
        return Call(f"{name}.{which}", make, names=own, skipped=skipped, signed=False, alone=alone)

    found = [method("log_prob", "action"), method("mode"), method("sample", "noise")]
    found.append(method("sample_with_log_prob", "noise"))
    if family.analytic_entropy:
        found.append(method("entropy"))
    return found


LOC_SCALE = {"loc": torch.zeros(N, A), "scale": torch.ones(N, A)}
LOGITS = {"logits": torch.linspace(-1, 1, N * A).reshape(N, A)}
ALLOWED = {"mask": torch.arange(N * A).reshape(N, A) % 3 != 0}
VALUE_NORMS = ("PopArtValueNorm", "RunningValueNorm", "PercentileValueNorm")


def calls() -> list[Call]:
    m = modules
    found = [
        made("modules.GRU", m.GRU, input_size=D, hidden_size=H, **RANGES),
        called(
            "modules.GRU",
            lambda: m.GRU(D, H),
            features=Fresh(lambda: torch.randn(N, 7, D)),
            is_init=Fresh(lambda: torch.zeros(N, 7, dtype=torch.bool)),
            **STARTS,
            hidden=Fresh(lambda: torch.randn(N, H)),
        ),
        made("modules.ActionRescaler", m.ActionRescaler, **BOUNDS),
        called(
            "modules.ActionRescaler", lambda: m.ActionRescaler(**BOUNDS), action=torch.zeros(N, A)
        ),
        made("modules.Concatenated", m.Concatenated, network=linear()),
        made(
            "modules.Ensemble",
            m.Ensemble,
            networks=Fresh(lambda: [nn.Linear(D, 1)] * 2),
            allowed={"shared": {"an empty dict"}},
        ),
        made(
            "modules.ExpectedActionValue",
            m.ExpectedActionValue,
            network=linear(),
            support=torch.linspace(0, 1, 7),
        ),
        made("modules.FrameStack", m.FrameStack, size=3, **RANGES),
        called(
            "modules.FrameStack",
            lambda: m.FrameStack(3),
            observation=observation(),
            frames=Fresh(lambda: torch.randn(N, 3, D)),
            is_init=Fresh(lambda: torch.zeros(N, dtype=torch.bool)),
            **STARTS,
        ),
        made(
            "modules.NamedPolicy", m.NamedPolicy, words=frozenset({"output"}), policy=Fresh(policy)
        ),
        called(
            "modules.NamedPolicy",
            lambda: m.NamedPolicy(policy()),
            observation=observation(),
            **FEATURES,
        ),
        made("modules.ObservationNormalizer", m.ObservationNormalizer, shape=D, **RANGES),
        *[
            called(
                "modules.ObservationNormalizer",
                lambda: m.ObservationNormalizer(D),
                method,
                observation=observation(),
            )
            for method in ("", "update")
        ],
        called(
            "modules.ObservationNormalizer",
            lambda: m.ObservationNormalizer(D),
            "update",
            observation=observation(),
            mask=MASK,
        ),
        made(
            "modules.Policy",
            m.Policy,
            network=Fresh(normal),
            family=families.Normal(),
            names={"family": {"distribution", "param_names"}},
        ),
        *[
            called("modules.Policy", policy, method, observation=observation(), **FEATURES)
            for method in ("", "act")
        ],
        made("modules.QPolicy", m.QPolicy, network=linear(), action_space="categorical"),
        called(
            "modules.QPolicy",
            lambda: m.QPolicy(nn.Linear(D, A)),
            observation=observation(),
            names={"observation": {"action_value", "logits"}},
            users=frozenset({"observation"}),
        ),
        called(
            "modules.QPolicy",
            lambda: m.QPolicy(nn.Linear(D, A)),
            "act",
            observation=observation(),
            epsilon=0.1,
            ranges={"epsilon": FRACTION},
            users=frozenset({"observation"}),
        ),
        made(
            "modules.RecurrentPolicy",
            m.RecurrentPolicy,
            memory=Fresh(lambda: m.GRU(D, H)),
            policy=Fresh(lambda: m.Policy(nn.Linear(H, A), families.Categorical())),
        ),
        called(
            "modules.RecurrentPolicy",
            lambda: m.RecurrentPolicy(
                m.GRU(D, H), m.Policy(nn.Linear(H, A), families.Categorical())
            ),
            observation=observation(),
            h_in=Fresh(lambda: torch.randn(N, H)),
            is_init=Fresh(lambda: torch.zeros(N, dtype=torch.bool)),
            **STARTS,
            users=frozenset({"observation"}),
        ),
        made("modules.SampledPolicy", m.SampledPolicy, policy=Fresh(policy)),
        called(
            "modules.SampledPolicy",
            lambda: m.SampledPolicy(policy()),
            users=frozenset({"observation"}),
            observation=observation(),
            noise=Fresh(lambda: torch.randn(N, A)),
        ),
        made("modules.StateDependentScale", m.StateDependentScale, **RANGES),
        called(
            "modules.StateDependentScale",
            m.StateDependentScale,
            features=Fresh(lambda: torch.randn(N, 2 * A)),
        ),
        made("modules.StateIndependentScale", m.StateIndependentScale, action_dim=A, **RANGES),
        called(
            "modules.StateIndependentScale",
            lambda: m.StateIndependentScale(A),
            loc=Fresh(lambda: torch.randn(N, A)),
        ),
        made("modules.ValueHead", m.ValueHead, in_features=D, **RANGES),
        called("modules.ValueHead", lambda: m.ValueHead(D), features=observation()),
        made("modules.VDNMixer", m.VDNMixer, n_agents=3, **RANGES),
        called(
            "modules.VDNMixer",
            lambda: m.VDNMixer(3),
            chosen_action_value=Fresh(lambda: torch.randn(N, 3, 1)),
        ),
        made(
            "modules.QMixer", m.QMixer, state_shape=[2, 4], mixing_embed_dim=6, n_agents=3, **RANGES
        ),
        called(
            "modules.QMixer",
            lambda: m.QMixer([2, 4], 6, 3),
            chosen_action_value=Fresh(lambda: torch.randn(N, 3, 1)),
            state=Fresh(lambda: torch.randn(N, 2, 4)),
        ),
        made(
            "modules.Reads",
            lambda network, key: m.Reads(network, key),
            network=linear(),
            key="observation",
            words=frozenset({"key"}),
            names={"key": {"keys"}},
        ),
        made("modules.frozen_copy", m.frozen_copy, network=linear()),
        made(
            "modules.family_of", m.family_of, distribution=torch.distributions.Normal, signed=False
        ),
        made("modules.action_family", m.action_family, action_space="categorical"),
        made("modules.Normal", families.Normal),
        made("modules.Deterministic", families.Deterministic, **RANGES),
        made(
            "modules.TanhDeterministic",
            families.TanhDeterministic,
            **BOUNDED,
        ),
        made("modules.TanhNormal", families.TanhNormal, **BOUNDED),
        made(
            "modules.TruncatedNormal",
            families.TruncatedNormal,
            **BOUNDED,
        ),
        *[
            made(f"modules.{name}", getattr(families, name))
            for name in (
                "Categorical",
                "OneHotCategorical",
                "MaskedCategorical",
                "MaskedOneHotCategorical",
                "Bernoulli",
            )
        ],
        *[
            made(f"modules.{name}", getattr(families, name), nvec=[2, 3])
            for name in ("MultiCategorical", "MultiOneHotCategorical")
        ],
        made(
            "modules.Composite",
            families.Composite,
            heads=Fresh(lambda: {"a": families.Normal(), "b": families.Categorical()}),
        ),
        made(
            "modules.Independent",
            families.Independent,
            family=Fresh(families.Normal),
            names={"family": {"distribution"}},
        ),
        *[made(f"modules.{name}", getattr(m, name), **RANGES) for name in VALUE_NORMS],
        *[
            called(f"modules.{name}", getattr(m, name), method, **{argument: TARGETS})
            for name in VALUE_NORMS
            for method, argument in (
                ("update", "value_target"),
                ("normalize", "value_target"),
                ("denormalize", "normalised_value"),
            )
        ],
        *[
            called(f"modules.{name}", getattr(m, name), "update", value_target=TARGETS, mask=MASK)
            for name in VALUE_NORMS
        ],
        *of_family(families.Normal(), **LOC_SCALE),
        *of_family(families.TanhNormal(), **LOC_SCALE),
        *of_family(families.TruncatedNormal(), **LOC_SCALE),
        *of_family(families.Deterministic(), param=torch.zeros(N, A)),
        *of_family(families.TanhDeterministic(), param=torch.zeros(N, A)),
        *of_family(families.Categorical(), **LOGITS),
        *of_family(families.OneHotCategorical(), **LOGITS),
        *of_family(families.Bernoulli(), **LOGITS),
        *of_family(families.MaskedCategorical(), **LOGITS, **ALLOWED),
        *of_family(families.MaskedOneHotCategorical(), **LOGITS, **ALLOWED),
        *of_family(families.MultiCategorical([1, 2]), **LOGITS),
        *of_family(families.MultiOneHotCategorical([1, 2]), **LOGITS),
    ]
    return found
