"""Recurrent PPO on CartPole-v1 without velocities: what is not seen must be remembered.

Without a memory the return stays at 45; with one it reaches 475 in 100,000 to 160,000 steps. Policy
and critic read the same one. Learning goes through short sequences, each with what was remembered
before it when it was collected; compiled, the memory is unrolled over them, so that the first
update takes longer with longer ones.
"""

from functools import partial

import torch
import typer
from gymnasium import Env, Wrapper
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation
from torch import Generator, Tensor, nn

from compiled_rl import ClipPPOLoss, ObservationNormalizer, Policy, UpdateStep, ValueHead
from compiled_rl.functional import gae
from compiled_rl.modules import GRU, Categorical, Reads
from compiled_rl.training import Environments, UpdateEpochs

from .common import RECORDED, Numbers, Progress, is_solved, make_envs, mean_return, to_zero

NAME, ENVS, ROLLOUT, EPOCHS, WIDTH = "CartPole-v1", 16, 64, 10, 64
LENGTH, MINIBATCH = 8, 32  # of a sequence in steps, and of a minibatch in sequences
SEEN = [0, 2]  # where the cart is, and how the pole leans
READ = ("observation", "is_init", "hidden")


def without_velocities(env: Env) -> Wrapper:
    """The environment, half of which is hidden."""
    space = Box(env.observation_space.low[SEEN], env.observation_space.high[SEEN])
    return TransformObservation(env, lambda observation: observation[SEEN], space)


class Memory(nn.Module):
    """What is remembered after each step of sequences, ``[*B, T, WIDTH]``."""

    def __init__(self) -> None:
        super().__init__()
        self.normalizer = ObservationNormalizer(len(SEEN))
        self.embedding = nn.Sequential(nn.Linear(len(SEEN), WIDTH), nn.Tanh())
        self.gru = GRU(WIDTH, WIDTH)

    def forward(self, observation: Tensor, is_init: Tensor, hidden: Tensor) -> Tensor:
        """Of ``hidden``, what was remembered before the sequences, ``[*B, WIDTH]``."""
        remembered: Tensor = self.gru(self.embedding(self.normalizer(observation)), is_init, hidden)
        return remembered


class Remembering(nn.Module):
    """A head that reads a memory."""

    def __init__(self, memory: Memory, head: nn.Module) -> None:
        super().__init__()
        self.memory, self.head = memory, head

    def forward(self, observation: Tensor, is_init: Tensor, hidden: Tensor) -> Tensor:
        """What the head makes of each step of sequences."""
        output: Tensor = self.head(self.memory(observation, is_init, hidden))
        return output


def make_loss(seed: int) -> ClipPPOLoss:
    """Policy and critic on one memory, which the critic's large errors must not rule."""
    torch.manual_seed(seed)
    memory = Memory()
    policy = Policy(Reads(Remembering(memory, nn.Linear(WIDTH, 2)), *READ), Categorical)
    critic = Reads(Remembering(memory, ValueHead(WIDTH)), *READ)
    options = {"entropy_coeff": 0.0, "normalize_advantage": True}
    return ClipPPOLoss(policy, critic, critic_coeff=0.02, **options)


def one_step(network: nn.Module, observation: Tensor, is_init: Tensor, hidden: Tensor) -> Tensor:
    """What a network of sequences makes of a single step, ``[*B, ...]``."""
    time = is_init.dim()
    output: Tensor = network(observation.unsqueeze(time), is_init.unsqueeze(time), hidden)
    return output.squeeze(time)


class RecurrentCollector(Environments):
    """Steps the environments with a policy that remembers, and keeps what it remembered."""

    def __init__(self, policy: Remembering, seed: int) -> None:
        super().__init__(make_envs(NAME, ENVS, [without_velocities]), seed)
        self.memory, self.policy = policy.memory, Policy(policy.head, Categorical)
        self.generator = Generator().manual_seed(seed)
        self.is_init = torch.ones(ENVS, dtype=torch.bool)
        self.hidden = torch.zeros(ENVS, WIDTH)

    @torch.no_grad()
    def collect(self, steps: int) -> Numbers:
        """The next steps of every environment, each field ``[T, B, ...]``."""
        rows = [self._act() for _ in range(steps)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _act(self) -> Numbers:
        is_init, hidden = self.is_init, self.hidden
        self.hidden = one_step(self.memory, self.observation, is_init, hidden)
        action, log_prob, _ = self.policy.act(self.hidden, generator=self.generator)
        row = {**self.step(action), "action": action, "action_log_prob": log_prob}
        self.is_init = row["next_done"]
        return {**row, "is_init": is_init, "hidden": hidden, "next_hidden": self.hidden}


@torch.no_grad()
def estimate(critic: nn.Module, rollout: Numbers) -> Numbers:
    """Advantage and value target; a state that was entered is the next one of its episode."""
    value_of, goes_on = partial(one_step, critic), torch.zeros_like(rollout["is_init"])
    value = value_of(rollout["observation"], rollout["is_init"], rollout["hidden"])
    next_value = value_of(rollout["next_observation"], goes_on, rollout["next_hidden"])
    ends = (rollout["next_terminated"], rollout["next_done"])
    return gae(rollout["next_reward"], value, next_value, *ends, time_dim=0)._asdict()


def sequences(critic: nn.Module, rollout: Numbers) -> Numbers:
    """What is learned from: pieces ``[N, LENGTH, ...]``, and what was remembered before them."""
    recorded = {name: rollout[name] for name in (*RECORDED, "is_init", "hidden")}
    batch = {
        name: x.unflatten(0, (-1, LENGTH)).transpose(1, 2).flatten(0, 1)
        for name, x in {**recorded, **estimate(critic, rollout)}.items()
    }
    return {**batch, "hidden": batch["hidden"][:, 0]}


def main(steps: int = 300_000, seed: int = 0, compile: bool = True) -> Progress:
    """Train until the environment is solved or the steps are used up; print the mean return."""
    torch.set_num_threads(1)  # for networks this small a second thread only waits
    loss = make_loss(seed)
    policy, critic = loss.actor_network.network.network, loss.critic_network
    collector = RecurrentCollector(policy, seed)
    update = UpdateStep(
        loss,
        torch.optim.Adam(loss.parameters(), lr=1e-3, eps=1e-5),
        max_grad_norm=0.5,
        mode="default" if compile else "eager",
        generator=collector.generator,
        rule=to_zero(steps / LENGTH * EPOCHS / MINIBATCH, learning_rate=1e-3),
    )
    learn = UpdateEpochs(update, epochs=EPOCHS, minibatch_size=MINIBATCH)
    for taken in range(ENVS * ROLLOUT, steps + ENVS * ROLLOUT, ENVS * ROLLOUT):
        batch = sequences(critic, collector.collect(ROLLOUT))
        metrics = learn(batch)
        policy.memory.normalizer.update(batch["observation"])
        if taken // (ENVS * ROLLOUT) % 10 == 0:
            reached = f"return {mean_return(collector):6.1f}"
            print(f"{taken:7,} steps  {reached}  kl {float(metrics['kl_approx'].mean()):.4f}")
        if is_solved(NAME, collector):
            break
    print(f"mean return {mean_return(collector):.1f} after {taken:,} steps")
    return Progress(taken, mean_return(collector))


if __name__ == "__main__":
    typer.run(main)
