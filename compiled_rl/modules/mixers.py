"""Mixers: from the values of agents to that of their team."""

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

from torch import Tensor, nn

from compiled_rl.functional import monotonic_mix, vdn_mix
from compiled_rl.kernels.checks import check_device, check_floating
from compiled_rl.modules.arguments import as_shape, check_count, check_features


class VDNMixer(nn.Module):
    """The sum of the agents' values; ``functional.vdn_mix``.

    Args:
        n_agents: how many.
        device: accepted for the sake of ``QMixer``; there are no parameters.

    Raises:
        ValueError: ``n_agents`` is not at least 1, or there are other agents.

    Reference: Sunehag et al. 2017, arXiv:1706.05296.
    """

    needs_state: ClassVar[bool] = False

    def __init__(self, n_agents: int, device: Any = None) -> None:
        super().__init__()
        self.n_agents = check_count("VDNMixer", "n_agents", n_agents)

    def forward(self, chosen_action_value: Tensor) -> Tensor:
        """The agents' values ``[*B, n, 1]`` to that of the team, ``[*B, 1]``."""
        return vdn_mix(values_of("VDNMixer", chosen_action_value, self.n_agents)).unsqueeze(-1)


class QMixer(nn.Module):
    """A network of the agents' values whose weights the state decides, ``monotonic_mix``.

        hidden_weight, hidden_bias, last_weight = linear layers of the state
        last_bias                               = a network of the state with one hidden layer

    Args:
        state_shape: of the state of the whole, without the batch, ``[*S]``; it is flattened.
        mixing_embed_dim: units of the hidden layer.
        n_agents: how many.
        device: where the parameters are made; None: torch's default.

    Raises:
        ValueError: a size is not at least 1, or the values or the state have other sizes.

    Reference: Rashid et al. 2018, arXiv:1803.11485, section 4.1 and appendix C.
    """

    needs_state: ClassVar[bool] = True

    def __init__(
        self, state_shape: Sequence[int], mixing_embed_dim: int, n_agents: int, device: Any = None
    ) -> None:
        super().__init__()
        self.state_shape = list(as_shape("QMixer", "state_shape", state_shape))
        self.n_agents = n_agents = check_count("QMixer", "n_agents", n_agents)
        self.embed_dim = check_count("QMixer", "mixing_embed_dim", mixing_embed_dim)
        self.state_dim = prod(self.state_shape)
        # The names and their order are TorchRL's, for its state dicts and its initial values.
        self.hyper_w_1 = nn.Linear(self.state_dim, self.embed_dim * n_agents, device=device)
        self.hyper_w_final = nn.Linear(self.state_dim, self.embed_dim, device=device)
        self.hyper_b_1 = nn.Linear(self.state_dim, self.embed_dim, device=device)
        self.V = nn.Sequential(
            nn.Linear(self.state_dim, self.embed_dim, device=device),
            nn.ReLU(),
            nn.Linear(self.embed_dim, 1, device=device),
        )

    def forward(self, chosen_action_value: Tensor, state: Tensor) -> Tensor:
        """The agents' values ``[*B, n, 1]`` and the state ``[*B, *S]`` to ``[*B, 1]``."""
        local_value = values_of("QMixer", chosen_action_value, self.n_agents)
        batch = list(local_value.shape[:-1])
        check_floating("QMixer", "state", state)
        check_device("QMixer", "state", state, "chosen_action_value", local_value)
        if list(state.shape) != batch + self.state_shape:
            raise ValueError(
                f"QMixer: `state` must be of shape {batch + self.state_shape}, "
                f"got {list(state.shape)}"
            )
        check_features(
            "QMixer", "state", state.flatten(len(batch)), self.state_dim, self.hyper_w_1.weight
        )
        state = state.reshape(batch + [self.state_dim])  # noqa: RUF005  (for TorchScript)
        hidden_weight = self.hyper_w_1(state).unflatten(-1, [self.n_agents, self.embed_dim])
        hidden_bias, last_weight = self.hyper_b_1(state), self.hyper_w_final(state)
        mixed = monotonic_mix(
            local_value, hidden_weight, hidden_bias, last_weight, self.V(state).squeeze(-1)
        )
        return mixed.unsqueeze(-1)


def values_of(owner: str, chosen_action_value: Tensor, n_agents: int) -> Tensor:
    """The values ``[*B, n]`` of as many agents as there are.

    Raises:
        ValueError: they are not ``[*B, n, 1]``.
    """
    check_floating(owner, "chosen_action_value", chosen_action_value)
    if list(chosen_action_value.shape[-2:]) != [n_agents, 1]:
        raise ValueError(
            f"{owner}: `chosen_action_value` must be of shape [*B, {n_agents}, 1], "
            f"got {list(chosen_action_value.shape)}"
        )
    return chosen_action_value.squeeze(-1)
