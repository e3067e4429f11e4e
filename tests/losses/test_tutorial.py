"""A loss that was written for TorchRL's ``LossModule`` runs on ours, with other imports only."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

import compiled_rl
from compiled_rl import SoftUpdate
from compiled_rl.testing import assert_compiles_once
from tests.losses.tutorial import PEER, ddpg_loss, networks, trajectories

Ours, Theirs = ddpg_loss(compiled_rl), ddpg_loss(PEER)
Ours.__module__, Ours.__qualname__ = __name__, "Ours"  # where pickle finds it
KINDS = ("TD0", "TD1", "TDLambda")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def make(
    kind: str = "TD0",
    dtype: torch.dtype = torch.float32,
    loss: Any = Ours,
    library: Any = compiled_rl,
    **options: Any,
) -> Any:
    made = loss(*networks(dtype, **options))
    made.make_value_estimator(library.ValueEstimators[kind], gamma=0.9)
    made.to(dtype)
    for name in ("actor", "value"):  # away from the networks
        getattr(made, f"target_{name}_network_params").data.apply_(lambda x: x.add_(0.05))
    return made


def results(loss: Any, data: TensorDict) -> dict[str, Tensor]:
    """Every output, what was written, and every gradient, in which None is zero."""
    outputs = loss(data)
    found = {"td_error": data["td_error"], **dict(outputs.items())}
    networks = nn.ModuleList([loss.actor_network, loss.value_network])
    named = dict(networks.named_parameters())
    for name in ("loss_actor", "loss_value"):
        gradients = torch.autograd.grad(
            outputs[name], list(named.values()), retain_graph=True, materialize_grads=True
        )
        found |= {f"{name} by {key}": x for key, x in zip(named, gradients, strict=True)}
    return found


def tensors_of(loss: nn.Module) -> list[tuple[str, int, bool]]:
    """Every parameter and buffer: its name, which tensor it is, whether it learns."""
    named = [*loss.named_parameters(), *loss.named_buffers()]
    return [(name, id(x), x.requires_grad) for name, x in named]


def grown(loss: Any) -> Any:
    """With networks that are no longer those that it was made with."""
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.mul_(1.5)
    return loss


@dtypes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning:torchrl")
def test_equals_the_same_class_on_torchrl(kind, dtype):
    mine = results(make(kind, dtype), trajectories(dtype=dtype))
    expected = results(make(kind, dtype, Theirs, PEER), trajectories(dtype=dtype))
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(mine, expected, **close)


def test_no_gradient_reaches_what_it_must_not():
    loss = make()
    outputs = loss(trajectories())
    outputs["loss_actor"].backward(retain_graph=True)
    assert all(x.grad is None for x in loss.value_network.parameters())
    loss.zero_grad()
    outputs["loss_value"].backward()
    assert all(x.grad is None for x in loss.actor_network.parameters())
    assert not any(x.requires_grad for x in loss.buffers())


def test_the_users_parameters_are_the_losss_each_once():
    actor, critic = networks()
    loss = Ours(actor, critic)
    mine, users = list(loss.parameters()), [*actor.parameters(), *critic.parameters()]
    assert [id(x) for x in mine] == [id(x) for x in users]
    assert "actor_network.module.0.module.mlp.0.weight" in dict(loss.named_parameters())


def test_a_call_leaves_every_tensor_in_its_place():
    loss = make()
    before = tensors_of(loss)
    loss(trajectories())
    assert tensors_of(loss) == before


def test_the_default_estimator_is_there_from_the_start():
    loss = Ours(*networks())
    names = list(loss.state_dict())
    assert loss.value_type is compiled_rl.ValueEstimators.TD0
    loss(trajectories())
    assert list(loss.state_dict()) == names
    assert "_value_estimator.gamma" in names


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_compute_the_same_and_move_alone(copied):
    loss = make("TDLambda")
    other, data = copied(loss), trajectories()
    expected = results(loss, data)
    torch.testing.assert_close(results(other, data), expected)
    grown(other)
    torch.testing.assert_close(results(loss, data), expected)


def test_a_state_dict_restores_all():
    loss, fresh = grown(make("TDLambda")), Ours(*networks())
    fresh.make_value_estimator(compiled_rl.ValueEstimators.TDLambda, gamma=0.5)
    fresh.load_state_dict(loss.state_dict())
    torch.testing.assert_close(results(fresh, trajectories()), results(loss, trajectories()))


def test_its_targets_follow():
    loss = make()
    loss(trajectories())  # after which TorchRL's targets would require a gradient
    updater = SoftUpdate(loss, tau=0.25)
    start = [x.clone() for x in loss.target_value_network_params.values(True, True)]
    grown(loss)
    updater.step()
    now = list(loss.target_value_network_params.values(True, True))
    sources = list(loss.value_network_params.values(True, True))
    for before, after, source in zip(start, now, sources, strict=True):
        torch.testing.assert_close(after, 0.75 * before + 0.25 * source.detach())


@pytest.mark.slow
def test_the_tutorials_loss_compiles():
    loss = make("TDLambda", safe=False)  # TorchRL's own says that it is not to be compiled if safe
    before = tensors_of(loss)

    def call(data):
        data = data.clone()  # it is written to
        outputs = loss(data)
        return outputs.set("td_error", data["td_error"])

    assert_compiles_once(call, [(trajectories((size, 6)),) for size in (2, 3, 5)])
    assert tensors_of(loss) == before


def test_optimisers_and_clipping_take_the_views():
    loss = make()
    before = [x.detach().clone() for x in loss.parameters()]
    outputs = loss(trajectories())
    for name in ("actor", "value"):
        view = getattr(loss, f"{name}_network_params")
        outputs[f"loss_{name}"].backward()
        norm = nn.utils.clip_grad_norm_(view.values(True, True), 10.0)
        torch.optim.SGD(view.values(True, True), lr=1.0).step()
        assert norm > 0
    moved = [not torch.equal(x, y) for x, y in zip(loss.parameters(), before, strict=True)]
    assert sum(moved) >= len(moved) - 4  # gradients of the first layers are about zero
