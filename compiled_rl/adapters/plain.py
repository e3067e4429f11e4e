"""The plain form of a network: its calls over a dict of tensors, whatever wraps them."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compiled_rl.adapters.dispatch import Data, given, is_tensordict
from compiled_rl.adapters.fields import Key, in_next, keyword, unique
from compiled_rl.modules import Policy

Step = tuple[nn.Module, tuple[Key, ...], tuple[Key, ...]]


class PlainForm(nn.Module):
    """``(module, in_keys, out_keys)`` in order, over a dict of tensors; intermediates stay in it.

    It is held outside the module tree of its owner, which registers ``network`` itself.
    """

    def __init__(self, network: nn.Module, out_key: Key) -> None:
        super().__init__()
        self.network = network
        self.out_key = out_key
        steps = _steps(network, out_key)
        self.calls = [module for module, _, _ in steps]
        self.wiring = [(in_keys, out_keys) for _, in_keys, out_keys in steps]
        self.out_keys = unique(key for _, out_keys in self.wiring for key in out_keys)
        self.in_keys = _in_keys(self.wiring)

    def forward(self, data: Data) -> Data:
        """``data`` and what the network computes from it."""
        if not torch.compiler.is_compiling():
            self.check_fresh()
        data = dict(data)
        for call, (in_keys, out_keys) in zip(self.calls, self.wiring, strict=True):
            for key in in_keys:
                if key not in data:
                    raise KeyError(
                        f"the network input `{keyword(key)}` was not found; "
                        f"the keys are {given(data)}"
                    )
            outputs = call(*[data[key] for key in in_keys])
            data.update(zip(out_keys, _as_tuple(outputs, out_keys), strict=True))
        return data

    def detached(self, data: Data, params: Any = None) -> Data:
        """``forward`` with the parameters held out: no gradient reaches them, inputs keep theirs.

        Args:
            data: the inputs.
            params: to take instead of the network's own: by name, or a TensorDict of them.
        """
        named: dict[str, Tensor] = dict(self.network.named_parameters())
        if params is not None:
            named = self._checked(flat_parameters(params), set(named))
        return self._held_out(data, named)

    def without(self, data: Data, names: frozenset[str]) -> Data:
        """``forward`` with the parameters of these names held out, and with inputs held out, too.

        Without names only the inputs are, which another network may have computed.
        """
        named: dict[str, Tensor] = {
            name: p for name, p in self.network.named_parameters() if name in names
        }
        return self._held_out({key: x.detach() for key, x in data.items()}, named)

    def _held_out(self, data: Data, named: dict[str, Tensor]) -> Data:
        """The parameters come from the module at the call: a functional call around it works."""
        held = {f"network.{name}": parameter.detach() for name, parameter in named.items()}
        out: Data = functional_call(self, held, (data,))
        return out

    def _checked(self, params: dict[str, Tensor], needed: set[str]) -> dict[str, Tensor]:
        known = needed | {name for name, _ in self.network.named_buffers()}
        if not needed <= set(params) <= known:
            raise ValueError(
                f"`params` must be the parameters of the network by name, {sorted(needed)}, "
                f"got {sorted(params)}"
            )
        return params

    def at_next(self, data: Data) -> Data:
        """The network's inputs at the state that was entered, under the names of the root."""
        missing = [keyword(in_next(key)) for key in self.in_keys if in_next(key) not in data]
        if missing:
            raise KeyError(
                f"the network inputs {missing} at the next state were not found; "
                f"the keys are {given(data)}"
            )
        return {key: data[in_next(key)] for key in self.in_keys}

    def check_fresh(self) -> None:
        """Refuse a network whose submodules are no longer those that were found.

        Raises:
            RuntimeError: a submodule was replaced.
        """
        now = [module for module, _, _ in _steps(self.network, self.out_key)]
        if any(a is not b for a, b in zip(now, self.calls, strict=False)):
            raise RuntimeError(
                f"a submodule of {type(self.network).__name__} was replaced after the loss was "
                "made; make the loss again"
            )


def flat_parameters(params: Any) -> dict[str, Tensor]:
    """Parameters by their dotted names, from pairs, a mapping or a TensorDict."""
    if is_tensordict(params):
        return dict(params.flatten_keys(".").items())
    return dict(params)


def select_valid(data: Data, mask: Optional[Tensor]) -> Data:
    """The data with zeros where the mask forbids, so that nothing there reaches a network."""
    if mask is None:
        return data
    return {key: _select(x, mask) for key, x in data.items()}


def _select(x: Tensor, mask: Tensor) -> Tensor:
    if x.shape[: mask.dim()] != mask.shape:
        return x
    return torch.where(beside(mask, x), x, torch.zeros_like(x))


def beside(mask: Tensor, x: Tensor) -> Tensor:
    """The mask with the axes that ``x`` has beyond it."""
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))


def _steps(network: nn.Module, out_key: Key) -> Sequence[Step]:
    """The network's calls; a plain module reads ``observation`` and gives ``out_key``."""
    if isinstance(network, Policy):
        return [(network.network, ("observation",), network.family.param_names)]
    if hasattr(network, "in_keys"):
        from compiled_rl.adapters.tensordict import steps_of

        return steps_of(network)
    return [(network, ("observation",), (out_key,))]


def _in_keys(wiring: Sequence[tuple[tuple[Key, ...], tuple[Key, ...]]]) -> tuple[Key, ...]:
    """What must come from outside: read by a call and not computed by one before it."""
    needed: list[Key] = []
    computed: set[Key] = set()
    for in_keys, out_keys in wiring:
        needed += [key for key in in_keys if key not in computed]
        computed |= set(out_keys)
    return unique(needed)


def _as_tuple(outputs: Any, out_keys: tuple[Key, ...]) -> tuple[Tensor, ...]:
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    if len(outputs) != len(out_keys):
        raise ValueError(
            f"a network must return {len(out_keys)} tensors, for {list(out_keys)}, "
            f"got {len(outputs)}"
        )
    return tuple(outputs)
