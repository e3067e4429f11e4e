"""Play an exported policy with ONNX Runtime alone: no torch in the process."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from compiled_rl.export.runtime import OnnxPolicy


def play(path: str | Path, env_id: str, episodes: int, seed: int = 1000) -> list[float]:
    """The return of each episode."""
    policy = OnnxPolicy(path, seed=seed)
    env = gym.make(env_id)
    return [_episode(policy, env, seed + i) for i in range(episodes)]


def _episode(policy: OnnxPolicy, env: gym.Env, seed: int) -> float:
    policy.reset()
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action = _act(policy, observation)
        if np.shape(action) != env.action_space.shape:
            raise ValueError(
                f"the action must have the shape {list(env.action_space.shape)} of "
                f"{env.spec.id}'s, got {list(np.shape(action))}"
            )
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
    return total


def _act(policy: OnnxPolicy, observation: Any) -> Any:
    """The action of one environment, whose observations are one array, or several by name."""
    seen = observation if isinstance(observation, dict) else {policy.observations[0]: observation}
    rows = {k: np.asarray(x, policy.expected[k].dtype)[None] for k, x in seen.items()}
    outputs = policy(**rows)
    return (outputs["action"] if isinstance(outputs, dict) else outputs)[0]


if __name__ == "__main__":
    path, env_id, episodes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    returns = play(path, env_id, episodes)
    assert "torch" not in sys.modules, "the runtime must not import torch"
    print(f"mean return {np.mean(returns):.1f}")
