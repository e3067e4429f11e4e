"""What does an update compute? Each loss by hand in plain torch, without metrics or a library.

A formula gets ``Networks``, a batch of tensors by name and the noise that it uses, and returns the
sum of its losses, as CleanRL's and LeanRL's scripts write it; the coefficients are the defaults of
our losses. ``make_update`` makes a whole update of it: gradients, clipping, Adam, frozen copies.
"""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.workload import ACTION, LEARNING_RATE, TAU
from compiled_rl import Policy
from compiled_rl.modules import Ensemble

GAMMA, ENTROPY_COEFF, CLIP_EPSILON = 0.99, 0.01, 0.2
BETA = 1.0  # of the KL penalty, which the benchmarks hold still
POLICY_NOISE, NOISE_CLIP = 0.2, 0.5
TARGET_ENTROPY = -float(ACTION)
Batch = dict[str, Tensor]


class Networks(NamedTuple):
    """The networks of a loss in three forms, each in the order of the loss's arguments."""

    learned: tuple[nn.Module, ...]
    held: tuple[nn.Module, ...]  # the same numbers without a gradient: they judge, and do not learn
    targets: tuple[Optional[nn.Module], ...]  # frozen copies, where the loss has some


Formula = Callable[[Networks, Batch, list[Tensor]], Tensor]


def a2c(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    actor, critic = networks.learned
    loc, scale = actor(batch["observation"])
    x = batch["action"].clamp(-1 + 1e-6, 1 - 1e-6).atanh()
    log_prob = (_normal_log_prob(x, loc, scale) - _log_slope(x)).sum(-1, keepdim=True)
    _, drawn_log_prob = _drawn(loc, scale, noise[0])  # minus the entropy, which has no formula
    loss_actor = -(log_prob * batch["advantage"]).mean()
    return loss_actor + ENTROPY_COEFF * drawn_log_prob.mean() + _value_loss(critic, batch)


def clip_ppo(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    actor, critic = networks.learned
    loc, scale = actor(batch["observation"])
    ratio, advantage = _ratio(loc, scale, batch), batch["advantage"].squeeze(-1)
    clipped = ratio.clamp(1 - CLIP_EPSILON, 1 + CLIP_EPSILON)
    loss_actor = -torch.min(ratio * advantage, clipped * advantage).mean()
    return loss_actor - ENTROPY_COEFF * _normal_entropy(scale) + _value_loss(critic, batch)


def kl_ppo(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    actor, critic = networks.learned
    loc, scale = actor(batch["observation"])
    ratio, advantage = _ratio(loc, scale, batch), batch["advantage"].squeeze(-1)
    kl = _normal_kl(batch["loc"], batch["scale"], loc, scale)
    loss_actor = (BETA * kl - ratio * advantage).mean()
    return loss_actor - ENTROPY_COEFF * _normal_entropy(scale) + _value_loss(critic, batch)


def ddpg(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    (actor, critic), (_, held_critic), (target_actor, target_critic) = networks
    observation, next_observation = batch["observation"], batch["next_observation"]
    with torch.no_grad():
        next_action = target_actor(next_observation)
        target = _td_target(batch, target_critic(next_observation, next_action))
    loss_critic = F.mse_loss(critic(observation, batch["action"]), target)
    return loss_critic - held_critic(observation, actor(observation)).mean()


def td3(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    (actor, critics), (_, held_critics), (target_actor, target_critics) = networks
    observation, next_observation = batch["observation"], batch["next_observation"]
    with torch.no_grad():
        moved = (POLICY_NOISE * noise[0]).clamp(-NOISE_CLIP, NOISE_CLIP)
        next_action = (target_actor(next_observation) + moved).clamp(-1, 1)
        target = _td_target(batch, _least(target_critics, next_observation, next_action))
    loss_critics = _twin_loss(critics, observation, batch["action"], target)
    return loss_critics - held_critics[0](observation, actor(observation)).mean()


def sac(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    (actor, critics, temperature), (_, held_critics, _), (_, target_critics, _) = networks
    observation, next_observation = batch["observation"], batch["next_observation"]
    alpha = temperature.log_alpha.detach().exp()
    with torch.no_grad():
        next_action, next_log_prob = _drawn(*actor(next_observation), noise[1])
        next_value = _least(target_critics, next_observation, next_action)
        target = _td_target(batch, next_value - alpha * next_log_prob)
    action, log_prob = _drawn(*actor(observation), noise[0])
    loss_actor = (alpha * log_prob - _least(held_critics, observation, action)).mean()
    loss_critics = _twin_loss(critics, observation, batch["action"], target)
    excess = (log_prob.detach() + TARGET_ENTROPY).mean()
    return loss_actor + loss_critics - temperature.log_alpha * excess


def dqn(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    (network,), _, (target_network,) = networks
    with torch.no_grad():
        best = target_network(batch["next_observation"]).max(-1, keepdim=True).values
        target = _td_target(batch, best)
    value = (network(batch["observation"]) * batch["action"]).sum(-1, keepdim=True)  # one-hot
    return F.mse_loss(value, target)


def qmix(networks: Networks, batch: Batch, noise: list[Tensor]) -> Tensor:
    (agents, mixer), _, (target_agents, target_mixer) = networks
    with torch.no_grad():
        best = target_agents(batch["next_agents_observation"]).max(-1, keepdim=True).values
        target = _td_target(batch, target_mixer(best, batch["next_state"]))
    values = agents(batch["agents_observation"])
    chosen = values.gather(-1, batch["agents_action"].unsqueeze(-1))
    return F.mse_loss(mixer(chosen, batch["state"]), target)


FORMULAS: dict[str, Formula] = {
    "A2CLoss": a2c,
    "ClipPPOLoss": clip_ppo,
    "KLPENPPOLoss": kl_ppo,
    "DDPGLoss": ddpg,
    "TD3Loss": td3,
    "SACLoss": sac,
    "DQNLoss": dqn,
    "QMixerLoss": qmix,
}
DRAWS = {"A2CLoss": 1, "TD3Loss": 1, "SACLoss": 2}  # of noise, standard normal, like the action


def make_update(
    name: str, networks: Networks, max_grad_norm: Optional[float], capturable: bool
) -> Callable[[Batch], Tensor]:
    """A whole update by a loss's formula; it returns the sum of the losses.

    There is one Adam, whose numbers are those of an Adam a network. It is the faster one, and
    TorchDynamo leaves a function alone that calls ``step`` in a loop.

    Args:
        name: of the loss.
        networks: which the update trains in place.
        max_grad_norm: bound of the gradients' norm; None: no bound.
        capturable: whether Adam can be captured in a CUDA graph.
    """
    formula, draws = FORMULAS[name], DRAWS.get(name, 0)
    params = _parameters(networks.learned)
    adam = torch.optim.Adam(params, lr=LEARNING_RATE, capturable=capturable)
    pairs = [x for x in zip(networks.learned, networks.targets, strict=True) if x[1] is not None]
    own, frozen = _parameters(x for x, _ in pairs), _parameters(x for _, x in pairs)

    def update(batch: Batch) -> Tensor:
        adam.zero_grad()
        noise = [torch.randn_like(batch["action"]) for _ in range(draws)]
        loss = formula(networks, batch, noise)
        loss.backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(params, max_grad_norm)
        adam.step()
        if frozen:
            with torch.no_grad():
                torch._foreach_lerp_(frozen, own, TAU)
        return loss.detach()

    return update


class Temperature(nn.Module):
    """What SAC learns beside its networks."""

    def __init__(self, log_alpha: Tensor) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(log_alpha.detach().clone())


def networks_of(loss: nn.Module) -> Networks:
    """Copies of the networks of one of our losses, twin critics as two modules."""
    arguments = ("actor", "critic", "value", "qvalue", "local_value", "mixer")
    names = [f"{x}_network" for x in arguments if getattr(loss, f"{x}_network", None) is not None]
    learned = [_plain(getattr(loss, name)) for name in names]
    delayed = [hasattr(loss, f"target_{name}") for name in names]
    if hasattr(loss, "log_alpha"):
        learned.append(Temperature(loss.log_alpha))
        delayed.append(False)
    targets = [
        deepcopy(x).requires_grad_(False) if late else None
        for x, late in zip(learned, delayed, strict=True)
    ]
    return Networks(tuple(learned), tuple(_held(x) for x in learned), tuple(targets))


def _plain(network: nn.Module) -> nn.Module:
    if isinstance(network, Policy):
        return deepcopy(network.network)
    if not isinstance(network, Ensemble):
        return deepcopy(network)
    return nn.ModuleList(_apart(member) for member in network.each())


def _apart(member: nn.Module) -> nn.Module:
    """In memory of its own, no more in that of the stack."""
    for parameter in member.parameters():
        parameter.data = parameter.data.clone()
    return member


def _held(network: nn.Module) -> nn.Module:
    """The same numbers in the same memory, without a gradient: LeanRL's ``params.data``."""
    held = deepcopy(network).requires_grad_(False)
    for shared, own in zip(held.parameters(), network.parameters(), strict=True):
        shared.data = own.data
    return held


def _parameters(networks: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for network in networks for parameter in network.parameters()]


def _value_loss(critic: nn.Module, batch: Batch) -> Tensor:
    return F.smooth_l1_loss(critic(batch["observation"]), batch["value_target"])


def _td_target(batch: Batch, next_value: Tensor) -> Tensor:
    return batch["next_reward"] + GAMMA * next_value * ~batch["next_terminated"]


def _least(critics: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    first, second = critics
    return torch.min(first(observation, action), second(observation, action))


def _twin_loss(critics: nn.Module, observation: Tensor, action: Tensor, target: Tensor) -> Tensor:
    first, second = critics
    loss = F.smooth_l1_loss(first(observation, action), target)
    return loss + F.smooth_l1_loss(second(observation, action), target)


def _ratio(loc: Tensor, scale: Tensor, batch: Batch) -> Tensor:
    log_prob = _normal_log_prob(batch["action"], loc, scale).sum(-1)
    return (log_prob - batch["action_log_prob"]).exp()


def _normal_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -((x - loc) / scale).square() / 2 - scale.log() - math.log(2 * math.pi) / 2


def _normal_entropy(scale: Tensor) -> Tensor:
    return (scale.log() + (1 + math.log(2 * math.pi)) / 2).sum(-1).mean()


def _normal_kl(old_loc: Tensor, old_scale: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    ratio = old_scale / scale
    return ((ratio.square() + ((old_loc - loc) / scale).square() - 1) / 2 - ratio.log()).sum(-1)


def _drawn(loc: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """An action of a tanh-normal policy, and its log-probability ``[B, 1]``."""
    x = loc + scale * noise
    log_prob = -noise.square() / 2 - scale.log() - math.log(2 * math.pi) / 2 - _log_slope(x)
    return x.tanh(), log_prob.sum(-1, keepdim=True)


def _log_slope(x: Tensor) -> Tensor:
    """The logarithm of the derivative of tanh."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))
