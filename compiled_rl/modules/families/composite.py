"""Families made of families."""

from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.modules.arguments import check_count
from compiled_rl.modules.families.base import Action, Family, Noise, Params


class Composite(Family):
    """Independent heads: the action is a dict from the head's name to its tensor.

        log_prob = sum over the heads of log_prob(action[head]);   entropy and KL likewise

    The parameters are those of the first head, of the second, and so on: ``<head>_<param>``. Noise
    is a dict, too.

    Args:
        heads: a family by name.

    Raises:
        ValueError: there is no head.
    """

    def __init__(self, heads: Mapping[str, Family]) -> None:
        super().__init__()
        if not isinstance(heads, Mapping) or not heads:
            raise ValueError(f"Composite: `heads` must be families by name, got {heads!r}")
        for head in heads.values():
            if not isinstance(head, Family):
                raise TypeError(
                    f"Composite: `heads` must be families by name, got a {type(head).__name__}"
                )
        self.families = nn.ModuleDict(heads)
        self.param_names = tuple(
            f"{head}_{param}" for head, family in heads.items() for param in family.param_names
        )
        self.analytic_entropy = all(family.analytic_entropy for family in heads.values())
        self.analytic_kl = all(family.analytic_kl for family in heads.values())
        self.reparametrized = all(family.reparametrized for family in heads.values())

    @property
    def heads(self) -> dict[str, tuple[Family, slice]]:
        """Each head's family, and where in the parameters its own are."""
        heads, start = {}, 0
        for name, family in self.families.items():
            assert isinstance(family, Family)
            stop = start + len(family.param_names)
            heads[name] = (family, slice(start, stop))
            start = stop
        return heads

    def log_prob(self, params: Params, action: Action) -> Tensor:
        """Of all heads together.

        Raises:
            KeyError: a head has no action.
        """
        missing = [name for name in self.heads if name not in action.keys()]  # noqa: SIM118
        if missing:
            raise KeyError(
                f"Composite: `action` must have a tensor for each head, got no {missing}"
            )
        return _sum(
            family.log_prob(params[part], action[name])
            for name, (family, part) in self.heads.items()
        )

    def entropy(self, params: Params) -> Tensor:
        """Of all heads together."""
        return _sum(family.entropy(params[part]) for family, part in self.heads.values())

    def kl(self, params: Params, other: Params) -> Tensor:
        """Of all heads together."""
        return _sum(family.kl(params[part], other[part]) for family, part in self.heads.values())

    def mode(self, params: Params) -> dict[str, Tensor]:
        """Each head's mode."""
        return {name: family.mode(params[part]) for name, (family, part) in self.heads.items()}

    def sample(self, params: Params, noise: Noise) -> dict[str, Tensor]:
        """Each head's sample."""
        return {
            name: family.sample(params[part], noise[name])
            for name, (family, part) in self.heads.items()
        }

    def sample_with_log_prob(
        self, params: Params, noise: Noise
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Each head's sample, and the log-probability of all together."""
        pairs = {
            name: family.sample_with_log_prob(params[part], noise[name])
            for name, (family, part) in self.heads.items()
        }
        action = {name: pair[0] for name, pair in pairs.items()}
        return action, _sum(pair[1] for pair in pairs.values())

    def draw_noise(
        self, params: Params, generator: Optional[Generator] = None
    ) -> dict[str, Tensor]:
        """Each head's noise."""
        return {
            name: family.draw_noise(params[part], generator)
            for name, (family, part) in self.heads.items()
        }


class Independent(Family):
    """A family whose last batch axes are parts of one action: their log-probabilities add up.

    ``torch.distributions.Independent``, for axes beyond those over which the family sums itself.

    Args:
        family: the distribution of each part.
        axes: number of batch axes that belong to the action, positive.

    Raises:
        ValueError: ``axes`` is not positive.
    """

    def __init__(self, family: Family, axes: int = 1) -> None:
        super().__init__()
        if not isinstance(family, Family):
            raise TypeError(f"Independent: `family` must be a Family, got {type(family).__name__}")
        check_count("Independent", "axes", axes)
        self.family = family
        self.axes = list(range(-axes, 0))
        self.param_names = family.param_names
        self.analytic_entropy = family.analytic_entropy
        self.analytic_kl = family.analytic_kl
        self.reparametrized = family.reparametrized

    def log_prob(self, params: Params, action: Action) -> Tensor:
        """Of all parts together."""
        return self.family.log_prob(params, action).sum(self.axes)

    def entropy(self, params: Params) -> Tensor:
        """Of all parts together."""
        return self.family.entropy(params).sum(self.axes)

    def kl(self, params: Params, other: Params) -> Tensor:
        """Of all parts together."""
        return self.family.kl(params, other).sum(self.axes)

    def mode(self, params: Params) -> Action:
        """The family's mode."""
        return self.family.mode(params)

    def sample(self, params: Params, noise: Noise) -> Action:
        """The family's sample."""
        return self.family.sample(params, noise)

    def sample_with_log_prob(self, params: Params, noise: Noise) -> tuple[Action, Tensor]:
        """The family's sample, and the log-probability of all parts together."""
        action, log_prob = self.family.sample_with_log_prob(params, noise)
        return action, log_prob.sum(self.axes)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Noise:
        """The family's noise."""
        return self.family.draw_noise(params, generator)

    def extra_repr(self) -> str:
        """The options."""
        return f"axes={len(self.axes)}"


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)
