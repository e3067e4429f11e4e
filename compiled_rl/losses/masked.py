"""What of a loss counts, and how it is reduced."""

from collections.abc import Iterable
from typing import Any, Literal, Optional

import torch
from torch import Tensor

from compiled_rl.adapters import Data, Key, given
from compiled_rl.adapters.keys import AcceptsKeys
from compiled_rl.adapters.reduction import REDUCTIONS, reduce_loss

_AUTOMATIC_MASKS: tuple[Key, ...] = (("collector", "mask"), "shifted_valid")


class MaskedLoss(AcceptsKeys):
    """A loss with a reduction, over the steps that masks among the data allow."""

    use_prioritized_weights: bool | Literal["auto"] = "auto"
    reduction: Any
    _loss_mask_key: Optional[Key]

    def take_reduction(self, reduction: Optional[str], loss_mask_key: Optional[Key]) -> None:
        """Check both; a reduction that is None is that which was set before, else the mean."""
        if reduction is None:
            reduction = self.__dict__.get("reduction", "mean")
        if reduction not in REDUCTIONS:
            raise ValueError(f"{self.name}: `reduction` must be in {REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction
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

    @property
    def mask_keys(self) -> tuple[Key, ...]:
        """Where masks are looked for."""
        if self._loss_mask_key is None:
            return ()
        return _AUTOMATIC_MASKS if self._loss_mask_key == "auto" else (self._loss_mask_key,)

    def masks(self, data: Data) -> list[tuple[Key, Tensor]]:
        """The masks that were given, by key; one that was asked for must be."""
        keys = self.mask_keys
        found = [(key, data[key]) for key in keys if key in data]
        if keys != _AUTOMATIC_MASKS and len(found) < len(keys):
            raise self._no_mask(data)
        for key, mask in found:
            if mask.dtype != torch.bool:
                raise ValueError(
                    f"{self.name}: the mask {key!r} must be torch.bool, got {mask.dtype}"
                )
        return found

    def _no_mask(self, data: Iterable[Key]) -> KeyError:
        key = self._loss_mask_key
        return KeyError(f"{self.name}: the mask {key!r} was not found; the keys are {given(data)}")

    def _reduce_loss(
        self,
        loss: Tensor,
        tensordict: Any = None,
        *,
        mask: Optional[Tensor] = None,
        reduction: Optional[str] = None,
        weights: Optional[Tensor] = None,
    ) -> Tensor:
        """Reduce a loss of each element, for a loss that a user writes; see ``reduce_loss``.

        Args:
            loss: ``[*B]`` or ``[*B, 1]``.
            tensordict: where the masks of ``loss_mask_key`` are found; None: there are none.
            mask: one more.
            reduction: None: that of the loss.
            weights: of each element.
        """
        found: list[Tensor] = []
        if tensordict is not None:
            items = {key: tensordict.get(key, None) for key in self.mask_keys}
            data = {key: x for key, x in items.items() if x is not None}
            if not data and self._loss_mask_key not in ("auto", None):
                raise self._no_mask(tensordict.keys(True, True))
            found = [x for _, x in self.masks(data)]
        how = self.reduction if reduction is None else reduction
        return reduce_loss(self.name, loss, found, mask, how, weights)

    def _maybe_get_priority_weight(self, tensordict: Any) -> Optional[Tensor]:
        """The weight of each sample, where it is wanted and given."""
        if self.use_prioritized_weights is False:
            return None
        weight: Optional[Tensor] = tensordict.get(self.tensor_keys.priority_weight, None)
        return weight
