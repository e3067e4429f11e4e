"""Parts of the losses, as scripts for TorchRL ask for them one by one.

Each is some of what one evaluation gives, of a TensorDict or a mapping by key; what is not asked
for is computed in vain, and what moves by a call of the loss moves by that of a part: statistics of
normalisers and of batch normalisations, those of the actor, too. Only the critic's part leaves
``beta`` of a KL penalty, which follows the policy. An ``UpdateStep`` that minimises some losses is
the cheaper way.
"""

from typing import Any, ClassVar, Optional

from torch import Tensor

from compiled_rl.adapters import read
from compiled_rl.adapters.objects import GivenDistribution

Part = tuple[Tensor, dict[str, Tensor]]


def part(loss: Any, tensordict: Any, name: str, *metrics: str) -> Part:
    """One loss, reduced, and some of what else is known then, by name."""
    loss.check_targets_follow()
    computed = loss.evaluate(loss.inputs(tensordict, {}))
    return computed[name], {metric: computed[metric] for metric in metrics}


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
    loss.check_targets_follow()
    _, steps = loss.gathered(loss.select_valid(loss.inputs(tensordict, {})))
    computed = loss.critic_terms(steps, loss.critic_coeff, "none")
    each = computed[loss.critic_output]
    each = each if each.shape == target.shape else each.unsqueeze(-1)
    return each, *[computed.get(metric) for metric in metrics]


class Parts:
    """Parts are read off one evaluation, so ``forward`` calls none of them.

    A subclass of a user's that overrides one would train without the change: it is refused, and so
    is one that overrides what else TorchRL's ``forward`` calls, ``called_there``.
    """

    called_there: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _parts_of(cls):
            owner = next((base for base in cls.__mro__ if name in vars(base)), Parts)
            if not owner.__module__.startswith("compiled_rl."):
                raise TypeError(
                    f"{cls.__name__}: `evaluate`, which gives every loss by name, must be "
                    f"overridden, got `{name}`, which `forward` does not call"
                )


def _parts_of(cls: type) -> list[str]:
    """The names of a loss's parts, and of what is no part but called by TorchRL's ``forward``."""
    mixins = [base for base in cls.__mro__ if issubclass(base, Parts) and not _is_loss(base)]
    own = [name for base in mixins for name in vars(base) if "loss" in name and name[0] != "_"]
    return [*own, *[name for base in mixins for name in vars(base).get("called_there", ())]]


def _is_loss(cls: type) -> bool:
    return hasattr(cls, "evaluate")


class CriticPart(Parts):
    """Of a loss of an actor and, with a value target in the data, a critic."""

    called_there = ("_log_probs", "_scale_advantage", "get_entropy_bonus")

    def loss_critic(self, tensordict: Any) -> tuple[Optional[Tensor], ...]:
        """The weighted loss of each step, and the share of values clipped or None."""
        return critic_part(self, tensordict, "value_clip_fraction")


class A2CParts(CriticPart):
    """Of A2C."""

    samples_mc_entropy: int

    def get_entropy_bonus(self, dist: Any) -> Tensor:
        """The entropy of a distribution, ``[*B, 1]``; of samples, where it has no formula."""
        given = GivenDistribution()
        return given.estimated_entropy((dist,), self.samples_mc_entropy).unsqueeze(-1)


class ExplainedCriticPart(Parts):
    """Of PPO."""

    called_there = ("_get_entropy", "_log_weight", "_scale_advantage", "_standardize_advantage")

    def loss_critic(self, tensordict: Any) -> tuple[Optional[Tensor], ...]:
        """The weighted loss of each step, the share of values clipped, the variance explained."""
        terms = critic_part(self, tensordict, "value_clip_fraction", "explained_variance")
        return terms if getattr(self, "log_explained_variance", True) else (*terms[:2], None)


class DDPGParts(Parts):
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


class TD3Parts(Parts):
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


class SoftParts(Parts):
    """Of both losses of a soft actor."""

    called_there = ("_alpha_loss", "_compute_target", "_compute_target_v2")

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
        """The value network's loss, and nothing else.

        Raises:
            RuntimeError: there is none.
        """
        owner: Any = self
        if owner.value_network is None:
            raise RuntimeError(f"{owner.name}: `value_loss` needs a `value_network`, got None")
        return part(self, tensordict, "loss_value")


class DiscreteSACParts(SoftParts):
    """Of discrete actions."""

    def qvalue_loss(self, tensordict: Any) -> Part:
        """The critics' loss, and the priorities."""
        return self._qvalue_part(tensordict)
