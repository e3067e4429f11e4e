"""What takes the place of a masked step: a copy of a valid one, which every network can take."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from compiled_rl import A2CLoss, ClipPPOLoss, Policy, losses
from compiled_rl.adapters import select_valid
from compiled_rl.modules import GRU, Normal, Reads, StateIndependentScale
from compiled_rl.testing import assert_compiles_once
from tests.losses.networks import ACTION, OBSERVATION, as_keywords, make_data, mlp
from tests.losses.peers import LOSSES

MASKED = torch.tensor([False, True, True, False, True, False])


class Direction(nn.Module):
    """A network that has no value at zero, nor a gradient."""

    def forward(self, x):
        return x / x.norm(dim=-1, keepdim=True)


def directed(name="A2CLoss", **arguments):
    torch.manual_seed(0)
    actor = nn.Sequential(Direction(), mlp(ACTION, StateIndependentScale(ACTION)))
    critic = nn.Sequential(Direction(), mlp(1))
    return getattr(losses, name)(Policy(actor, Normal), critic, **arguments)


def recorded(loss, *shape):
    data = make_data(loss.actor_network, shape)
    with torch.no_grad():
        data["loc"], data["scale"] = loss.actor_network.params(data["observation"] + 0.1)
    return data.clone()


def results_of(loss, data):
    outputs = loss(data)
    total = sum(x.sum() for name, x in outputs.items() if name.startswith("loss_"))
    return outputs.to_dict(), torch.autograd.grad(total, list(loss.parameters()))


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_sees_nothing_outside_its_domain(name):
    loss = directed(name).eval()
    data = recorded(loss, 6)
    expected = results_of(loss, data[~MASKED])
    data["shifted_valid"] = ~MASKED
    data["observation"][MASKED] = torch.nan
    torch.testing.assert_close(results_of(loss, data), expected)
    estimated = data.reshape(2, 3).exclude("advantage", "value_target")
    for x in results_of(loss, estimated)[1]:
        assert x.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_valid_step_there_is_nothing_to_learn(name):
    loss = directed(name).eval()
    data = recorded(loss, 6)
    data["shifted_valid"] = torch.zeros(6, dtype=torch.bool)
    outputs, grads = results_of(loss, data)
    assert all(x == 0 for key, x in outputs.items() if key.startswith("loss_"))
    assert all(not x.any() for x in grads)


def test_a_copy_is_of_a_step_that_every_mask_allows():
    """What one mask would copy, the other hides; one is the shorter."""
    loss = directed()
    data = recorded(loss, 4, 3)
    rows = torch.tensor([True, True, True, False])
    steps = torch.ones(4, 3, dtype=torch.bool)
    steps[0], steps[2, 1] = False, False
    expected = results_of(loss, data[steps & rows.unsqueeze(-1)])
    for x in data.values(include_nested=True, leaves_only=True):
        if x.is_floating_point():
            x[0] = x[3] = torch.nan
    given = as_keywords(data.exclude("loc", "scale"))
    for mask in (steps, steps.unsqueeze(-1)):
        got = loss(**given, collector_mask=rows, shifted_valid=mask)
        torch.testing.assert_close(got.loss_objective, expected[0]["loss_objective"])
        torch.testing.assert_close(got.loss_critic, expected[0]["loss_critic"])


def test_no_episode_starts_under_a_mask():
    """The first valid step, which is copied, is a start; the step amid valid ones stays none."""
    torch.manual_seed(0)
    network = Remembering(nn.Linear(8, ACTION), StateIndependentScale(ACTION))
    policy = Policy(Reads(network, "observation", "is_init"), Normal)
    loss = A2CLoss(policy, mlp(1), reduction="none")
    data = make_data_of_sequences()
    data["shifted_valid"] = mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 2] = False
    for start in (True, False):
        data["is_init"][1, 2] = start
        got = loss(data)["loss_objective"]
        seen = data.exclude("shifted_valid")
        seen["observation"][1, 2], seen["is_init"][1, 2] = data["observation"][0, 0], False
        expected = loss(seen)["loss_objective"]
        torch.testing.assert_close(got[mask], expected[mask])


class Remembering(nn.Module):
    def __init__(self, *head):
        super().__init__()
        self.memory, self.head = GRU(OBSERVATION, 8), nn.Sequential(*head)

    def forward(self, observation, is_init):
        return self.head(self.memory(observation, is_init))


def make_data_of_sequences():
    batch = (2, 5)
    start = torch.zeros(batch, dtype=torch.bool)
    start[:, 0] = True
    return TensorDict(
        {
            "observation": torch.randn(*batch, OBSERVATION),
            "is_init": start,
            "action": torch.randn(*batch, ACTION),
            "advantage": torch.randn(*batch, 1),
            "value_target": torch.randn(*batch, 1),
        },
        batch,
    )


# ---- the selection itself ------------------------------------------------------------------------


def test_what_is_copied():
    mask = torch.tensor([[False, True], [True, False]])
    x, count, flag = torch.arange(8.0).reshape(2, 2, 2), torch.arange(4).reshape(2, 2), ~mask
    data = {"x": x, "count": count, "flag": flag, "is_init": flag, "valid": mask, "other": x[:1]}
    got = select_valid(data, mask, ("valid",))
    assert got["x"].tolist() == [[[2, 3], [2, 3]], [[4, 5], [2, 3]]]
    assert got["count"].tolist() == [[1, 1], [2, 1]]
    assert not got["flag"].any()
    assert not got["is_init"].any()
    assert torch.equal(got["valid"], mask)
    assert got["other"] is data["other"]
    assert select_valid({"flag": mask}, mask, ())["flag"].all()
    none = select_valid({"x": x, "count": count}, torch.zeros_like(mask), ())
    assert (none["x"] == 1).all()
    assert (none["count"] == 0).all()
    for shape in ((0,), (0, 3)):
        empty = torch.zeros(shape, dtype=torch.bool)
        nothing = {"x": torch.zeros(*shape, 2), "count": torch.zeros(shape, dtype=torch.long)}
        assert select_valid(nothing, empty, ())["x"].shape == (*shape, 2)


class Selection(nn.Module):
    def forward(self, x, mask):
        return select_valid({"x": x, "other": x[..., 0]}, mask, ())


def test_it_is_exported_for_any_batch():
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    made = torch.export.export(
        Selection(),
        (torch.randn(3, 4, 2), torch.rand(3, 4) < 0.5),
        dynamic_shapes=(sizes, sizes),
    ).module()
    for batch in ((3, 4), (1, 7), (5, 1)):
        x, mask = torch.randn(*batch, 2), torch.rand(batch) < 0.5
        for name, expected in Selection()(x, mask).items():
            assert torch.equal(made(x, mask)[name], expected)


def test_a_masked_loss_compiles_once():
    loss = ClipPPOLoss(Policy(mlp(ACTION, StateIndependentScale(ACTION)), Normal), mlp(1))
    batches = []
    for n in (2, 3, 5, 8):
        data = make_data(loss.actor_network, (n, 4)).exclude("advantage", "value_target")
        data["shifted_valid"] = torch.rand(n, 4) < 0.6
        batches.append(data)
    assert_compiles_once(loss, batches)
