"""A loss that was written for TorchRL's ``LossModule`` runs on ours, with other imports only."""

from typing import Any

import pytest
import torch

import compiled_rl
from tests.losses.parity import TOLERANCE
from tests.losses.tutorial import PEER, ddpg_loss, networks, trajectories

Ours, Theirs = ddpg_loss(compiled_rl), ddpg_loss(PEER)
KINDS = ("TD0", "TD1", "TDLambda")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def make(loss: Any, library: Any, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    made = loss(*networks(dtype))
    made.make_value_estimator(library.ValueEstimators[kind], gamma=0.9)
    return made.to(dtype)


def moved(loss: Any) -> Any:
    """With targets that are no longer the networks."""
    for name in ("actor", "value"):
        getattr(loss, f"target_{name}_network_params").data.apply_(lambda x: x.add_(0.05))
    return loss


def outputs_and_gradients(loss: Any, data: Any) -> tuple[dict[str, Any], list[Any]]:
    outputs = loss(data)
    parameters = [*loss.actor_network.parameters(), *loss.value_network.parameters()]
    found = []
    for name in ("loss_actor", "loss_value"):
        found += torch.autograd.grad(
            outputs[name], parameters, retain_graph=True, allow_unused=True
        )
    return dict(outputs.items()), found


@dtypes
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_same_class_on_torchrl(kind, dtype):
    ours = moved(make(Ours, compiled_rl, kind, dtype))
    theirs = moved(make(Theirs, PEER, kind, dtype))
    data, same = trajectories(dtype=dtype), trajectories(dtype=dtype)
    mine, expected = outputs_and_gradients(ours, data), outputs_and_gradients(theirs, same)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(mine, expected, **close)
    torch.testing.assert_close(data["td_error"], same["td_error"], **close)
