"""What every loss of this library shares: declared fields, networks in plain form, one way in."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Optional

from torch import Generator, Size, Tensor, nn

from compiled_rl.adapters import (
    Data,
    Key,
    KeyedModule,
    keyword,
    read,
    select_valid,
    unique,
    write,
)
from compiled_rl.adapters.dispatch import TIME, by_position, is_tensordict
from compiled_rl.adapters.masks import beside
from compiled_rl.estimators import ValueEstimatorBase
from compiled_rl.estimators.axes import time_of
from compiled_rl.kernels.checks import check_floating
from compiled_rl.losses.base import LossModule


class DeclaredLoss(KeyedModule, LossModule):
    """A loss: it gathers (evaluates its networks), calls an objective, and reduces.

    Call it with keyword tensors and it returns a named tuple of ``out_keys``, or the tensor itself
    where there is one; with a mapping of tensors, a dict; with a TensorDict, a TensorDict. The
    three are one computation, ``evaluate``.

    A subclass declares ``fields``, registers its networks as ordinary attributes, makes their
    plain forms in ``networks``, calls ``wire`` at the end of its constructor, and computes its
    named outputs in ``evaluate``. An update minimises the sum of those that are ``minimised``; all
    others are detached.

    What lies under a mask is replaced by a copy of a valid step before a network sees it, so that
    a NaN there is harmless; a network that mixes steps (batch normalisation, a recurrent one that
    goes on behind them) does see the copies.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the valid steps; None: ``"mean"``.
        loss_mask_key: see ``LossModule``.

    Raises:
        ValueError: ``reduction`` or ``loss_mask_key`` is unknown.
    """

    fixed: ClassVar[tuple[str, ...]] = ("reduction",)
    settable: ClassVar[tuple[str, ...]] = ("input", "written", "computed")

    def __init__(
        self,
        reduction: Optional[Literal["none", "mean", "sum"]] = None,
        loss_mask_key: Optional[Key] = "auto",
    ) -> None:
        super().__init__(reduction, loss_mask_key)
        self._were_set: set[str] = set()

    def other_keys(self) -> tuple[Key, ...]:
        """The masks."""
        return self.mask_keys

    def lent_critic(self) -> Optional[nn.Module]:
        """The network that a value estimator is lent, if there is one."""
        return None

    def take_estimator(self, estimator: ValueEstimatorBase) -> None:
        """Lend the critic to the estimator that was chosen, or refuse it."""
        critic = self.lent_critic()
        if critic is None:
            raise RuntimeError(f"{self.name}: a value estimator needs a critic, got None")
        value_key = self._keys_of_estimator(estimator).get("value")
        estimator.lend(critic, getattr(self, "actor_network", None), value_key)

    def check_named(self, value_type: Any, estimator: ValueEstimatorBase) -> None:
        """Nothing: what it needs it is lent, or given by the loss."""

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        """Nothing: ``wire`` has done it."""

    def wire(self) -> None:
        """Derive every list of keys, the value estimator's included."""
        super().wire()
        if self._value_estimator is not None:
            self._value_estimator.set_keys(**self._keys_of_estimator(self._value_estimator))
            self.in_keys = unique([*self.in_keys, *self.keys_for(self._value_estimator)])

    def _default_value_estimator(self) -> None:
        self.make_value_estimator(self.default_value_estimator)  # it finds its device by itself

    def keys_for(self, estimator: ValueEstimatorBase) -> tuple[Key, ...]:
        """What is read for the estimator."""
        return estimator.in_keys

    def _keys_of_estimator(self, estimator: ValueEstimatorBase) -> dict[str, Key]:
        """The keys that this loss has set, now or before; others are the estimator's own."""
        declared = {field.name: field.key for field in self.fields}
        keys = self.tensor_keys
        self._were_set |= {name for name in keys if keys[name] != declared.get(name)}
        return {
            name: self.tensor_keys[name]
            for name in self._were_set
            if name in estimator.default_keys
        }

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """Every output by name, from every input that was given, by key."""
        raise NotImplementedError

    def forward(self, tensordict: Any = None, *others: Tensor, **tensors: Tensor) -> Any:
        """The outputs, in the form in which the inputs came.

        Args:
            tensordict: a TensorDict, or a mapping by key or by keyword. Nothing is written to it
                but a field of the kind ``written``, and that to a TensorDict only. Or a tensor, the
                first of ``in_keys``.
            *others: if it is a tensor, those of the ``in_keys`` that follow.
            **tensors: instead of it, or for what is left, the inputs by keyword;
                ``("next", "reward")`` is ``next_reward``.

        Raises:
            KeyError: a needed input is missing.
            RuntimeError: what was recorded requires a gradient.
            TypeError: a keyword is unknown, or there are too many tensors.
            ValueError: shapes do not fit.
        """
        self.check_targets_follow()
        if isinstance(tensordict, Tensor) or others:
            tensors = by_position(self.name, self.in_keys, (tensordict, *others), tensors)
            tensordict = None
        computed = self.evaluate(self.inputs(tensordict, tensors))
        self.write_back(tensordict, computed)
        outputs = {name: computed[name] for name in self._given}
        return write(self.name, tensordict, outputs, self.output_names, self._nested)

    def write_back(self, source: Any, computed: dict[str, Tensor]) -> None:
        """Set what the caller's TensorDict is to hold."""
        for field in self.fields:
            if field.kind == "written" and is_tensordict(source):
                self._write(source, self.tensor_keys[field.name], computed[keyword(field.key)])

    def _write(self, source: Any, key: Key, x: Tensor) -> None:
        """Into the column that TorchRL may have made; in place where the TensorDict is locked."""
        held = source.get(key, None)
        if held is not None and held.shape == (*x.shape, 1):
            x = x.unsqueeze(-1)
        if source.is_locked and (held is None or held.shape != x.shape):
            got = "none" if held is None else list(held.shape)
            raise RuntimeError(
                f"{self.name}: a locked TensorDict must have the key {key!r}, to which priorities "
                f"are written, of shape {list(x.shape)} or {[*x.shape, 1]}, got {got}"
            )
        source.set(key, x, inplace=source.is_locked)

    @property
    def minimised(self) -> tuple[str, ...]:
        """The outputs whose sum an update minimises: those called ``loss`` or ``loss_...``."""
        names = [field.name for field in self._outputs()]
        return tuple(name for name in names if name == "loss" or name.startswith("loss_"))

    @property
    def priorities(self) -> tuple[str, ...]:
        """The metrics that are written back to the caller's TensorDict."""
        return tuple(keyword(field.key) for field in self.fields if field.kind == "written")

    def draw_noise(self, data: Data, generator: Optional[Generator] = None) -> Data:
        """What ``forward`` would draw for these data if it were not given, by key."""
        return {}

    def inputs(self, source: Any, tensors: Mapping[str, Optional[Tensor]]) -> Data:
        """What was given, by key, and where a TensorDict says time is."""
        data = read(self.name, self.in_keys, source, tensors)
        if is_tensordict(source):
            return data | self._time(source, data)
        return data | {TIME: source[TIME]} if source is not None and TIME in source else data

    def _time(self, source: Any, data: Data) -> Data:
        """The entry ``TIME``, where an estimator will ask for it."""
        estimator = self._value_estimator
        if estimator is None or not estimator.sequential or not source.batch_dims:
            return {}
        if not data or self.tensor_keys.get("advantage") in data:
            return {}
        axis = time_of(self.name, source, estimator.time_dim)
        return {TIME: next(iter(data.values())).new_ones((1,) * (axis + 1))}

    def require_each_recorded(self, data: Data, name: str) -> tuple[Tensor, ...]:
        """An input that was recorded, of each head of the policy."""
        found = self.require_each(data, name)
        for x in found:
            self.check_recorded(name, x)
        return found

    def check_recorded(self, name: str, x: Tensor) -> None:
        """Refuse what is part of a graph."""
        if x.requires_grad:
            raise RuntimeError(
                f"{self.name}: `{name}` must be recorded data, got a tensor that requires grad"
            )

    def mask(self, data: Data, batch: Size) -> Optional[Tensor]:
        """The steps that every given mask allows, bool ``[*B]``; None if none was given."""
        valid: Optional[Tensor] = None
        for key, mask in self.masks(data):
            aligned = self._align_mask(key, mask, batch)
            valid = aligned if valid is None else valid & aligned
        return valid

    def select_valid(self, data: Data) -> Data:
        """The data with a copy of a valid step under every mask; see ``adapters.select_valid``."""
        return select_valid(data, self.valid_steps(data), self.mask_keys)

    def valid_steps(self, data: Data) -> Optional[Tensor]:
        """Where networks see what was recorded, bool; None: everywhere.

        It is not yet known how many axes the batch has.
        """
        valid: Optional[Tensor] = None
        for _, mask in self.masks(data):
            # Of a batch that ends in one, this selects the same.
            leading = mask.squeeze(-1) if mask.dim() > 1 and mask.shape[-1] == 1 else mask
            valid = leading if valid is None else _joined(valid, leading)
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
            if name not in ("terminated", "done", "steps_to_next_obs"):
                check_floating(self.name, name, x)
            if x.shape != shape:
                raise ValueError(
                    f"{self.name}: `{name}` must have the shape of `{first}`, "
                    f"got {list(x.shape)} and {list(shape)}"
                )
        return {name: x.reshape(batch) for name, x in tensors.items()}

    def _align_mask(self, key: Key, mask: Tensor, batch: Size) -> Tensor:
        if mask.shape == (*batch, 1):
            mask = mask.squeeze(-1)
        if mask.shape != batch[: mask.dim()] or (mask.dim() == 0 and len(batch) > 0):
            raise ValueError(
                f"{self.name}: the mask {key!r} must be of shape {list(batch)} or {[*batch, 1]}, "
                f"got {list(mask.shape)}"
            )
        return mask[(...,) + (None,) * (len(batch) - mask.dim())].expand(batch)


def _joined(mask: Tensor, other: Tensor) -> Tensor:
    """The steps that two masks allow, of which one may be the shorter.

    Where they do not fit one is wrong, which is said when it is known how many axes the batch has.
    """
    short, long = sorted((mask, other), key=Tensor.dim)
    return beside(short, long) & long if short.shape == long.shape[: short.dim()] else long
