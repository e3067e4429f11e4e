"""Distributions that have no formula here: the object itself is built at every call."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Optional

import torch
from torch import Generator, Tensor
from torch.distributions import kl_divergence

from compiled_rl.modules.families.base import Family, Params

_MODES = ("deterministic_sample", "mode", "mean")


class FromDistribution(Family):
    """Any distribution, by its object: slower than a formula, and compiled if the object can be.

    Whether it has an entropy, a KL divergence, a mode and reparametrised samples is found out by
    trying on small tensors. A distribution of one number a parameter, ``torch.distributions.Beta``
    for instance, is taken for independent over the last axis. To be exported, a function must give
    torch's classes ``validate_args=False`` itself: validation reads values, which no exported graph
    can.

    Args:
        distribution: a class, or a function that returns an object, called with the parameters and
            the options by name.
        param_names: the parameters that the network gives, in its order.
        options: given to ``distribution`` at every call; tensors are buffers.
    """

    def __init__(
        self, distribution: Callable[..., Any], param_names: tuple[str, ...], **options: Any
    ) -> None:
        super().__init__()
        self.distribution = distribution
        self.param_names = tuple(param_names)
        self.options = _without_validation(distribution)
        self.tensors: list[str] = []
        for name, value in options.items():
            self._set(name, value)
        params = probe(self.param_names, options)
        with torch.device("cpu"):  # where the probes are, whatever the default device
            self._try(params)

    def _try(self, params: Params) -> None:
        self.analytic_entropy = _works(lambda: self.entropy(params))
        self.analytic_kl = _works(lambda: self.kl(params, params))
        self.reparametrized = _works(lambda: self.build(params)) and self.build(params).has_rsample
        for name in _MODES:
            self.mode_name = name
            if _works(lambda: self.mode(params)):
                break

    def _set(self, name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            self.options[name] = value
            return
        self.tensors.append(name)
        self.register_buffer(f"option_{name}", value.detach().clone())

    def build(self, params: Params) -> Any:
        """The distribution object."""
        tensors = {name: getattr(self, f"option_{name}") for name in self.tensors}
        named = dict(zip(self.param_names, params, strict=True))
        return self.distribution(**named, **self.options, **tensors)

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """The object's; summed over the last axis if it has one number a parameter."""
        return _total(self.build(params).log_prob(action), params)

    def entropy(self, params: Params) -> Tensor:
        """The object's, summed likewise."""
        return _total(self.build(params).entropy(), params)

    def kl(self, params: Params, other: Params) -> Tensor:
        """Torch's ``kl_divergence`` of the two objects, summed likewise."""
        return _total(kl_divergence(self.build(params), self.build(other)), params)

    def mode(self, params: Params) -> Tensor:
        """The first that the object has of ``deterministic_sample``, ``mode`` and ``mean``."""
        mode: Tensor = getattr(self.build(params), self.mode_name)
        return mode

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The object's, reparametrised if it can be; the noise is its own."""
        built = self.build(params)
        action: Tensor = built.rsample() if built.has_rsample else built.sample()
        return action

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Zeros: the object draws from torch's global generator, and from no other."""
        return torch.zeros_like(params[0])

    def extra_repr(self) -> str:
        """The distribution and its parameters."""
        return f"{name_of(self.distribution)}, {self.param_names}"


def name_of(distribution: Any) -> str:
    """What a class or a function is called, with its library."""
    name = getattr(distribution, "__name__", repr(distribution))
    return f"{getattr(distribution, '__module__', '').split('.')[0]}.{name}"


def probe(
    names: tuple[str, ...], options: Mapping[str, Any], magnitude: float = 1.0, seed: int = 0
) -> Params:
    """Small parameters ``[2, 3, A]`` that a distribution may have under these names."""
    sizes = [x.shape[-1] for x in options.values() if isinstance(x, Tensor) and x.dim()]
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (2, 3, sizes[0] if sizes else 4)
    return tuple(_draw(name, shape, magnitude, generator) for name in names)


def _draw(name: str, shape: tuple[int, ...], magnitude: float, generator: Generator) -> Tensor:
    if name == "mask":
        return torch.ones(shape, dtype=torch.bool, device="cpu")
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    if name == "probs":
        return normal.softmax(-1)
    return magnitude * (normal if name in ("loc", "logits", "param") else normal.abs() + 0.1)


def _total(x: Tensor, params: Params) -> Tensor:
    """One number a step: an object of one number a parameter has one axis more."""
    return x.sum(-1) if x.dim() == params[0].dim() else x


def _without_validation(distribution: Callable[..., Any]) -> dict[str, Any]:
    """Validation reads values, which no exported graph can."""
    takes = "validate_args" in inspect.signature(distribution).parameters
    return {"validate_args": False} if takes else {}


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:
        return False
    return True
