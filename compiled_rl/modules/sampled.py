"""A policy that samples from given noise."""

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.modules.families import Composite, Family, FromDistribution, Independent, Noise
from compiled_rl.modules.named import Named, NamedModule, flat, names_read
from compiled_rl.modules.policy import Policy


class SampledPolicy(NamedModule):
    """A policy's sampled action and its log-probability; the noise is an input.

        action, log_prob = sample(params(observation), noise)
        rescaled_action  = rescale(action)                      where the policy has a ``rescale``

    ``action`` is what is stored, and what the log-probability is of; ``rescaled_action`` is what
    the environment is sent. The heads of a ``Composite`` are ``action_<head>``, of the noise
    ``noise_<head>``. ``draw_noise`` says of which kind and shape the noise is.

    Args:
        policy: whose parameters it shares.

    Raises:
        TypeError: it is no ``Policy``, or its family samples by a distribution object, which takes
            no noise.

    Reference: Kingma and Welling 2014, arXiv:1312.6114, sec. 2.4, for noise as an input.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        if not isinstance(policy, Policy):
            raise TypeError(
                f"SampledPolicy: `policy` must be a Policy, got {type(policy).__name__}"
            )
        if any(isinstance(part, FromDistribution) for part in policy.family.modules()):
            raise TypeError(
                "SampledPolicy: `policy` must have a family that samples from given noise, "
                f"got {policy.family}"
            )
        self.policy = policy
        self.input_names = (*self.reads, *_noise_names(policy.family, "noise"))

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs of the policy itself."""
        return names_read(self.policy)

    def computed(self, data: Named) -> Named:
        """The action as it is stored, its log-probability, and the action rescaled."""
        family, params = self.policy.family, self._params(data)
        noise = _noise_of(family, "noise", data)
        action, log_prob = family.sample_with_log_prob(params, noise)
        outputs = {**flat("action", action), "log_prob": log_prob}
        if isinstance(self.policy.rescale, nn.Identity):
            return outputs
        return {**outputs, **flat("rescaled_action", self.policy.rescale(action))}

    @torch.no_grad()
    def draw_noise(
        self, data: Mapping[str, Tensor], generator: Optional[Generator] = None
    ) -> Named:
        """Noise for one action at each of the other inputs, by input name."""
        noise = self.policy.family.draw_noise(self._params(data), generator)
        return flat("noise", noise)

    def _params(self, data: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return self.policy.params(*[data[name] for name in self.reads])


def _heads(family: Family) -> Optional[dict[str, Any]]:
    """The families of a composite, by head; None of any other."""
    if isinstance(family, Independent):
        return _heads(family.family)
    return dict(family.families.items()) if isinstance(family, Composite) else None


def _noise_names(family: Family, name: str) -> tuple[str, ...]:
    heads = _heads(family)
    if heads is None:
        return (name,)
    return tuple(x for head, part in heads.items() for x in _noise_names(part, f"{name}_{head}"))


def _noise_of(family: Family, name: str, data: Named) -> Noise:
    """Noise of the form that the family takes, from its tensors by name."""
    heads = _heads(family)
    if heads is None:
        return data[name]
    return {head: _noise_of(part, f"{name}_{head}", data) for head, part in heads.items()}
