"""How does one train CartPole-v1 by PPO in CleanRL's manner? Plain eager torch, in one sitting.

Written by us after the hyper-parameters and the habits that CleanRL publishes for its ``ppo.py``
(Huang et al. 2022, JMLR 23(274)): storage allocated once, the critic called at every step, a
Python loop for GAE, ``torch.distributions``, metrics of every minibatch. It uses nothing of
``compiled_rl``; ``end_to_end.py`` compares with it, and alone it prints the return as it trains.
"""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from rich.console import Console
from torch import Tensor, nn
from torch.distributions import Categorical


class Config(NamedTuple):
    """CleanRL's, but for the number of frames, over which the learning rate falls to zero."""

    frames: int = 100_000
    seed: int = 1
    envs: int = 4
    steps: int = 128
    minibatches: int = 4
    epochs: int = 4
    learning_rate: float = 2.5e-4
    adam_eps: float = 1e-5
    gamma: float = 0.99
    lmbda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    max_grad_norm: float = 0.5

    @property
    def batch(self) -> int:
        """Frames of one iteration."""
        return self.envs * self.steps

    @property
    def iterations(self) -> int:
        """How many there are."""
        return self.frames // self.batch

    def annealed(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from zero."""
        return self.learning_rate * (1 - iteration / self.iterations)


class Batch(NamedTuple):
    """What an update learns from, each ``[T * B, ...]`` or a minibatch of it."""

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    value_target: Tensor
    value: Tensor


def make_envs(count: int) -> VectorEnv:
    """Environments that reset in the step in which an episode ends."""
    options = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gym.make_vec("CartPole-v1", count, vectorization_mode="sync", vector_kwargs=options)


def layer(inputs: int, outputs: int, std: float = 2**0.5) -> nn.Linear:
    """A linear layer with orthogonal weights and without a bias to begin with."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, std)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(outputs: int, std: float) -> nn.Sequential:
    """Two hidden layers of 64; the last layer begins with weights of another scale."""
    hidden = [layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, layer(64, outputs, std))


class Agent(nn.Module):
    """An actor and a critic, with no layer in common."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = mlp(1, 1.0)
        self.actor = mlp(2, 0.01)

    def policy(self, observation: Tensor) -> Categorical:
        """The distribution over actions."""
        return Categorical(logits=self.actor(observation))

    def value(self, observation: Tensor) -> Tensor:
        """One number a state."""
        return self.critic(observation).squeeze(-1)


def ppo_loss(agent: Agent, batch: Batch, config: Config) -> tuple[Tensor, tuple[float, float]]:
    """What is minimised, and two metrics: the approximate KL divergence and the clipped share."""
    policy = agent.policy(batch.observation)
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    with torch.no_grad():
        kl = ((ratio - 1) - log_ratio).mean().item()
        clipped = ((ratio - 1).abs() > config.clip).float().mean().item()
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    bounded = ratio.clamp(1 - config.clip, 1 + config.clip)
    objective = torch.max(-advantage * ratio, -advantage * bounded).mean()
    loss = objective - config.entropy * policy.entropy().mean()
    return loss + config.value * value_loss(agent, batch, config), (kl, clipped)


def value_loss(agent: Agent, batch: Batch, config: Config) -> Tensor:
    """Half the squared error, the larger of that of the value and of the clipped value."""
    value = agent.value(batch.observation)
    near = batch.value + (value - batch.value).clamp(-config.clip, config.clip)
    errors = ((value - batch.value_target) ** 2, (near - batch.value_target) ** 2)
    return 0.5 * torch.max(*errors).mean()


class Training:
    """Everything that lasts from one iteration to the next."""

    def __init__(self, envs: VectorEnv, config: Config) -> None:
        torch.manual_seed(config.seed)
        self.envs, self.config = envs, config
        self.agent = Agent()
        self.optimizer = torch.optim.Adam(
            self.agent.parameters(), lr=config.learning_rate, eps=config.adam_eps
        )
        self.iteration = 0
        self.finished_returns: list[float] = []
        self._returns = np.zeros(config.envs)
        shape = (config.steps, config.envs)
        self.observations = torch.zeros(*shape, 4)
        self.actions = torch.zeros(shape, dtype=torch.int64)
        self.log_probs, self.rewards, self.dones, self.values = torch.zeros(4, *shape)
        self.observation = torch.tensor(envs.reset(seed=config.seed)[0])
        self.done = torch.zeros(config.envs)

    def iterate(self) -> None:
        """Collect a batch and learn from it."""
        self.optimizer.param_groups[0]["lr"] = self.config.annealed(self.iteration)
        for step in range(self.config.steps):
            self.observations[step], self.dones[step] = self.observation, self.done
            action, self.log_probs[step], self.values[step] = self.act(self.observation)
            self.actions[step] = action
            observation, reward, terminated, truncated, _ = self.envs.step(action.numpy())
            done = terminated | truncated
            self.rewards[step] = torch.tensor(reward)
            self.observation = torch.tensor(observation)
            self.done = torch.tensor(done, dtype=torch.float32)
            self._count(reward, done)
        self.update(*self.estimate())
        self.iteration += 1

    @torch.no_grad()
    def act(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """An action, its log-probability, and the value of the state."""
        policy = self.agent.policy(observation)
        action = policy.sample()
        return action, policy.log_prob(action), self.agent.value(observation)

    @torch.no_grad()
    def estimate(self) -> tuple[Tensor, Tensor]:
        """Advantages and value targets, backwards in time; an end by the clock is an end, too."""
        config = self.config
        advantages = torch.zeros_like(self.rewards)
        next_value, next_done = self.agent.value(self.observation), self.done
        advantage = torch.zeros(config.envs)
        for step in range(config.steps - 1, -1, -1):
            goes_on = 1 - next_done
            delta = self.rewards[step] + config.gamma * goes_on * next_value - self.values[step]
            advantage = delta + config.gamma * config.lmbda * goes_on * advantage
            advantages[step] = advantage
            next_value, next_done = self.values[step], self.dones[step]
        return advantages, advantages + self.values

    def update(self, advantages: Tensor, value_targets: Tensor) -> list[tuple[float, float]]:
        """Four epochs of four minibatches; the metrics of each."""
        recorded = (self.observations, self.actions, self.log_probs)
        batch = [x.flatten(0, 1) for x in (*recorded, advantages, value_targets, self.values)]
        size = self.config.batch // self.config.minibatches
        metrics = []
        for _ in range(self.config.epochs):
            for index in torch.randperm(self.config.batch).split(size):
                metrics.append(self._step(Batch(*[x[index] for x in batch])))
        return metrics

    def _step(self, batch: Batch) -> tuple[float, float]:
        loss, metrics = ppo_loss(self.agent, batch, self.config)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.agent.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return metrics

    def _count(self, reward: np.ndarray, done: np.ndarray) -> None:
        self._returns += reward
        self.finished_returns += self._returns[done].tolist()
        self._returns[done] = 0


def main() -> None:
    """Train, and print the mean return of the last 20 episodes now and then."""
    config = Config()
    torch.set_num_threads(1)
    training = Training(make_envs(config.envs), config)
    while training.iteration < config.iterations:
        training.iterate()
        if training.iteration % 20 == 0:
            frames = training.iteration * config.batch
            Console().print(
                f"{frames:>7,} frames, return {np.mean(training.finished_returns[-20:]):.0f}"
            )


if __name__ == "__main__":
    main()
