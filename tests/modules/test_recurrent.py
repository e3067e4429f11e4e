"""What plain networks read, and what they remember."""

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from compiled_rl import A2CLoss, ClipPPOLoss, Policy, ValueHead
from compiled_rl.modules import GRU, Normal, Reads, StateIndependentScale
from compiled_rl.testing import assert_compiles_once

OBSERVATION, ACTION = 4, 2
SECRET = ("privileged", "state")


class Joined(nn.Module):
    def __init__(self, inputs: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), *layers)

    def forward(self, *tensors: Tensor):
        return self.layers(torch.cat(tensors, -1))


class Remembering(nn.Module):
    """What a user writes: memory, then a head."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        self.memory, self.head = GRU(OBSERVATION, 8), nn.Sequential(*head)

    def forward(self, observation: Tensor, is_init: Tensor):
        return self.head(self.memory(observation, is_init))


def policy_head() -> tuple[nn.Module, ...]:
    return nn.Linear(8, ACTION), StateIndependentScale(ACTION)


def make_data(*shape: int) -> TensorDict:
    """Sequences ``[*B, T]`` in which episodes begin and end."""
    torch.manual_seed(0)
    done = torch.rand(shape) < 0.2
    start = torch.cat([torch.ones(*shape[:-1], 1, dtype=torch.bool), done[..., :-1]], -1)
    observation = torch.randn(*shape, OBSERVATION)
    entered = torch.randn(*shape, OBSERVATION)
    entered[..., :-1, :] = torch.where(
        done[..., :-1, None], entered[..., :-1, :], observation[..., 1:, :]
    )
    return TensorDict(
        {
            "observation": observation,
            "goal": torch.randn(*shape, 3),
            "is_init": start,
            "privileged": {"state": torch.randn(*shape, 5)},
            "action": torch.randn(*shape, ACTION),
            "action_log_prob": torch.randn(shape),
            "next": {
                "observation": entered,
                "goal": torch.randn(*shape, 3),
                "privileged": {"state": torch.randn(*shape, 5)},
                "reward": torch.randn(shape),
                "done": done,
                "terminated": done,
            },
        },
        shape,
    )


def as_keywords(data: TensorDict, loss: nn.Module) -> dict[str, Tensor]:
    found = {key: data[key] for key in loss.in_keys if key in data.keys(True)}
    return {key if isinstance(key, str) else "_".join(key): x for key, x in found.items()}


def total(outputs) -> Tensor:
    return outputs["loss_objective"] + outputs["loss_critic"] + outputs["loss_entropy"]


# ---- Reads ---------------------------------------------------------------------------------------


def several_inputs() -> tuple[Policy, nn.Module]:
    torch.manual_seed(0)
    network = Joined(OBSERVATION + 3, *policy_head())
    critic = Reads(Joined(OBSERVATION + 5, ValueHead(8)), "observation", SECRET)
    return Policy(Reads(network, "observation", "goal"), Normal), critic


def test_networks_read_what_they_say():
    actor, critic = several_inputs()
    loss = ClipPPOLoss(actor, critic)
    data = make_data(3, 5)
    assert {"goal", SECRET, ("next", *SECRET)} <= set(loss.in_keys)
    expected = total(loss(data))
    assert torch.equal(total(loss(**as_keywords(data, loss))._asdict()), expected)
    data["goal"] += 1
    assert total(loss(data)) != expected
    data["goal"] -= 1
    data[SECRET] += 1
    assert total(loss(data)) != expected
    with pytest.raises(KeyError, match="the network input `goal` was not found"):
        loss(data.exclude("goal"))
    with pytest.raises(KeyError, match=r"\['next_privileged_state'\] at the next state were not"):
        loss(data.exclude(("next", "privileged")))


def test_a_policy_of_several_inputs_acts():
    actor, _ = several_inputs()
    inputs = torch.randn(7, OBSERVATION), torch.randn(7, 3)
    loc, _ = actor.network(*inputs)
    assert torch.equal(actor(*inputs), loc)
    one, other = (actor.act(*inputs, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.action, other.action)
    assert one.log_prob.shape == (7,)


def test_keys_are_strings():
    with pytest.raises(
        TypeError, match=r"Reads: `keys` must each be a string or a tuple of strings, got 3"
    ):
        Reads(nn.Identity(), "observation", 3)


def test_several_inputs_compile():
    loss = ClipPPOLoss(*several_inputs())
    assert_compiles_once(loss, [make_data(n, 5) for n in (2, 3, 4, 7)])


# ---- GRU -----------------------------------------------------------------------------------------


def test_the_memory_is_torchs_between_the_starts():
    torch.manual_seed(0)
    memory, reference = GRU(3, 5), nn.GRU(3, 5, batch_first=True)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    reference.load_state_dict({f"{n}_l0": getattr(memory.cell, n) for n in names})
    x, start = torch.randn(2, 7, 3), torch.zeros(2, 7, dtype=torch.bool)
    start[1, 4] = True
    y = memory(x, start)
    torch.testing.assert_close(y[0], reference(x[:1])[0][0])
    torch.testing.assert_close(y[1, :4], reference(x[1:, :4])[0][0])
    torch.testing.assert_close(y[1, 4:], reference(x[1:, 4:])[0][0])


def test_step_by_step_is_the_sequence():
    torch.manual_seed(0)
    memory = GRU(3, 5)
    x, start = torch.randn(2, 4, 7, 3), torch.rand(2, 4, 7, 1) < 0.3
    expected, hidden = memory(x, start), torch.randn(2, 4, 5)
    start[..., 0, :] = True
    expected, pieces = memory(x, start), []
    for t in range(7):
        pieces.append(memory(x[..., t : t + 1, :], start[..., t : t + 1, :], hidden))
        hidden = pieces[-1][..., -1, :]
    torch.testing.assert_close(torch.cat(pieces, -2), expected)


@pytest.mark.parametrize(
    "is_init",
    [torch.zeros(2, 6, dtype=torch.bool), torch.zeros(2, 7), torch.zeros(7, 2, dtype=torch.bool)],
)
def test_other_starts_are_refused(is_init):
    with pytest.raises(ValueError, match=r"GRU: `is_init` must be torch.bool of shape \[2, 7\] or"):
        GRU(3, 5)(torch.randn(2, 7, 3), is_init)


def recurrent_loss(loss_class=ClipPPOLoss, **arguments):
    torch.manual_seed(0)
    actor = Policy(Reads(Remembering(*policy_head()), "observation", "is_init"), Normal)
    critic = Reads(Remembering(ValueHead(8)), "observation", "is_init")
    loss = loss_class(actor, critic, **arguments)
    return loss.make_value_estimator("gae", shifted=True, shifted_budget=1)


def test_a_recurrent_policy_is_trained():
    loss = recurrent_loss(A2CLoss)
    data = make_data(3, 6)
    assert all(
        x.abs().sum() > 0 for x in torch.autograd.grad(total(loss(data)), list(loss.parameters()))
    )
    twin = copy.deepcopy(loss)
    expected = total(loss(**as_keywords(data, loss))._asdict())
    assert torch.equal(total(twin(data)), expected)


def test_a_recurrent_critic_must_be_shifted():
    loss = recurrent_loss().make_value_estimator("gae")
    with pytest.raises(ValueError, match="a recurrent critic must be `shifted`"):
        loss(make_data(3, 6))


def test_no_gradient_goes_from_an_episode_to_the_one_before():
    loss = recurrent_loss(A2CLoss, reduction="none")
    data = make_data(2, 6)
    data["is_init"][:] = False
    data["is_init"][:, 3] = True
    data["advantage"] = data["value_target"] = torch.randn(2, 6)
    data["observation"].requires_grad_()
    per_step = loss(data)["loss_objective"]
    (reached,) = torch.autograd.grad(per_step[:, 4].sum(), data["observation"])
    assert (reached.abs().sum((0, 2)) > 0).tolist() == [False, False, False, True, True, False]


@pytest.mark.slow
def test_a_recurrent_loss_compiles():
    loss = recurrent_loss()
    assert_compiles_once(loss, [make_data(n, 5) for n in (2, 3, 4, 7)])
