"""Which data a plain network reads."""

from typing import Any

from torch import Tensor, nn

from compiled_rl.modules.arguments import check_module


class Reads(nn.Module):
    """A network, and the keys of what it takes, in order; without it, that is ``observation``.

    .. code-block:: python

        Policy(Reads(network, "observation", "goal"), Normal)
        critic = Reads(network, "observation", ("privileged", "state"))

    Args:
        network: a module of as many tensors as there are keys.
        *keys: under which a loss or an estimator finds them; a tuple reads a nested entry.

    Raises:
        TypeError: a key is neither a string nor a tuple of strings.
    """

    def __init__(self, network: nn.Module, *keys: str | tuple[str, ...]) -> None:
        super().__init__()
        self.network = check_module("Reads", "network", network)
        self.keys = keys
        for key in keys:
            parts = key if isinstance(key, tuple) else (key,)
            if not parts or not all(isinstance(part, str) and part for part in parts):
                raise TypeError(
                    f"Reads: `keys` must each be a string or a tuple of strings, got {key!r}"
                )

    def forward(self, *tensors: Tensor) -> Any:
        """What the network returns."""
        return self.network(*tensors)

    def extra_repr(self) -> str:
        """The keys."""
        return ", ".join(repr(key) for key in self.keys)
