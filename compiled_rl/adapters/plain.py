"""The plain form of a network: its calls over a dict of tensors, whatever wraps them."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from compiled_rl.adapters.dispatch import Data, given, is_tensordict
from compiled_rl.adapters.fields import Key, in_next, is_next, keyword, unique
from compiled_rl.adapters.steps import START, Step, inputs_of, of_one_axis, plain_step, policy_step
from compiled_rl.modules import Ensemble, Policy
from compiled_rl.modules.calls import (
    call_filled,
    call_with,
    collections_in,
    make_reachable,
    parameters_at,
    slots_of,
)
from compiled_rl.modules.ensemble import each_of


class PlainForm(nn.Module):
    """The steps of a network in order, over a dict of tensors; intermediates stay in it.

    It is held outside the module tree of its owner, which registers ``network`` itself.

    Args:
        network: a plain module, a ``Policy``, or a TensorDict module.
        out_key: what a plain module gives.
        reads: what a plain module reads, unless ``Reads`` says otherwise.
    """

    def __init__(
        self, network: nn.Module, out_key: Key, reads: tuple[Key, ...] = ("observation",)
    ) -> None:
        super().__init__()
        self.network = network
        self.out_key, self.reads = out_key, reads
        self._all = [of_one_axis(step) for step in self.find_steps()]
        self._slots = slots_of(self)
        make_reachable(network)
        self._take(self._all)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        make_reachable(self.network)

    def find_steps(self) -> list[Step]:
        """The network's calls."""
        if isinstance(self.network, Policy):
            return [policy_step(self.network)]
        if hasattr(self.network, "in_keys"):
            from compiled_rl.adapters.tensordict import steps_of

            return steps_of(self.network)
        return [plain_step(self.network, (self.out_key,), self.reads)]

    def _take(self, steps: list[Step]) -> None:
        self.steps = steps
        self.in_keys = inputs_of(steps)
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

    def supplied(self, *keys: Key) -> Self:
        """Take these keys from the owner, which puts them into the data: they are no inputs."""
        self.in_keys = tuple(key for key in self.in_keys if key not in keys)
        return self

    def used(self) -> set[nn.Parameter]:
        """The parameters of the steps that are made; of others the network may have more."""
        modules = [step.module for step in self.steps if isinstance(step.module, nn.Module)]
        return {parameter for module in modules for parameter in module.parameters()}

    def shared_with(self, network: nn.Module) -> frozenset[str]:
        """The names that another network has for parameters of the steps that are made."""
        used = self.used()
        named = network.named_parameters(remove_duplicate=False)
        return frozenset(name for name, parameter in named if parameter in used)

    def forward(self, data: Data) -> Data:
        """``data`` and what the network computes from it."""
        if not torch.compiler.is_compiling():
            self.check_fresh()
        if not self._slots.collections:
            return self._computed(data)
        # A functional call around it has put its tensors into the places, which are not read.
        found: Data = call_filled(collections_in(self, self._slots), self._computed, data)
        return found

    def _computed(self, data: Data) -> Data:
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
        named = self._own()
        if params is not None:
            named = self._checked(flat_parameters(params), set(named))
        return self._held_out(data, named)

    def without(self, data: Data, names: frozenset[str]) -> Data:
        """``forward`` with the parameters of these names held out, and with inputs held out, too.

        Without names only the inputs are, which another network may have computed.
        """
        named = {name: p for name, p in self._own().items() if name in names}
        inputs = {key: data[key].detach() for key in self.in_keys if key in data}
        return self._held_out(inputs, named)

    def _own(self) -> dict[str, Tensor]:
        """The network's parameters."""
        found = parameters_at(self, self._slots)
        return {name.removeprefix("network."): p for name, p in found.items()}

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


class EnsembleForm:
    """The plain form of an ``Ensemble``: what its members compute of the same data, stacked.

    Called like a ``PlainForm``, but gives what is computed, ``[N, *B, ...]`` each, and not the
    data.

    Args:
        ensemble: of networks of any kind that has a plain form.
        out_key: see ``PlainForm``.
        reads: see ``PlainForm``.
    """

    def __init__(self, ensemble: Ensemble, out_key: Key, reads: tuple[Key, ...]) -> None:
        self.ensemble = ensemble
        self.member = PlainForm(ensemble.network, out_key, reads)
        self.optional, self.out_keys = self.member.optional, self.member.out_keys

    @property
    def in_keys(self) -> tuple[Key, ...]:
        """What the members read."""
        return self.member.in_keys

    def keep(self, keys: Iterable[Key]) -> None:
        """See ``PlainForm.keep``."""
        self.member.keep(keys)

    def check_fresh(self) -> None:
        """See ``PlainForm.check_fresh``."""
        self.member.check_fresh()

    def __call__(self, data: Data) -> Data:
        """What the members compute."""
        return self._over(self.ensemble.members(), {}, self._same(data))

    def detached(self, data: Data) -> Data:
        """The same with the parameters held out: no gradient reaches them, inputs keep theirs."""
        stacked = {name: x.detach() for name, x in self.ensemble.members().items()}
        return self._over(stacked, self._shared(), self._same(data))

    def without_shared(self, data: Data) -> Data:
        """The same with what the members share held out."""
        return self.each_of_its_own(self._same(data))

    def each_of_its_own(self, data: Sequence[Data]) -> Data:
        """``without_shared``, of other data for each member, whose shapes are equal."""
        return self._over(self.ensemble.members(), self._shared(), data)

    def _same(self, data: Data) -> list[Data]:
        return [data] * self.ensemble.size

    def _shared(self) -> dict[str, Tensor]:
        return {name: x.detach() for name, x in self.ensemble.shared().items()}

    def _over(
        self, members: dict[str, Tensor], others: dict[str, Tensor], data: Sequence[Data]
    ) -> Data:
        if not torch.compiler.is_compiling():
            self.check_fresh()
        each = zip(each_of(members), data, strict=True)
        found = [self._computed({**own, **others}, seen) for own, seen in each]
        return {key: torch.stack([one[key] for one in found]) for key in self.out_keys}

    def _computed(self, tensors: dict[str, Tensor], data: Data) -> Data:
        """What one member computes, and the data."""
        named = {f"network.{name}": x for name, x in tensors.items()}
        found: Data = call_with(self.member, self.member._slots, named, data)
        return found


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
        self.in_keys = inputs_of([*trunk.steps, *head.steps])

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
