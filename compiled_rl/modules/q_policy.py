"""Acting by the values of actions: which actions there are, the best one, and another at times."""

from typing import Any, Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.functional import expected_action_value
from compiled_rl.kernels.checks import check_floating, check_number, check_tensor
from compiled_rl.modules.arguments import check_module
from compiled_rl.modules.families import (
    Bernoulli,
    Categorical,
    Family,
    MultiOneHotCategorical,
    OneHotCategorical,
)
from compiled_rl.modules.families.base import uniform_like

_NAMED: dict[str, type[Family]] = {
    "categorical": Categorical,
    "one_hot": OneHotCategorical,
    "binary": Bernoulli,
}
_BLOCKS = ("mult_one_hot", "multi_one_hot")
# Specs of TorchRL and spaces of Gymnasium, known by the names of their classes.
_SPACES = {
    "Categorical": "categorical",
    "Discrete": "categorical",
    "OneHot": "one_hot",
    "MultiOneHot": "mult_one_hot",
    "Binary": "binary",
    "MultiBinary": "binary",
}


def action_family(action_space: Any) -> Family:
    """The family whose mode is the best action, where its logits are the values of actions.

    Args:
        action_space: ``"categorical"`` of indices ``[*B]``; ``"one_hot"`` of vectors ``[*B, N]``;
            ``"binary"`` of bits ``[*B, N]``, whose values are added up; several one-hot blocks
            ``[*B, N]``, whose values are added up too, are a ``MultiOneHotCategorical(nvec)``, any
            other of these families does as well; or a spec of TorchRL, perhaps the ``action`` of
            a ``Composite``, or a space of Gymnasium, of such actions.

    Raises:
        ValueError: it is nothing of the kind, the sizes of its blocks are not known, or it does
            not count from 0.
    """
    if type(action_space).__name__ == "Composite":
        action_space = _action_of(action_space)
    if isinstance(action_space, Family) and _reads_values(action_space):
        return action_space
    name = _name_of(action_space)
    if getattr(action_space, "start", 0) != 0 and name == "categorical":
        raise ValueError(
            f"action_family: `action_space` must count its actions from 0, got {action_space!r}; "
            "subtract `start` from the recorded actions"
        )
    if name in _BLOCKS and getattr(action_space, "nvec", None) is not None:
        return MultiOneHotCategorical(action_space.nvec)
    if name in _BLOCKS:
        raise ValueError(
            "action_family: `action_space` must say how long its one-hot blocks are, as "
            f"MultiOneHotCategorical([2, 3]) or a spec does, got {action_space!r}"
        )
    if name not in _NAMED:
        raise ValueError(
            f"action_family: `action_space` must be one of {[*_NAMED, *_BLOCKS]}, a family of "
            f"discrete actions, a spec or a space, got {action_space!r}"
        )
    return _NAMED[name]()


def names_blocks(action_space: Any) -> bool:
    """Whether it is the mere name of one-hot blocks."""
    return isinstance(action_space, str) and _name_of(action_space) in _BLOCKS


def _action_of(specs: Any) -> Any:
    """The entry called ``action``, at the top or nested; nothing else says what actions are."""
    ends = {key: key if isinstance(key, str) else key[-1] for key in specs.keys(True, True)}
    return next((specs[key] for key, end in ends.items() if end == "action"), specs)


def _reads_values(family: Family) -> bool:
    """Whether values may stand for its logits, and those are all that it reads."""
    kinds = (MultiOneHotCategorical, Bernoulli, Categorical)
    return isinstance(family, kinds) and family.param_names == ("logits",)


def _name_of(action_space: Any) -> str:
    if isinstance(action_space, str):
        return action_space.replace("-", "_")
    known = [] if isinstance(action_space, Family) else type(action_space).__mro__
    names = [cls.__name__ for cls in known]
    return next((_SPACES[name] for name in names if name in _SPACES), "")


class QPolicy(nn.Module):
    """The best action by a network's values, and at random another while exploring.

        action = argmax of network(observation)     calling the policy: what is deployed
        action = any one with probability epsilon   what ``act`` does, else the same

    Args:
        network: from an observation to the values of all actions, ``[*B, N]``; of a distribution
            of returns, ``ExpectedActionValue`` of it. A value network of ``DQNLoss`` as it is.
        action_space: of which kind the actions are; see ``action_family``.

    Raises:
        ValueError: ``action_space`` is of no known kind.

    Reference: Mnih et al. 2015, Nature 518:529, algorithm 1.
    """

    def __init__(self, network: nn.Module, action_space: Any = "categorical") -> None:
        super().__init__()
        self.network = check_module("QPolicy", "network", network)
        self.family = action_family(action_space)

    def forward(self, observation: Tensor, *others: Tensor) -> Any:
        """The best action."""
        check_tensor("QPolicy", "observation", observation)
        return self.family.mode((self.network(observation, *others),))

    @torch.no_grad()
    def act(
        self,
        observation: Tensor,
        *others: Tensor,
        epsilon: float | Tensor = 0.05,
        generator: Optional[Generator] = None,
    ) -> Any:
        """The best action, or with probability ``epsilon`` any, each as likely; no gradient.

        Args:
            observation: ``[*B, ...]``.
            *others: what the network takes besides.
            epsilon: in [0, 1], one for all or, such as one an environment, ``[*B]``.
            generator: of the noise.

        Raises:
            ValueError: ``epsilon`` has another shape.
        """
        check_tensor("QPolicy", "observation", observation)
        value = self.network(observation, *others)
        _check_epsilon(epsilon, value)
        explores = uniform_like(value[..., 0], generator) < epsilon
        anything = uniform_like(value, generator) - 0.5
        return self.family.mode((torch.where(explores.unsqueeze(-1), anything, value),))


def _check_epsilon(epsilon: float | Tensor, value: Tensor) -> None:
    if not isinstance(epsilon, Tensor) or not epsilon.dim():
        check_number("QPolicy", "epsilon", epsilon, "in [0, 1]")  # type: ignore[arg-type]
        return
    check_floating("QPolicy", "epsilon", epsilon)
    if epsilon.shape != value.shape[:-1]:
        raise ValueError(
            f"QPolicy: `epsilon` must be a number or of shape {list(value.shape[:-1])}, "
            f"got {list(epsilon.shape)}"
        )


class ExpectedActionValue(nn.Module):
    """A network of distributions of returns, and their means.

    Args:
        network: from an observation to logits of the atoms, ``[*B, K, N]``, the actions last.
        support: the atoms, ``[K]``, in units of the return.

    Raises:
        TypeError: ``network`` is no module, or ``support`` no tensor.
        ValueError: ``support`` is not floating point, or no vector.

    Reference: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1.
    """

    support: Tensor

    def __init__(self, network: nn.Module, support: Tensor) -> None:
        super().__init__()
        self.network = check_module("ExpectedActionValue", "network", network)
        check_floating("ExpectedActionValue", "support", support)
        if support.dim() != 1 or support.shape[0] < 2:
            raise ValueError(
                "ExpectedActionValue: `support` must be at least two atoms, "
                f"got shape {list(support.shape)}"
            )
        self.register_buffer("support", support)

    def forward(self, observation: Tensor, *others: Tensor) -> Tensor:
        """The mean return of every action, ``[*B, N]``."""
        return expected_action_value(self.network(observation, *others), self.support)
