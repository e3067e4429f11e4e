"""Losses with stacked and with shared networks are one class on both libraries' ``LossModule``."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

import compiled_rl
from compiled_rl import SoftUpdate
from compiled_rl.testing import assert_compiles_once
from tests.losses.written import (
    CRITICS,
    PEER,
    actor,
    on_a_trunk,
    qvalue,
    transitions,
    trunk_loss,
    twin_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchrl")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
OURS = {"twin": twin_loss(compiled_rl), "trunk": trunk_loss(compiled_rl)}
THEIRS = {"twin": twin_loss(PEER), "trunk": trunk_loss(PEER)}
Twin, Trunk = OURS["twin"], OURS["trunk"]
for name in ("Twin", "Trunk"):  # where pickle finds them
    globals()[name].__module__, globals()[name].__qualname__ = __name__, name
KINDS = {  # the loss, and its networks
    "one": ("twin", lambda: (actor(), qvalue())),
    "several": ("twin", lambda: (actor(), [qvalue() for _ in range(CRITICS)])),
    "a module list": ("twin", lambda: (actor(), nn.ModuleList(qvalue() for _ in range(CRITICS)))),
    "trunk": ("trunk", on_a_trunk),
}
NETWORKS = ("actor_network", "value_network", "qvalue_network")
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, dtype: torch.dtype = torch.float32, losses: Any = OURS) -> Any:
    """Equal at every call: the parameters that are drawn anew are drawn from one seed."""
    torch.manual_seed(0)
    loss, networks = KINDS[kind]
    made = losses[loss](*networks()).to(dtype)
    for name in NETWORKS:  # away from the networks
        if f"target_{name}_params" in names_of(made):
            getattr(made, f"target_{name}_params").data.apply_(lambda x: x.add_(0.05))
    return made


def names_of(loss: nn.Module) -> set[str]:
    """Of the targets that are copies."""
    children = {name.removesuffix("_params") for name, _ in loss.named_children()}
    return {f"{name}_params" for name in children if name.startswith("target_")}


def results(loss: Any, data: Any) -> dict[str, Tensor]:
    """Every output, and the gradient of each by every parameter, in which None is zero."""
    views = [(name, getattr(loss, f"{name}_params")) for name in NETWORKS if hasattr(loss, name)]
    leaves = {
        (name, *key): x
        for name, view in views
        for key, x in view.items(True, True)
        if x.requires_grad
    }
    # Behind the leaves: a call lets TorchRL's tensors that are held out require a gradient.
    found = dict(loss(data).items())
    for output, x in list(found.items()):
        gradients = torch.autograd.grad(
            x, list(leaves.values()), retain_graph=True, materialize_grads=True
        )
        found |= {(output, *key): g for key, g in zip(leaves, gradients, strict=True)}
    return found


def tensors_of(loss: nn.Module) -> list[tuple[str, int, bool]]:
    named = [*loss.named_parameters(), *loss.named_buffers()]
    return [(name, id(x), x.requires_grad) for name, x in named]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["one", "several", "trunk"])
def test_equals_the_same_class_on_torchrl(kind, dtype):
    mine = results(make(kind, dtype), transitions(dtype=dtype))
    expected = results(make(kind, dtype, THEIRS), transitions(dtype=dtype))
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(mine, expected, **close)


def test_a_module_list_is_a_list():
    expected = results(make("several"), transitions())
    torch.testing.assert_close(results(make("a module list"), transitions()), expected)


@kinds
def test_a_call_leaves_every_tensor_in_its_place(kind):
    loss = make(kind)
    before = tensors_of(loss)
    loss(transitions())
    assert tensors_of(loss) == before


@kinds
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_compute_the_same_and_move_alone(kind, copied):
    loss = make(kind)
    other, data = copied(loss), transitions()
    expected = results(loss, data)
    torch.testing.assert_close(results(other, data), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(results(loss, data), expected)
    assert not torch.allclose(results(other, data)["loss_actor"], expected["loss_actor"])


@kinds
def test_a_state_dict_restores_all(kind):
    loss, fresh = make(kind), make(kind)
    with torch.no_grad():
        for x in [*loss.parameters(), *loss.buffers()]:
            x.mul_(1.5)
    fresh.load_state_dict(loss.state_dict())
    torch.testing.assert_close(results(fresh, transitions()), results(loss, transitions()))


@kinds
def test_targets_follow_stacked_too(kind):
    loss = make(kind)
    updater = SoftUpdate(loss, tau=0.25)
    name = "value_network" if kind == "trunk" else "qvalue_network"
    start = getattr(loss, f"target_{name}_params").clone()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.mul_(1.5)
    updater.step()
    now, source = (getattr(loss, f"{prefix}{name}_params") for prefix in ("target_", ""))
    for key, x in now.items(True, True):
        torch.testing.assert_close(x, 0.75 * start[key] + 0.25 * source[key].detach())


def test_no_gradient_reaches_a_shared_trunk_but_the_actors():
    loss = make("trunk")
    outputs = loss(transitions())
    trunk = loss.actor_network[0].module[0].weight
    for name, reached in (("loss_actor", True), ("loss_value", False), ("loss_qvalue", False)):
        (gradient,) = torch.autograd.grad(
            outputs[name], trunk, retain_graph=True, allow_unused=True
        )
        assert (gradient is not None) is reached, name


def test_a_stack_and_its_copy_compile():
    """The least that has a view that learns, one that is detached, one of a copy, and ``vmap``."""
    loss = compiled_rl.LossModule()
    network = TensorDictModule(nn.Linear(3, 1), ["x"], ["y"])
    loss.convert_to_functional(network, "network", expand_dim=2, create_target_params=True)
    call = compiled_rl._vmap_func(loss.network, (None, 0))

    def total(x):
        views = loss.network_params, loss.network_params.detach(), loss.target_network_params
        data = TensorDict({"x": x}, [x.shape[0]])
        return sum(call(data, view)["y"].square().mean() for view in views)

    assert_compiles_once(total, [(torch.randn(size, 3),) for size in (2, 3, 5)])
    assert {type(x) for x in loss.network.parameters()} == {nn.Parameter}


@pytest.mark.slow
@kinds
def test_written_losses_compile(kind):
    assert_compiles_once(make(kind), [(transitions(size),) for size in (2, 3, 5)])
