"""Several critics of one architecture, as the losses of twin critics take them."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Size, nn

from compiled_rl.adapters import Data, Key
from compiled_rl.modules import Ensemble
from compiled_rl.modules.arguments import check_count
from compiled_rl.modules.targets import check_called


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
        ValueError: the number of networks is not ``count``, their architectures differ, or one has
            a lazy module that was never called.
    """
    check_count(owner, "num_qvalue_nets", count)
    listed = isinstance(networks, Sequence | nn.ModuleList)
    several = list(networks) if listed else [networks]
    for network in several:
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"{owner}: `qvalue_network` must be an nn.Module or a list of them, "
                f"got {type(network).__name__}"
            )
        check_called("qvalue_network", network)
    if listed and len(several) != count:
        raise ValueError(
            f"{owner}: `qvalue_network` must be one network or a list of `num_qvalue_nets`, "
            f"got {len(several)} and {count}"
        )
    owned = {parameter for network in elsewhere for parameter in network.parameters()}
    shared = [parameter for parameter in several[0].parameters() if parameter in owned]
    if listed:
        return Ensemble(several, shared)
    return Ensemble.resampled(networks, count, shared)


def parts_of(owner: str, data: Data, keys: Iterable[Key], batch: Size, count: int) -> list[Data]:
    """The data, of which each part has its own part of what critics read, along the first axis.

    Args:
        owner: whose errors these are.
        data: tensors by key; those that do not begin with the shape of the batch stay whole.
        keys: what the critics read.
        batch: ``[*B]``.
        count: how many parts.

    Raises:
        ValueError: the first axis of the batch does not divide into so many.
    """
    if len(batch) == 0 or batch[0] % count:
        raise ValueError(
            f"{owner}: with a `value_network`, the batch must divide into a part for each "
            f"of {count} critics, got {list(batch)}"
        )
    cut = {
        key: data[key].tensor_split(count)
        for key in keys
        if key in data and data[key].shape[: len(batch)] == batch
    }
    return [data | {key: parts[k] for key, parts in cut.items()} for k in range(count)]
