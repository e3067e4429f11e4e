"""A run goes on from its checkpoint, to the same bits; nothing is half loaded or written."""

import copy
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from compiled_rl import ClipPPOLoss, ObservationNormalizer, Policy, UpdateEpochs, UpdateStep
from compiled_rl.modules import Categorical
from compiled_rl.training import load_checkpoint, save_checkpoint
from tests.losses.networks import ACTION, OBSERVATION, make_data, plain_networks
from tests.training.test_update_targets import made, steps

DELAYS = [0.05, *[pytest.param(x, marks=pytest.mark.slow) for x in (0.0, 0.003, 0.006, 0.009)]]
SLOW = pytest.param("default", marks=pytest.mark.slow)
MODES = pytest.mark.parametrize("mode", ["eager", SLOW])


def ppo(mode="eager", seed=0):
    """A policy behind a normaliser, whose rate and bound are annealed, and a generator."""
    torch.manual_seed(seed)
    normalizer = ObservationNormalizer(OBSERVATION)
    policy = Policy(nn.Sequential(normalizer, nn.Linear(OBSERVATION, ACTION)), Categorical)
    critic = nn.Sequential(normalizer, nn.Linear(OBSERVATION, 1))
    loss = ClipPPOLoss(policy, critic, normalize_advantage=True)
    adam = torch.optim.Adam(loss.parameters(), lr=1e-2, amsgrad=True)
    generator = torch.Generator().manual_seed(seed)

    def rule(now, metrics):
        return {name: now[name] * 0.9 for name in ("learning_rate", "clip_epsilon")}

    return UpdateStep(loss, adam, generator=generator, mode=mode, rule=rule, max_grad_norm=0.5)


def train(step, first: int) -> list[torch.Tensor]:
    epochs, norms = UpdateEpochs(step, epochs=2, minibatch_size=3), []
    for k in range(first, first + 2):
        data = make_data(plain_networks("categorical")[0], (8,), seed=k)
        step.loss.actor_network.network[0].update(data["observation"])
        norms.append(epochs(data)["grad_norm"])
    return norms


def assert_same_bits(a, b) -> None:
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


@MODES
def test_a_run_goes_on_to_the_same_bits(mode, counted, tmp_path):
    step = ppo(mode)
    train(step, 0)
    save_checkpoint(tmp_path / "run.pt", step.state_dict())
    expected = train(step, 2)
    again = ppo(mode, seed=5)
    train(again, 9)  # its optimiser, its coefficients and its generator are somewhere else
    again.load_state_dict(load_checkpoint(tmp_path / "run.pt"))
    torch.testing.assert_close(train(again, 2), expected, rtol=0, atol=0)
    assert_same_bits(again, step)
    assert again.updates == 4 * 2 * 3


@MODES
@pytest.mark.parametrize("updater", ["soft", "hard"])
def test_so_does_one_with_targets_and_torchs_own_generator(mode, updater, counted, tmp_path):
    data = [steps(4, k) for k in range(6)]
    first, second = made("sac", updater), made("sac", updater)
    step, again = first.step(mode=mode), second.step(mode=mode)
    for each in data[:3]:
        step(each)
    save_checkpoint(tmp_path / "run.pt", step.state_dict())
    expected = [step(each) for each in data[3:]]
    again(data[0])
    torch.manual_seed(99)
    again.load_state_dict(load_checkpoint(tmp_path / "run.pt"))
    got = [again(each) for each in data[3:]]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert_same_bits(again, step)
    assert first.updater.state_dict() == second.updater.state_dict()


def test_a_pair_of_steps_is_two_states_of_one_loss(tmp_path):
    """TD3's delay: loading the networks twice is no harm."""

    def pair():
        one = made("td3")
        critics = UpdateStep(one.loss, one.optimizers[1], minimise=["loss_qvalue"], mode="eager")
        both = one.step(mode="eager")
        critics.generator = both.generator = torch.Generator().manual_seed(1)
        return critics, both

    critics, both = pair()
    critics(steps(4, 0))
    both(steps(4, 1))
    state = {"critics": critics.state_dict(), "both": both.state_dict()}
    save_checkpoint(tmp_path / "run.pt", state)
    others, state = pair(), load_checkpoint(tmp_path / "run.pt")
    for step, name in zip(others, ("critics", "both"), strict=True):
        step.load_state_dict(state[name])
    for step in (critics, both, *others):
        step(steps(4, 2))
    assert_same_bits(others[1], both)


def first_slots(state):
    return state["optimizers"][0]["state"][0]


def first_group(state):
    return state["optimizers"][0]["param_groups"][0]


BAD = [
    (lambda s: s.pop("updates"), r"the state must be a mapping of \['loss', .* got \['loss'"),
    (lambda s: s["loss"].pop("clip_epsilon"), "`loss` must be a mapping of"),
    (
        lambda s: s["loss"].update(clip_epsilon=torch.zeros(3)),
        r"`clip_epsilon` must be a tensor of shape \[\], got \[3\]",
    ),
    (lambda s: s["loss"].update(clip_epsilon=0.1), r"`clip_epsilon` must be a tensor .* got float"),
    (lambda s: s["optimizers"].pop(), "`optimizers` must be a list of 1, got 0"),
    (lambda s: first_group(s)["params"].pop(), "`params` must be a list of 4, got 3"),
    (
        lambda s: first_group(s).update(betas=(0.5, 0.9)),
        r"`betas` must be \(0.9, 0.999\), as the st",
    ),
    (lambda s: first_group(s).pop("lr"), "must be a mapping of"),
    (lambda s: first_slots(s).pop("exp_avg"), r"`0` must be a mapping of .*'exp_avg'"),
    (lambda s: first_slots(s).update(exp_avg=torch.zeros(2)), r"`exp_avg` must be .* got \[2\]"),
    (
        lambda s: s["loss"].update(clip_epsilon=torch.tensor(1j)),
        "`clip_epsilon` must be a tensor of real numbers, .* got complex numbers",
    ),
    (
        lambda s: s["loss"].update({k: x.to("meta") for k, x in list(s["loss"].items())[-1:]}),
        "must be a tensor of real numbers, torch.strided, got real numbers, without memory",
    ),
    (lambda s: s.update(updates=torch.tensor(1.5)), "`updates` must be a tensor of whole numbers"),
    (lambda s: s.update(generator=torch.zeros(3)), "`generator` must be"),
    (lambda s: s.update(generator=None), "`generator` must be a tensor .* got NoneType"),
    (lambda s: s["generator"].zero_(), "`generator` must be the state of a generator on cpu"),
    (lambda s: s["accumulated"].update(calls=7), "`calls` must be below `accumulate`, 1, got 7"),
    (lambda s: s["accumulated"].update(gradients=None), "`gradients` must be a mapping of"),
    (lambda s: s.update(target_updater=None), "`target_updater` must be a mapping"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BAD)
def test_a_state_of_something_else_changes_nothing(spoil, sentence):
    step, other = ppo(), ppo(seed=3)
    train(other, 0)
    state = copy.deepcopy(other.state_dict())
    spoil(state)
    before = copy.deepcopy(step.state_dict())
    with pytest.raises(ValueError, match=sentence):
        step.load_state_dict(state)
    torch.testing.assert_close(step.state_dict(), before, rtol=0, atol=0)


def test_a_state_is_a_copy_and_may_be_loaded_again():
    """Going back to the best so far, twice, is going back to the same."""
    step = ppo()
    train(step, 0)
    best, runs = step.state_dict(), []
    kept = copy.deepcopy(best)
    for _ in range(2):
        step.load_state_dict(best)
        runs.append(train(step, 2))
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    torch.testing.assert_close(best, kept, rtol=0, atol=0)


WRITE_FOR_EVER = """
import sys, torch
from compiled_rl.training import save_checkpoint
for k in range(1_000_000):
    save_checkpoint(sys.argv[1], {"updates": k, "x": torch.full((300_000,), float(k))})
"""


@pytest.mark.parametrize("delay", DELAYS)
def test_a_kill_at_any_moment_leaves_the_last_one_whole(delay, tmp_path):
    path = tmp_path / "run.pt"
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
        time.sleep(delay)
    finally:
        process.kill()
        process.wait()
    state = load_checkpoint(path)
    assert torch.equal(state["x"], torch.full((300_000,), float(state["updates"])))
    save_checkpoint(path, {"updates": -1})
    assert load_checkpoint(path) == {"updates": -1}
