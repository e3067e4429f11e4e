"""Teams as TorchRL's users make them: the agents' values, a mixer, and what they recorded."""

from collections.abc import Callable
from functools import partial
from typing import Any, Optional

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import QMixer, QValueModule, SafeSequential, VDNMixer

from compiled_rl.adapters.fields import Key
from tests.losses.q_networks import ACTIONS, BLOCKS, blocks, index, mlp, one_hot
from tests.losses.transitions import OBSERVATION, Subject, transitions

AGENTS, STATE, EMBEDDING = 3, (2, 4), 6
KEYS: dict[str, Key] = {
    "action": ("agents", "action"),
    "action_value": ("agents", "action_value"),
    "local_value": ("agents", "chosen_action_value"),
    "global_value": "chosen_action_value",
}
# Beside those of the team, so that the tests of all losses find what they look for.
FLAT: dict[str, Key] = {
    "action": "action",
    "action_value": "action_value",
    "local_value": "agents_value",
    "global_value": "team_value",
}


def agents(
    space: str,
    keys: dict[str, Key],
    observation: Key,
    var_nums: Any = None,
    mask: Any = None,
    network: Callable[[int], nn.Module] = mlp,
) -> nn.Module:
    """A network of the agents, one for all of them, and TorchRL's choice among its values."""
    values = TensorDictModule(network(ACTIONS), [observation], [keys["action_value"]])
    out_keys = [keys[name] for name in ("action", "action_value", "local_value")]
    choice = QValueModule(
        space,
        action_value_key=keys["action_value"],
        out_keys=out_keys,
        var_nums=var_nums,
        action_mask_key=mask,
    )
    return SafeSequential(values, choice)


def mixer(kind: str, keys: dict[str, Key], state: Key = "state") -> nn.Module:
    """TorchRL's QMIX or VDN."""
    sums = kind == "vdn"
    made = VDNMixer(AGENTS, "cpu") if sums else QMixer(STATE, EMBEDDING, AGENTS, "cpu")
    reads = [keys["local_value"]] if sums else [keys["local_value"], state]
    return TensorDictModule(made, reads, [keys["global_value"]])


def team(
    kind: str,
    space: str,
    keys: dict[str, Key] = FLAT,
    observation: Key = "observation",
    **options: Any,
) -> tuple[nn.Module, nn.Module]:
    """Agents and their mixer."""
    return agents(space, keys, observation, **options), mixer(kind, keys)


def team_steps(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    action: Any = index,
    seed: int = 1,
) -> TensorDict:
    """Steps of a team, the agents' tensors beside the team's."""
    data = transitions(shape, dtype, seed=seed).exclude("hidden")
    data["action"] = action((*shape, AGENTS), dtype)
    for place in (data, data["next"]):
        place["observation"] = torch.randn(*shape, AGENTS, OBSERVATION, dtype=dtype)
        place["state"] = torch.randn(*shape, *STATE, dtype=dtype)
    return data


def nested(data: TensorDict, group: str = "agents") -> TensorDict:
    """The same, the agents' tensors under a key of their own."""
    data = data.clone()
    for place in (data, data["next"]):
        found = {key: place.pop(key) for key in ("observation", "action") if key in place.keys()}
        place[group] = TensorDict(found, (*data.shape, AGENTS))
    return data


class Team(Subject):
    """A row whose keys are those of ``FLAT``."""

    def ours(self, **arguments: Any) -> Any:
        loss = super().ours(**arguments)
        loss.set_keys(**FLAT)
        return loss

    def theirs(self, **arguments: Any) -> Any:
        loss = super().theirs(**arguments)
        loss.set_keys(**FLAT)
        return loss

    def data(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> TensorDict:
        return team_steps(shape, dtype, self.action, seed)


def row(kind: str, space: str, action: Any, name: Optional[str] = None, **arguments: Any) -> Team:
    """A row; ``name`` is what the loss is told of the action space."""
    options = {"var_nums": BLOCKS} if space == "mult_one_hot" else {}
    said = {"action_space": name or space.replace("_", "-")}
    return Team(
        "QMixerLoss", partial(team, kind, space, **options), "loss", said | arguments, action
    )


TEAM_SUBJECTS = {
    "qmix-index": row("qmix", "categorical", index),
    "qmix-one-hot": row("qmix", "one_hot", one_hot, loss_function="smooth_l1"),
    "vdn-index": row("vdn", "categorical", index, loss_function="l1"),
    "vdn-blocks": row("vdn", "mult_one_hot", blocks),
}
