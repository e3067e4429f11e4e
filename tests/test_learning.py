"""Learning on several seeds; minutes, so only `make slow` runs it."""

import pytest
import torch

from compiled_rl.export import to_onnx
from examples import (
    a2c_cartpole,
    ddpg_half_cheetah,
    ddpg_pendulum,
    dqn_cartpole,
    klpen_cartpole,
    ppo_half_cheetah,
    sac_pendulum,
    td3_pendulum,
)
from examples.play import play
from examples.ppo_cartpole import Config, solved, train


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["default", "eager"])
def test_ppo_solves_cartpole(seed, mode, tmp_path):
    config = Config(seed=seed, mode=mode)
    loss, history = train(config, tmp_path / "checkpoint.pt", lambda _: None)
    assert solved(history)
    assert history[-1].steps <= 100_000
    to_onnx(loss.actor_network, torch.randn(2, 4), tmp_path / "policy.onnx")
    returns = play(str(tmp_path / "policy.onnx"), "CartPole-v1", 20)
    assert sum(returns) / len(returns) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("example", "steps"), [(klpen_cartpole, 100_000), (a2c_cartpole, 300_000)], ids=["klpen", "a2c"]
)
def test_cartpole_is_solved_within_its_steps(example, steps, seed):
    assert example.main(steps, seed) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dqn_holds_the_pole_up(seed):
    assert dqn_cartpole.main(100_000, seed) >= 450


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "example", [ddpg_pendulum, td3_pendulum, sac_pendulum], ids=["ddpg", "td3", "sac"]
)
def test_the_pendulum_is_held_up(example, seed):
    assert example.main(20_000, seed) >= -200


@pytest.mark.slow
def test_half_cheetah_runs():
    assert ppo_half_cheetah.main(200_000) > 300  # a policy that does not learn stays below zero


@pytest.mark.slow
def test_half_cheetah_runs_on_torchrls_environment_too():
    assert ddpg_half_cheetah.main(24_000) > 200
