"""What every loss shares: its fields, its masks, its ways of being called."""

from typing import Any, ClassVar, Literal, Optional, Self

import torch
from torch import Generator, Size, Tensor, nn

from compiled_rl.adapters import (
    Data,
    EnsembleForm,
    Key,
    KeyedModule,
    PlainForm,
    given,
    keyword,
    read,
    select_valid,
    unique,
    write,
)
from compiled_rl.adapters.dispatch import is_tensordict
from compiled_rl.adapters.masks import beside
from compiled_rl.adapters.stateful import StatefulNetworks
from compiled_rl.estimators import ValueEstimatorBase, ValueEstimators, make_estimator
from compiled_rl.estimators.axes import named_time

_AUTOMATIC_MASKS: tuple[Key, ...] = (("collector", "mask"), "shifted_valid")
_REDUCTIONS = ("none", "mean", "sum")


class LossModule(StatefulNetworks, KeyedModule):
    """A loss: it gathers (evaluates its networks), calls an objective, and reduces.

    Call it with keyword tensors and it returns a named tuple of ``out_keys``, or the tensor itself
    where there is one; with a mapping of tensors, a dict; with a TensorDict, a TensorDict. The
    three are one computation, ``evaluate``.

    A subclass declares ``fields``, registers its networks as ordinary attributes, makes their
    plain forms in ``networks``, calls ``wire`` at the end of its constructor, and computes its
    named outputs in ``evaluate``. An update minimises the sum of those that are ``minimised``; all
    others are detached.

    Or, as a loss for TorchRL is written, it declares no ``fields``: it gives its networks to
    ``convert_to_functional``, makes its estimator in a ``make_value_estimator`` of its own, and has
    a ``forward`` of its own.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the valid steps; None: ``"mean"``.
        loss_mask_key: where to find the mask of valid steps, bool ``[*B]`` or ``[*B, 1]``;
            ``"auto"`` takes ``("collector", "mask")`` and ``"shifted_valid"`` where they are
            given, any other key must be given, None takes no mask. What lies under a mask is
            replaced by a copy of a valid step before a network sees it, so that a NaN there is
            harmless; a network that mixes steps (batch normalisation, a recurrent one that goes on
            behind them) does see the copies.

    Raises:
        ValueError: ``reduction`` or ``loss_mask_key`` is unknown.
    """

    fixed: ClassVar[tuple[str, ...]] = ("reduction",)
    settable: ClassVar[tuple[str, ...]] = ("input", "written", "computed")
    default_value_estimator: ClassVar[Optional[ValueEstimators]] = None

    def __init__(
        self,
        reduction: Optional[Literal["none", "mean", "sum"]] = None,
        loss_mask_key: Optional[Key] = "auto",
    ) -> None:
        super().__init__()
        reduction = "mean" if reduction is None else reduction
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"{self.name}: `reduction` must be in {_REDUCTIONS}, got {reduction!r}"
            )
        self.reduction = reduction
        self.value_type: Any = self.default_value_estimator
        self._were_set: set[str] = set()
        self._value_estimator: Optional[ValueEstimatorBase] = None
        self._loss_mask_key = self._check_mask_key(loss_mask_key)

    @property
    def loss_mask_key(self) -> Optional[Key]:
        """Where the mask of valid steps is found; see the class. It may be set at any time."""
        return self._loss_mask_key

    @loss_mask_key.setter
    def loss_mask_key(self, key: Optional[Key]) -> None:
        self._loss_mask_key = self._check_mask_key(key)
        self.wire()

    def _check_mask_key(self, key: Any) -> Optional[Key]:
        if key is None or isinstance(key, str):
            return key
        if not (isinstance(key, tuple) and all(isinstance(part, str) for part in key)):
            raise ValueError(
                f"{self.name}: `loss_mask_key` must be 'auto', None or a key, got {key!r}"
            )
        return key

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the networks; a frozen copy, ``target_...``, always is in that of use.

        So it neither drops anything nor moves the statistics of a batch normalisation.
        """
        super().train(mode)
        for name, network in self.named_children():
            if name.startswith("target_"):
                network.eval()
        return self

    def other_keys(self) -> tuple[Key, ...]:
        """The masks."""
        return _mask_keys(self.loss_mask_key)

    def networks(self) -> tuple[PlainForm | EnsembleForm, ...]:
        """None that are known: a loss that declares no ``fields`` calls its own."""
        return ()

    def lent_critic(self) -> Optional[nn.Module]:
        """The network that a value estimator is lent, if there is one."""
        return None

    def complete(self) -> None:
        """Make the default estimator of a loss that makes its own out of what it has by now.

        So what a state dict will hold exists from construction on.
        """
        own = type(self).make_value_estimator is not LossModule.make_value_estimator
        if own and self._value_estimator is None and self.default_value_estimator is not None:
            self.make_value_estimator(self.default_value_estimator)

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """The estimator that computes what the data lack.

        Raises:
            RuntimeError: the loss has no critic to estimate with.
        """
        if self._value_estimator is None:
            raise RuntimeError(f"{self.name}: a value estimator needs a critic, got None")
        return self._value_estimator

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> Self:
        """Choose the estimator that computes what the data lack; it is lent the loss's critic.

        Args:
            value_type: a member of ``ValueEstimators`` or its name, an estimator's class, or an
                estimator; None: ``default_value_estimator``.
            **hyperparams: of the estimator, such as ``gamma`` and ``lmbda``; for a name, those of
                ``default_value_kwargs`` where they are not given.

        What the loss makes it makes where its coefficients are; an estimator that is given stays
        where it is.

        Returns:
            The loss.

        Raises:
            KeyError: there is no estimator of that name.
            RuntimeError: the loss has no critic to estimate with.
            TypeError: ``value_type`` or a hyper-parameter is nothing of the kind.
            ValueError: a hyper-parameter is out of its range, or the estimator has another critic.
        """
        value_type = self.default_value_estimator if value_type is None else value_type
        estimator = make_estimator(value_type, hyperparams)
        home = self.device_of_coefficients()
        if estimator is not value_type and home is not None:
            estimator.settle(home)
        self.take_estimator(estimator)
        self._value_estimator = estimator
        self.value_type = type(estimator) if value_type is estimator else value_type
        self.wire()
        return self

    def take_estimator(self, estimator: ValueEstimatorBase) -> None:
        """Lend the critic to the estimator that was chosen, or refuse it."""
        critic = self.lent_critic()
        if critic is None:
            raise RuntimeError(f"{self.name}: a value estimator needs a critic, got None")
        value_key = self._keys_of_estimator(estimator).get("value")
        estimator.lend(critic, getattr(self, "actor_network", None), value_key)

    def device_of_coefficients(self) -> Optional[torch.device]:
        """Where this loss has its coefficients, if it has any."""
        own = [x.device for x in self._buffers.values() if x is not None]
        return own[0] if own else None

    def wire(self) -> None:
        """Derive every list of keys, the value estimator's included."""
        super().wire()
        if self._value_estimator is not None:
            self._value_estimator.set_keys(**self._keys_of_estimator(self._value_estimator))
            self.in_keys = unique([*self.in_keys, *self.keys_for(self._value_estimator)])

    def keys_for(self, estimator: ValueEstimatorBase) -> tuple[Key, ...]:
        """What is read for the estimator."""
        return estimator.in_keys

    def _keys_of_estimator(self, estimator: ValueEstimatorBase) -> dict[str, Key]:
        """The keys that this loss has set, now or before; others are the estimator's own."""
        declared = {field.name: field.key for field in self.fields}
        self._were_set |= {n for n, key in self.tensor_keys.items() if key != declared[n]}
        return {
            name: self.tensor_keys[name]
            for name in self._were_set
            if name in estimator.default_keys
        }

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """Every output by name, from every input that was given, by key."""
        raise NotImplementedError

    def forward(self, tensordict: Any = None, **tensors: Tensor) -> Any:
        """The outputs, in the form in which the inputs came.

        Args:
            tensordict: a TensorDict, or a mapping by key or by keyword. Nothing is written to it
                but a field of the kind ``written``, and that to a TensorDict only.
            **tensors: instead of it, the inputs by keyword; ``("next", "reward")`` is
                ``next_reward``.

        Raises:
            KeyError: a needed input is missing.
            TypeError: a keyword is unknown.
            ValueError: shapes do not fit.
        """
        data = read(self.name, self.in_keys, tensordict, tensors)
        self._check_time(tensordict, data)
        computed = self.evaluate(data)
        self.write_back(tensordict, computed)
        outputs = {name: computed[name] for name in self._given}
        return write(self.name, tensordict, outputs, self.output_names, self._nested)

    def write_back(self, source: Any, computed: dict[str, Tensor]) -> None:
        """Set what the caller's TensorDict is to hold."""
        for field in self.fields:
            if field.kind == "written" and is_tensordict(source):
                key, x = self.tensor_keys[field.name], computed[keyword(field.key)]
                source.set(key, x, inplace=source.is_locked)  # a locked one takes nothing else

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

    def _check_time(self, source: Any, data: Data) -> None:
        """Refuse sequences whose time is another axis than the estimator will take."""
        estimator, named = self._value_estimator, named_time(source)
        if estimator is None or not estimator.sequential or named is None:
            return
        if self.tensor_keys.get("advantage") in data:
            return
        axis = -1 if estimator.time_dim is None else estimator.time_dim
        if (named - axis) % source.batch_dims:
            raise ValueError(
                f"{self.name}: the dimension named 'time' must be the value estimator's "
                f"`time_dim`, got {named} and {axis}; say which in make_value_estimator"
            )

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
        for key, mask in self._masks(data):
            aligned = self._align_mask(key, mask, batch)
            valid = aligned if valid is None else valid & aligned
        return valid

    def select_valid(self, data: Data) -> Data:
        """The data with a copy of a valid step under every mask; see ``adapters.select_valid``.

        It is not yet known how many axes the batch has.
        """
        valid: Optional[Tensor] = None
        for _, mask in self._masks(data):
            # Of a batch that ends in one, this selects the same.
            leading = mask.squeeze(-1) if mask.dim() > 1 and mask.shape[-1] == 1 else mask
            valid = leading if valid is None else _joined(valid, leading)
        return select_valid(data, valid, _mask_keys(self.loss_mask_key))

    def _masks(self, data: Data) -> list[tuple[Key, Tensor]]:
        """The masks that were given, by key; one that was asked for must be."""
        keys = _mask_keys(self.loss_mask_key)
        found = [(key, data[key]) for key in keys if key in data]
        if keys != _AUTOMATIC_MASKS and len(found) < len(keys):
            raise KeyError(
                f"{self.name}: the mask {keys[0]!r} was not found; the keys are {given(data)}"
            )
        for key, mask in found:
            if mask.dtype != torch.bool:
                raise ValueError(
                    f"{self.name}: the mask {key!r} must be torch.bool, got {mask.dtype}"
                )
        return found

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
        if mask.shape == (*batch, 1):
            mask = mask.squeeze(-1)
        if mask.shape != batch[: mask.dim()]:
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


def _mask_keys(loss_mask_key: Optional[Key]) -> tuple[Key, ...]:
    if loss_mask_key is None:
        return ()
    return _AUTOMATIC_MASKS if loss_mask_key == "auto" else (loss_mask_key,)
