"""Several critics of one architecture, as the losses of twin critics take them."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from compiled_rl.losses.arguments import check_count
from compiled_rl.modules import Ensemble


def ensemble_of(owner: str, networks: Any, count: int, elsewhere: Iterable[nn.Module]) -> Ensemble:
    """The critics of ``qvalue_network``, copied and stacked.

    Args:
        owner: whose errors these are.
        networks: one network, whose members' parameters are drawn from the range of its own; or a
            list of as many as there are to be.
        count: how many, ``num_qvalue_nets``.
        elsewhere: networks whose parameters are one for all critics, and not copied.

    Raises:
        TypeError: a network is none.
        ValueError: the number of networks is not ``count``, or their architectures differ.
    """
    check_count(owner, "num_qvalue_nets", count)
    several = list(networks) if isinstance(networks, Sequence) else [networks]
    for network in several:
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"{owner}: `qvalue_network` must be an nn.Module or a list of them, "
                f"got {type(network).__name__}"
            )
    if isinstance(networks, Sequence) and len(several) != count:
        raise ValueError(
            f"{owner}: `qvalue_network` must be one network or a list of `num_qvalue_nets`, "
            f"got {len(several)} and {count}"
        )
    owned = {parameter for network in elsewhere for parameter in network.parameters()}
    shared = [parameter for parameter in several[0].parameters() if parameter in owned]
    if isinstance(networks, Sequence):
        return Ensemble(several, shared)
    return Ensemble.resampled(networks, count, shared)
