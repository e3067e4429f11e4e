"""Play an exported policy with ONNX Runtime alone: no torch in the process."""

import sys

import gymnasium as gym
import numpy as np

from compiled_rl.export.runtime import OnnxModel


def play(path: str, env_id: str, episodes: int, seed: int = 1000) -> list[float]:
    """The return of each episode."""
    policy = OnnxModel(path)
    env = gym.make(env_id)
    return [_episode(policy, env, seed + i) for i in range(episodes)]


def _episode(policy: OnnxModel, env: gym.Env, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        row = np.asarray(observation, dtype=np.float32)[None]
        action = policy(observation=row)["action"][0]
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
    return total


if __name__ == "__main__":
    path, env_id, episodes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    returns = play(path, env_id, episodes)
    assert "torch" not in sys.modules, "the runtime must not import torch"
    print(f"mean return {np.mean(returns):.1f}")
