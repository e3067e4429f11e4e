"""The value estimator of a loss: made, set, and told the keys."""

from enum import Enum
from typing import Any, ClassVar, Optional, Self

import torch

from compiled_rl.adapters.keys import AcceptsKeys
from compiled_rl.estimators import ValueEstimatorBase, ValueEstimators, make_estimator


class EstimatingLoss(AcceptsKeys):
    """A loss that has a value estimator, or makes one when it is asked for."""

    default_value_estimator: ClassVar[Optional[ValueEstimators]] = None
    _value_estimator_default_keys: ClassVar[tuple[str, ...]] = (
        "advantage",
        "value_target",
        "value",
        "reward",
        "done",
        "terminated",
    )

    def __init__(self) -> None:
        super().__init__()
        self.value_type: Any = self.default_value_estimator
        self._value_estimator: Optional[ValueEstimatorBase] = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value_estimator":  # torch would make a child of it, past the property
            EstimatingLoss.make_value_estimator(self, value)
        else:
            super().__setattr__(name, value)

    def complete(self) -> None:
        """Make the default estimator of a loss that makes its own out of what it has by now.

        So what a state dict will hold exists from construction on.
        """
        own = type(self).make_value_estimator is not EstimatingLoss.make_value_estimator
        if own and self._value_estimator is None and self.default_value_estimator is not None:
            self._default_value_estimator()

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """The estimator that computes what the data lack; it may be set.

        Raises:
            RuntimeError: the loss has no critic to estimate with, or no estimator.
        """
        if self._value_estimator is None:
            self._default_value_estimator()
        if self._value_estimator is None:
            raise RuntimeError(f"{self.name}: `make_value_estimator` must make one, made none")
        return self._value_estimator

    def _default_value_estimator(self) -> None:
        self.make_value_estimator(self.default_value_estimator, device=self._default_device)

    @property
    def _default_device(self) -> Optional[torch.device]:
        """That of all parameters; None where they have several."""
        found = {x.device for x in self.parameters()}
        return found.pop() if len(found) == 1 else None

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
            NotImplementedError: it is a name, and a loss that a user wrote has no method of its own
                that gives the estimator a critic.
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
        if isinstance(value_type, str | Enum):
            self.check_named(value_type, estimator)
        self._value_estimator = estimator
        self.value_type = type(estimator) if value_type is estimator else value_type
        self.wire()
        return self

    def take_estimator(self, estimator: ValueEstimatorBase) -> None:
        """Lend it what it needs, or refuse it; this takes any, with a critic of its own or none."""

    def check_named(self, value_type: Any, estimator: ValueEstimatorBase) -> None:
        """Refuse one that was made by its name and was given no critic."""
        if estimator.value_network is None:
            raise NotImplementedError(
                f"{self.name}: `value_type` must be an estimator or its class, or "
                f"`make_value_estimator` be overridden, got {value_type!r} and no critic for it"
            )

    def device_of_coefficients(self) -> Optional[torch.device]:
        """Where this loss has its coefficients, if it has any."""
        own = [x.device for x in self._buffers.values() if x is not None]
        return own[0] if own else None

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        """Give the estimator the keys that it shares with the loss; called when keys were set.

        A loss whose names for them are others overrides it.
        """
        if self._value_estimator is not None:
            names = [x for x in self._value_estimator_default_keys if x in self.tensor_keys]
            self._value_estimator.set_keys(**{name: self.tensor_keys[name] for name in names})
        set_in_keys = getattr(self, "_set_in_keys", None)
        if callable(set_in_keys):
            set_in_keys()
