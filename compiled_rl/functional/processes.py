"""Sums over the processes among which a batch is split: where every statistic takes its sums.

A function that sums over the batch gives its own part to ``over_processes``. Outside ``SplitBatch``
that is the sum already, and comes back as it is.
"""

from collections.abc import Sequence
from threading import local
from typing import Optional

import torch
from torch import Tensor, distributed


class _Split(local):
    """Among whom the batch is split now, in this thread: the name of their group."""

    group: Optional[str] = None


class _Traced:
    """The same for TorchDynamo, which guards a graph on it, but on nothing of a thread's own."""

    group: Optional[str] = None


_SPLIT = _Split()


class SplitBatch:
    """In this context a batch is one part of that of all processes of a group.

    .. code-block:: python

        with SplitBatch(group):
            normalizer.update(observation)  # moves by the observations of all processes

    ``reduce``, ``standardize``, the metrics of ``functional`` and the running normalisers then sum
    and count over the parts of all processes: each must come by with its part, which may be empty.
    A gradient is that by the own part, so that the sum of all processes' gradients is that by the
    whole batch. The batch is split along its first axis. Other threads do not notice, if they call
    nothing compiled meanwhile: a graph that is made then takes its sums over the group, too.

    Args:
        process_group: a ``torch.distributed.ProcessGroup``.

    Raises:
        TypeError: it is none.
    """

    def __init__(self, process_group: "torch.distributed.ProcessGroup") -> None:
        check_group("SplitBatch", process_group)
        # The operators' shapes under TorchDynamo are known only once this is imported.
        import torch.distributed._functional_collectives  # noqa: F401

        self._name = process_group.group_name
        self._outside: list[Optional[str]] = []

    def __enter__(self) -> None:
        self._outside.append(_SPLIT.group)
        _SPLIT.group = _Traced.group = self._name

    def __exit__(self, *_: object) -> None:
        _SPLIT.group = _Traced.group = self._outside.pop()


def check_group(owner: str, group: object) -> None:
    """Refuse what is no group of processes.

    Raises:
        TypeError: it is none.
    """
    if not distributed.is_available() or not isinstance(group, distributed.ProcessGroup):
        raise TypeError(
            f"{owner}: `process_group` must be a torch.distributed.ProcessGroup, "
            f"got a {type(group).__name__}"
        )


def over_processes(x: Tensor, how: str = "sum") -> Tensor:
    """The sum, or with ``how`` ``"max"`` the largest, of what all processes have.

    The gradient is that of ``x`` alone.
    """
    if torch.jit.is_scripting():
        return x
    else:  # TorchScript compiles what stands behind an `if`, but not what is in a dead branch
        return _reduced(x, how)


def _reduced(x: Tensor, how: str) -> Tensor:
    group = _group()
    if group is None:
        return x
    operators = torch.ops._c10d_functional
    whole: Tensor = operators.wait_tensor(operators.all_reduce(x.detach(), how, group))
    return whole + (x - x.detach()) if x.requires_grad else whole


def all_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each over all processes; those of one dtype travel together."""
    if _group() is None:
        return list(tensors)
    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [k for k, x in enumerate(tensors) if x.dtype == dtype]
        flat = torch.cat([tensors[k].reshape(-1) for k in places])
        parts = torch.split(over_processes(flat), [tensors[k].numel() for k in places])
        found |= {k: x.view(tensors[k].shape) for k, x in zip(places, parts, strict=True)}
    return [found[k] for k in range(len(tensors))]


def check_whole(function: str, what: str) -> None:
    """Refuse what cannot be had of a part of the batch.

    Raises:
        RuntimeError: the batch is split.
    """
    if not torch.jit.is_scripting():
        if _group() is not None:
            raise RuntimeError(
                f"{function}: {what} must be of a whole batch, got one that is split among "
                "processes"
            )


def _group() -> Optional[str]:
    return _Traced.group if torch.compiler.is_dynamo_compiling() else _SPLIT.group
