"""A policy's distribution over a dict of tensors: one head, or several that are independent."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from compiled_rl.adapters.dispatch import Data, given
from compiled_rl.adapters.fields import Key, joined, keyword, suffixed, unique
from compiled_rl.adapters.objects import GivenDistribution
from compiled_rl.adapters.plain import PlainForm
from compiled_rl.adapters.steps import Step
from compiled_rl.modules import Composite, Family, Policy
from compiled_rl.modules.families import Params, monte_carlo_entropy, monte_carlo_kl


class Head(NamedTuple):
    """One distribution: its family, and the keys of its parameters and of its recorded action."""

    family: Family
    param_keys: tuple[Key, ...]
    action_key: Key

    def params(self, data: Data) -> Params:
        """The parameters, in the family's order."""
        return tuple(data[key] for key in self.param_keys)

    @property
    def entropy_key(self) -> Key:
        """What the head's entropy is called."""
        return suffixed(self.action_key, "_entropy")


class Heads(NamedTuple):
    """The joint distribution with which a policy ends."""

    heads: tuple[Head, ...]
    log_prob_keys: tuple[Key, ...]  # one for all heads, or one a head


class PlainPolicy(PlainForm):
    """The plain form of a policy: its calls end in the parameters of independent heads."""

    param_keys: tuple[Key, ...] = ()  # until they are known
    action_keys: tuple[Key, ...] = ()

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, "")
        self.heads, self.log_prob_keys = heads_of(network, self.out_keys)
        self.param_keys = tuple(key for head in self.heads for key in head.param_keys)
        self.action_keys = tuple(head.action_key for head in self.heads)
        self.keep(self.param_keys)

    def _take(self, steps: list[Step]) -> None:
        """Read, too, the parameters that no step computes, such as the actions that are allowed."""
        super()._take(steps)
        recorded = [key for key in self.param_keys if key not in self.out_keys]
        self.in_keys = unique([*self.in_keys, *recorded])

    def forward(self, data: Data) -> Data:
        """``data`` and what the network computes from it, every parameter among them."""
        found: Data = super().forward(data)
        for key in self.param_keys:
            if key not in found:
                raise KeyError(
                    f"the parameter `{keyword(key)}` of the distribution was not found; "
                    f"the keys are {given(data)}"
                )
        return found

    def find_steps(self) -> list[Step]:
        """The network's calls; one where it has a distribution of its own."""
        if not _gives_distribution(self.network):
            return super().find_steps()
        from compiled_rl.adapters.tensordict import DistributionStep

        return [DistributionStep(self.network)]

    def check_fresh(self) -> None:
        """Refuse a policy whose calls or whose family are no longer those that were found.

        Raises:
            RuntimeError: a submodule was replaced or hooked, or the family was replaced.
        """
        super().check_fresh()
        if not isinstance(self.network, Policy):
            return
        families = [head.family for head in _plain_heads(self.network.family)]
        if families != [head.family for head in self.heads]:
            raise RuntimeError(
                f"the `family` of {type(self.network).__name__} was replaced after the loss was "
                "made; make the loss again"
            )

    def log_prob(self, data: Data, actions: Sequence[Tensor]) -> Tensor:
        """Log-probability ``[*B]`` of recorded actions, one a head, from ``forward``'s data."""
        terms = [
            head.family.log_prob(head.params(data), action)
            for head, action in zip(self.heads, actions, strict=True)
        ]
        return _summed(terms)

    def entropies(self, data: Data, samples: int) -> list[Tensor]:
        """The entropy of each head, ``[*B]``; estimated from samples where no formula exists."""
        return [self._entropy(head, data, samples) for head in self.heads]

    def _entropy(self, head: Head, data: Data, samples: int) -> Tensor:
        family, params = head.family, head.params(data)
        if isinstance(family, GivenDistribution):
            return family.estimated_entropy(params, samples)
        if family.analytic_entropy:
            return family.entropy(params)
        noise = data.get(self.noise_key(head, "entropy"))
        return monte_carlo_entropy(family, params, samples, noise)

    def kl(self, old: Data, new: Data, samples: int) -> Tensor:
        """``KL(old || new)``, ``[*B]``; estimated from samples where no formula exists."""
        terms = [
            head.family.kl(head.params(old), head.params(new))
            if head.family.analytic_kl
            else monte_carlo_kl(
                head.family,
                head.params(old),
                head.params(new),
                samples,
                old.get(self.noise_key(head, "kl")),
            )
            for head in self.heads
        ]
        return _summed(terms)

    def check_recordable(self, owner: str) -> None:
        """Refuse a policy whose distribution cannot be recorded as tensors.

        Raises:
            TypeError: it gives an object.
        """
        if any(isinstance(head.family, GivenDistribution) for head in self.heads):
            raise TypeError(
                f"{owner}: `actor_network` must give the parameters of its distribution, which are "
                f"recorded, got {type(self.network).__name__}, whose `get_dist` gives an object"
            )

    def noise_keys(self, quantity: str) -> tuple[Key, ...]:
        """Where the noise may be given of what has no formula, ``"entropy"`` or ``"kl"``."""
        return tuple(
            self.noise_key(head, quantity)
            for head in self.heads
            if not getattr(head.family, f"analytic_{quantity}")
        )

    def noise_key(self, head: Head, quantity: str) -> Key:
        """Of one head: one noise a sample, stacked along the last axis; drawn if not given."""
        name = f"{quantity}_noise"
        return name if len(self.heads) == 1 else joined(name, head.action_key)


class PlainActor(PlainPolicy):
    """The plain form of a policy that acts: deterministically, or from given noise."""

    def _take(self, steps: list[Step]) -> None:
        super()._take(steps)
        self.out_keys = unique([*self.out_keys, *self.action_keys])

    def forward(self, data: Data) -> Data:
        """``data``, what the network computes from it, and the deterministic action."""
        found = super().forward(data)
        return found | {
            head.action_key: head.family.mode(head.params(found)) for head in self.heads
        }

    def sample(self, data: Data, noise: Sequence[Tensor]) -> tuple[Data, Tensor]:
        """``data`` with sampled actions, and their log-probability ``[*B]``.

        Args:
            data: what the network reads.
            noise: of each head, as its family draws it.
        """
        found = PlainPolicy.forward(self, data)
        actions: Data = {}
        log_probs: list[Tensor] = []
        for head, x in zip(self.heads, noise, strict=True):
            action, log_prob = head.family.sample_with_log_prob(head.params(found), x)
            actions[head.action_key] = action
            log_probs.append(log_prob)
        return found | actions, _summed(log_probs)


def deterministic_actor(network: nn.Module, action_key: Key) -> PlainForm:
    """The plain form of an actor that gives its deterministic action.

    It is a plain module from ``observation`` to ``action_key``, a TensorDict module, or a policy,
    whose action is the mode of its distribution.
    """
    return PlainActor(network) if is_policy(network) else PlainForm(network, action_key)


def is_policy(network: nn.Module) -> bool:
    """Whether it has a distribution over actions."""
    if isinstance(network, Policy) or _gives_distribution(network):
        return True
    if not hasattr(network, "in_keys"):
        return False
    from compiled_rl.adapters.tensordict import has_distribution

    return has_distribution(network)


def heads_of(network: nn.Module, out_keys: tuple[Key, ...]) -> Heads:
    """Families, keys of parameters and actions, and keys of log-probabilities.

    Raises:
        TypeError: the network is no policy.
    """
    if isinstance(network, Policy):
        return Heads(_plain_heads(network.family), ("action_log_prob",))
    if not hasattr(network, "in_keys"):
        raise TypeError(
            "`actor_network` must be a Policy or a ProbabilisticTensorDictSequential, "
            f"got {type(network).__name__}"
        )
    if _gives_distribution(network):
        head = Head(GivenDistribution(), GivenDistribution.param_names, "action")
        return Heads((head,), ("action_log_prob",))
    from compiled_rl.adapters.tensordict import tensordict_heads

    return tensordict_heads(network, out_keys)


def _gives_distribution(network: nn.Module) -> bool:
    """Whether it is a TensorDict module with a ``get_dist`` that is not TensorDict's."""
    get_dist = getattr(type(network), "get_dist", None)
    return (
        hasattr(network, "in_keys")
        and get_dist is not None
        and get_dist.__module__.split(".")[0] != "tensordict"
    )


def _plain_heads(family: Family) -> tuple[Head, ...]:
    names: tuple[Key, ...] = family.param_names
    if not isinstance(family, Composite):
        return (Head(family, names, "action"),)
    return tuple(
        Head(head, names[where], ("action", name)) for name, (head, where) in family.heads.items()
    )


def one_or_several(keys: tuple[Key, ...]) -> Key | list[Key]:
    """Keys as ``tensor_keys`` holds them."""
    return keys[0] if len(keys) == 1 else list(keys)


def joint_log_prob(
    recorded: Sequence[Tensor], actions: Sequence[Tensor], log_prob: Tensor
) -> Tensor:
    """Recorded log-probabilities, one a head or one for all, as that of the joint action.

    What was recorded for each dimension of an action, and so has its shape, is summed.

    Args:
        recorded: of the actions.
        actions: one a head.
        log_prob: what it is to be like, ``[*B]``.
    """
    if len(recorded) != len(actions):
        return recorded[0]
    batch = log_prob.dim()
    return _summed(
        [
            x.flatten(batch).sum(-1) if x.dim() > batch and x.shape == action.shape else x
            for x, action in zip(recorded, actions, strict=True)
        ]
    )


def _summed(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for x in terms[1:]:
        total = total + x
    return total
