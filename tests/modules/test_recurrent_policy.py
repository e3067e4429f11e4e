"""One step of control: what is remembered goes in and comes out, as over a sequence."""

import pytest
import torch
from torch import Tensor, nn

from compiled_rl import Policy
from compiled_rl.modules import (
    GRU,
    ActionRescaler,
    Categorical,
    Composite,
    Concatenated,
    FrameStack,
    FromDistribution,
    Normal,
    QPolicy,
    Reads,
    RecurrentPolicy,
    SampledPolicy,
    StateIndependentScale,
)
from compiled_rl.testing import assert_compiles_once

SEEN, HIDDEN, TIME = 3, 5, 7
LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])


def head(inputs: int = HIDDEN) -> Policy:
    return Policy(nn.Sequential(nn.Linear(inputs, 2), StateIndependentScale(2)), Normal)


def observed() -> tuple[Tensor, Tensor]:
    """Sequences in which the second episode of the second row begins at its fourth step."""
    torch.manual_seed(0)
    x, starts = torch.randn(2, TIME, SEEN), torch.zeros(2, TIME, dtype=torch.bool)
    starts[:, 0] = starts[1, 4] = True
    return x, starts


def stepped(policy: RecurrentPolicy, x: Tensor, starts: Tensor) -> Tensor:
    """The actions step by step, from a state that must not be read."""
    state = {k: torch.full_like(v, torch.nan) for k, v in policy.initial_state(x[:, 0]).items()}
    actions = []
    for t in range(TIME):
        outputs = policy(**{**state, "observation": x[:, t], "is_init": starts[:, t]})
        state = {name: outputs[out] for name, out in policy.state_names.items()}
        actions.append(outputs["action"])
    return torch.stack(actions, 1)


STACKED = {"num_layers": 2, "batch_first": True}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *[(make, options) for make in (nn.GRU, nn.RNN, nn.LSTM) for options in ({}, STACKED)],
        (nn.LSTM, {"proj_size": 4}),
    ],
)
def test_step_by_step_is_torchs_sequence(make, options):
    memory = make(SEEN, HIDDEN, **options)
    policy = RecurrentPolicy(memory, head(options.get("proj_size", HIDDEN)))
    x, starts = observed()
    got = stepped(policy, x, starts)
    memory.batch_first = True
    expected = [memory(x[:1])[0], memory(x[1:, :4])[0], memory(x[1:, 4:])[0]]
    torch.testing.assert_close(got[0], policy.policy.policy(expected[0][0]))
    torch.testing.assert_close(got[1], policy.policy.policy(torch.cat(expected[1:], 1)[0]))


@pytest.mark.parametrize("make", [nn.GRUCell, nn.RNNCell, nn.LSTMCell])
def test_a_cell_is_a_sequence_of_one_layer(make):
    cell = make(SEEN, HIDDEN)
    sequence = getattr(nn, make.__name__.removesuffix("Cell"))(SEEN, HIDDEN)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    sequence.load_state_dict({f"{name}_l0": getattr(cell, name) for name in names})
    policy, (x, starts) = head(), observed()
    torch.testing.assert_close(
        stepped(RecurrentPolicy(cell, policy), x, starts),
        stepped(RecurrentPolicy(sequence, policy), x, starts),
    )


def test_what_was_trained_over_sequences_is_deployed_by_the_step():
    memory, encoder, policy = GRU(4, HIDDEN), nn.Linear(SEEN, 4), head()
    x, starts = observed()
    got = stepped(RecurrentPolicy(memory, policy, encoder), x, starts)
    torch.testing.assert_close(got, policy(memory(encoder(x), starts)))


def test_the_parameters_are_shared():
    memory, policy, encoder = nn.LSTM(4, HIDDEN), head(), nn.Linear(SEEN, 4)
    made = RecurrentPolicy(memory, policy, encoder)
    parts = [p for part in (memory, policy, encoder) for p in part.parameters()]
    assert {id(p) for p in made.parameters()} == {id(p) for p in parts}


def test_names_and_shapes():
    x = torch.randn(4, SEEN)
    for memory, shapes in (
        (nn.GRUCell(SEEN, HIDDEN), {"h_in": (4, HIDDEN)}),
        (nn.LSTMCell(SEEN, HIDDEN), {"h_in": (4, HIDDEN), "c_in": (4, HIDDEN)}),
        (nn.GRU(SEEN, HIDDEN, 2), {"h_in": (4, 2, HIDDEN)}),
        (
            nn.LSTM(SEEN, HIDDEN, 2, proj_size=4),
            {"h_in": (4, 2, 4), "c_in": (4, 2, HIDDEN)},
        ),
    ):
        policy = RecurrentPolicy(memory, nn.Flatten())
        state = policy.initial_state(x)
        assert policy.input_names == ("observation", *shapes, "is_init")
        assert {k: tuple(v.shape) for k, v in state.items() if k != "is_init"} == shapes
        assert state["is_init"].all()
        outputs = policy(x, *state.values())
        assert list(outputs) == ["action", *[k.replace("in", "out") for k in shapes]]
        for name, out in policy.state_names.items():
            assert outputs[out].shape == state[name].shape


def test_without_starts_no_episode_begins():
    policy = RecurrentPolicy(nn.LSTM(SEEN, HIDDEN), head())
    x = torch.randn(4, SEEN)
    state = {name: torch.randn(4, 1, HIDDEN) for name in ("h_in", "c_in")}
    never = torch.zeros(4, 1, dtype=torch.bool)
    torch.testing.assert_close(
        policy(observation=x, **state), policy(observation=x, **state, is_init=never)
    )


def test_the_memory_of_frames():
    x, starts = observed()
    policy = RecurrentPolicy(FrameStack(3), nn.Identity())
    frames = stepped(policy, x, starts)
    row = x[1]
    expected = [[4, 4, 4], [4, 4, 5], [4, 5, 6]]
    for t, seen in enumerate(expected, start=4):
        assert torch.equal(frames[1, t], row[seen])
    assert torch.equal(frames[0, 6], x[0, [4, 5, 6]])
    assert torch.equal(FrameStack(1)(x[:, 0], x[:, 1:2]), x[:, :1])


def test_encoder_mask_and_noise_by_name():
    class Masked(nn.Module):
        def forward(self, features, mask):
            return features.where(mask, -9.0)

    policy = SampledPolicy(Policy(Reads(Masked(), "features", ("allowed", "now")), Categorical))
    encoder = Reads(Concatenated(nn.Linear(5, SEEN)), "joints", "command")
    made = RecurrentPolicy(nn.GRUCell(SEEN, HIDDEN), policy, encoder)
    assert made.input_names == ("joints", "command", "h_in", "is_init", "allowed_now", "noise")
    joints, command = torch.randn(4, 3), torch.randn(4, 2)
    only = torch.zeros(4, HIDDEN, dtype=torch.bool)
    only[:, 2] = True
    data = {"joints": joints, "command": command, "allowed_now": only}
    data |= made.initial_state(joints, command)
    noise = made.draw_noise(data, torch.Generator().manual_seed(0))
    assert torch.equal(
        noise["noise"], made.draw_noise(data, torch.Generator().manual_seed(0))["noise"]
    )
    outputs = made(**data, **noise)
    assert list(outputs) == ["action", "log_prob", "h_out"]
    assert (outputs["action"] == 2).all()


def test_groups_are_side_by_side():
    a, b = torch.randn(4, 2), torch.randn(4, 1)
    groups = Policy(Reads(Concatenated(nn.Identity()), "a", "b"), Categorical)
    assert torch.equal(groups.params(a, b)[0], torch.stack([a[:, 0], a[:, 1], b[:, 0]], 1))


def test_any_module_may_read_the_memory():
    memory, x = nn.GRUCell(SEEN, HIDDEN), torch.randn(4, SEEN)
    state = torch.randn(4, HIDDEN)
    best = RecurrentPolicy(memory, QPolicy(nn.Identity()))(observation=x, h_in=state)
    assert torch.equal(best["action"], memory(x, state).argmax(-1))
    heads = Composite({"move": Normal(), "fire": Categorical()})

    class Three(nn.Module):
        def forward(self, x):
            return x[:, :2], x[:, :2].exp(), x[:, 2:]

    several = RecurrentPolicy(memory, Policy(Three(), heads))(observation=x, h_in=state)
    assert list(several) == ["action_move", "action_fire", "h_out"]


@pytest.mark.parametrize(
    ("memory", "error", "sentence"),
    [
        (nn.Linear(3, 3), TypeError, "`memory` must be a GRU, RNN or LSTM of .*, got Linear"),
        (
            nn.GRU(3, 3, bidirectional=True),
            ValueError,
            "`memory` must run forwards in time only, got GRU",
        ),
    ],
)
def test_other_memories_are_refused(memory, error, sentence):
    with pytest.raises(error, match=f"RecurrentPolicy: {sentence}"):
        RecurrentPolicy(memory, head())


@pytest.mark.parametrize(
    "is_init",
    [torch.zeros(4), torch.zeros(3, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)],
)
def test_other_starts_are_refused(is_init):
    for memory in (nn.GRUCell(SEEN, HIDDEN), FrameStack(2)):
        policy = RecurrentPolicy(memory, nn.Identity())
        x = torch.randn(4, SEEN)
        state = {**policy.initial_state(x), "is_init": is_init}
        sentence = r"`is_init` must be torch.bool of shape \[4\] or \[4, 1\], got"
        with pytest.raises(ValueError, match=f"{type(memory).__name__}: {sentence}"):
            policy(observation=x, **state)


def test_other_frames_are_refused():
    with pytest.raises(ValueError, match=r"FrameStack: `frames` must be of shape \[4, 2, 3\], got"):
        FrameStack(2)(torch.randn(4, 3), torch.randn(4, 3, 3))
    with pytest.raises(
        ValueError, match="FrameStack: `size` must be an integer of at least 1, got 0"
    ):
        FrameStack(0)


@pytest.mark.parametrize(
    ("first", "named"),
    [
        ((), {}),
        (("observation",), {"observation": 0}),
        ((), {"observation": 0, "h_in": 0, "c_in": 0}),
        (("a", "b", "c", "d"), {}),
    ],
)
def test_other_inputs_are_refused(first, named):
    policy = RecurrentPolicy(nn.GRUCell(SEEN, HIDDEN), head())
    with pytest.raises(
        ValueError, match=r"RecurrentPolicy: the inputs are \['observation', 'h_in'"
    ):
        policy(*first, **named)


# ---- What samples --------------------------------------------------------------------------------


def test_given_noise_gives_what_is_stored_and_what_is_sent():
    policy = Policy(head(SEEN).network, Normal, ActionRescaler(LOW, HIGH))
    sampled, x = SampledPolicy(policy), torch.randn(4, SEEN)
    noise = sampled.draw_noise({"observation": x}, torch.Generator().manual_seed(3))
    outputs = sampled(x, **noise)
    recorded = policy.act(x, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(outputs["action"], recorded.action)
    torch.testing.assert_close(outputs["log_prob"], recorded.log_prob)
    torch.testing.assert_close(outputs["rescaled_action"], policy.rescale(recorded.action))
    assert list(SampledPolicy(head(SEEN))(x, **noise)) == ["action", "log_prob"]


def test_heads_have_noise_of_their_own():
    class Three(nn.Module):
        def forward(self, x):
            return x, x.exp(), x

    inner = Composite({"left": Normal(), "right": Categorical()})
    policy = Policy(Three(), Composite({"arm": inner}))
    sampled, x = SampledPolicy(policy), torch.randn(4, SEEN)
    assert sampled.input_names == ("observation", "noise_arm_left", "noise_arm_right")
    noise = sampled.draw_noise({"observation": x})
    assert list(sampled(x, **noise)) == ["action_arm_left", "action_arm_right", "log_prob"]


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (nn.Linear(3, 2), "`policy` must be a Policy, got Linear"),
        (
            Policy(nn.Identity(), FromDistribution(torch.distributions.Laplace, ("loc", "scale"))),
            "`policy` must have a family that samples from given noise, got FromDistribution",
        ),
    ],
)
def test_what_takes_no_noise_is_refused(policy, sentence):
    with pytest.raises(TypeError, match=f"SampledPolicy: {sentence}"):
        SampledPolicy(policy)


def test_a_step_compiles():
    policy = RecurrentPolicy(nn.LSTMCell(SEEN, HIDDEN), SampledPolicy(head()))

    def inputs(batch):
        x = torch.randn(batch, SEEN)
        data = {"observation": x, **policy.initial_state(x)}
        return {**data, **policy.draw_noise(data)}

    assert_compiles_once(policy, [inputs(n) for n in (2, 3, 4, 7)])
