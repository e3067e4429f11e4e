"""The family that a distribution of torch or TorchRL stands for."""

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import torch

from compiled_rl.modules.families.base import Family, Params
from compiled_rl.modules.families.composite import Independent
from compiled_rl.modules.families.continuous import Normal, TanhNormal, TruncatedNormal
from compiled_rl.modules.families.deterministic import Deterministic, TanhDeterministic
from compiled_rl.modules.families.discrete import (
    Bernoulli,
    Categorical,
    MaskedCategorical,
    MaskedOneHotCategorical,
    OneHotCategorical,
)
from compiled_rl.modules.families.objects import FromDistribution, name_of, probe


class _Known(NamedTuple):
    """A class that a family stands for.

    ``passed`` are options that mean the same to the family; ``ignored`` change nothing here;
    ``fixed`` may have these values only. ``axes`` are those that the family sums over and the class
    does not.
    """

    family: type[Family]
    passed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fixed: dict[str, tuple[Any, ...]] = {}  # noqa: RUF012
    axes: int = 0


_LOCATED = ("low", "high", "tanh_loc", "upscale")
_MASKED = ("padding_value", "padding_side", "use_cross_entropy", "grad_method")
_NO_OTHER = {"neg_inf": (-math.inf,)}

# Samples are always kept off the bounds, so `safe_tanh` and `safe` have nothing to switch;
# TorchRL's IndependentNormal takes `tanh_loc` and `upscale` and uses neither.
_KNOWN = {
    "torch.Normal": _Known(Normal, axes=1),
    "torch.Bernoulli": _Known(Bernoulli, axes=1),
    "torch.Categorical": _Known(Categorical),
    "torch.OneHotCategorical": _Known(OneHotCategorical),
    "torchrl.OneHotCategorical": _Known(OneHotCategorical, ignored=("grad_method",)),
    "torchrl.MaskedCategorical": _Known(MaskedCategorical, (), _MASKED, _NO_OTHER),
    "torchrl.MaskedOneHotCategorical": _Known(MaskedOneHotCategorical, (), _MASKED, _NO_OTHER),
    "torchrl.IndependentNormal": _Known(Normal, (), ("tanh_loc", "upscale"), {"event_dim": (1,)}),
    "torchrl.TanhNormal": _Known(TanhNormal, _LOCATED, ("safe_tanh",), {"event_dims": (None, 1)}),
    "torchrl.TruncatedNormal": _Known(TruncatedNormal, _LOCATED),
    "torchrl.Delta": _Known(Deterministic, ("atol", "rtol")),
    "torchrl.TanhDelta": _Known(
        TanhDeterministic, ("low", "high", "atol", "rtol"), ("safe",), {"event_dims": (1,)}
    ),
}


def family_of(
    distribution: Any, param_names: Optional[tuple[str, ...]] = None, **options: Any
) -> Family:
    """The family that a distribution stands for.

    A function is called once with small tensors: it stands for a family if what it returns has the
    family's log-probabilities, so that the parameters passed through it unchanged. What stands for
    none is a ``FromDistribution``, with a warning.

    Args:
        distribution: a family of ours or its class; a class of torch or TorchRL; any other class,
            function or ``functools.partial`` that returns a distribution object.
        param_names: the parameters that the network gives; None: the family's own, or the
            arguments that ``distribution`` must have.
        options: further arguments of ``distribution``.

    Returns:
        A ``Family``.

    Raises:
        TypeError: ``distribution`` cannot be called, or its parameters are not known.

    Warns:
        UserWarning: there is no family for it.
    """
    if isinstance(distribution, Family):
        return distribution
    if isinstance(distribution, type) and issubclass(distribution, Family):
        return distribution(**options)
    if isinstance(distribution, functools.partial) and not distribution.args:
        return family_of(distribution.func, param_names, **distribution.keywords | options)
    if not callable(distribution):
        raise TypeError(
            "family_of: `distribution` must be a Family, or a class or a function that returns a "
            f"distribution, got {type(distribution).__name__}"
        )
    family = _class_family(distribution, param_names, options)
    if family is not None:
        return family
    names = param_names or _required(distribution, options)
    family = _function_family(distribution, names, options)
    return _by_object(distribution, names, options) if family is None else family


def _class_family(
    distribution: Any, names: Optional[tuple[str, ...]], options: dict[str, Any]
) -> Optional[Family]:
    """The family that a class has in the table, if it takes the options and the parameters."""
    known = _KNOWN.get(name_of(distribution))
    if known is None or not all(_honoured(known, *option) for option in options.items()):
        return None
    passed = {name: x for name, x in options.items() if name in known.passed}
    if names and "probs" in names and issubclass(known.family, (Categorical, Bernoulli)):
        passed["parameter"] = "probs"
    family = known.family(**passed)
    return family if names is None or set(names) == set(family.param_names) else None


def _honoured(known: _Known, name: str, value: Any) -> bool:
    plain = name in (*known.passed, *known.ignored, "validate_args")
    return plain or (name in known.fixed and value in known.fixed[name])


def _function_family(
    function: Callable[..., Any], names: tuple[str, ...], options: dict[str, Any]
) -> Optional[Family]:
    """The family of the objects that a function returns; None too if it cannot take the probes."""

    def build(params: Params) -> Any:
        return function(**dict(zip(names, params, strict=True)), **options)

    if isinstance(function, type):
        return None
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # Magnitudes far apart, so that a bound that the function puts on a parameter shows.
            probes = [probe(names, options, magnitude) for magnitude in (1e-6, 1.0, 1e6)]
            family = _object_family(build(probes[0]), names)
            if family is None:
                return None
            order = [names.index(name) for name in family.param_names]
            same = [_same(family, build(p), tuple(p[i] for i in order)) for p in probes]
    except Exception:
        return None
    return family if all(same) else None


def _object_family(built: Any, names: tuple[str, ...]) -> Optional[Family]:
    """The family of a distribution object, ``torch.distributions.Independent`` taken off."""
    axes = 0
    while name_of(type(built)) == "torch.Independent":
        axes += built.reinterpreted_batch_ndims
        built = built.base_dist
    family = _class_family(type(built), names, {})
    if family is None:
        return None
    axes -= _KNOWN[name_of(type(built))].axes
    return Independent(family, axes) if axes > 0 else family


def _same(family: Family, built: Any, params: Params) -> bool:
    """Whether an object has the family's log-probabilities, summed where it has not summed."""
    action = built.sample()
    got, expected = family.log_prob(params, action), built.log_prob(action)
    expected = expected.reshape(*got.shape, -1).sum(-1)
    return torch.allclose(got, expected, rtol=1e-9, atol=1e-9)


def _by_object(
    distribution: Callable[..., Any], names: tuple[str, ...], options: dict[str, Any]
) -> Family:
    warnings.warn(
        f"family_of: there is no family for {name_of(distribution)} with the parameters "
        f"{list(names)} and the options {sorted(options)}; its object is built at every call",
        UserWarning,
        stacklevel=3,
    )
    return FromDistribution(distribution, names, **options)


def _required(distribution: Callable[..., Any], options: dict[str, Any]) -> tuple[str, ...]:
    """The arguments that a call cannot do without.

    Raises:
        TypeError: there is none, as in ``Categorical(probs=None, logits=None)``.
    """
    try:
        named = inspect.signature(distribution).parameters.values()
    except ValueError as error:  # of what is written in C
        raise TypeError(
            "family_of: `distribution` must have a signature that names its parameters, "
            f"got {distribution!r}"
        ) from error
    names = tuple(
        x.name
        for x in named
        if x.default is x.empty
        and x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)
        and x.name not in options
    )
    if not names:
        raise TypeError(
            f"family_of: `param_names` must name the parameters of {name_of(distribution)}, "
            "which needs none, got None"
        )
    return names
