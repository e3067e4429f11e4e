"""The plain form of a network: its calls over a dict of tensors, whatever wraps them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.adapters.dispatch import Data, given, is_tensordict
from compiled_rl.adapters.fields import Key, in_next, is_next, keyword, unique
from compiled_rl.modules import Policy, Reads
from compiled_rl.modules.calls import call_with, slots_of

START: Key = "is_init"  # as TorchRL calls the first step of an episode, wherever it is recorded


class Step:
    """One call of a network: a module that takes the tensors of its keys, and returns tensors.

    Args:
        module: what is called.
        in_keys: of its arguments, in order.
        out_keys: of what it returns, in order, or by key. An output under ``"next"`` is for
            acting: what was recorded there is what counts.
    """

    optional: frozenset[Key] = frozenset()  # the inputs that may be missing

    def __init__(
        self, module: nn.Module, in_keys: tuple[Key, ...], out_keys: tuple[Key, ...]
    ) -> None:
        self.module, self.in_keys, self.out_keys = module, in_keys, out_keys

    def __call__(self, data: Data) -> Data:
        """The outputs, by key."""
        outputs = self.module(*[data[key] for key in self.in_keys])
        if isinstance(outputs, Mapping):
            return self._by_key(outputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if len(outputs) != len(self.out_keys):
            raise ValueError(
                f"a network must return {len(self.out_keys)} tensors, for {list(self.out_keys)}, "
                f"got {len(outputs)}"
            )
        return dict(zip(self.out_keys, outputs, strict=True))

    def _by_key(self, outputs: Mapping[Any, Tensor]) -> Data:
        missing = [key for key in self.out_keys if outputs.get(key, None) is None]
        if missing:
            raise KeyError(
                f"a network that returns tensors by key must return {list(self.out_keys)}, "
                f"got {list(outputs.keys())}"
            )
        return {key: outputs[key] for key in self.out_keys}

    def computed(self) -> set[Key]:
        """The keys of the outputs that are kept."""
        return {key for key in self.out_keys if not is_next(key)}

    def check_inputs(self, data: Data) -> None:
        """Refuse data in which an input is missing."""
        for key in self.in_keys:
            if key not in data and key not in self.optional:
                raise KeyError(
                    f"the network input `{keyword(key)}` was not found; the keys are {given(data)}"
                )


class PlainForm(nn.Module):
    """The steps of a network in order, over a dict of tensors; intermediates stay in it.

    It is held outside the module tree of its owner, which registers ``network`` itself.
    """

    def __init__(self, network: nn.Module, out_key: Key) -> None:
        super().__init__()
        self.network = network
        self.out_key = out_key
        self._all = self.find_steps()
        self._slots = slots_of(self)
        self._take(self._all)

    def find_steps(self) -> list[Step]:
        """The network's calls; a plain module reads ``observation`` and gives ``out_key``."""
        if isinstance(self.network, Policy):
            _check_policy(self.network)
            return [_plain_step(self.network.network, self.network.family.param_names)]
        if hasattr(self.network, "in_keys"):
            from compiled_rl.adapters.tensordict import steps_of

            return steps_of(self.network)
        return [_plain_step(self.network, (self.out_key,))]

    def _take(self, steps: list[Step]) -> None:
        self.steps = steps
        self.in_keys = _in_keys(steps)
        self.optional = frozenset(key for step in steps for key in step.optional)
        self.out_keys = unique(
            key for step in steps for key in step.out_keys if key in step.computed()
        )

    def keep(self, keys: Iterable[Key]) -> None:
        """Make those steps only without which ``keys`` could not be computed."""
        needed, steps = set(keys), list[Step]()
        for step in reversed(self._all):
            if needed & step.computed():
                needed = (needed - step.computed()) | set(step.in_keys)
                steps.insert(0, step)
        self._take(steps)

    def used(self) -> set[nn.Parameter]:
        """The parameters of the steps that are made; of others the network may have more."""
        modules = [step.module for step in self.steps if isinstance(step.module, nn.Module)]
        return {parameter for module in modules for parameter in module.parameters()}

    def forward(self, data: Data) -> Data:
        """``data`` and what the network computes from it."""
        if not torch.compiler.is_compiling():
            self.check_fresh()
        data = dict(data)
        for step in self.steps:
            step.check_inputs(data)
            data.update({key: x for key, x in step(data).items() if not is_next(key)})
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
        inputs = {key: data[key].detach() for key in self.in_keys if key in data}
        return self._held_out(inputs, named)

    def _held_out(self, data: Data, named: dict[str, Tensor]) -> Data:
        """The parameters come from the module at the call: a functional call around it works."""
        held = {f"network.{name}": parameter.detach() for name, parameter in named.items()}
        out: Data = call_with(self, self._slots, held, data)
        return out

    def _checked(self, params: dict[str, Tensor], needed: set[str]) -> dict[str, Tensor]:
        known = needed | {name for name, _ in self.network.named_buffers()}
        if not needed <= set(params) <= known:
            raise ValueError(
                f"`params` must be the parameters of the network by name, {sorted(needed)}, "
                f"got {sorted(params)}"
            )
        return params

    def replaced(self, network: "PlainForm") -> "PlainForm":
        """This form with another network of the same inputs."""
        return network

    def at_next(self, data: Data) -> Data:
        """The network's inputs at the state that was entered, under the names of the root.

        The states entered make a sequence of their own, which starts anew where that of the states
        left does.
        """
        return at_next(data, self.in_keys, self.optional)

    def check_fresh(self) -> None:
        """Refuse a network whose calls are no longer those that were found.

        Raises:
            RuntimeError: a submodule was replaced or hooked.
        """
        if [step.module for step in self.find_steps()] != [step.module for step in self._all]:
            raise RuntimeError(
                f"a submodule of {type(self.network).__name__} was replaced or hooked after the "
                "loss was made; make the loss again"
            )


class RefusedForm(PlainForm):
    """A network that cannot be called until something is set that is not known yet."""

    def __init__(self, network: nn.Module, why: str) -> None:
        super().__init__(network, "")
        self.why = why

    def forward(self, data: Data) -> Data:
        """Say what."""
        raise KeyError(self.why)


class HeadForm:
    """A network behind the part of another one that computes what it reads.

    Called like a ``PlainForm``; where the data have the head's inputs, only the head is.
    """

    def __init__(self, trunk: PlainForm, head: PlainForm) -> None:
        self.trunk, self.head = trunk, head
        self.optional = trunk.optional | head.optional
        self.in_keys = _in_keys([*trunk.steps, *head.steps])

    def replaced(self, network: PlainForm) -> "HeadForm":
        """See ``PlainForm.replaced``; it is the head that is."""
        return HeadForm(self.trunk, network)

    def at_next(self, data: Data) -> Data:
        """See ``PlainForm.at_next``."""
        if all(in_next(key) in data for key in self.head.in_keys):
            return self.head.at_next(data)
        return at_next(data, self.in_keys, self.optional)

    def detached(self, data: Data, params: Any = None) -> Data:
        """See ``PlainForm.detached``; ``params`` are the head's."""
        if any(key not in data for key in self.head.in_keys):
            data = self.trunk.detached(data)
        return self.head.detached(data, params)


def at_next(data: Data, keys: Iterable[Key], optional: frozenset[Key]) -> Data:
    """What ``keys`` name at the state that was entered; see ``PlainForm.at_next``."""
    found = {key: data[in_next(key)] for key in keys if in_next(key) in data}
    if START in keys and START in data:
        found[START] = data[START] | found.get(START, data[START])
    missing = [keyword(in_next(k)) for k in keys if k not in found and k not in optional]
    if missing:
        raise KeyError(
            f"the network inputs {missing} at the next state were not found; "
            f"the keys are {given(data)}"
        )
    return found


def flat_parameters(params: Any) -> dict[str, Tensor]:
    """Parameters by their dotted names, from pairs, a mapping or a TensorDict."""
    if is_tensordict(params):
        return dict(params.flatten_keys(".").items())
    return dict(params)


def select_valid(data: Data, mask: Optional[Tensor], masks: Iterable[Key]) -> Data:
    """The data with a copy of a valid step wherever the mask forbids one.

    So nothing there reaches a network, and the network sees nothing that it could not have seen:
    zeros may be outside its domain. The copy is of the first valid step; without one it is ones,
    or zeros of what counts something. Of a mask and of a start, which say where a step is, nothing
    is copied: they are False there, and no episode starts amid valid steps.

    Args:
        data: tensors by key; those that do not begin with the shape of ``mask`` stay as they are.
        mask: valid steps, bool ``[*B]``; None: all are.
        masks: the keys under which masks are found.
    """
    if mask is None:
        return data
    first, flags = _first_valid(mask), {START, in_next(START), *masks}
    return {key: _select(x, mask, None if key in flags else first) for key, x in data.items()}


def _first_valid(mask: Tensor) -> Tensor:
    """Where the first valid step is among all, ``[1]``; their number if there is none."""
    return torch.cat([mask.reshape(-1), mask.new_ones(1)]).int().argmax(0, keepdim=True)


def _select(x: Tensor, mask: Tensor, first: Optional[Tensor]) -> Tensor:
    if x.shape[: mask.dim()] != mask.shape:
        return x
    step = x.new_zeros(()) if first is None else _step_at(x, first, mask.dim())
    return torch.where(beside(mask, x), x, step)


def _step_at(x: Tensor, index: Tensor, batch: int) -> Tensor:
    """The step at ``index`` of all; the one behind the last, which is made up, is always there."""
    counts = not x.is_floating_point() and x.dtype != torch.bool
    behind = x.new_full((1, *x.shape[batch:]), 0 if counts else 1)
    steps = torch.cat([x.unsqueeze(0).flatten(0, batch), behind])
    return steps.index_select(0, index).squeeze(0)


def beside(mask: Tensor, x: Tensor) -> Tensor:
    """The mask with the axes that ``x`` has beyond it."""
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))


def _check_policy(policy: Policy) -> None:
    """Refuse what would be passed over: of a policy, its ``network`` is called and no more."""
    hooked = policy._forward_hooks or policy._forward_pre_hooks
    if hooked or type(policy).params is not Policy.params:
        raise TypeError(
            "`actor_network` must be a Policy whose parameters are what its `network` returns, "
            f"got {type(policy).__name__} with {'hooks' if hooked else 'a `params` of its own'}; "
            "put that into the network"
        )


def _plain_step(network: nn.Module, out_keys: tuple[Key, ...]) -> Step:
    in_keys = network.keys if isinstance(network, Reads) else ("observation",)
    return Step(network, in_keys, out_keys)


def _in_keys(steps: Sequence[Step]) -> tuple[Key, ...]:
    """What must come from outside: read by a call and not computed by one before it."""
    needed: list[Key] = []
    computed: set[Key] = set()
    for step in steps:
        needed += [key for key in step.in_keys if key not in computed]
        computed |= step.computed()
    return unique(needed)
