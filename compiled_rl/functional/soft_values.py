"""Maximum entropy: values that count the entropy of what follows, and their temperature."""

import torch
from torch import Tensor

from compiled_rl.functional.scalars import scalar, where_valid
from compiled_rl.kernels.checks import check_floating, check_last, check_shape


def soft_value(action_value: Tensor, log_prob: Tensor, alpha: float = 1.0) -> Tensor:
    """The soft value of a state, estimated from one action that the policy itself drew there.

        soft_value = min over the critics of action_value - alpha * log_prob

    The policy maximises it: its loss is the negative, whose gradient comes through a
    reparametrised action. Never take a recorded action: it is another policy's.

    Args:
        action_value: of each critic for the drawn action, ``[N, *B]``, the critics first.
        log_prob: of that action, ``[*B]``, in nats.
        alpha: temperature, at least 0, in units of value a nat.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Haarnoja et al. 2018, arXiv:1801.01290, eq. 3; the minimum, Fujimoto et al. 2018,
    arXiv:1802.09477, eq. 10.
    """
    _check_critics("soft_value", action_value)
    least = action_value.amin(0)
    check_floating("soft_value", "log_prob", log_prob)
    check_shape("soft_value", "log_prob", log_prob, "action_value of a critic", least)
    return least - scalar("soft_value", "alpha", alpha, log_prob, "at least 0") * log_prob


def categorical_soft_value(action_value: Tensor, logits: Tensor, alpha: float = 1.0) -> Tensor:
    """The soft value of a state under a categorical policy: the mean over all of its actions.

        p          = softmax(logits)
        soft_value = sum over n of  p[n] * (min over the critics of action_value[n]
                                            - alpha * log(p[n])),   with 0 * log(0) = 0

    The policy maximises it: its loss is the negative, whose gradient comes through ``p``. What the
    critics say of a forbidden action, one whose probability is zero, is never read.

    Args:
        action_value: of each critic for each action, ``[N, *B, A]``, the critics first.
        logits: unnormalised log-probabilities, ``[*B, A]``.
        alpha: temperature, at least 0, in units of value a nat.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: the tensors' shapes differ.

    Reference: Christodoulou 2019, arXiv:1910.07207, eq. 10.
    """
    owner = "categorical_soft_value"
    _check_critics(owner, action_value)
    check_last(owner, "logits", logits)
    check_shape(owner, "logits", logits, "action_value of a critic", action_value[0])
    log_prob = torch.log_softmax(logits, -1)
    probs = log_prob.exp()
    # Not where logits are finite: of the least number there is, alpha * log_prob overflows.
    allowed = probs > 0
    # Selected before the minimum: its gradient would spread a NaN.
    least = where_valid(allowed, action_value).amin(0)
    each = least - scalar(owner, "alpha", alpha, logits, "at least 0") * where_valid(
        allowed, log_prob
    )
    return (probs * each).sum(-1)


def temperature_loss(log_prob: Tensor, log_alpha: float, target_entropy: float) -> Tensor:
    """What a learned temperature minimises, to hold the policy's entropy at a target.

        loss = -log_alpha * (log_prob + target_entropy)

    The temperature rises while the entropy, the mean of ``-log_prob``, is below the target. The
    paper writes ``alpha`` for the factor ``log_alpha``; the sign of the gradient is the same, and
    ``log_alpha`` needs no bound at zero. No gradient reaches ``log_prob``.

    Args:
        log_prob: of an action that the policy itself drew, or minus its entropy, ``[*B]``, in nats.
        log_alpha: logarithm of the temperature, what is learned.
        target_entropy: in nats; minus the number of the action's dimensions is usual.

    Returns:
        The loss of each sample, ``[*B]``.

    Raises:
        ValueError: ``log_prob`` is not floating point, or a number is none or has an axis.

    Reference: Haarnoja et al. 2018, arXiv:1812.05905, eq. 18.
    """
    owner = "temperature_loss"
    check_floating(owner, "log_prob", log_prob)
    excess = log_prob.detach() + scalar(owner, "target_entropy", target_entropy, log_prob)
    return -scalar(owner, "log_alpha", log_alpha, log_prob) * excess


def _check_critics(function: str, action_value: Tensor) -> None:
    """At least one critic, first."""
    check_last(function, "action_value", action_value)
    if action_value.shape[0] == 0:
        raise ValueError(
            f"{function}: `action_value` must be of at least one critic, "
            f"got {list(action_value.shape)}"
        )
