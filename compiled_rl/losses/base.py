"""What every loss is, this library's and one that a user writes as for TorchRL."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import getattr_static
from os import environ
from types import FunctionType
from typing import Any, Literal, Optional, Self

import torch
from torch import Tensor

from compiled_rl.adapters import Key
from compiled_rl.adapters.dispatch import is_tensordict
from compiled_rl.adapters.keys import accepted_keys
from compiled_rl.adapters.stateful import StatefulNetworks
from compiled_rl.losses.hooks import PrivateHooks


class _Deterministic:
    """The default of ``deterministic_sampling_mode``, which only tensordict knows."""

    def __get__(self, loss: Any, owner: Any) -> Any:
        from compiled_rl.adapters.acting import DETERMINISTIC

        return DETERMINISTIC


class LossModule(PrivateHooks, StatefulNetworks):
    """A loss as a user writes it for TorchRL: networks by name, keys, a ``forward``.

    A subclass gives its networks to ``convert_to_functional``, makes its estimator in a
    ``make_value_estimator`` of its own, and has a ``forward`` from a TensorDict to a TensorDict of
    losses, ``loss_...``, and whatever else; with ``tensordict.nn.dispatch``, ``in_keys`` and
    ``out_keys`` that the subclass sets it takes keywords, too. ``forward`` and every public method
    whose name ends in ``loss`` run in the mode ``deterministic_sampling_mode``, TorchRL's recurrent
    modules over time. The keys that ``set_keys`` takes are those of the dataclass
    ``_AcceptedKeys``; they are found in ``tensor_keys``.

    This library's own losses declare their fields instead and compile whole: ``DeclaredLoss``.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the valid steps; None: what was set
            before, else ``"mean"``.
        loss_mask_key: where to find the mask of valid steps, bool ``[*B]`` or ``[*B, 1]``;
            ``"auto"`` takes ``("collector", "mask")`` and ``"shifted_valid"`` where they are
            given, any other key must be given, None takes no mask.

    Raises:
        ValueError: ``reduction`` or ``loss_mask_key`` is unknown.
    """

    @dataclass
    class _AcceptedKeys:
        """The names that ``set_keys`` takes, and their default keys; none here."""

    deterministic_sampling_mode: Any = _Deterministic()
    _every_out_key: tuple[Key, ...] = ()  # where some were selected
    _follow: bool = False  # whether the targets have an updater, or that they have none was said

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have what computes losses run in the mode ``deterministic_sampling_mode``."""
        super().__init_subclass__(**kwargs)
        for name in filter(_computes, dir(cls)):
            function = getattr_static(cls, name)  # it may be that of a class beside
            if isinstance(function, FunctionType) and _is_foreign(function):
                setattr(cls, name, _acting(function))

    def __init__(
        self,
        reduction: Optional[Literal["none", "mean", "sum"]] = None,
        loss_mask_key: Optional[Key] = "auto",
    ) -> None:
        super().__init__()
        self.take_reduction(reduction, loss_mask_key)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the networks; a frozen copy, ``target_...``, always is in that of use.

        So it neither drops anything nor moves the statistics of a batch normalisation.
        """
        super().train(mode)
        for name, network in self.named_children():
            if name.startswith("target_"):
                network.eval()
        return self

    def forward(self, tensordict: Any) -> Any:
        """The losses; a subclass writes it."""
        raise NotImplementedError

    def reset(self) -> None:
        """Set back what moved by itself: nothing, unless a subclass says so."""

    @classmethod
    def declared_keys(cls) -> dict[str, Any]:
        """The names of ``_AcceptedKeys`` and their defaults."""
        return accepted_keys(cls._AcceptedKeys)

    def set_keys(self, **keys: Any) -> None:
        """As ``AcceptsKeys.set_keys``; ``priority_key`` is ``priority``, and so on.

        Raises:
            KeyError: the critic has no output of the key given for ``value``.
            TypeError: a key is neither a string nor a tuple of strings.
            ValueError: a name is not an input, or was given under two names with two keys.
        """
        super().set_keys(**self._in_short(keys))

    def take_keys(self, **keys: Any) -> None:
        """Hand them on to the estimator, too."""
        super().take_keys(**keys)
        self._forward_value_estimator_keys(**keys)

    def _in_short(self, keys: dict[str, Any]) -> dict[str, Any]:
        """The keys by the names that are accepted, of which each may have the suffix ``_key``."""
        short: dict[str, Any] = {}
        for given, key in keys.items():
            known = given in self.default_keys
            name = given if known else given.removesuffix("_key")
            if name in short and short[name] != key:
                raise ValueError(
                    f"{self.name}: only one of `{name}` and `{name}_key` is taken, "
                    f"got {short[name]!r} and {key!r}"
                )
            short[name if name in self.default_keys else given] = key
        return short

    def select_out_keys(self, *names: str) -> Self:
        """Give these outputs only, in a TensorDict or in this order.

        Raises:
            ValueError: there is no such output; nothing is changed then.
        """
        known = self._every_out_key or tuple(self.out_keys)
        for name in names:
            if name not in known:
                raise ValueError(f"{self.name}: `{name}` is not an output; the outputs are {known}")
        self.reset_out_keys()
        self._every_out_key, self.out_keys = known, names
        self.register_forward_hook(_selected)
        return self

    def reset_out_keys(self) -> Self:
        """Give every output again."""
        for index, hook in list(self._forward_hooks.items()):
            if hook is _selected:
                del self._forward_hooks[index]
                self.out_keys, self._every_out_key = self._every_out_key, ()
        return self

    def register_coeff_buffer(
        self,
        name: str,
        value: Optional[float | Tensor],
        *,
        device: Optional[torch.device | str] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        """Register a coefficient as a 0-d buffer: a number that is assigned is copied in place.

        Args:
            name: of the buffer.
            value: a number; None: the attribute is None, and no buffer.
            device: where it is to be; None: where ``value`` is.
            dtype: None: that of ``value`` if it has one of floats, else the default.

        Raises:
            ValueError: the value is a bool, or not a scalar.
        """
        if value is None:
            setattr(self, name, None)
            return
        if isinstance(value, Tensor) and value.shape == (1,):
            value = value.squeeze(0)
        self.register_coefficient(name, value)
        buffer = self._buffers.get(name)
        if buffer is not None:  # else it is a parameter, and what it was made
            self._buffers[name] = buffer.to(device=device, dtype=dtype)

    def targets_follow(self) -> None:
        """Somebody moves the targets."""
        self._follow = True

    def check_targets_follow(self) -> None:
        """Warn, once, if there are frozen copies that nothing has been made to move."""
        if torch.compiler.is_compiling() or self._follow:
            return
        self._follow = True
        wanted = environ.get("RL_WARNINGS", "1").lower() not in ("0", "false", "off", "no")
        if wanted and any(name.startswith("target_") for name in self._modules):
            warnings.warn(
                f"{self.name}: no updater was made of its targets; make a SoftUpdate or a "
                "HardUpdate, move them by hand, or set RL_WARNINGS=False",
                stacklevel=5,
            )

    def __setattr__(self, name: str, value: Any) -> None:
        network = name.removesuffix("_params").removeprefix("target_").removesuffix("_target")
        if name.endswith("_params") and network in self.__dict__.get("_modules", ()):
            if value is not None:  # which some of TorchRL's say where they hold no parameters apart
                raise AttributeError(
                    f"{self.name}: `{name}` is a view of the network, and must be filled by "
                    f"`from_stateful_net` or `{name}.data.update_`, got an assignment"
                )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if "target_" in name and name.endswith("_params"):
            self.check_targets_follow()
        return super().__getattr__(name)


def _computes(name: str) -> bool:
    """Whether it is a ``forward``, or a part of a loss."""
    return name == "forward" or (name.endswith("loss") and not name.startswith("_"))


def _is_foreign(function: FunctionType) -> bool:
    """Whether a user wrote it, and nothing of ours is around it yet."""
    return not function.__module__.startswith("compiled_rl.")


def _acting(function: FunctionType) -> Callable[..., Any]:
    if find_spec("tensordict") is None:
        return function
    from compiled_rl.adapters.acting import acting

    return acting(function)


def _selected(loss: LossModule, args: Any, output: Any) -> Any:
    """Of a TensorDict, what is left of the outputs; others are given by ``out_keys`` already."""
    return output.select(*loss.out_keys) if is_tensordict(output) else output
