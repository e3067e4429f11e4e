"""The step as a function of named tensors: what it is given, and what it reads."""

import torch
from torch import nn

from compiled_rl import ClipPPOLoss, Policy, UpdateStep, ValueHead
from compiled_rl.modules import Categorical
from compiled_rl.training import NamedUpdate
from tests.export.learning import loss_and_batch


def test_what_only_another_step_moves_is_given():
    """An actor's step that held the critics as they were would follow them nowhere."""
    loss, batch = loss_and_batch("TD3Loss")
    critics = dict(loss.qvalue_network.named_parameters())
    optimizer = torch.optim.SGD(loss.actor_network.parameters(), lr=0.1)
    step = UpdateStep(loss, optimizer, mode="eager", minimise=["loss_actor"])
    update = NamedUpdate(step, batch)
    names = [f"qvalue_network.{name}" for name in critics]
    targets = [name for name, _ in loss.named_buffers() if name.startswith("target_")]
    assert {*names, *targets} <= update.state.keys()
    assert not {*names, *targets} & {*update.moved}
    others = {name: torch.randn_like(update.state[name]) for name in names}
    new, _ = update({**update.state, **others}, update.data)
    assert all(new[name] is x for name, x in others.items())
    with torch.no_grad():
        for name, x in critics.items():
            x.copy_(others[f"qvalue_network.{name}"])
    step(batch)
    for name, x in loss.actor_network.named_parameters():
        torch.testing.assert_close(new[f"actor_network.{name}"], x.detach())


def test_a_tensor_with_two_names_is_given_in_both_places():
    loss, batch = loss_and_batch("TD3Loss")
    critic = next(x for x in loss.qvalue_network.modules() if "weight" in x._parameters)
    loss.register_module("alias", critic)
    optimizer = torch.optim.SGD(loss.actor_network.parameters(), lr=0.1)
    update = NamedUpdate(UpdateStep(loss, optimizer, mode="eager"), batch)
    before = critic.weight
    update(update.state, update.data)
    assert critic.weight is before


def test_averages_of_batch_normalisation_move_and_the_losss_stay():
    torch.manual_seed(0)
    actor = Policy(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), Categorical)
    loss = ClipPPOLoss(actor, ValueHead(4))
    step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1), mode="eager")
    batch = {
        "observation": torch.randn(8, 4) + 3,
        "action": torch.randint(3, (8,)),
        "action_log_prob": torch.full((8,), -1.1),
        "advantage": torch.randn(8),
        "value_target": torch.randn(8),
    }
    before = {name: x.clone() for name, x in loss.named_buffers()}
    update = NamedUpdate(step, batch)
    new, _ = update(update.state, update.data)
    for name, x in loss.named_buffers():
        assert torch.equal(x, before[name])
    step(batch)
    moved = [name for name, x in loss.named_buffers() if not torch.equal(x, before[name])]
    assert any("running_var" in name for name in moved)
    assert set(moved) <= {*update.moved}
    for name, x in loss.named_buffers():
        torch.testing.assert_close(new.get(name, before[name]), x)
