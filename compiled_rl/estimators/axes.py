"""Where time is in the tensors of a call."""

from typing import Any, NamedTuple, Optional

from torch import Tensor

from compiled_rl.adapters import Data, keyword
from compiled_rl.adapters.dispatch import is_tensordict
from compiled_rl.adapters.masks import beside


class Axes(NamedTuple):
    """The leading axes that all tensors of a call share, and which of them is time."""

    batch: int
    time: int

    def like(self, x: Optional[Tensor], reward: Tensor) -> Optional[Tensor]:
        """``x``, if it is given, with the trailing one that the reward has."""
        if x is not None and x.dim() == self.batch and reward.dim() == self.batch + 1:
            return x.unsqueeze(-1)
        return x

    def on_steps(self, mask: Tensor, reward: Tensor) -> Optional[Tensor]:
        """The mask for every reward; one of a team's steps is that of each agent."""
        if mask.shape != reward.shape[: mask.dim()]:
            return self.like(mask, reward)
        return beside(mask, reward).expand_as(reward)

    def batched(self, x: Tensor) -> Tensor:
        """``x`` without a trailing one."""
        return x.squeeze(-1) if x.dim() > self.batch else x


def find_axes(owner: str, source: Any, data: Data, reward: Tensor, time_dim: Optional[int]) -> Axes:
    """The batch axes of a TensorDict, or those that all tensors share; time is the last of them.

    A size of one with which the reward ends is no batch axis, but a trailing one.

    Args:
        owner: whose errors these are.
        source: the container of the call, or None.
        data: all tensors that were given.
        reward: that of the call.
        time_dim: the axis that was asked for, or None.

    Raises:
        RuntimeError: there is no batch axis.
        ValueError: the time axis is not one of them, or cannot be told.
    """
    if is_tensordict(source):
        batch = source.batch_dims
        time_dim = time_of(owner, source, time_dim)
    else:
        batch = _shared_axes(owner, list(data.values()), reward, time_dim)
        if batch == 0 and reward.dim() > 0:
            raise _no_shared_axis(owner, data, reward)
    return time_among(owner, batch, time_dim)


def _no_shared_axis(owner: str, data: Data, reward: Tensor) -> ValueError:
    """The first tensor that begins otherwise than the reward."""
    other = next(key for key, x in data.items() if x.shape[:1] != reward.shape[:1])
    return ValueError(
        f"{owner}: `{keyword(other)}` must begin with the batch axes of the reward, "
        f"got {list(data[other].shape)} and {list(reward.shape)}"
    )


def time_among(owner: str, batch: int, time_dim: Optional[int]) -> Axes:
    """The time axis among so many batch axes; the last unless another was asked for.

    Raises:
        RuntimeError: there is no batch axis.
        ValueError: the axis is not one of them.
    """
    if batch == 0:
        raise RuntimeError(
            f"{owner}: `reward` and all else must have at least one batch axis, got none"
        )
    time = -1 if time_dim is None else time_dim
    if not -batch <= time < batch:
        raise ValueError(
            f"{owner}: `time_dim` must be one of the {batch} batch axes, got {time_dim}"
        )
    return Axes(batch, time % batch)


def time_of(owner: str, source: Any, time_dim: Optional[int]) -> int:
    """The time axis of a TensorDict's tensors: asked for, else named ``"time"``, else its last.

    It is counted from the front, so that tensors may have axes that the TensorDict has not.

    Raises:
        RuntimeError: there is no batch axis.
        ValueError: the axis is not one of them.
    """
    names = list(source.names)
    if time_dim is None and "time" in names:
        return names.index("time")
    if time_dim is None or time_dim < 0:
        return time_among(owner, source.batch_dims, time_dim).time
    return time_dim


def _shared_axes(owner: str, tensors: list[Tensor], reward: Tensor, time_dim: Optional[int]) -> int:
    """How many leading axes all tensors have in common."""
    rank = min([x.dim() for x in tensors])
    shared = 0
    while shared < rank and all(x.shape[shared] == reward.shape[shared] for x in tensors):
        shared += 1
    trailing = shared > 1 and shared == reward.dim() and reward.shape[-1] == 1
    if not trailing or time_dim == shared - 1:
        return shared
    if shared == 2 and time_dim is None:
        raise ValueError(
            f"{owner}: `time_dim` must be given for rewards of shape {list(reward.shape)}: "
            "0 for time and a trailing one, 1 for a batch of single steps"
        )
    return shared - 1
