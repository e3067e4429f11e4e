"""What every distribution family can do."""

from abc import abstractmethod
from numbers import Real
from typing import Any, Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.kernels.checks import check_tensor
from compiled_rl.modules.coefficients import holds

Params = tuple[Tensor, ...]
Action = Any  # a tensor; of Composite, a dict of them by head
Noise = Any  # likewise


class Family(nn.Module):
    """A distribution as functions of its parameter tensors, in the order of ``param_names``.

    Options are given to the constructor; a family has no parameters of its own. Where an analytic
    form is missing (``analytic_entropy``, ``analytic_kl``), samples estimate it:
    ``-sample_with_log_prob(params, noise)[1]`` has the entropy as its mean. Gradients reach the
    parameters through a sample if the family is ``reparametrized``.

    Raises:
        ValueError: the action, the noise and the parameters do not fit each other.
    """

    param_names: tuple[str, ...]
    analytic_entropy: bool = True
    analytic_kl: bool = True
    reparametrized: bool = True

    @abstractmethod
    def log_prob(self, params: Params, action: Action) -> Tensor:
        """Log-probability of ``action``, ``[*B]``."""

    def entropy(self, params: Params) -> Tensor:
        """Entropy, ``[*B]``.

        Raises:
            NotImplementedError: there is no closed form.
        """
        raise NotImplementedError(f"{type(self).__name__}: the entropy has no closed form")

    def kl(self, params: Params, other: Params) -> Tensor:
        """``KL(params || other)``, ``[*B]``.

        Raises:
            NotImplementedError: there is no closed form.
        """
        raise NotImplementedError(f"{type(self).__name__}: the KL divergence has no closed form")

    @abstractmethod
    def mode(self, params: Params) -> Action:
        """The deterministic action."""

    @abstractmethod
    def sample(self, params: Params, noise: Noise) -> Action:
        """A sample from given noise, of the kind that ``draw_noise`` draws."""

    def sample_with_log_prob(self, params: Params, noise: Noise) -> tuple[Action, Tensor]:
        """A sample and its log-probability ``[*B]``, in the stablest form that there is."""
        action = self.sample(params, noise)
        return action, self.log_prob(params, action)

    @abstractmethod
    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Noise:
        """Noise for one sample."""


# Without a generator not by `normal_` and `uniform_`: of two such draws of one shape a compiled
# graph makes one, which would give two actions the same noise. With one not by `torch.randn`, which
# takes no symbolic sizes in a compiled graph then.


def normal_like(x: Tensor, generator: Optional[Generator]) -> Tensor:
    """Standard normal noise of the shape of ``x``."""
    if generator is None:
        return torch.randn(x.shape, dtype=x.dtype, device=x.device)
    return _empty_like(x).normal_(generator=generator)


def uniform_like(x: Tensor, generator: Optional[Generator]) -> Tensor:
    """Noise in [0, 1) of the shape of ``x``."""
    if generator is None:
        return torch.rand(x.shape, dtype=x.dtype, device=x.device)
    return _empty_like(x).uniform_(generator=generator)


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def set_option(module: nn.Module, name: str, value: Tensor | float) -> None:
    """A number stays what it is, exact in every dtype; a tensor becomes a buffer."""
    if isinstance(value, Tensor):
        _check_option(module, name, value)
    if isinstance(value, int | float):
        setattr(module, name, float(value))
    else:
        module.register_buffer(name, torch.as_tensor(value).detach().clone())


def _check_option(module: nn.Module, name: str, value: Any) -> None:
    """Refuse a tensor that is not of real numbers."""
    check_tensor(type(module).__name__, name, value)
    if value.dtype == torch.bool:
        raise ValueError(f"{type(module).__name__}: `{name}` must be of numbers, got torch.bool")


def set_bounds(family: Family, low: Tensor | float, high: Tensor | float) -> None:
    """Options ``low`` and ``high``, which must be finite and ordered."""
    for name, x in {"low": low, "high": high}.items():
        if isinstance(x, Real) and not isinstance(x, bool):
            continue
        if isinstance(x, list | tuple) or hasattr(x, "__array__"):
            x = torch.as_tensor(x)
        _check_option(family, name, x)
    # Numbers are looked at where they are, whatever the default device.
    lower, upper = (
        x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu") for x in (low, high)
    )
    if not holds((lower < upper) & lower.isfinite() & upper.isfinite()):
        raise ValueError(
            f"{type(family).__name__}: `low` and `high` must be finite and ordered, "
            f"got {lower.tolist()} and {upper.tolist()}"
        )
    set_option(family, "low", low)
    set_option(family, "high", high)


def option_like(value: Tensor | float, x: Tensor) -> Tensor:
    """An option as a tensor of the shape, dtype and device of ``x``."""
    if isinstance(value, Tensor):
        return value.to(x).expand_as(x)
    return torch.full_like(x, value)


def option_repr(module: nn.Module, *names: str) -> str:
    """``name=value`` of each option."""
    values = {name: getattr(module, name) for name in names}
    plain = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in values.items()}
    return ", ".join(f"{name}={value!r}" for name, value in plain.items())
