"""Hooks that TorchRL's own losses call, for one whose source is copied onto our ``LossModule``.

They are private there, and do here what they do there; nothing else of this library calls them.
"""

from typing import Any

from torch import Tensor, nn

from compiled_rl.adapters import Key
from compiled_rl.adapters.keys import Keys
from compiled_rl.estimators import ValueEstimatorBase, default_value_kwargs
from compiled_rl.losses.estimating import EstimatingLoss
from compiled_rl.losses.masked import MaskedLoss

_CACHE = "_cache"  # detached views, which its properties keep from call to call


class PrivateHooks(EstimatingLoss, MaskedLoss):
    """What TorchRL's losses expect of their base beside what is documented."""

    @property
    def _tensor_keys(self) -> Keys:
        return self.tensor_keys

    def _set_deprecated_ctor_keys(self, **keys: Any) -> None:
        """Refuse keys that a constructor was given."""
        for name, key in keys.items():
            if key is not None:
                raise RuntimeError(
                    f"{self.name}: the key of `{name}` must be set by `set_keys`, "
                    f"got {key!r} in the constructor"
                )

    def _prepare_value_estimator_kwargs(self, value_type: Any, **hyperparams: Any) -> Any:
        """The estimator's name and hyper-parameters; two None where it was given, and is taken."""
        value_type = self.default_value_estimator if value_type is None else value_type
        kind = value_type if isinstance(value_type, type) else type(value_type)
        if issubclass(kind, ValueEstimatorBase):
            EstimatingLoss.make_value_estimator(self, value_type, **hyperparams)
            return None, None
        self.value_type = value_type
        own = {"gamma": self.gamma} if hasattr(self, "gamma") else {}
        return value_type, default_value_kwargs(value_type) | own | hyperparams

    def _loss_mask_keys(self) -> tuple[Key, ...]:
        return self.mask_keys

    def _clear_weakrefs(self, *views: Any) -> None:
        """Nothing: no view outlives the call that made it."""

    @staticmethod
    def _make_meta_params(x: Tensor) -> Tensor:
        """The tensor without values, on the ``meta`` device; a parameter stays one."""
        there = x.detach().to("meta")
        return nn.Parameter(there, requires_grad=False) if isinstance(x, nn.Parameter) else there

    def _erase_cache(self) -> None:
        self.__dict__.pop(_CACHE, None)

    def _apply(self, function: Any, recurse: bool = True) -> Any:
        self._erase_cache()  # what is detached does not move along
        return super()._apply(function, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """Without the cache: in a copy it would be of the original's values."""
        return {name: x for name, x in self.__dict__.items() if name != _CACHE}
