"""What every loss shares: its fields, its masks, its ways of being called."""

from typing import Any, ClassVar, Literal, Optional

import torch
from torch import Size, Tensor

from compiled_rl.adapters import (
    Data,
    Field,
    Key,
    PlainForm,
    describe,
    given,
    in_next,
    output_type,
    read,
    unique,
    write,
)
from compiled_rl.modules import CoefficientModule

_AUTOMATIC_MASKS: tuple[Key, ...] = (("collector", "mask"), "shifted_valid")
_REDUCTIONS = ("none", "mean", "sum")


class LossModule(CoefficientModule):
    """A loss: it gathers (evaluates its networks), calls an objective, and reduces.

    Call it with keyword tensors and it returns a named tuple of ``out_keys``; with a mapping of
    tensors, a dict; with a TensorDict, a TensorDict. The three are one computation, ``evaluate``.

    A subclass declares ``fields``, registers its networks as ordinary attributes, makes their
    plain forms in ``networks``, calls ``wire`` at the end of its constructor, and computes its
    named outputs in ``evaluate``. An update minimises the sum of the outputs called ``loss_…``;
    all others are detached.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the valid steps.
        loss_mask_key: where to find the mask of valid steps, bool ``[*B]`` or ``[*B, 1]``;
            ``"auto"`` takes ``("collector", "mask")`` and ``"shifted_valid"`` where they are
            given, any other key must be given, None takes no mask. What lies under a mask is
            replaced by zeros before a network sees it, so that a NaN there is harmless; a network
            that mixes the steps of a batch (batch normalisation) does see the zeros.

    Raises:
        ValueError: ``reduction`` or ``loss_mask_key`` is unknown.
    """

    fields: ClassVar[tuple[Field, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ("reduction",)
    in_keys: tuple[Key, ...]
    out_keys: tuple[str, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = (cls.__doc__ or "") + describe(cls.fields)

    def __init__(
        self,
        reduction: Literal["none", "mean", "sum"] = "mean",
        loss_mask_key: Optional[Key] = "auto",
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"{self.name}: `reduction` must be in {_REDUCTIONS}, got {reduction!r}"
            )
        if not (loss_mask_key is None or isinstance(loss_mask_key, str | tuple)):
            raise ValueError(
                f"{self.name}: `loss_mask_key` must be 'auto', None or a key, got {loss_mask_key!r}"
            )
        self.reduction = reduction
        self.mask_keys = _mask_keys(loss_mask_key)
        self.default_keys = {f.name: f.key for f in self.fields if f.kind == "input"}
        self.tensor_keys = dict(self.default_keys)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.fixed and (name in self.__dict__ or name in self.__dict__["_modules"]):
            raise AttributeError(
                f"{self.name}: `{name}` is fixed when the loss is made; make another loss"
            )
        super().__setattr__(name, value)

    @property
    def name(self) -> str:
        """The class's name, with which every error begins."""
        return type(self).__name__

    def networks(self) -> tuple[PlainForm, ...]:
        """Make the plain forms of the networks that the loss evaluates."""
        raise NotImplementedError

    def absent(self) -> set[str]:
        """The declared outputs that this instance, as configured, does not give."""
        return set()

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """Every output by name, from every input that was given, by key."""
        raise NotImplementedError

    def wire(self) -> None:
        """Derive every list of keys from the fields, the networks and the keys that were set."""
        self._forms = self.networks()
        roots = [key for network in self._forms for key in network.in_keys]
        nexts = [in_next(key) for key in roots]
        self.in_keys = unique([*roots, *self.tensor_keys.values(), *nexts, *self.mask_keys])
        computed = [field for field in self.fields if field.kind != "input"]
        given = [field for field in computed if field.name not in self.absent()]
        self._given = tuple(field.name for field in given)
        self.out_keys = tuple(field.name for field in given if field.kind == "output")
        output_type(self.name, self.out_keys)  # made now: a compiled call only finds it

    def check_fresh(self) -> None:
        """Refuse to go on when a submodule of a network was replaced.

        Raises:
            RuntimeError: one was.
        """
        for network in self._forms:
            network.check_fresh()

    def set_keys(self, **keys: Optional[Key]) -> None:
        """Say under which keys the inputs are found; None restores a default.

        What is read under ``"next"`` by default (``reward``, ``done``, ``terminated``) is read
        there whatever its key. A refusal changes nothing.

        Raises:
            KeyError: the critic has no output of the key given for ``value``.
            TypeError: a key is neither a string nor a tuple of strings.
            ValueError: a name is not an input of this loss.
        """
        for name in keys:
            if name not in self.default_keys:
                raise ValueError(
                    f"{self.name}: `{name}` is not an accepted key; "
                    f"the accepted keys are {list(self.default_keys)}"
                )
        before = self.tensor_keys
        self.tensor_keys = before | {name: self._key(name, key) for name, key in keys.items()}
        try:
            self.wire()
        except KeyError:
            self.tensor_keys = before
            raise

    def _key(self, name: str, key: Optional[Key]) -> Key:
        if key is None:
            return self.default_keys[name]
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str) for part in parts):
            raise TypeError(
                f"{self.name}: the key of `{name}` must be a string or a tuple of strings, "
                f"got {key!r}"
            )
        default = self.default_keys[name]
        return in_next(key) if isinstance(default, tuple) and default[0] == "next" else key

    def forward(self, tensordict: Any = None, **tensors: Tensor) -> Any:
        """The outputs, in the form in which the inputs came.

        Args:
            tensordict: a TensorDict, or a mapping by key or by keyword; nothing is written to it.
            **tensors: instead of it, the inputs by keyword; ``("next", "reward")`` is
                ``next_reward``.

        Raises:
            KeyError: a needed input is missing.
            TypeError: a keyword is unknown.
            ValueError: shapes do not fit.
        """
        data = read(self.name, self.in_keys, tensordict, tensors)
        computed = self.evaluate(data)
        outputs = {name: computed[name] for name in self._given}
        return write(self.name, tensordict, outputs, self.out_keys)

    def require(self, data: Data, name: str, why: str = "") -> Tensor:
        """The input ``name``, or an error that says what is missing and what is there."""
        key = self.tensor_keys[name]
        if key not in data:
            raise KeyError(
                f"{self.name}: the key {key!r} for `{name}` was not found"
                f"{why and ', needed ' + why}; "
                f"the keys are {given(data)}"
            )
        return data[key]

    def require_recorded(self, data: Data, name: str) -> Tensor:
        """An input that was recorded: it must not be part of a graph."""
        x = self.require(data, name)
        if x.requires_grad:
            raise RuntimeError(
                f"{self.name}: `{name}` must be recorded data, got a tensor that requires grad"
            )
        return x

    def mask(self, data: Data, batch: Size) -> Optional[Tensor]:
        """The steps that every given mask allows, bool ``[*B]``; None if none was given."""
        if self.mask_keys != _AUTOMATIC_MASKS:
            for key in self.mask_keys:
                if key not in data:
                    raise KeyError(
                        f"{self.name}: the mask {key!r} was not found; the keys are {given(data)}"
                    )
        valid: Optional[Tensor] = None
        for key, mask in [(key, data[key]) for key in self.mask_keys if key in data]:
            aligned = self._align_mask(key, mask, batch)
            valid = aligned if valid is None else valid & aligned
        return valid

    def per_step(self, batch: Size, **tensors: Tensor) -> dict[str, Tensor]:
        """The tensors as ``[*B]``: all are given so, or all as ``[*B, 1]``, never mixed."""
        first = next(iter(tensors))
        shape = tensors[first].shape
        # Not `in`: TorchDynamo decides it wrongly for sizes that it keeps symbolic.
        if shape != batch and shape != (*batch, 1):
            raise ValueError(
                f"{self.name}: `{first}` must be of shape {list(batch)} or {[*batch, 1]}, "
                f"got {list(shape)}"
            )
        for name, x in tensors.items():
            if x.shape != shape:
                raise ValueError(
                    f"{self.name}: `{name}` must have the shape of `{first}`, "
                    f"got {list(x.shape)} and {list(shape)}"
                )
        return {name: x.reshape(batch) for name, x in tensors.items()}

    def _align_mask(self, key: Key, mask: Tensor, batch: Size) -> Tensor:
        if mask.dtype != torch.bool:
            raise ValueError(f"{self.name}: the mask {key!r} must be torch.bool, got {mask.dtype}")
        if mask.shape == (*batch, 1):
            mask = mask.squeeze(-1)
        if mask.shape != batch[: mask.dim()]:
            raise ValueError(
                f"{self.name}: the mask {key!r} must be of shape {list(batch)} or {[*batch, 1]}, "
                f"got {list(mask.shape)}"
            )
        return mask[(...,) + (None,) * (len(batch) - mask.dim())].expand(batch)


def select_valid(data: Data, mask: Optional[Tensor]) -> Data:
    """The data with zeros where the mask forbids, so that nothing there reaches a network."""
    if mask is None:
        return data
    return {key: _select(x, mask) for key, x in data.items()}


def _select(x: Tensor, mask: Tensor) -> Tensor:
    if x.shape[: mask.dim()] != mask.shape:
        return x
    valid = mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
    return torch.where(valid, x, torch.zeros_like(x))


def _mask_keys(loss_mask_key: Optional[Key]) -> tuple[Key, ...]:
    if loss_mask_key is None:
        return ()
    return _AUTOMATIC_MASKS if loss_mask_key == "auto" else (loss_mask_key,)
