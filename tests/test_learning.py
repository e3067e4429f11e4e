"""Learning on several seeds, compiled and eager; minutes, so only `make slow` runs it."""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from statistics import mean, variance
from typing import NamedTuple

import pytest
import torch

from compiled_rl.export import to_onnx
from examples import (
    a2c_cartpole,
    ddpg_half_cheetah,
    ddpg_pendulum,
    dqn_cartpole,
    klpen_cartpole,
    ppo_cartpole,
    ppo_half_cheetah,
    ppo_recurrent_cartpole,
    sac_pendulum,
    td3_pendulum,
)
from examples.play import play

SEEDS = (0, 1, 2)


@cache
def trained_ppo(seed: int, compile: bool):
    return ppo_cartpole.train(100_000, seed, compile, on_progress=lambda _: None)


class Run(NamedTuple):
    """A training of a seed, compiled or not, and the return that it must reach."""

    train: Callable
    enough: float


RUNS = {
    "ppo": Run(lambda seed, compile: trained_ppo(seed, compile)[1][-1], 475),
    "recurrent": Run(lambda *run: ppo_recurrent_cartpole.main(300_000, *run), 475),
    "a2c": Run(lambda *run: a2c_cartpole.main(300_000, *run), 475),
    "klpen": Run(lambda *run: klpen_cartpole.main(100_000, *run), 475),
    "dqn": Run(lambda *run: dqn_cartpole.main(100_000, *run), 450),
    "ddpg": Run(lambda *run: ddpg_pendulum.main(20_000, *run), -200),
    "td3": Run(lambda *run: td3_pendulum.main(20_000, *run), -200),
    "sac": Run(lambda *run: sac_pendulum.main(20_000, *run), -200),
}
IN_BOTH_MODES = ("ppo", "recurrent", "a2c", "ddpg", "sac")


@cache
def trained(name: str, seed: int, compile: bool):
    """What the example gives: a return, or with it how many steps it took to get there."""
    torch.set_num_threads(1)
    return RUNS[name].train(seed, compile)


def same_distribution(one: list[float], other: list[float]) -> bool:
    """Whether the means of three and three numbers differ by less than chance makes them differ.

    Student's t with four degrees of freedom is beyond 4.6 once in a hundred times.
    """
    error = math.sqrt((variance(one) + variance(other)) / len(one))
    return abs(mean(one) - mean(other)) <= 4.6 * error


def test_what_is_the_same_is_told_from_what_is_not():
    assert same_distribution([43.0, 41.0, 59.0], [53.0, 51.0, 45.0])
    assert not same_distribution([43.0, 41.0, 59.0], [93.0, 91.0, 85.0])
    assert not same_distribution([-150.0, -152.0, -149.0], [-170.0, -168.0, -175.0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "compile"),
    [(name, True) for name in RUNS] + [(name, False) for name in IN_BOTH_MODES],
)
def test_examples_learn(name, compile, seed):
    reached = trained(name, seed, compile)
    assert getattr(reached, "mean_return", reached) >= RUNS[name].enough


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_BOTH_MODES)
def test_compiled_learns_as_eager_does(name):
    """Where training ends when the task is solved: as fast. Else: to returns as high."""
    both = [[trained(name, seed, compile) for seed in SEEDS] for compile in (True, False)]
    compiled, eager = ([getattr(run, "steps", run) for run in runs] for runs in both)
    assert same_distribution(compiled, eager), (compiled, eager)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("compile", [True, False])
def test_what_ppo_learned_is_deployed(compile, seed, tmp_path):
    loss, _ = trained_ppo(seed, compile)
    to_onnx(loss.actor_network, torch.randn(2, 4), tmp_path / "policy.onnx")
    returns = play(str(tmp_path / "policy.onnx"), "CartPole-v1", 20)
    assert mean(returns) >= 475


@pytest.mark.slow
def test_half_cheetah_runs():
    assert ppo_half_cheetah.main(200_000) > 300  # a policy that does not learn stays below zero


@pytest.mark.slow
def test_half_cheetah_runs_on_torchrls_environment_too():
    assert ddpg_half_cheetah.main(24_000) > 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_device_learns_without_torch(seed, tmp_path):
    """The process itself asserts that torch was not imported."""
    command = [sys.executable, "-m", "examples.train_without_torch", "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=True
    )
    last = done.stdout.splitlines()[-1]
    assert float(last.removeprefix("mean return ")) >= 450
    assert (tmp_path / "learned.npz").exists()
