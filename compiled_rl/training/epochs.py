"""Several passes over what was collected, in minibatches."""

from collections.abc import Iterator
from typing import Any, Optional

import torch
from torch import Tensor

from compiled_rl.adapters import Data
from compiled_rl.adapters.dispatch import TIME
from compiled_rl.kernels.checks import check_tensor
from compiled_rl.modules.arguments import check_count, check_text
from compiled_rl.modules.coefficients import check_range
from compiled_rl.training.optimisers import Tensors
from compiled_rl.training.update import UpdateStep


class UpdateEpochs:
    """Take update steps on a batch, a minibatch at a time, in a new order in every epoch.

        for each epoch:
            for each minibatch of a permutation of the rows:
                step(minibatch)
            stop if the mean of the steps' ``kl`` is above ``target_kl``

    The rows are those of the first axis: the steps of a flat batch ``[N, ...]``, or whole sequences
    ``[N, T, ...]``, which is what recurrent networks learn from. All minibatches are one graph, the
    last one included, which is smaller where ``minibatch_size`` does not divide the rows; only one
    of a single row makes another. Advantages are normalised as the loss says it, over the valid
    steps of each minibatch.

    Of a step with a ``process_group`` each process takes minibatches of its own rows, which are one
    minibatch together; where one has no more rows than others, it has an empty part.

    Args:
        step: takes one step on a minibatch.
        epochs: how many passes, at least 1.
        minibatch_size: in rows, at least 1.
        target_kl: bound on the mean of the ``kl`` of an epoch's steps, in nats, positive: there is
            no further epoch behind one that is above. To look at it waits for the device once an
            epoch. None: no bound.
        kl: the metric that is bounded; ``"kl_approx"``, or ``"kl"`` of ``KLPENPPOLoss``.

    Raises:
        TypeError: ``step`` is not an ``UpdateStep``.
        ValueError: a number is out of its range, or the loss has no such metric.

    Reference: Schulman et al. 2017, arXiv:1707.06347, algorithm 1; the early stop, Achiam 2018,
    Spinning Up in Deep RL, proximal policy optimization.
    """

    def __init__(
        self,
        step: UpdateStep,
        *,
        epochs: int,
        minibatch_size: int,
        target_kl: Optional[float] = None,
        kl: str = "kl_approx",
    ) -> None:
        if not isinstance(step, UpdateStep):
            raise TypeError(
                f"UpdateEpochs: `step` must be an UpdateStep, got a {type(step).__name__}"
            )
        epochs = check_count("UpdateEpochs", "epochs", epochs)
        minibatch_size = check_count("UpdateEpochs", "minibatch_size", minibatch_size)
        check_text("UpdateEpochs", "kl", kl)
        if target_kl is not None:
            check_range("UpdateEpochs", "target_kl", target_kl, "positive")
            if kl not in step.output_names:
                raise ValueError(f"UpdateEpochs: `kl` must be in {step.output_names}, got {kl!r}")
        self.step, self.epochs, self.minibatch_size = step, epochs, minibatch_size
        self.target_kl, self.kl = target_kl, kl

    def __call__(self, batch: Any, permutation: Optional[Tensor] = None) -> Tensors:
        """Take the steps.

        Args:
            batch: as the loss takes it, a mapping or a TensorDict; every tensor has the same rows.
            permutation: an order of the rows for each epoch, int64 ``[epochs, N]``; None: drawn
                from the generator of ``step``.

        Returns:
            Every metric of the loss that is a scalar, and ``grad_norm``, one value a step, ``[S]``.

        Raises:
            ValueError: the tensors have not the same rows, or the permutation does not fit.
            KeyError, RuntimeError, TypeError, ValueError: see ``UpdateStep``.
        """
        data = self.step.loss.inputs(batch, {})
        count = _rows(data)
        steps = self.step._steps_of(-(-count // self.minibatch_size))
        if steps == 0:
            raise ValueError("UpdateEpochs: `batch` must have at least one row, got none")
        self._check_estimated(data)
        orders = self._orders(count, permutation, next(iter(data.values())).device)
        taken: list[Tensors] = []
        for order in orders:
            rows = [self.step(each) for each in self._minibatches(data, order, steps)]
            taken += rows
            if self.target_kl is not None:
                if torch.stack([metrics[self.kl] for metrics in rows]).mean() > self.target_kl:
                    break
        scalars = [name for name, x in taken[0].items() if x.dim() == 0]
        return {name: torch.stack([metrics[name] for metrics in taken]) for name in scalars}

    def _check_estimated(self, data: Data) -> None:
        """Refuse rows that are steps where an estimator would take them for time."""
        loss = self.step.loss
        keys, estimator = loss.tensor_keys, getattr(loss, "_value_estimator", None)
        if estimator is None or not estimator.sequential or keys.get("advantage") in data:
            return
        reward = data.get(keys.get("reward", ""))
        flat = reward is not None and reward.dim() - (reward.shape[-1] == 1) < 2
        if flat or (TIME in data and data[TIME].dim() == 1):
            raise ValueError(
                "UpdateEpochs: `batch` must have `advantage` or rows that are sequences, got rows "
                "that are steps, which an estimator would take for time"
            )

    def _orders(self, count: int, permutation: Optional[Tensor], device: Any) -> Iterator[Tensor]:
        if permutation is None:
            for _ in range(self.epochs):
                generator = self.step._source()
                where = device if generator is None else generator.device
                yield torch.randperm(count, generator=generator, device=where).to(device)
            return
        check_tensor("UpdateEpochs", "permutation", permutation)
        if permutation.is_meta:
            raise ValueError("UpdateEpochs: `permutation` must have values, got a meta tensor")
        x = torch.as_tensor(permutation, device=device)
        if x.shape != (self.epochs, count) or x.dtype != torch.int64:
            raise ValueError(
                f"UpdateEpochs: `permutation` must be torch.int64 of shape {[self.epochs, count]}, "
                f"got {x.dtype} of shape {list(x.shape)}"
            )
        if not bool((x.sort(-1).values == torch.arange(count, device=device)).all()):
            raise ValueError(
                f"UpdateEpochs: `permutation` must have each of the {count} rows once an epoch, "
                f"got others, from {int(x.min())} to {int(x.max())}"
            )
        yield from x

    def _minibatches(self, data: Data, order: Tensor, steps: int) -> Iterator[Data]:
        """Views of the rows in that order: they are gathered once an epoch."""
        size = self.minibatch_size
        pieces = {k: torch.split(x[order], size) for k, x in data.items() if k != TIME}
        others = {k: x for k, x in data.items() if k == TIME}
        ragged = len(order) % size != 0 and len(order) > size
        for k in range(steps):  # other processes may have more rows
            minibatch = {
                name: views[k] if k < len(views) else views[0][:0] for name, views in pieces.items()
            }
            if ragged:  # else the first graph would be for the first size alone
                for x in minibatch.values():
                    torch._dynamo.maybe_mark_dynamic(x, 0)
            yield {**minibatch, **others}


def _rows(data: Data) -> int:
    """How many every tensor has."""
    sizes = {key: x.shape[0] if x.dim() else None for key, x in data.items() if key != TIME}
    counts = set(sizes.values())
    if len(counts) != 1 or None in counts:
        raise ValueError(
            f"UpdateEpochs: every tensor of `batch` must have the same rows, got {sizes}"
        )
    (count,) = counts
    assert count is not None
    return count
