"""Proximal policy optimisation of several agents."""

from collections.abc import Sequence
from typing import Any, ClassVar, Optional, Unpack

from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, Key
from compiled_rl.estimators import ValueEstimators
from compiled_rl.losses.actor_critic import Steps
from compiled_rl.losses.norms import check_norm, learn
from compiled_rl.losses.ppo import RatioOptions
from compiled_rl.losses.ppo_clip import ClipPPOLoss

_VALUES = ("value", "value_target", "old_value")


class ClipOptions(RatioOptions, total=False):
    """The keyword arguments of ``ClipPPOLoss`` but the normalisation of advantages."""

    clip_epsilon: float | tuple[float, float]
    clip_value: Optional[float | bool | Tensor]


class MAPPOLoss(ClipPPOLoss):
    """``ClipPPOLoss`` of several agents, with a critic that may see what no agent sees.

        advantage      = (advantage - mean) / deviation,   of each agent by itself
        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -min(ratio * advantage, clip(ratio, 1 - eps, 1 + eps) * advantage)
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(normalize(value), normalize(value_target))

    Agents are the last axis but one of what is recorded: a log-probability is ``[*B, T, n]``, a
    value ``[*B, T, n, 1]``. What belongs to the team, ``[*B, T, 1]``, is each agent's: the reward
    and the flags, and also the value of a critic that values the team. Without ``value_norm``
    values are not normalised.

    A mask may be the team's, ``[*B, T]`` or ``[*B, T, 1]``, or each agent's, ``[*B, T, n]`` or
    ``[*B, T, n, 1]``. What it hides of one agent does not count for that agent; but it is seen as
    it is by a network that reads all agents, and so must be a number. What is hidden of all agents
    may be anything.

    Statistics of ``value_norm`` move once a call, by the value targets of the valid steps, before
    they are used; in training mode with gradients enabled, and at no other call.
    ``value_norm.eval()`` stops them, as must be done inside ``torch.func.grad`` and ``vmap``. The
    critic's output is on the scale of the rewards all the same; ``clip_value`` is on the
    normalised one.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``, of each agent.
        critic_network: a plain module, or a ``TensorDictModule``; centralised, it reads the state
            of the team, or the observations of all agents.
        value_norm: a ``ValueNorm``, such as ``PopArtValueNorm``, or one of TorchRL's; None: none.
            With statistics of each agent, of shape ``(n, 1)``, a step counts where it is valid
            for all.
        normalize_advantage: shift and scale the advantages over the valid steps of the batch.
        normalize_advantage_exclude_dims: dimensions of the advantage ``[*B, T, n, 1]`` along which
            each slice is normalised by itself.
        **options: see ``ClipPPOLoss``, ``PPOLoss`` and ``ActorCriticLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind, or ``value_norm`` is no ``ValueNorm``.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Yu et al. 2021, arXiv:2103.01955, sec. 5.1 on the values.
    """

    default_value_estimator: ClassVar[ValueEstimators] = ValueEstimators.MAGAE

    fixed: ClassVar[tuple[str, ...]] = (*ClipPPOLoss.fixed, "value_norm")

    value_norm: Any

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        value_norm: Optional[nn.Module] = None,
        normalize_advantage: bool = True,
        normalize_advantage_exclude_dims: Sequence[int] = (-2,),
        **options: Unpack[ClipOptions],
    ) -> None:
        super().__init__(
            actor_network,
            critic_network,
            normalize_advantage=normalize_advantage,
            normalize_advantage_exclude_dims=normalize_advantage_exclude_dims,
            **options,
        )
        self.value_norm = check_norm(self.name, "value_norm", value_norm)

    def valid_steps(self, data: Data) -> Optional[Tensor]:
        """Those that are valid for any agent: what one observes may be read for the others."""
        valid = super().valid_steps(data)
        agents = self.require_each(data, "sample_log_prob")[0].dim()
        return valid if valid is None or valid.dim() < agents else valid.any(-1)

    def _align_mask(self, key: Key, mask: Tensor, batch: Size) -> Tensor:
        teams = mask.shape == (*batch[:-1], 1)
        return super()._align_mask(key, mask.squeeze(-1) if teams else mask, batch)

    def _values(self, data: Data, policy: Data, log_prob: Tensor) -> dict[str, Tensor]:
        return self._of_agents(super()._values(data, policy, log_prob), log_prob)

    def _aligned(self, log_prob: Tensor, mask: Optional[Tensor], found: dict[str, Tensor]) -> Steps:
        return super()._aligned(log_prob, mask, self._of_agents(found, log_prob))

    def _of_agents(self, found: dict[str, Tensor], log_prob: Tensor) -> dict[str, Tensor]:
        """One of each kind for every agent, ``[*B, T, n, 1]``."""
        each, team = (*log_prob.shape, 1), (*log_prob.shape[:-1], 1)
        for name, x in found.items():
            if x.shape != each and x.shape != team:  # not `in`: see ``per_step``
                raise ValueError(
                    f"{self.name}: `{name}` must be each agent's, of shape {list(each)}, or the "
                    f"team's, {list(team)}, got {list(x.shape)}"
                )
        return {
            name: x if x.shape == each else x.unsqueeze(-2).expand(each)
            for name, x in found.items()
        }

    def critic_terms(self, steps: Steps, weight: float, reduction: str) -> dict[str, Tensor]:
        """The critic's loss on the scale of ``value_norm``, and its metrics."""
        if self.value_norm is not None:
            steps = self._normalised(steps)
        return super().critic_terms(steps, weight, reduction)

    def _normalised(self, steps: Steps) -> Steps:
        """The steps with values as the normaliser has them, which learns from the targets first."""
        norm = self.value_norm
        columns = {name: getattr(steps, name) for name in _VALUES}
        columns = {name: x.unsqueeze(-1) for name, x in columns.items() if x is not None}
        learn(self, norm, columns["value_target"], steps.mask)
        return steps._replace(
            **{name: norm.normalize(x).squeeze(-1) for name, x in columns.items()}
        )


class IPPOLoss(MAPPOLoss):
    """``MAPPOLoss`` under the name of independent learning: each agent's critic sees what it sees.

    The difference is the critic that is passed, and nothing else.

    Reference: de Witt et al. 2020, arXiv:2011.09533.
    """
