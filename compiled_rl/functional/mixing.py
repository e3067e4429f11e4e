"""One value of a team, of the values of its agents."""

import torch
from torch import Tensor

from compiled_rl.kernels.checks import check_device, check_floating, check_last, check_shape


def vdn_mix(local_value: Tensor) -> Tensor:
    """The value of a team as the sum of its agents'.

        global_value = sum over agents of  local_value

    What one agent does is worth the same whatever the others do: a payoff that is no such sum is
    fitted as well as one can be.

    Args:
        local_value: of each agent's action, ``[*B, n]``, the agents last.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: ``local_value`` is not floating point or has no axis.

    Reference: Sunehag et al. 2017, arXiv:1706.05296, eq. 2.
    """
    check_last("vdn_mix", "local_value", local_value)
    return local_value.sum(-1)


def monotonic_mix(
    local_value: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    last_weight: Tensor,
    last_bias: Tensor,
) -> Tensor:
    """The value of a team, which never falls when that of one of its agents rises.

        hidden[e]    = elu(hidden_bias[e] + sum over agents i of
                           local_value[i] * abs(hidden_weight[i, e]))
        global_value = last_bias + sum over e of hidden[e] * abs(last_weight[e])

    So the best action of the team is that of each agent for itself. Weights and biases are computed
    from the state of the whole: they may be anything, the absolute value makes weights of them.

    Args:
        local_value: of each agent's action, ``[*B, n]``, the agents last.
        hidden_weight: ``[*B, n, E]``.
        hidden_bias: ``[*B, E]``.
        last_weight: ``[*B, E]``.
        last_bias: ``[*B]``, in units of value.

    Returns:
        ``[*B]``.

    Raises:
        ValueError: the tensors' shapes do not fit.

    Reference: Rashid et al. 2018, arXiv:1803.11485, eq. 4 to 6, section 4.1 and figure 2.
    """
    name = "monotonic_mix"
    check_last(name, "local_value", local_value)
    check_last(name, "hidden_weight", hidden_weight)
    check_device(name, "hidden_weight", hidden_weight, "local_value", local_value)
    if hidden_weight.shape[:-1] != local_value.shape:
        raise ValueError(
            f"{name}: `hidden_weight` must have the shape of `local_value` and one axis more, "
            f"got {list(hidden_weight.shape)} and {list(local_value.shape)}"
        )
    check_shape(
        name, "hidden_bias", hidden_bias, "hidden_weight of an agent", hidden_weight[..., 0, :]
    )
    check_floating(name, "hidden_bias", hidden_bias)
    check_floating(name, "last_weight", last_weight)
    check_floating(name, "last_bias", last_bias)
    check_shape(name, "last_weight", last_weight, "hidden_bias", hidden_bias)
    check_shape(name, "last_bias", last_bias, "local_value of an agent", local_value[..., 0])
    # Of so few agents a sum is faster than a product of matrices, and fuses with what is around it.
    weighted = (local_value.unsqueeze(-1) * hidden_weight.abs()).sum(-2)
    hidden = torch.nn.functional.elu(weighted + hidden_bias)
    return (hidden * last_weight.abs()).sum(-1) + last_bias
