"""What TorchRL's modules of action values compute, as plain steps; known by name, not imported."""

from typing import Any

import torch
from torch import Tensor, nn

from compiled_rl.adapters.steps import Step
from compiled_rl.modules import MultiOneHotCategorical, QPolicy

_CHOICES = ("QValueModule", "DistributionalQValueModule")


def is_choice(module: nn.Module) -> bool:
    """Whether it chooses the best action by the values of all."""
    return type(module).__name__ in _CHOICES


def values_before(choice: Any) -> list[Step]:
    """What a choice does to the values before it chooses: some actions it may forbid."""
    if choice.action_mask_key is None:
        return []
    forbid = forbid_value if type(choice).__name__ == "QValueModule" else forbid_atoms
    key = choice.action_value_key
    return [Step(forbid, (key, choice.action_mask_key), (key,))]


def log_softmax_of_atoms(*values: Tensor) -> tuple[Tensor, ...]:
    """What ``DistributionalDQNnet`` computes of each of its inputs."""
    return tuple(x.log_softmax(-2) for x in values)


def forbid_value(value: Tensor, allowed: Tensor) -> Tensor:
    """The values ``[*B, N]``, with the least number there is for what is not allowed."""
    return torch.where(allowed, value, torch.finfo(value.dtype).min)


def forbid_atoms(logits: Tensor, allowed: Tensor) -> Tensor:
    """The logits ``[*B, K, N]``, with all probability on the first atom for what is not allowed."""
    never = torch.full_like(logits, torch.finfo(logits.dtype).min)
    first = torch.zeros_like(logits[..., :1, :])
    return torch.where(allowed.unsqueeze(-2), logits, torch.cat([first, never[..., 1:, :]], -2))


def action_space_of(network: nn.Module) -> Any:
    """What a network of action values says of its actions, as ``action_family`` takes it, or None.

    It is said by a ``QPolicy``, or by TorchRL's choice among the values.
    """
    if isinstance(network, QPolicy):
        return network.family
    choices: list[Any] = [module for module in network.modules() if is_choice(module)]
    if not choices:
        return None
    spec = choices[-1].spec[choices[-1].out_keys[0]]
    if spec is not None:
        return spec
    blocks = choices[-1].var_nums
    return MultiOneHotCategorical(blocks) if isinstance(blocks, list) else choices[-1].action_space
