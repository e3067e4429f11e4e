"""Rules by which a frozen copy follows its network: one tensor of each in, the copy's next out."""

import torch
from torch import Tensor

from compiled_rl.functional.scalars import as_scalar, scalar
from compiled_rl.kernels.checks import check_like, check_number


def soft_update(target: Tensor, source: Tensor, tau: float) -> Tensor:
    """Polyak averaging: the copy moves a little towards its network.

        target + tau * (source - target)

    A tensor of integers, such as a count of batches, has no mean: it is copied.

    Args:
        target: of the copy, ``[*B]``.
        source: of the network, ``[*B]``.
        tau: how much of the way, in [0, 1]; TorchRL's ``1 - eps``.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: the tensors' shapes or dtypes differ.

    Reference: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1.
    """
    check_like("soft_update", "source", source, "target", target)
    if not (target.is_floating_point() or target.is_complex()):
        return source.clone()
    return torch.lerp(target, source, scalar("soft_update", "tau", tau, target, "in [0, 1]"))


def hard_update(target: Tensor, source: Tensor, counter: float, interval: float) -> Tensor:
    """The copy becomes its network when the counter has reached the interval, and only then.

        source if counter == interval else target

    The counter that begins again with zero after that, and is one more after every other call,
    copies at every call number ``interval + 1``.

    Args:
        target: of the copy, ``[*B]``.
        source: of the network, ``[*B]``; may be anything, NaN too, where it is not copied.
        counter: calls since the last copy.
        interval: calls between two copies.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: the tensors' shapes or dtypes differ.

    Reference: Mnih et al. 2015, Nature 518:529, algorithm 1.
    """
    check_like("hard_update", "source", source, "target", target)
    # The difference first: in half precision 999 is 1000, but only a zero is zero.
    check_number("hard_update", "counter", counter)
    check_number("hard_update", "interval", interval)
    # Nor in integers, where 256 may be zero.
    like = target if target.is_floating_point() else torch.zeros([], device=target.device)
    return torch.where(as_scalar(counter - interval, like) == 0, source, target)
