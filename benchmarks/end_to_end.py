"""How many frames a second does PPO train CartPole-v1 at, end to end, and where does the time go?

Contenders have the same environments (Gymnasium's synchronous vector), initial weights,
hyper-parameters and number of frames, and take turns: an iteration of 512 frames each. ``cleanrl``
is ``cleanrl_ppo.py``; ``ours`` is ``Collector``, ``GAE``, ``ClipPPOLoss`` and ``UpdateEpochs``,
compiled or eager; ``torchrl`` is TorchRL's ``GAE`` and ``ClipPPOLoss``, eager, behind our
``Collector``. Torch has one thread: of networks this small a second one only waits.

Where they differ, each keeps its own ways: ``cleanrl`` calls the critic at every step and takes a
time limit for an end; the others value whole rollouts, and bootstrap at a time limit.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional

import matplotlib
import torch
import typer
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torchrl import objectives as torchrl
from torchrl.objectives.value import GAE

from benchmarks import cleanrl_ppo
from benchmarks.cleanrl_ppo import Agent, Config, make_envs
from benchmarks.timing import Row, one_thread, save, summary
from compiled_rl import ClipPPOLoss, Policy, UpdateEpochs, UpdateStep
from compiled_rl.modules import Categorical
from compiled_rl.training import Collector

matplotlib.use("Agg")

PARTS = {  # in the colours of Okabe and Ito, which the colour-blind tell apart, and their ink
    "environment": ("#bbbbbb", "black"),
    "inference": ("#56b4e9", "black"),
    "estimator": ("#d55e00", "white"),
    "update": ("#0072b2", "white"),
    "other": ("#f0e442", "black"),
}
RECORDED = ("observation", "action", "action_log_prob")
LEARNED_FROM = (*RECORDED, "advantage", "value_target", "state_value")
WARM_UP = 2  # iterations, in which the update compiles
Seconds = dict[str, float]


class Contender(NamedTuple):
    """One that trains, and the objects whose ``step`` and ``act`` it calls."""

    training: Any
    envs: Any
    actor: Any
    finished_returns: list[float]


Maker = Callable[[Config], Contender]


class Result(NamedTuple):
    """Seconds of each part in each iteration, and the mean return of the last 20 episodes."""

    iterations: list[Seconds]
    mean_return: float

    @property
    def steady(self) -> list[Seconds]:
        """The iterations after those that compile."""
        return self.iterations[WARM_UP:]


def main(
    frames: Annotated[int, typer.Option(min=2_048)] = 100_000,
    quick: bool = False,
    seed: int = 1,
    json: Optional[Path] = None,
    picture: Optional[Path] = None,
) -> None:
    """Print frames a second, returns and the split; ``--picture FILE`` draws the split."""
    one_thread()
    config = Config(8_192 if quick else frames, seed)
    results = run(CONTENDERS, config)
    _show(results, config)
    if picture is not None:
        _draw(results, config, picture)
    save(json, rows(results, config))


def run(makers: Mapping[str, Maker], config: Config) -> dict[str, Result]:
    """Train all contenders; they take turns."""
    contenders = {name: make(config) for name, make in makers.items()}
    iterations = {name: _timed_iterations(each) for name, each in contenders.items()}
    taken: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for _ in range(config.iterations):
        for name in contenders:
            taken[name].append(next(iterations[name]))
    return {
        name: Result(taken[name], _mean(each.finished_returns[-20:]))
        for name, each in contenders.items()
    }


def _timed_iterations(contender: Contender) -> Iterator[Seconds]:
    """Iterate, and say how many seconds each part took."""
    spent: Seconds = {}
    _time(contender.envs, "step", spent, "environment")
    _time(contender.actor, "act", spent, "inference")
    _time(contender.training, "estimate", spent, "estimator")
    _time(contender.training, "update", spent, "update")
    while True:
        spent.update(dict.fromkeys(PARTS, 0.0))
        start = time.perf_counter()
        contender.training.iterate()
        spent["other"] = time.perf_counter() - start - sum(spent.values())
        yield dict(spent)


def _time(owner: object, method: str, spent: Seconds, part: str) -> None:
    """Add the seconds of every call of a method of this one object to a part."""
    call = getattr(owner, method)

    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **options)
        spent[part] += time.perf_counter() - start
        return result

    setattr(owner, method, timed)


def _mean(x: list[float]) -> float:
    return sum(x) / max(len(x), 1)


def _cleanrl(config: Config) -> Contender:
    training = cleanrl_ppo.Training(make_envs(config.envs), config)
    return Contender(training, training.envs, training, training.finished_returns)


class Collected:
    """What both libraries' training shares: CleanRL's networks with CleanRL's first weights."""

    optimizer: torch.optim.Optimizer
    estimate: Callable[[dict[str, Tensor]], Any]
    update: Callable[[Any], None]

    def __init__(self, config: Config) -> None:
        self.config, self.iteration = config, 0
        self.policy, self.critic = networks(config.seed)
        self.collector = Collector(make_envs(config.envs), self.policy, config.seed)

    def iterate(self) -> None:
        """Collect a batch and learn from it."""
        self.optimizer.param_groups[0]["lr"] = self.config.annealed(self.iteration)
        self.update(self.estimate(self.collector.collect(self.config.steps)))
        self.iteration += 1


class Ours(Collected):
    """Training on ``compiled_rl``; the options are ``UpdateStep``'s, which compiles by default."""

    def __init__(self, config: Config, **options: Any) -> None:
        super().__init__(config)
        self.loss = ours_loss(self.policy, self.critic, config)
        self.optimizer = _adam(self.loss, config)
        options |= {"max_grad_norm": config.max_grad_norm, "generator": self.collector.generator}
        step = UpdateStep(self.loss, self.optimizer, **options)
        size = config.batch // config.minibatches
        self.epochs = UpdateEpochs(step, epochs=config.epochs, minibatch_size=size)

    def estimate(self, rollout: dict[str, Tensor]) -> dict[str, Tensor]:
        """What was recorded, with advantage, value target and value, flat."""
        rollout = rollout | self.loss.value_estimator(rollout, time_dim=0)
        return {name: rollout[name].flatten(0, 1) for name in LEARNED_FROM}

    def update(self, batch: dict[str, Tensor]) -> None:
        """All epochs and minibatches."""
        self.epochs(batch)


class TorchRL(Collected):
    """Training on TorchRL's estimator and loss, eagerly."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        actor, critic = _wrapped(self.policy, self.critic[0])
        self.loss = torchrl.ClipPPOLoss(actor, critic, **_options(config))
        discounts = {"gamma": config.gamma, "lmbda": config.lmbda}
        self.estimator = GAE(value_network=critic, time_dim=0, **discounts)
        self.optimizer = _adam(self.loss, config)

    def estimate(self, rollout: dict[str, Tensor]) -> TensorDict:
        """What was recorded, with advantage, value target and value, flat."""
        ends = {x: rollout[f"next_{x}"].unsqueeze(-1) for x in ("reward", "terminated", "done")}
        data = {name: rollout[name] for name in RECORDED}
        data["next"] = ends | {"observation": rollout["next_observation"]}
        with torch.no_grad():
            estimated = self.estimator(TensorDict(data, rollout["action"].shape))
        return estimated.select(*LEARNED_FROM).flatten(0, 1)

    def update(self, batch: TensorDict) -> None:
        """All epochs and minibatches."""
        for index in self.minibatches():
            outputs = self.loss(batch[index])
            self.optimizer.zero_grad()
            sum(x for name, x in outputs.items() if name.startswith("loss_")).backward()
            nn.utils.clip_grad_norm_(self.loss.parameters(), self.config.max_grad_norm)
            self.optimizer.step()

    def minibatches(self) -> Iterator[Tensor]:
        """The indices of each, in another order in each epoch."""
        batch = self.config.batch
        for _ in range(self.config.epochs):
            order = torch.randperm(batch, generator=self.collector.generator)
            yield from order.split(batch // self.config.minibatches)


def networks(seed: int) -> tuple[Policy, nn.Module]:
    """CleanRL's networks, the same at every call, as a policy and a critic."""
    torch.manual_seed(seed)
    agent = Agent()
    one_number = nn.Flatten(-2)  # [*B, 1] to [*B]
    return Policy(agent.actor, Categorical), nn.Sequential(agent.critic, one_number)


def ours_loss(policy: Policy, critic: nn.Module, config: Config) -> ClipPPOLoss:
    """CleanRL's loss."""
    loss = ClipPPOLoss(policy, critic, **_options(config))
    loss.make_value_estimator(gamma=config.gamma, lmbda=config.lmbda)
    return loss


def _options(config: Config) -> dict[str, Any]:
    return {
        "clip_epsilon": config.clip,
        "clip_value": config.clip,
        "entropy_coeff": config.entropy,
        "critic_coeff": config.value / 2,  # CleanRL takes half the squared error
        "loss_critic_type": "l2",
        "normalize_advantage": True,
    }


def _adam(module: nn.Module, config: Config) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=config.learning_rate, eps=config.adam_eps)


def _wrapped(
    policy: Policy, critic: nn.Module
) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """The networks as TorchRL's users wrap them."""
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy.network, ["observation"], ["logits"]),
        ProbabilisticTensorDictModule(
            ["logits"],
            ["action"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        ),
    )
    return actor, TensorDictModule(critic, ["observation"], ["state_value"])


def _collected(make: Callable[[Config], Collected], config: Config) -> Contender:
    training = make(config)
    collector = training.collector
    return Contender(training, collector.envs, collector.policy, collector.finished_returns)


CONTENDERS: dict[str, Maker] = {
    "cleanrl": _cleanrl,
    "torchrl": partial(_collected, TorchRL),
    "ours, eager": partial(_collected, partial(Ours, mode="eager")),
    "ours": partial(_collected, Ours),
}


def rows(results: Mapping[str, Result], config: Config) -> list[Row]:
    """Of a frame: all of it, its parts, and what a frame of the first iterations took."""
    shape = f"{config.frames} frames"
    made: list[Row] = []
    for name, result in results.items():
        totals = [sum(x.values()) / config.batch for x in result.steady]
        made.append(summary("frame", name, shape, totals))
        for part in PARTS:
            taken = [x[part] / config.batch for x in result.steady]
            made.append(summary(f"frame: {part}", name, shape, taken))
        first = sum(per_frame(result.iterations[:WARM_UP], config).values())
        made.append(Row(f"frame of the first {WARM_UP} iterations", name, shape, first, 0.0))
    return made


def per_frame(iterations: list[Seconds], config: Config) -> dict[str, float]:
    """Microseconds of each part, the mean."""
    frames = len(iterations) * config.batch
    return {part: sum(x[part] for x in iterations) / frames * 1e6 for part in PARTS}


def _show(results: Mapping[str, Result], config: Config) -> None:
    speeds = {name: _speed(result.steady, config) for name, result in results.items()}
    columns = ("frames/s", "times cleanrl", "frames/s with warm-up", "return")
    cells = {
        name: [
            f"{speeds[name]:,.0f}",
            f"{speeds[name] / speeds['cleanrl']:.2f}",
            f"{_speed(result.iterations, config):,.0f}",
            f"{result.mean_return:.0f}",
        ]
        for name, result in results.items()
    }
    _print(f"PPO on CartPole-v1, {config.frames:,} frames, one thread", columns, cells)
    parts = {name: per_frame(result.steady, config) for name, result in results.items()}
    cells = {name: [f"{us:.1f}" for us in split.values()] for name, split in parts.items()}
    _print("where the time goes, microseconds a frame", tuple(PARTS), cells)


def _print(title: str, columns: tuple[str, ...], cells: Mapping[str, list[str]]) -> None:
    table = Table("contender", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in cells.items():
        table.add_row(name, *row)
    Console().print(table)


def _speed(iterations: list[Seconds], config: Config) -> float:
    """Frames a second."""
    return 1e6 / sum(per_frame(iterations, config).values())


def _draw(results: Mapping[str, Result], config: Config, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.75 * len(results) + 1.5), layout="constrained")
    split = {name: per_frame(result.steady, config) for name, result in results.items()}
    longest = max(sum(parts.values()) for parts in split.values())
    for part, (colour, ink) in PARTS.items():
        lefts = [_before(part, parts) for parts in split.values()]
        widths = [parts[part] for parts in split.values()]
        bars = axes.barh(list(split), widths, 0.7, lefts, color=colour, edgecolor="white")
        bars.set_label(part)
        labels = [f"{width:.0f}" if width > longest / 60 else "" for width in widths]
        axes.bar_label(bars, labels, label_type="center", color=ink)
    for name, parts in split.items():
        total = sum(parts.values())
        axes.text(total + longest / 100, name, f"{1e6 / total:,.0f} frames/s", va="center")
    axes.invert_yaxis()
    axes.set(xlabel="microseconds a frame", xlim=(0, 1.17 * longest))
    axes.set_title("PPO on CartPole-v1: where the time goes", loc="left", pad=28)
    axes.legend(ncols=len(PARTS), loc="lower left", bbox_to_anchor=(-0.01, 1.0), frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _before(part: str, parts: Mapping[str, float]) -> float:
    """Where a part begins in its bar."""
    names = list(PARTS)
    return sum(parts[name] for name in names[: names.index(part)])


if __name__ == "__main__":
    typer.run(main)
