"""Learning on several seeds; minutes, so only `make slow` runs it."""

import pytest
import torch

from compiled_rl.export import to_onnx
from examples.play import play
from examples.ppo_cartpole import Config, solved, train


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["compiled", "eager"])
def test_ppo_solves_cartpole(seed, mode, tmp_path):
    config = Config(seed=seed, mode=mode)
    loss, history = train(config, tmp_path / "checkpoint.pt", lambda _: None)
    assert solved(history)
    assert history[-1].steps <= 100_000
    to_onnx(loss.actor_network, torch.randn(2, 4), tmp_path / "policy.onnx")
    returns = play(str(tmp_path / "policy.onnx"), "CartPole-v1", 20)
    assert sum(returns) / len(returns) >= 475
