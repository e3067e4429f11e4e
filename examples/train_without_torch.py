"""Learn CartPole-v1 with numpy and ONNX Runtime alone: torch is in no process that learns.

The files are made once, by a process that has torch (``examples.learner``); here, as on a device
that was shipped with them, a policy acts, an estimator estimates and an update learns, by PPO.
"""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import typer
from gymnasium.vector import AutoresetMode, VectorEnv

from compiled_rl.export import OnnxPolicy, OnnxTrainer

NAME, ENVS, ROLLOUT = "CartPole-v1", 8, 128
Arrays = dict[str, np.ndarray]


class Collector:
    """Steps environments, which reset in the step in which an episode ends."""

    def __init__(self, policy: OnnxPolicy, seed: int) -> None:
        options = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.envs: VectorEnv = gym.make_vec(NAME, ENVS, "sync", vector_kwargs=options)
        self.policy = policy
        self.observation, _ = self.envs.reset(seed=seed)
        self.running, self.finished = np.zeros(ENVS), [0.0]

    def collect(self) -> Arrays:
        """The next steps of every environment, ``[ENVS, ROLLOUT, ...]``."""
        rows = [self._step() for _ in range(ROLLOUT)]
        return {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}

    def _step(self) -> Arrays:
        observation = self.observation
        acted = self.policy(observation)
        self.observation, reward, terminated, truncated, info = self.envs.step(acted["action"])
        done = terminated | truncated
        entered = self.observation.copy()  # where an episode ended, its last state
        for k in np.flatnonzero(done):
            entered[k] = info["final_obs"][k]
        self.running += reward
        self.finished += list(self.running[done])
        self.running[done] = 0
        return {
            "observation": observation,
            "action": acted["action"],
            "action_log_prob": acted["log_prob"],
            "next_observation": entered,
            "next_reward": reward.astype(np.float32),
            "next_done": done,
            "next_terminated": terminated,
        }


def learn(folder: Path, steps: int, seed: int) -> OnnxTrainer:
    """Learn until the last 20 episodes are solved, or the steps are used up."""
    explore, estimate = (
        OnnxPolicy(folder / "explore.onnx", seed=seed),
        OnnxPolicy(folder / "estimate.onnx"),
    )
    trainer = OnnxTrainer(folder / "update.onnx", seed=seed)
    collector = Collector(explore, seed)
    for taken in range(ENVS * ROLLOUT, steps + 1, ENVS * ROLLOUT):
        rollout = collector.collect()
        target = estimate(**{name: rollout[name] for name in estimate.observations})
        batch = {name: rollout[name] for name in ("observation", "action", "action_log_prob")}
        batch |= {name: target[name] for name in ("advantage", "value_target")}
        metrics = trainer(**{name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()})
        for held in (explore, estimate):
            held.load(trainer.state)
        trainer.state["learning_rate"] = 1e-3 * (1 - taken / steps)
        recent = float(np.mean(collector.finished[-20:]))
        if taken // (ENVS * ROLLOUT) % 10 == 0:
            kl = float(metrics["kl_approx"].mean())
            print(f"{taken:7,} steps  return {recent:6.1f}  kl {kl:.4f}")
        if recent >= gym.spec(NAME).reward_threshold:
            break
    trainer.save(folder / "learned.npz")
    return trainer


def evaluate(policy: OnnxPolicy, episodes: int, seed: int) -> float:
    """The mean return of deterministic episodes."""
    env, total = gym.make(NAME), 0.0
    for k in range(episodes):
        observation, over = env.reset(seed=seed + k)[0], False
        while not over:
            action = policy(observation[None])[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
    return total / episodes


def main(steps: int = 150_000, seed: int = 0, folder: Path = Path("runs/learner")) -> float:
    """Make the files, learn, and play 20 episodes; FOLDER/learned.npz is what was learned."""
    maker = [sys.executable, "-m", f"{__package__}.learner", "--folder", str(folder)]
    subprocess.run([*maker, "--seed", str(seed)], check=True)
    trainer = learn(folder, steps, seed)
    policy = OnnxPolicy(folder / "policy.onnx")
    policy.load(trainer.state)
    result = evaluate(policy, 20, 1000)
    assert "torch" not in sys.modules, "learning must not import torch"
    print(f"mean return {result:.1f}")
    return result


if __name__ == "__main__":
    typer.run(main)
