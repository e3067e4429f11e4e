"""Parts of the losses, as scripts for TorchRL ask for them one by one.

Each is some of what one evaluation gives, of a TensorDict or a mapping by key; what is not asked
for is computed in vain. An ``UpdateStep`` that minimises some losses is the cheaper way, and
compiles.
"""

import copy
from typing import Any, Optional

from torch import Tensor

from compiled_rl.adapters import read

Part = tuple[Tensor, dict[str, Tensor]]


def part(loss: Any, tensordict: Any, name: str, *metrics: str) -> Part:
    """One loss, reduced, and some of what else is known then, by name."""
    computed = loss.evaluate(loss.inputs(tensordict, {}))
    return computed[name], {metric: computed[metric] for metric in metrics}


def each_step(loss: Any, tensordict: Any) -> dict[str, Tensor]:
    """Every output of one evaluation, losses of each step ``[*B]``; nothing moves by it."""
    twin = copy.copy(loss)  # of the same networks
    twin.__dict__.update(reduction="none", training=False)
    computed: dict[str, Tensor] = twin.evaluate(twin.inputs(tensordict, {}))
    return computed


def critic_part(loss: Any, tensordict: Any, *metrics: str) -> tuple[Optional[Tensor], ...]:
    """The critic's loss of each step, shaped as the value target, and metrics, None where off.

    Where the target is a team's, ``[*B, T, 1]``, the loss is each agent's, ``[*B, T, n, 1]``.

    Raises:
        KeyError: there is no value target.
        RuntimeError: the loss has no critic, or it has no weight.
    """
    if loss.critic_coeff is None:
        raise RuntimeError(f"{loss.name}: `loss_critic` needs a critic with a weight, got None")
    key = loss.tensor_keys["value_target"]
    target = read(loss.name, (key,), tensordict, {}).get(key)
    if target is None:
        raise KeyError(f"{loss.name}: the key {key!r} for `value_target` was not found")
    computed = each_step(loss, tensordict)
    each = computed[loss.critic_output]
    each = each if each.shape == target.shape else each.unsqueeze(-1)
    return each, *[computed.get(metric) for metric in metrics]


class CriticPart:
    """Of a loss of an actor and, with a value target in the data, a critic."""

    def loss_critic(self, tensordict: Any) -> tuple[Optional[Tensor], ...]:
        """The weighted loss of each step, and the share of values clipped or None."""
        return critic_part(self, tensordict, "value_clip_fraction")


class ExplainedCriticPart:
    """Of PPO."""

    def loss_critic(self, tensordict: Any) -> tuple[Optional[Tensor], ...]:
        """The weighted loss of each step, the share of values clipped, the variance explained."""
        terms = critic_part(self, tensordict, "value_clip_fraction", "explained_variance")
        return terms if getattr(self, "log_explained_variance", True) else (*terms[:2], None)


class DDPGParts:
    """Of an actor and a critic of actions."""

    def loss_actor(self, tensordict: Any) -> Part:
        """The actor's loss, and nothing else."""
        return part(self, tensordict, "loss_actor")

    def loss_value(self, tensordict: Any) -> Part:
        """The critic's loss, and values; the priorities are written to a TensorDict."""
        names = ("td_error", "pred_value", "target_value", "target_value_max", "pred_value_max")
        loss, found = part(self, tensordict, "loss_value", *names)
        owner: Any = self
        owner.write_back(tensordict, found)
        return loss, found


class TD3Parts:
    """Of an actor and several critics of actions."""

    def actor_loss(self, tensordict: Any) -> Part:
        """The actor's loss, and what the critics say of its actions, ``[N, *B]``."""
        return part(self, tensordict, "loss_actor", "state_action_value_actor")

    def value_loss(self, tensordict: Any) -> Part:
        """The critics' loss, their values and each one's squared error, ``[N, *B]``."""
        names = ("next_state_value", "pred_value", "target_value")
        loss, found = part(self, tensordict, "loss_qvalue", *names)
        error = found["pred_value"] - found["target_value"]
        return loss, {"td_error": error.square(), **found}


class SoftParts:
    """Of both losses of a soft actor."""

    def actor_loss(self, tensordict: Any) -> Part:
        """The policy's loss, and the log-probability of the action that it drew, ``[*B]``."""
        return part(self, tensordict, "loss_actor", "log_prob")

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        """The temperature's loss of each step, from what ``actor_loss`` gave."""
        owner: Any = self
        loss: Tensor = owner.temperature_terms(log_prob, None, reduction="none")["loss_alpha"]
        return loss

    def _qvalue_part(self, tensordict: Any) -> Part:
        return part(self, tensordict, "loss_qvalue", "td_error")


class SACParts(SoftParts):
    """Of continuous actions: with a value network it is the first version, else the second."""

    def qvalue_v1_loss(self, tensordict: Any) -> Part:
        """The critics' loss, and the priorities."""
        return self._qvalue_part(tensordict)

    def qvalue_v2_loss(self, tensordict: Any) -> Part:
        """The critics' loss, and the priorities."""
        return self._qvalue_part(tensordict)

    def value_loss(self, tensordict: Any) -> Part:
        """The value network's loss, and nothing else."""
        return part(self, tensordict, "loss_value")


class DiscreteSACParts(SoftParts):
    """Of discrete actions."""

    def qvalue_loss(self, tensordict: Any) -> Part:
        """The critics' loss, and the priorities."""
        return self._qvalue_part(tensordict)
