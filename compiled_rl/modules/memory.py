"""One step of what remembers, with the batch as the first axis of its state."""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.kernels.checks import check_device, check_tensor
from compiled_rl.modules.arguments import check_count, check_like_features, check_starts
from compiled_rl.modules.recurrent import GRU

State = tuple[Tensor, ...]


class FrameStack(nn.Module):
    """The last observations, the oldest first.

        frames[t] = [observation[t]] * size                   if is_init[t]
                    [*frames[t - 1][1:], observation[t]]      else

    Args:
        size: how many, at least 1.

    Raises:
        ValueError: there is none.

    Reference: Mnih et al. 2015, Nature 518:529, Methods, with the first observation repeated, as
    ``gymnasium.wrappers.FrameStackObservation`` does by default.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = check_count("FrameStack", "size", size)

    def forward(
        self, observation: Tensor, frames: Tensor, is_init: Optional[Tensor] = None
    ) -> Tensor:
        """The frames with this one, ``[B, size, ...]``.

        Args:
            observation: ``[B, ...]``.
            frames: before it, ``[B, size, ...]``; not read where an episode begins.
            is_init: bool ``[B]`` or ``[B, 1]``; None: no episode begins.

        Raises:
            ValueError: ``frames`` or ``is_init`` does not fit.
        """
        check_tensor("FrameStack", "observation", observation)
        check_tensor("FrameStack", "frames", frames)
        check_device("FrameStack", "frames", frames, "observation", observation)
        if observation.dim() == 0:
            raise ValueError("FrameStack: `observation` must have a batch axis, got a 0-d tensor")
        newest = observation.unsqueeze(1)
        if frames.shape != (newest.shape[0], self.size, *newest.shape[2:]):
            expected = [observation.shape[0], self.size, *observation.shape[1:]]
            raise ValueError(
                f"FrameStack: `frames` must be of shape {expected}, got {list(frames.shape)}"
            )
        moved = torch.cat([frames[:, 1:], newest], 1)
        return (
            moved
            if is_init is None
            else torch.where(_rows("FrameStack", is_init, moved), newest, moved)
        )

    def extra_repr(self) -> str:
        """How many."""
        return str(self.size)


_CELLS = (nn.GRUCell, nn.RNNCell, nn.LSTMCell)
_SEQUENCES = (nn.GRU, nn.RNN, nn.LSTM)
_LSTM = (nn.LSTM, nn.LSTMCell)


def check_memory(owner: str, memory: nn.Module) -> None:
    """Refuse what cannot be run one step at a time."""
    if not isinstance(memory, (*_CELLS, *_SEQUENCES, GRU, FrameStack)):
        raise TypeError(
            f"{owner}: `memory` must be a GRU, RNN or LSTM of torch.nn, a cell of one, a GRU or a "
            f"FrameStack of compiled_rl.modules, got {type(memory).__name__}"
        )
    if getattr(memory, "bidirectional", False):
        raise ValueError(f"{owner}: `memory` must run forwards in time only, got {memory}")


def state_names(memory: nn.Module) -> dict[str, str]:
    """What is remembered, as it goes in and as it comes out."""
    if isinstance(memory, FrameStack):
        return {"frames_in": "frames_out"}
    cell = {"c_in": "c_out"} if isinstance(memory, _LSTM) else {}
    return {"h_in": "h_out", **cell}


def first_state(memory: nn.Module, features: Tensor) -> State:
    """What is remembered before the first step."""
    return tuple(features.new_zeros(features.shape[0], *x) for x in _shapes(memory, features))


def remember(
    memory: Any, features: Tensor, state: State, is_init: Optional[Tensor]
) -> tuple[Tensor, State]:
    """One step: what is read of the memory, and its new state.

    Args:
        memory: as ``check_memory`` wants it.
        features: ``[B, ...]``.
        state: of each row.
        is_init: bool ``[B]`` or ``[B, 1]``, the rows in which an episode begins; None: in none.

    Raises:
        ValueError: ``is_init`` does not fit.
    """
    if isinstance(memory, FrameStack):
        frames = memory(features, *state, is_init)
        return frames, (frames,)
    _check_state(memory, features, state)
    if is_init is not None:
        state = tuple(torch.where(_rows(type(memory).__name__, is_init, x), 0.0, x) for x in state)
    if isinstance(memory, _SEQUENCES):
        return _step_of_sequence(memory, features, state)
    state = _together(memory.cell if isinstance(memory, GRU) else memory, features, state)
    return state[0], state


def _check_state(memory: nn.Module, features: Tensor, state: State) -> None:
    """Refuse a state that is not one of each row of the features."""
    names, shapes = state_names(memory), _shapes(memory, features)
    for name, x, shape in zip(names, state, shapes, strict=True):
        check_like_features("RecurrentPolicy", name, x, features)
        if x.shape != (features.shape[0], *shape):
            raise ValueError(
                f"RecurrentPolicy: `{name}` must be of shape {[features.shape[0], *shape]}, "
                f"got {list(x.shape)}"
            )


def _step_of_sequence(memory: Any, features: Tensor, state: State) -> tuple[Tensor, State]:
    """A sequence of one step; torch has the layers before the batch."""
    time = int(memory.batch_first)
    before = tuple(x.transpose(0, 1).contiguous() for x in state)
    pair = isinstance(memory, _LSTM)
    output, after = memory(features.unsqueeze(time), before if pair else before[0])
    after = after if pair else (after,)
    return output.squeeze(time), tuple(x.transpose(0, 1) for x in after)


def _together(cell: nn.Module, features: Tensor, state: State) -> State:
    """One step of a cell; torch has a pair for a state only where it is one."""
    if isinstance(cell, nn.LSTMCell):
        return tuple(cell(features, state))
    return (cell(features, *state),)


def _shapes(memory: Any, features: Tensor) -> list[tuple[int, ...]]:
    """Of one row of each part of the state."""
    if isinstance(memory, FrameStack):
        return [(memory.size, *features.shape[1:])]
    if isinstance(memory, GRU):
        memory = memory.cell
    if not isinstance(memory, _SEQUENCES):
        return [(memory.hidden_size,)] * len(state_names(memory))
    sizes = [memory.proj_size or memory.hidden_size, memory.hidden_size]
    return [(memory.num_layers, size) for size in sizes[: len(state_names(memory))]]


def _rows(owner: str, is_init: Tensor, x: Tensor) -> Tensor:
    """``is_init`` so that it selects rows of ``x``."""
    batch = x.shape[0]
    check_starts(owner, is_init, (batch,), x)
    return is_init.reshape(batch, *[1] * (x.dim() - 1))
