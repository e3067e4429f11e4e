"""A policy is a network and a distribution family."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.kernels.checks import check_tensor
from compiled_rl.modules.arguments import check_module
from compiled_rl.modules.families import Action, Family, Params, family_of


class ActionOutput(NamedTuple):
    """An action as it is stored (of ``Composite`` a dict), its log-probability ``[*B]``, and
    the parameters that it was drawn from.
    """

    action: Action
    log_prob: Tensor
    params: Params


class Policy(nn.Module):
    """A network whose outputs are the parameters of a distribution over actions.

        params = network(observation)
        action = rescale(mode(params))            calling the policy: what is deployed
        action = sample(params, noise)            what is stored while collecting data

    The stored action is the one that was sampled, before ``rescale``: its log-probability would
    otherwise be another action's. Send ``policy.rescale(action)`` to the environment.

    Args:
        network: from an observation to the family's parameters: one tensor, or a tuple in the
            order of ``family.param_names``. Put an ``ObservationNormalizer`` first in it and it is
            trained, saved and exported with the policy. Of other inputs, or several, wrap it in
            ``Reads``; the policy is then called with them, in that order.
        family: a ``Family``, or a distribution's class or function, as ``family_of`` takes it.
        rescale: from the stored action to the environment's, ``ActionRescaler`` for instance;
            None: they are the same.

    Raises:
        TypeError: the network, the family or the rescaler is none.
        ValueError: the network returns other parameters than the family has, or such that do not
            fit it.

    Reference: Sutton and Barto 2018, Reinforcement Learning, sec. 13.1.
    """

    def __init__(
        self,
        network: nn.Module,
        family: Family | Callable[..., Any],
        rescale: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        self.network = check_module("Policy", "network", network)
        self.family = family_of(family)
        self.rescale = (
            nn.Identity() if rescale is None else check_module("Policy", "rescale", rescale)
        )

    def params(self, observation: Tensor, *others: Tensor) -> Params:
        """The distribution's parameters at ``observation`` and what else the network reads."""
        check_tensor("Policy", "observation", observation)
        output = self.network(observation, *others)
        return (output,) if isinstance(output, Tensor) else tuple(output)

    def forward(self, observation: Tensor, *others: Tensor) -> Action:
        """The deterministic action in the environment's units: what an artefact computes."""
        return self.rescale(self.family.mode(self.params(observation, *others)))

    @torch.no_grad()
    def act(
        self, observation: Tensor, *others: Tensor, generator: Optional[Generator] = None
    ) -> ActionOutput:
        """Sample an action to store, with its log-probability, without gradients."""
        params = self.params(observation, *others)
        noise = self.family.draw_noise(params, generator)
        return ActionOutput(*self.family.sample_with_log_prob(params, noise), params)
