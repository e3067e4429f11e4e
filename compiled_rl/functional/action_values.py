"""Values of all actions of a state, and distributions of returns over fixed atoms."""

import torch
from torch import Tensor

from compiled_rl.functional.scalars import at_index, coefficient, widened
from compiled_rl.kernels.checks import (
    check_device,
    check_flag,
    check_floating,
    check_last,
    check_shape,
    check_shapes,
    check_tensor,
)


def chosen_action_value(action_value: Tensor, action: Tensor) -> Tensor:
    """The value of one action, of the values of all.

        action_value[action]                         of an index
        sum over n of  action_value[n] * action[n]   of zeros and ones

    Of zeros and ones one value is chosen where they are one-hot, one a block where they are
    several one-hot blocks side by side, and the sum of those that are on where they are bits.

    Args:
        action_value: ``[*B, N]``.
        action: indices, an integer dtype, ``[*B]``; or zeros and ones, any dtype, ``[*B, N]``.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: ``action`` has neither shape, indices are not of an integer dtype or, on a
            CPU, one is out of range; a GPU does not survive it.

    Reference: Mnih et al. 2015, Nature 518:529, eq. 1; Tavakoli et al. 2017, arXiv:1711.08946,
    for blocks.
    """
    name = "chosen_action_value"
    check_last(name, "action_value", action_value)
    check_tensor(name, "action", action)
    check_device(name, "action", action, "action_value", action_value)
    if action.dim() == action_value.dim():
        check_shape("chosen_action_value", "action", action, "action_value", action_value)
        return torch.where(action != 0, action_value, torch.zeros_like(action_value)).sum(-1)
    if action.shape != action_value.shape[:-1]:
        raise ValueError(
            f"chosen_action_value: `action` must have the shape {list(action_value.shape[:-1])} "
            f"of indices or {list(action_value.shape)} of zeros and ones, got {list(action.shape)}"
        )
    return at_index("chosen_action_value", action_value, action)


def expected_action_value(logits: Tensor, support: Tensor) -> Tensor:
    """The mean return of every action, of its distribution over atoms.

        sum over k of  softmax(logits over k)[k] * support[k]

    Args:
        logits: unnormalised log-probabilities of the atoms, ``[*B, K, N]``, the actions last.
        support: the atoms, ``[K]``, in units of the return.

    Returns:
        ``[*B, N]``.

    Raises:
        ValueError: ``logits`` do not have the atoms of ``support`` before the actions.

    Reference: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1.
    """
    _check_atoms("expected_action_value", "logits", logits, -2, support)
    return (torch.softmax(logits, -2) * support.to(logits.dtype).unsqueeze(-1)).sum(-2)


def project_categorical(
    reward: Tensor,
    next_probs: Tensor,
    terminated: Tensor,
    support: Tensor,
    gamma: float = 0.99,
) -> Tensor:
    """The distribution of the return of one step, on the atoms on which the next one lies.

        moved[j] = clip(reward + gamma * (0 if terminated else support[j]), v_min, v_max)
        probs[k] = sum over j of  next_probs[j] * max(0, 1 - abs(moved[j] - support[k]) / step)

    What falls between two atoms is shared by them, the nearer one having more; what falls beyond
    the support is kept at its end, so that too narrow a support bends the mean, silently.

    Args:
        reward: ``[*B]``; of n-step data the discounted sum.
        next_probs: of the return from the state entered, ``[*B, K]``; never read where terminated.
        terminated: the task itself ended, bool ``[*B]``.
        support: at least two atoms in equal steps, ascending, ``[K]``, in units of the return.
        gamma: discount in [0, 1], or one a sample, ``[*B]``.

    Returns:
        Probabilities, ``[*B, K]``.

    Raises:
        ValueError: shapes or dtypes do not fit, ``terminated`` is not bool, or there is one atom.

    Reference: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1.
    """
    name = "project_categorical"
    check_floating(name, "reward", reward)
    check_flag(name, "terminated", terminated, "reward", reward)
    _check_atoms(name, "next_probs", next_probs, -1, support)
    _check_beside_atoms(name, reward, next_probs)
    dtype, reward = reward.dtype, widened(reward)
    support = support.to(reward.dtype)
    discount = torch.where(terminated, 0.0, coefficient(name, "gamma", gamma, reward, None))
    moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * support
    # The atom, counted in steps, below it, and how far it is on its way to the next.
    last = support.shape[0] - 1
    place = ((moved - support[0]) / (support[-1] - support[0]) * last).clamp(0, last)
    below = place.floor().clamp(max=last - 1)
    share = place - below
    index = below.long().clamp(0, last - 1)  # of a NaN, too
    # Where terminated all atoms were moved to one place.
    anywhere = torch.ones_like(next_probs) / support.shape[0]
    probs = widened(torch.where(terminated.unsqueeze(-1), anywhere, next_probs))
    lower = torch.zeros_like(probs).scatter_add(-1, index, probs * (1 - share))
    return lower.scatter_add(-1, index + 1, probs * share).to(dtype)


def categorical_cross_entropy(logits: Tensor, target_probs: Tensor) -> Tensor:
    """Cross-entropy of a categorical distribution and its target: least where they are equal.

        -sum over k of  target_probs[k] * log_softmax(logits)[k]

    Args:
        logits: unnormalised log-probabilities, ``[*B, K]``.
        target_probs: ``[*B, K]``.

    Returns:
        ``[*B]``, in nats.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1.
    """
    name = "categorical_cross_entropy"
    check_last(name, "logits", logits)
    check_shapes(name, {"logits": logits, "target_probs": target_probs})
    return -(target_probs * torch.log_softmax(logits, -1)).sum(-1)


def _check_atoms(function: str, name: str, x: Tensor, dim: int, support: Tensor) -> None:
    check_floating(function, name, x)
    check_tensor(function, "support", support)
    check_device(function, "support", support, name, x)
    if support.dim() != 1 or support.shape[0] < 2:
        raise ValueError(
            f"{function}: `support` must be at least two atoms, got shape {list(support.shape)}"
        )
    if x.dim() < -dim or x.shape[dim] != support.shape[0]:
        raise ValueError(
            f"{function}: `{name}` must have {support.shape[0]} atoms in dimension {dim}, "
            f"got {list(x.shape)}"
        )


def _check_beside_atoms(function: str, reward: Tensor, next_probs: Tensor) -> None:
    check_device(function, "next_probs", next_probs, "reward", reward)
    if next_probs.shape[:-1] != reward.shape:
        raise ValueError(
            f"{function}: `next_probs` must have the shape of `reward` and one axis more, "
            f"got {list(next_probs.shape)} and {list(reward.shape)}"
        )
    if next_probs.dtype != reward.dtype:
        raise ValueError(
            f"{function}: `next_probs` must have the dtype of `reward`, "
            f"got {next_probs.dtype} and {reward.dtype}"
        )
