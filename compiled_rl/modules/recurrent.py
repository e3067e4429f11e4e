"""Memory over the steps of a sequence."""

from typing import Optional

import torch
from torch import Tensor, nn

from compiled_rl.modules.arguments import check_count, check_features, check_starts


class GRU(nn.Module):
    """A gated recurrent unit over sequences in which episodes begin.

        hidden[t] = cell(features[t], 0 if is_init[t] else hidden[t - 1])

    ``is_init`` marks the first step of an episode, not the last one of the one before. Compiled, it
    is unrolled, one graph a length of time.

    Args:
        input_size: of the features.
        hidden_size: of what is remembered, and returned.

    Raises:
        ValueError: a size is not an integer of at least 1.

    Reference: Cho et al. 2014, arXiv:1406.1078, eq. 5 to 8; as ``torch.nn.GRUCell`` has it.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        input_size = check_count("GRU", "input_size", input_size)
        self.cell = nn.GRUCell(input_size, check_count("GRU", "hidden_size", hidden_size))

    def forward(self, features: Tensor, is_init: Tensor, hidden: Optional[Tensor] = None) -> Tensor:
        """``hidden`` after each step, ``[*B, T, hidden_size]``: to act, keep the last one.

        Args:
            features: ``[*B, T, input_size]``.
            is_init: bool ``[*B, T]`` or ``[*B, T, 1]``.
            hidden: after the step before the first one, ``[*B, hidden_size]``; None: zeros.

        Raises:
            ValueError: ``is_init`` does not fit.
        """
        weight = self.cell.weight_ih
        check_features("GRU", "features", features, self.cell.input_size, weight)
        if features.dim() < 2:
            raise ValueError(f"GRU: `features` must have a time axis, got {list(features.shape)}")
        batch = features.shape[:-1]
        check_starts("GRU", is_init, batch, features)
        if hidden is not None:
            check_features("GRU", "hidden", hidden, self.cell.hidden_size, weight)
            if hidden.shape != (*batch[:-1], self.cell.hidden_size):
                raise ValueError(
                    f"GRU: `hidden` must be of shape {[*batch[:-1], self.cell.hidden_size]}, "
                    f"got {list(hidden.shape)}"
                )
        x = features.reshape(-1, *features.shape[-2:])
        starts = is_init.reshape(x.shape[0], x.shape[1], 1)
        state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        state = state if hidden is None else hidden.reshape(state.shape)
        states: list[Tensor] = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], torch.where(starts[:, t], 0.0, state))
            states.append(state)
        return torch.stack(states, 1).reshape(*batch, self.cell.hidden_size)
