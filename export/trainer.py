"""Learn with ONNX Runtime alone: a file that holds training steps, and what they move."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from compiled_rl.export.buffers import Buffers, draw
from compiled_rl.export.errors import CorruptedError, said
from compiled_rl.export.names import MINIBATCHES, read_arrays
from compiled_rl.export.runtime import OnnxModel
from compiled_rl.export.session import Providers
from compiled_rl.export.vouched import parsed
from compiled_rl.files import existing, replaced

Arrays = dict[str, np.ndarray]


class OnnxTrainer:
    """Takes the steps of a file that ``to_onnx`` made of an ``UpdateStep`` or ``UpdateEpochs``.

    .. code-block:: python

        trainer = OnnxTrainer("update.onnx")
        metrics = trainer(**batch)                # arrays by name
        policy.load(trainer.state)                # an OnnxPolicy with parameters
        trainer.save("learned.npz")

    Of ``UpdateEpochs``, a call takes every epoch, over minibatches of rows in an order that is
    drawn here, the last one smaller where they do not divide the rows, and stops behind an epoch
    whose mean ``kl`` is above ``target_kl``.

    On the CPU, arrays are bound to buffers once for the sizes of a batch and used at every call.
    One object is for one thread.

    Args:
        path: of the ``.onnx`` file.
        seed: of the orders and of noise.
        providers: as ``OnnxModel`` takes them.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or no ONNX model.
        ValueError: the file holds no training step.

    Attributes:
        state: what the steps move and what they are told, such as ``learning_rate``, by input
            name. Write to it to change a number: ``trainer.state["learning_rate"] = 1e-4``. The
            arrays move with the trainer: copy what is to stay as it is.
        updates: how many steps were taken.
    """

    def __init__(self, path: str | Path, *, seed: int = 0, providers: Providers = None) -> None:
        self.model = OnnxModel(existing("OnnxTrainer", path), providers=providers)
        contract = self.model.contract
        following: dict[str, Optional[str]] = contract.get("state", {})
        self._held = {name: np.array(x, order="C") for name, x in self.model.stored.items()}
        self._moved = {k: output for k in self._held if (output := following.get(k))}
        if not self._moved:
            raise ValueError(
                f"OnnxTrainer: `path` must be a file with a training step, got {path}, which holds "
                f"a {contract.get('target', 'model')}"
            )
        self._schedule: dict[str, Any] = contract.get("schedule") or {}
        self._promised = contract["outputs"]
        self._noise = {x["name"]: x["noise"] for x in contract["inputs"] if "noise" in x}
        self._data = [x["name"] for x in contract["inputs"] if x["name"] not in self._held]
        moved = self._moved.values()
        self._metrics = [name for name in self.model.outputs if name not in moved]
        self._buffers: Optional[Buffers] = None
        self.state = dict(self._held)
        self.generator = np.random.default_rng(seed)
        self.updates = 0

    def __call__(self, /, **batch: np.ndarray) -> Arrays:
        """Take one step, or every step of the epochs, on a batch.

        Args:
            **batch: by name. Noise may be left out, and so may ``minibatches``, int64
                ``[updates, rows]``; with it, just these steps are taken.

        Returns:
            The metrics; of epochs one value a step, ``[S]``.

        Raises:
            ValueError: a name, dtype or shape does not fit; nothing has moved then.
        """
        if not self._schedule or MINIBATCHES in batch:
            return self._take(batch)
        taken: list[Arrays] = []
        for _ in range(self._schedule["epochs"]):
            epoch = [self._take({**batch, MINIBATCHES: rows}) for rows in self._order(batch)]
            taken += epoch
            if self._is_far(epoch):
                break
        return {name: np.concatenate([x[name] for x in taken]) for name in self._metrics}

    def save(self, path: str | Path) -> None:
        """Write all that a run goes on from to an ``.npz`` file; an older one stays until then."""
        stored: Any = {f"state.{name}": x for name, x in self.state.items()}
        stored |= {"updates": np.array(self.updates), "generator": _as_bytes(self.generator)}
        with replaced("OnnxTrainer", path) as file:
            np.savez(file, **stored)

    def load(self, path: str | Path) -> None:
        """Go on where another trainer of the same file was; to the same bits.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptedError: the file is damaged, or none that a trainer saved.
            ValueError: it is of another trainer; nothing is changed then.
        """
        path = existing("OnnxTrainer", path)
        try:
            stored = read_arrays(path)
            state = {k.removeprefix("state."): x for k, x in stored.items() if "." in k}
            generator = _of_bytes(stored["generator"])
            updates = int(stored["updates"])
            if updates < 0:
                raise ValueError(f"`updates` must not be negative, got {updates}")
        except Exception as error:
            raise CorruptedError(
                f"OnnxTrainer: {path} is not a trainer's state: {said(error)}"
            ) from None
        self._check_state(state, path)
        self.state, self.generator, self.updates = state, generator, updates

    def _check_state(self, state: Mapping[str, np.ndarray], path: str | Path) -> None:
        for name in [*self.state, *state]:
            was, x = self.state.get(name), state.get(name)
            if was is None or x is None or was.shape != x.shape or was.dtype != x.dtype:
                raise ValueError(
                    f"OnnxTrainer: the state in {path} must be of this file, whose `{name}` is "
                    f"{_described(was)}, got {_described(x)}"
                )

    def _take(self, batch: Mapping[str, np.ndarray]) -> Arrays:
        """What one call of the graph gives, after the state has moved."""
        self._take_over()
        buffers = self._fitting(batch)
        self._check_rows(batch)
        inputs = buffers.inputs
        for name, x in batch.items():
            inputs[name][...] = x
        for name, kind in self._noise.items():
            if name not in batch:
                draw(self.generator, kind, inputs[name])
        outputs = buffers.run({})
        self._move(outputs, self.updates + (len(batch[MINIBATCHES]) if MINIBATCHES in batch else 1))
        return {name: outputs[name].copy() for name in self._metrics}

    def _move(self, outputs: Arrays, updates: int) -> None:
        """The whole state, or nothing of it: an interrupt comes when it is there."""
        try:
            self._copy(outputs, updates)
        except BaseException:
            self._copy(outputs, updates)
            raise

    def _copy(self, outputs: Arrays, updates: int) -> None:
        for name, output in self._moved.items():
            self._held[name][...] = outputs[output]
        self.updates = updates

    def _take_over(self) -> None:
        """Copy what was written to ``state`` since the last call to the arrays that are bound."""
        held = self._held
        new = {name: x for name, x in self.state.items() if x is not held.get(name)}
        if not new and len(self.state) == len(held):
            return
        if self.state.keys() != held.keys():
            raise ValueError(f"OnnxTrainer: the state is {list(held)}, got {list(self.state)}")
        new = {name: np.asarray(x, held[name].dtype) for name, x in new.items()}
        for name, x in new.items():
            self.model.expected[name].check("OnnxTrainer", x, {})
        for name, x in new.items():
            held[name][...] = x
        self.state = dict(held)

    def _fitting(self, batch: Mapping[str, np.ndarray]) -> Buffers:
        """Buffers of the sizes of a batch; those of the call before, if they are."""
        missing = [name for name in self._data if name not in batch and name not in self._noise]
        if missing or not batch.keys() <= set(self._data):
            raise ValueError(f"OnnxTrainer: the inputs are {self._data}, got {list(batch)}")
        if self._buffers is None or not self._buffers.fit(batch):
            self._buffers = self._sized(batch)
        return self._buffers

    def _check_rows(self, batch: Mapping[str, np.ndarray]) -> None:
        """Refuse minibatches of rows that there are not; none at all are no step."""
        if MINIBATCHES not in batch:
            return
        rows, count = batch[MINIBATCHES], self._rows(batch)
        if not rows.size or rows.min() < 0 or rows.max() >= count:
            got = f"from {rows.min()} to {rows.max()}" if rows.size else f"none, {rows.shape}"
            raise ValueError(
                f"OnnxTrainer: `{MINIBATCHES}` must be of the batch's {count} rows, got {got}"
            )

    def _rows(self, batch: Mapping[str, np.ndarray]) -> int:
        """How many rows a batch has, as its first array says, which is no noise."""
        drawn = (MINIBATCHES, *self._noise)
        return next((len(batch[k]) for k in self._data if k in batch and k not in drawn), 0)

    def _sized(self, batch: Mapping[str, np.ndarray]) -> Buffers:
        sizes: dict[str, int] = {}
        for name, x in batch.items():
            self.model.expected[name].check("OnnxTrainer", x, sizes)
        data: Arrays = {}
        for entry in [self.model.expected[name] for name in self._data]:
            shape: Any = [sizes.get(str(axis), axis) for axis in entry.shape]
            data[entry.name] = np.empty(shape, entry.dtype)
        return Buffers(self.model.session, {**self._held, **data}, self._promised, sizes)

    def _order(self, batch: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
        """The rows of every step of an epoch: those of one size in one call."""
        count = self._rows(batch)
        if not count:
            raise ValueError(f"OnnxTrainer: the batch must have rows of {self._data}, got none")
        rows = self.generator.permutation(count)
        size = self._schedule["minibatch_size"]
        whole = len(rows) // size * size
        if whole:
            yield rows[:whole].reshape(-1, size)
        if whole < len(rows):
            yield rows[None, whole:]

    def _is_far(self, epoch: list[Arrays]) -> bool:
        bound = self._schedule.get("target_kl")
        if bound is None:
            return False
        return bool(np.concatenate([x[self._schedule["kl"]] for x in epoch]).mean() > bound)


def _described(x: Optional[np.ndarray]) -> str:
    return "none" if x is None else f"{x.dtype} of shape {list(x.shape)}"


def _as_bytes(generator: np.random.Generator) -> np.ndarray:
    return np.frombuffer(json.dumps(generator.bit_generator.state).encode(), np.uint8)


def _of_bytes(stored: np.ndarray) -> np.random.Generator:
    generator = np.random.default_rng()
    generator.bit_generator.state = parsed(stored.tobytes())
    return generator
