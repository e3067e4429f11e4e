"""What every value estimator shares: its fields, its networks, its ways of being called."""

from contextlib import AbstractContextManager
from functools import partial
from itertools import combinations
from typing import Any, ClassVar, Optional, TypedDict

import torch
from torch import Tensor, nn

from compiled_rl.adapters import (
    Data,
    Field,
    HeadForm,
    Key,
    KeyedModule,
    PlainForm,
    in_next,
    keyword,
    read,
)
from compiled_rl.adapters.dispatch import TIME, given, write_into
from compiled_rl.adapters.masks import select_valid
from compiled_rl.estimators.axes import Axes, find_axes, time_among
from compiled_rl.estimators.steps import Steps, both
from compiled_rl.estimators.values import Calls, Critic, Values
from compiled_rl.functional import AdvantageOutput
from compiled_rl.kernels.checks import check_floating, check_integer, check_shape
from compiled_rl.modules.arguments import as_device, check_count, check_flags
from compiled_rl.modules.coefficients import has_value

_MASK: Key = ("collector", "mask")


class EstimatorOptions(TypedDict, total=False):
    """Keyword arguments of every estimator; see ``ValueEstimatorBase``."""

    value_network: Optional[nn.Module]
    shifted: bool
    differentiable: bool
    skip_existing: Optional[bool]
    device: Optional[torch.device | str]
    time_dim: Optional[int]
    value_chunk_size: Optional[int]
    num_chunks: Optional[int]
    value_chunk_dim: int
    shifted_budget: int
    deactivate_vmap: bool


class ValueEstimatorBase(KeyedModule):
    """A value estimator: it evaluates a critic and calls a function of ``functional``.

    Call it with a TensorDict, which comes back with the advantage, the value target and the values
    written into it; with keyword tensors, for a named tuple of advantage and value target; or with
    a mapping, for a dict. Tensors of one value a step are all ``[*B, T]`` or all ``[*B, T, 1]``.
    What lies under the mask ``("collector", "mask")``, where it is given, is never read. Without a
    ``value_network`` the values are read from the data.

    A subclass computes ``estimate`` from ``Steps``.

    Args:
        value_network: a plain module from ``observation`` to values, or a TensorDict module; its
            parameters never get a gradient. None: the values are in the data.
        shifted: value all states in one call of the critic on ``T + shifted_budget`` of them: the
            states left, and those entered behind a truncated step and behind the last one. Steps
            for which there was no room are not valid: their outputs are zero, and
            ``shifted_valid`` says so.
        differentiable: whether gradients reach rewards, observations and coefficients.
        skip_existing: whether values that are in the data are taken rather than computed.
        device: where the coefficients are; None: where they were.
        time_dim: the time axis, among the batch axes if negative; None: the one that a TensorDict
            names ``"time"``, else the last batch axis.
        value_chunk_size: how many entries of the axis ``value_chunk_dim`` the critic sees at a
            time; None: all.
        num_chunks: instead of it, in how many pieces.
        value_chunk_dim: the axis that is cut in pieces.
        shifted_budget: room for states entered in a shifted call, at least 1.
        deactivate_vmap: accepted and ignored: nothing is mapped here.

    Raises:
        KeyError: the critic has no output of the key of ``value``.
        TypeError: ``value_network`` is no module.
        ValueError: a coefficient or a size is out of its range.
    """

    fixed: ClassVar[tuple[str, ...]] = ("value_network",)
    settable: ClassVar[tuple[str, ...]] = ("input", "output")
    needs_value: ClassVar[bool] = True  # whether the value target asks for the value, too
    sequential: bool = True  # whether what it computes of a step depends on other steps
    fields: tuple[Field, ...] = (
        Field("value", "state_value", "input", "as reward", "of the state left, if not computed"),
        Field("reward", ("next", "reward"), "input", "[*B, T] or [*B, T, 1]", "of the step"),
        Field("done", ("next", "done"), "input", "bool, as reward", "the episode ended"),
        Field("terminated", ("next", "terminated"), "input", "bool, as reward", "the task ended"),
        Field("steps_to_next_obs", "steps_to_next_obs", "input", "as reward", "of n-step data"),
        Field("advantage", "advantage", "output", "as reward", "what the critic did not expect"),
        Field("value_target", "value_target", "output", "as reward", "what it should have"),
    )
    gamma: Tensor
    _critic: Optional[Critic]
    _lent: Optional[nn.Module] = None
    _lent_actor: Optional[nn.Module] = None
    _discounts: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        value_network: Optional[nn.Module] = None,
        shifted: bool = False,
        differentiable: bool = False,
        skip_existing: Optional[bool] = None,
        device: Optional[torch.device | str] = None,
        time_dim: Optional[int] = None,
        value_chunk_size: Optional[int] = None,
        num_chunks: Optional[int] = None,
        value_chunk_dim: int = 0,
        shifted_budget: int = 1,
        deactivate_vmap: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(value_network, nn.Module | None):
            raise TypeError(
                f"{self.name}: `value_network` must be an nn.Module or None, "
                f"got {type(value_network).__name__}"
            )
        if value_chunk_size is not None and num_chunks is not None:
            raise ValueError(
                f"{self.name}: `value_chunk_size` and `num_chunks` must not both be given, "
                f"got {value_chunk_size} and {num_chunks}"
            )
        check_flags(self.name, shifted=shifted, differentiable=differentiable)
        if skip_existing is not None:
            check_flags(self.name, skip_existing=skip_existing)
        if time_dim is not None:
            check_integer(self.name, "time_dim", time_dim)
        check_integer(self.name, "value_chunk_dim", value_chunk_dim)
        self.value_network = value_network
        self.differentiable = differentiable
        self.skip_existing = bool(skip_existing)
        self.device = as_device(self.name, "device", device)
        self.time_dim = time_dim
        chunks = (value_chunk_size, num_chunks, value_chunk_dim)
        self.calls = Calls(shifted, shifted_budget, *chunks)
        for name in ("shifted_budget", "value_chunk_size", "num_chunks"):
            size = getattr(self.calls, name)
            if size is not None:
                check_count(self.name, name, size)
        self.register_discount("gamma", gamma)
        self.wire()

    def register_discount(self, name: str, value: float | Tensor) -> None:
        """Register a coefficient in [0, 1]: one for all steps, one a time step, or one a step.

        A ``Parameter`` stays the very parameter that it is and is learned; anything else is copied
        to a buffer.

        Raises:
            ValueError: it is not in [0, 1].
        """
        self._discounts = (*self._discounts, name)
        if isinstance(value, Tensor) and value.dim() and not isinstance(value, nn.Parameter):
            value = value.detach()
        self.register_coefficient(name, value, "in [0, 1]")

    def check_coefficient(
        self, name: str, value: Any, range_: str, digits: Optional[int] = None
    ) -> None:
        """Refuse what the coefficient may not be; a discount may be several."""
        if name not in self._discounts or not isinstance(value, Tensor) or value.dim() == 0:
            super().check_coefficient(name, value, range_, digits)
            return
        check_floating(self.name, name, value)
        if has_value(value) and not ((value >= 0) & (value <= 1)).all():
            got = f"values from {value.min():g} to {value.max():g}"
            raise ValueError(f"{self.name}: `{name}` must be in [0, 1], got {got}")

    def settle(self, device: torch.device) -> None:
        """Put the coefficients where a loss has its own, unless a place was asked for."""
        if self.device is None:
            self.device = device
            for name in self._buffers:
                self.place(name)

    def home(self) -> Optional[torch.device]:
        """The device that was asked for, or on which a loss has its own."""
        return self.device

    def lend(
        self,
        value_network: nn.Module,
        actor_network: Optional[nn.Module] = None,
        value_key: Optional[Key] = None,
    ) -> None:
        """Use the networks of a loss, whose children they stay; a refusal changes nothing.

        Of the actor, most evaluate no more than what a critic reads that is not in the data.
        ``value_key`` is that of the critic's value, if the loss was told.

        Raises:
            KeyError: the critic has no output of the key of ``value``.
            ValueError: the estimator has another critic of its own, or of another loss.
        """
        if self.value_network is not None and self.value_network is not value_network:
            raise ValueError(
                f"{self.name}: `value_network` must be None or the loss's own critic, "
                f"got another {type(self.value_network).__name__}"
            )
        if self._lent is not None and self._lent is not value_network:
            raise ValueError(
                f"{self.name}: an estimator must be lent one critic, got that of a second loss"
            )
        before = (self._lent, self._lent_actor)
        self._borrow(value_network, actor_network)
        try:
            self.set_keys(**({} if value_key is None else {"value": value_key}))
        except KeyError:
            self._borrow(*before)
            raise

    def _borrow(self, value_network: Optional[nn.Module], actor: Optional[nn.Module]) -> None:
        """Hold the networks outside the module tree."""
        object.__setattr__(self, "_lent", value_network)
        object.__setattr__(self, "_lent_actor", actor)

    def networks(self) -> tuple[PlainForm, ...]:
        """The critic, if there is one."""
        network = self.value_network if self._lent is None else self._lent
        forms = () if network is None else self._forms_of(self.plain_critic(network))
        critic = None
        if forms:
            form = forms[0] if len(forms) == 1 else HeadForm(*forms)
            critic = Critic(form, self.tensor_keys["value"], self.calls)
        # Outside the module tree: its modules are those of a child already.
        object.__setattr__(self, "_critic", critic)
        return forms

    def _forms_of(self, critic: PlainForm) -> tuple[PlainForm, ...]:
        """The critic and, before it, the part of a lent actor that computes what it reads."""
        if self._lent_actor is None:
            return (critic,)
        trunk = PlainForm(self._lent_actor, "")
        trunk.keep(critic.in_keys)
        return (trunk, critic) if trunk.steps else (critic,)

    def other_keys(self) -> tuple[Key, ...]:
        """The values of the states entered, and the mask."""
        return (self._next_value_key, _MASK)

    @property
    def _next_value_key(self) -> Key:
        return in_next(self.tensor_keys["value"])

    def set_keys(self, **keys: Any) -> None:
        """Say under which keys the tensors are found and written.

        Raises:
            KeyError: a name is not known, or the critic has no output of the key of ``value``.
            ValueError: a key is neither a string nor a tuple of strings, nor, of a policy with
                several heads, a list of them.
        """
        for name, key in keys.items():
            if name not in self.default_keys:
                raise KeyError(
                    f"{self.name}: `{name}` is not an accepted key; "
                    f"the accepted keys are {list(self.default_keys)}"
                )
            if not isinstance(key, str | tuple | list):
                raise ValueError(
                    f"{self.name}: the key of `{name}` must be a string or a tuple of strings, "
                    f"got {key!r}"
                )
        super().set_keys(**keys)

    def estimate(self, steps: Steps) -> AdvantageOutput:
        """Advantage and value target of steps whose values are known."""
        raise NotImplementedError

    def target(self, steps: Steps) -> Tensor:
        """The value target alone."""
        return self.estimate(steps).value_target

    def along_time(self, coefficient: Any, steps: Steps) -> Any:
        """A coefficient as the functions take it: 0-d, or one a step."""
        if coefficient.dim() != 1 or steps.reward.dim() == 1:
            return coefficient
        if coefficient.shape[0] != steps.reward.shape[steps.time_dim]:
            raise ValueError(
                f"{self.name}: a coefficient a time step must be one for each of "
                f"{steps.reward.shape[steps.time_dim]} steps, got {coefficient.shape[0]}"
            )
        shape = [1] * steps.reward.dim()
        shape[steps.time_dim] = -1
        return coefficient.view(shape).expand_as(steps.reward)

    def discount(self, steps: Steps) -> Any:
        """``gamma``, to the power of the steps that each reward sums up."""
        gamma = self.along_time(self.gamma, steps)
        if steps.steps_to_next is None:
            return gamma
        check_shape(self.name, "steps_to_next_obs", steps.steps_to_next, "reward", steps.reward)
        return gamma**steps.steps_to_next

    def forward(
        self,
        tensordict: Any = None,
        *,
        params: Any = None,
        target_params: Any = None,
        time_dim: Optional[int] = None,
        **tensors: Tensor,
    ) -> Any:
        """Advantage and value target, in the form in which the inputs came.

        Args:
            tensordict: a TensorDict, into which they are written beside the values, or a mapping.
            params: parameters of the critic instead of its own, by name or a TensorDict.
            target_params: those with which states entered are valued; None: ``params``.
            time_dim: the time axis among the batch axes, instead of the estimator's.
            **tensors: instead of a container, the inputs by keyword.

        Raises:
            KeyError: a needed input is missing.
            RuntimeError: there is no batch axis.
            TypeError: a keyword is unknown.
            ValueError: shapes do not fit, or two of what it writes have one key.
        """
        data, axes = self._read(tensordict, tensors, time_dim)
        self._check_apart()
        with self._gradients():
            values = self._values(data, axes, params, target_params)
            advantage, value_target = self.estimate(self._steps(data, axes, values))
        outputs: dict[Key, Tensor] = {
            self.tensor_keys["advantage"]: advantage,
            self.tensor_keys["value_target"]: value_target,
            self._next_value_key: values.next_value,
        }
        if values.value is not None:
            outputs[self.tensor_keys["value"]] = values.value
        if values.valid is not None:
            outputs["shifted_valid"] = values.valid
        return write_into(self.name, tensordict, outputs, self.output_names)

    def value_estimate(
        self,
        tensordict: Any = None,
        *,
        params: Any = None,
        target_params: Any = None,
        time_dim: Optional[int] = None,
        **tensors: Tensor,
    ) -> Tensor:
        """The value target alone; nothing is written. Arguments as of ``forward``.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: as of ``forward``.
        """
        data, axes = self._read(tensordict, tensors, time_dim)
        with self._gradients():
            values = self._values(data, axes, params, target_params, self.needs_value)
            return self.target(self._steps(data, axes, values))

    def _check_apart(self) -> None:
        """Refuse one key for two of what a call writes: the second would be in the first."""
        keys = {name: self.tensor_keys[name] for name in ("advantage", "value_target", "value")}
        for (a, key), (b, other) in combinations(
            {**keys, "next_value": self._next_value_key}.items(), 2
        ):
            if key == other:
                raise ValueError(
                    f"{self.name}: `{b}` must have another key than `{a}`, got {key!r}"
                )

    def within(
        self,
        data: Data,
        batch: int,
        value: Tensor,
        log_prob: Tensor,
        mask: Optional[Tensor],
        target: Optional[PlainForm] = None,
    ) -> tuple[AdvantageOutput, Optional[Tensor]]:
        """For a loss that lent its critic and has called it already.

        Args:
            data: what the loss read, by key; a copy of a valid step where ``mask`` forbids.
            batch: how many batch axes it has.
            value: of the states left.
            log_prob: of the recorded actions.
            mask: valid steps, bool ``[*B]``.
            target: the critic that values states entered; None: the same.

        Returns:
            Advantage and value target, and the mask without the steps that could not be estimated.
        """
        self._check_flags(data)
        axes = time_among(self.name, batch, self.time_within(data, batch, value))
        with self._gradients():
            known = value.detach()
            values = self._values(data, axes, None, target, known=known, mask=mask)
            steps = self._steps(data, axes, values, log_prob.detach(), mask)
            output = self.estimate(steps)
        return output, None if steps.mask is None else steps.mask.reshape(log_prob.shape)

    def target_within(
        self, data: Data, batch: int, next_value: Tensor, mask: Optional[Tensor]
    ) -> Tensor:
        """The value target, for a loss that values the states entered by itself.

        Args:
            data: what the loss read, by key; a copy of a valid step where ``mask`` forbids.
            batch: how many batch axes it has; a single step without any is a batch of one.
            next_value: of the states entered, as many as there are rewards.
            mask: valid steps, bool, as many.

        Returns:
            As ``next_value``.
        """
        reward, batch = self.require(data, "reward"), max(batch, 1)
        axes = time_among(self.name, batch, self.time_within(data, batch, reward))
        valid = None if mask is None else mask.reshape(reward.shape)
        with self._gradients():
            values = Values(None, next_value.detach().reshape(reward.shape))
            target = self.target(self._steps(data, axes, values, None, valid))
        return target.reshape(next_value.shape)

    def time_within(self, data: Data, batch: int, value: Tensor) -> Optional[int]:
        """The time axis for a loss of so many batch axes; None: the last."""
        return data[TIME].dim() - 1 if TIME in data else self.time_dim

    def shared_out(self, data: Data, value: Tensor) -> Data:
        """The data with one reward and one flag of each kind for every value."""
        return data

    def _gradients(self) -> AbstractContextManager[None]:
        """Whether gradients are recorded: as outside if ``differentiable``, else not."""
        return torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled())

    def _read(
        self, source: Any, tensors: dict[str, Tensor], time_dim: Optional[int]
    ) -> tuple[Data, Axes]:
        data = read(self.name, self.in_keys, source, tensors)
        reward = self.require(data, "reward")
        self._check_flags(data)
        time_dim = self.time_dim if time_dim is None else time_dim
        axes = find_axes(self.name, source, data, reward, time_dim)
        if _MASK in data:
            data = select_valid(data, axes.batched(data[_MASK]), (_MASK,))
        return data, axes

    def _check_flags(self, data: Data) -> None:
        for key in (self.tensor_keys["terminated"], self.tensor_keys["done"], _MASK):
            if key in data and data[key].dtype != torch.bool:
                raise ValueError(
                    f"{self.name}: `{keyword(key)}` must be torch.bool, got {data[key].dtype}"
                )

    def _values(
        self,
        data: Data,
        axes: Axes,
        params: Any,
        target_params: Any,
        of_both: bool = True,
        known: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Values:
        """The values in the data or the critic's; only of the states entered unless ``of_both``."""
        stored = self.tensor_keys["value"] in data and self._next_value_key in data
        if self._critic is None or (self.skip_existing and stored):
            return self._stored_values(data, of_both)
        ends = (self.require(data, "terminated"), self.require(data, "done"))
        target_params = params if target_params is None else target_params
        if of_both or self.calls.shifted:
            valid = data.get(_MASK) if mask is None else mask
            self._check_shifted(data)
            return self._critic.values(data, axes, ends, params, target_params, known, valid)
        return Values(None, self._critic.next_values(data, axes, ends[0], target_params))

    def _check_shifted(self, data: Data) -> None:
        if self.calls.shifted and self.tensor_keys["steps_to_next_obs"] in data:
            raise ValueError(
                f"{self.name}: `shifted` must be False for n-step data, where the state entered "
                "is not the next step's"
            )

    def _stored_values(self, data: Data, of_both: bool) -> Values:
        why = "without a `value_network`"
        if self._next_value_key not in data:
            raise KeyError(
                f"{self.name}: the key {self._next_value_key!r} was not found, needed {why}; "
                f"the keys are {given(data)}"
            )
        value = self.require(data, "value", why) if of_both else None
        return Values(value, data[self._next_value_key])

    def _steps(
        self,
        data: Data,
        axes: Axes,
        values: Values,
        log_prob: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Steps:
        reward = self.require(data, "reward")
        check_floating(self.name, "reward", reward)
        # Networks may be coarser, under autocast for instance, or finer; one precision for all.
        dtype = torch.promote_types(reward.dtype, values.next_value.dtype)
        reward = reward.to(dtype)
        value, log_prob = [None if x is None else x.to(dtype) for x in (values.value, log_prob)]
        like = partial(axes.like, reward=reward)
        recorded = None if _MASK not in data else axes.on_steps(data[_MASK], reward)
        mask = both(like(mask), both(recorded, like(values.valid)))
        return Steps(
            reward,
            value,
            values.next_value.to(dtype),
            self.require(data, "terminated"),
            self.require(data, "done"),
            log_prob=like(log_prob),
            steps_to_next=like(data.get(self.tensor_keys["steps_to_next_obs"])),
            mask=mask,
            time_dim=axes.time,
        )
