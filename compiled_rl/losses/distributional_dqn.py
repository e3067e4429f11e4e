"""Deep Q-learning of the distribution of returns."""

from typing import Any, ClassVar, Literal, Optional, Self

import torch
from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, Field, Key, PlainForm
from compiled_rl.estimators import ValueEstimatorBase, ValueEstimators
from compiled_rl.estimators.registry import named_estimator
from compiled_rl.functional import (
    categorical_cross_entropy,
    chosen_action_value,
    expected_action_value,
    project_categorical,
    reduce,
)
from compiled_rl.functional.scalars import where_valid
from compiled_rl.kernels.checks import check_floating, check_tensor
from compiled_rl.losses.action_values import LOSS
from compiled_rl.losses.off_policy import TD_ERROR
from compiled_rl.losses.q_network import INPUTS, QNetworkLoss
from compiled_rl.modules import Categorical, ExpectedActionValue
from compiled_rl.modules.arguments import check_flags
from compiled_rl.modules.coefficients import check_range, holds


class DistributionalDQNLoss(QNetworkLoss):
    """Categorical deep Q-learning, C51: the distribution of returns on fixed atoms.

        p           = softmax of the network's logits at (observation, action)
        p'          = likewise of the frozen copy at (next_observation, next_action)
        next_action = argmax of the network's mean return at next_observation
        target      = p' moved to reward + gamma * (0 if terminated else support), on the support
        loss        = -sum over atoms of  target * log(p)

    It is double always: the network chooses the action that its copy values.

    Args:
        value_network: gives logits or log-probabilities of the atoms, ``[*B, K, N]``, the actions
            last; see ``QNetworkLoss``. An ``ExpectedActionValue`` stands for its own network.
        gamma: discount in [0, 1]; assign a number to anneal it.
        support: the atoms, in equal steps, ascending, ``[K]``, in units of the return, such as
            ``torch.linspace(v_min, v_max, K)``; None: the ``support`` of the network.
        action_space: ``"categorical"``, ``"one_hot"`` or a spec; see ``QNetworkLoss``.
        delay_value: whether states entered are valued by a frozen copy of the network.
        reduction: see ``OffPolicyLoss``.
        loss_mask_key: see ``OffPolicyLoss``.
        use_prioritized_weights: see ``OffPolicyLoss``.
        priority_key: see ``OffPolicyLoss``.

    Raises:
        KeyError: the network has no output of the key of ``action_value``.
        TypeError: the network is missing or of no known kind, or ``support`` no tensor.
        ValueError: an argument is out of its range, or nobody says what the actions or the atoms
            are.

    Reference: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1.
    """

    SUPPORTED_VALUE_ESTIMATORS: ClassVar[tuple[ValueEstimators, ...]] = (ValueEstimators.TD0,)
    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("steps_to_next_obs", "steps_to_next_obs", "input", "as reward", "of n-step data"),
        LOSS,
        TD_ERROR,
    )
    gamma: Tensor
    support: Tensor

    def __init__(
        self,
        value_network: Optional[nn.Module] = None,
        *,
        gamma: float | Tensor,
        support: Optional[Tensor] = None,
        action_space: Any = None,
        delay_value: bool = True,
        reduction: Optional[Literal["none", "mean", "sum"]] = None,
        loss_mask_key: Optional[Key] = "auto",
        use_prioritized_weights: bool | Literal["auto"] = "auto",
        priority_key: Optional[Key] = None,
    ) -> None:
        check_flags(type(self).__name__, delay_value=delay_value)
        super().__init__(
            value_network,
            action_space=action_space,
            delay_value=delay_value,
            reduction=reduction,
            loss_mask_key=loss_mask_key,
            use_prioritized_weights=use_prioritized_weights,
            priority_key=priority_key,
        )
        if not isinstance(self.family, Categorical):
            raise ValueError(
                f"{self.name}: `action_space` must be 'categorical' or 'one_hot', "
                f"got {type(self.family).__name__}"
            )
        self.register_coefficient("gamma", gamma, "in [0, 1]")
        atoms = _support_of(value_network) if support is None else support
        self.register_buffer("support", self._checked_support(atoms))
        self.make_value_estimator()

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """None is used: the target is a distribution, not a number.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"{self.name}: the target is a distribution, for which there is no value estimator; "
            "its discount is `gamma`"
        )

    def network_of(self, network: nn.Module) -> nn.Module:
        """The network that learns, of what was given."""
        network = super().network_of(network)
        return network.network if isinstance(network, ExpectedActionValue) else network

    def _checked_support(self, support: Any) -> Tensor:
        check_tensor(self.name, "support", support)
        if support.dim() != 1 or len(support) < 2:
            raise ValueError(
                f"{self.name}: `support` must be at least two atoms, got {list(support.shape)}"
            )
        whole = not support.is_floating_point()
        atoms: Tensor = support.to(torch.get_default_dtype() if whole else support.dtype, copy=True)
        steps = atoms.detach().diff()
        if not holds((steps > 0) & torch.isclose(steps, steps.mean(), rtol=1e-3)):
            raise ValueError(
                f"{self.name}: `support` must ascend in equal steps, got {atoms.tolist()}"
            )
        return atoms.detach()

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> Self:
        """Set the discount; the target is that of one reward, or of n-step data, for good.

        Raises:
            NotImplementedError: another estimator than TD0 is asked for.
            TypeError: a hyper-parameter is not ``gamma``.
        """
        if value_type is not None and named_estimator(value_type) is not ValueEstimators.TD0:
            raise NotImplementedError(
                f"{self.name}: the value estimator must be TD0, got {value_type!r}"
            )
        for name in hyperparams:
            if name != "gamma":
                raise TypeError(f"{self.name}: `{name}` is no hyper-parameter, `gamma` is")
        if "gamma" in hyperparams:
            check_range(self.name, "gamma", hyperparams["gamma"], "in [0, 1]")
            self.gamma = hyperparams["gamma"]
        self.value_type = ValueEstimators.TD0
        self.wire()
        return self

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The loss and metrics by name; see the class."""
        data = self.select_valid(data)
        logits = self._logits(self._network, data)
        batch = logits.shape[:-2]
        mask, weight = self.mask(data, batch), self.weight(data, batch)
        chosen = _of_action(logits, self.recorded_action(data, batch, logits.shape[-1]))
        loss = categorical_cross_entropy(chosen, self._target_probs(data, batch))
        return {
            "loss": reduce(loss, mask, self.reduction, weight),
            "td_error": where_valid(mask, loss.detach()),
        }

    def _logits(self, form: PlainForm, data: Data) -> Tensor:
        """What a network says of the atoms of all actions, ``[*B, K, N]``."""
        logits, atoms = self.values(form, data), len(self.support)
        if logits.dim() < 2 or logits.shape[-2] != atoms:
            raise ValueError(
                f"{self.name}: `value_network` must give the logits of {atoms} atoms of each "
                f"action, [*B, {atoms}, N], got {list(logits.shape)}"
            )
        return logits

    @torch.no_grad()
    def _target_probs(self, data: Data, batch: Size) -> Tensor:
        """The distribution to learn, ``[*B, K]``."""
        step = self.transition(data, batch)
        entered = self.entered(data)
        judged = expected_action_value(self._logits(self._network, entered), self.support)
        logits = _of_action(self._logits(self._target, entered), self.best_action(judged))
        reward = step["reward"]  # it may be finer than what the network gives
        check_floating(self.name, "reward", reward)
        probs = logits.to(reward.dtype).softmax(-1)
        moved = (reward, probs, step["terminated"], self.support)
        return project_categorical(*moved, self._discount(data, batch))

    def _discount(self, data: Data, batch: Size) -> Any:
        """``gamma``, to the power of the steps that each reward sums up."""
        if self.tensor_keys["steps_to_next_obs"] not in data:
            return self.gamma
        steps = self.require(data, "steps_to_next_obs")
        return self.gamma ** self.per_step(batch, steps_to_next_obs=steps)["steps_to_next_obs"]


def _of_action(logits: Tensor, action: Tensor) -> Tensor:
    """The logits ``[*B, K]`` of the atoms of one action, an index or one-hot."""
    if action.dim() == logits.dim() - 1:
        action = action.unsqueeze(-2).expand_as(logits)
    else:
        action = action.unsqueeze(-1).expand(logits.shape[:-1])
    return chosen_action_value(logits, action)


def _support_of(network: Any) -> Optional[Tensor]:
    """The atoms that a network has with it."""
    found = [getattr(module, "support", None) for module in network.modules()]
    return next((x for x in found if isinstance(x, Tensor)), None)
