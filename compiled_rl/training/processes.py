"""Several processes that train one loss: they begin alike, and draw their own noise."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import NoneType
from typing import TYPE_CHECKING, Any, Optional, cast

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from compiled_rl.estimators import GAE, MultiAgentGAE
from compiled_rl.functional.processes import SplitBatch, check_group
from compiled_rl.modules import PercentileValueNorm, ValueNorm
from compiled_rl.training.optimisers import Tensors

if TYPE_CHECKING:
    from compiled_rl.training.update import UpdateStep

_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


class Alone:
    """This process, which has the whole batch."""

    split: AbstractContextManager[None] = nullcontext()

    def common(self, generator: Optional[Generator]) -> Optional[Generator]:
        """What a step draws from."""
        return generator

    def own(self, common: Optional[Generator]) -> Optional[Generator]:
        """What a call of it draws from."""
        return common

    def most(self, count: int) -> int:
        """How many steps are taken."""
        return count

    def of_all(self, metrics: Tensors) -> Tensors:
        """The metrics that a rule is given."""
        return metrics

    def begin_alike(self, step: "UpdateStep") -> None:
        """Nothing is to be shared."""


class Processes:
    """The processes of a group, as one step of each sees them; ``Alone`` says what is asked.

    Args:
        group: of the processes.
        device: where the parameters are.
    """

    def __init__(self, group: "dist.ProcessGroup", device: torch.device) -> None:
        self.group, self.rank = group, dist.get_rank(group)
        self.split: AbstractContextManager[None] = SplitBatch(group)
        self._device, self._own = device, Generator(device)

    def common(self, generator: Optional[Generator]) -> Generator:
        """What the seeds of all processes are drawn from.

        Raises:
            ValueError: it is not on the CPU, where a number can be had without waiting for a
                device.
        """
        if generator is None:
            return Generator().manual_seed(int(torch.randint(2**62, [])))  # another for each step
        if generator.device.type != "cpu":
            raise ValueError(
                "UpdateStep: `generator` must be on the CPU with a `process_group`, "
                f"got one on {generator.device}"
            )
        return generator

    def own(self, common: Optional[Generator]) -> Generator:
        """What this process draws from now: seeded from what is common to all, and its rank."""
        seed = int(torch.randint(2**62, [], generator=common))
        return self._own.manual_seed(seed + self.rank)

    def most(self, count: int) -> int:
        """The largest of the numbers that the processes have."""
        found = torch.tensor(count, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX, self.group)
        return int(found)

    def of_all(self, metrics: Tensors) -> Tensors:
        """The metrics that are the same in every process."""
        return {name: x for name, x in metrics.items() if x.dim() == 0}

    def begin_alike(self, step: "UpdateStep") -> None:
        """Give every process what the first one has: parameters, buffers, state and random numbers.

        Raises:
            ValueError: a process has another loss, optimiser or option.
        """
        assert step.generator is not None
        own = (_description(step), step.generator.get_state(), _of_updater(step))
        everyone: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(everyone, own, self.group)
        _check_alike([each[0] for each in everyone])
        _, random_state, updater = everyone[0]
        step.generator.set_state(random_state)
        if step.target_updater is not None:
            step.target_updater.load_state_dict(updater)
        for x in _tensors(step):
            self._take_first(x)

    @torch.no_grad()
    def _take_first(self, x: Tensor) -> None:
        first = x.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(first, group=self.group, group_src=0)
        x.detach().copy_(first)


def processes_of(group: Any, loss: nn.Module, device: torch.device) -> Alone | Processes:
    """Those of a group that train a loss; without a group, this one.

    Raises:
        TypeError: ``group`` is no process group, or the loss needs the whole batch.
    """
    if group is None:
        return Alone()
    check_group("UpdateStep", group)
    check_statistics(loss)
    return Processes(group, device)


def group_named(name: Optional[str]) -> Optional["dist.ProcessGroup"]:
    """The group of that name in this process: a group itself cannot be copied."""
    if name is None:
        return None
    torchs: Any = dist.distributed_c10d
    return cast(dist.ProcessGroup, torchs._resolve_process_group(name))


def check_unwrapped(loss: nn.Module) -> None:
    """Refuse wrappers that reduce gradients in ``backward``, which the step does not call.

    Raises:
        TypeError: there is one.
    """
    for name, module in loss.named_modules():
        for kind in _WRAPPERS.intersection(cls.__name__ for cls in type(module).__mro__):
            raise TypeError(
                f"UpdateStep: `loss` must hold plain modules, got a {kind} at `{name}`, whose "
                "reduction torch.autograd.grad skips; give the step a `process_group` instead, or "
                "train by `forward`, `backward` and `step`"
            )


def check_statistics(loss: nn.Module) -> None:
    """Refuse modules whose own statistics of a batch are not sums over processes.

    Raises:
        TypeError: there is one.
    """
    estimator = getattr(loss, "_value_estimator", None)
    if isinstance(estimator, GAE) and estimator.average_gae and _in_groups(estimator):
        raise TypeError(
            "UpdateStep: with a `process_group` the value estimator must not average by groups, "
            f"got a {type(estimator).__name__} with `average_gae`; normalise in the loss"
        )
    for name, module in loss.named_modules():
        normalises = isinstance(module, nn.modules.batchnorm._BatchNorm)
        foreign = hasattr(module, "denormalize") and not isinstance(module, ValueNorm)
        if normalises or foreign or isinstance(module, PercentileValueNorm):
            raise TypeError(
                "UpdateStep: `loss` must hold no module whose statistics need the whole batch "
                f"with a `process_group`, got a {type(module).__name__} at `{name}`; of layers "
                "use LayerNorm, of value targets PopArtValueNorm or RunningValueNorm"
            )


def _in_groups(estimator: GAE) -> bool:
    return estimator.group_key is not None or isinstance(estimator, MultiAgentGAE)


def _tensors(step: "UpdateStep") -> Iterator[Tensor]:
    """All that moves."""
    yield from step.loss.parameters()
    yield from step.loss.buffers()
    for optimiser in step._optimisers:
        for _, slots in optimiser.state():
            for tensors in slots.values():
                yield from tensors


def _of_updater(step: "UpdateStep") -> dict[str, Any]:
    return {} if step.target_updater is None else step.target_updater.state_dict()


def _description(step: "UpdateStep") -> list[str]:
    """What must be the same everywhere, in lines."""
    loss = step.loss
    named = [*loss.named_parameters(), *loss.named_buffers()]
    lines = [f"a {type(loss).__name__} with the outputs {step.output_names}"]
    lines += [f"`{name}` {list(x.shape)} {x.dtype} {x.requires_grad}" for name, x in named]
    for optimiser in step._optimisers:
        kind = type(optimiser.optimizer).__name__
        rates = [float(group["lr"]) for group in optimiser.optimizer.param_groups]
        groups = zip(optimiser.groups, rates, strict=True)
        lines += [f"{kind} of {g.names} with {g.options | {'lr': lr}}" for g, lr in groups]
    options = {k: x for k, x in step._options.items() if k not in ("rule", "process_group")}
    lines += [f"the options {options}"]
    for owner in (loss, getattr(loss, "_value_estimator", None), step.target_updater):
        lines += [f"{type(owner).__name__} with {x}" for x in _plain(owner)]
    return lines


def _plain(owner: Any) -> list[str]:
    """The flags, numbers and words that an object was told, and not what it holds."""
    held = vars(owner) if hasattr(owner, "__dict__") else {}
    return ["no option", *[f"`{k}` {x!r}" for k, x in sorted(held.items()) if _is_plain(x)]]


def _is_plain(x: Any) -> bool:
    if isinstance(x, tuple):
        return all(map(_is_plain, x))
    return isinstance(x, str | float | int | NoneType)


def _check_alike(everyone: Iterable[list[str]]) -> None:
    first, *others = everyone
    for rank, own in enumerate(others, 1):
        for a, b in zip([*first, "nothing more"], [*own, "nothing more"], strict=False):
            if a != b:
                raise ValueError(
                    f"UpdateStep: every process of `process_group` must make the same step, got "
                    f"{a} on rank 0 and {b} on rank {rank}"
                )
