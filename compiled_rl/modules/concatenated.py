"""Observations that come in groups."""

from typing import Any

import torch
from torch import Tensor, nn

from compiled_rl.kernels.checks import check_tensor
from compiled_rl.modules.arguments import check_module


class Concatenated(nn.Module):
    """A network of several observations, put side by side along their last axis.

    .. code-block:: python

        groups = Reads(Concatenated(network), "proprioception", ("command", "velocity"))
        Policy(groups, Normal)

    Args:
        network: a module of one tensor, whose last axis is as long as theirs together; an
            ``ObservationNormalizer`` first in it normalises them all.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = check_module("Concatenated", "network", network)

    def forward(self, *observations: Tensor) -> Any:
        """What the network returns."""
        for x in observations:
            check_tensor("Concatenated", "observations", x)
        return self.network(torch.cat(observations, -1))
