"""Train PPO on CartPole-v1, export what was trained, prove the files, and play without torch."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from compiled_rl import ClipPPOLoss, functional
from compiled_rl.export import Report, to_onnx
from compiled_rl.tables import checks_table

from .common import Progress
from .ppo_cartpole import solved, train

matplotlib.use("Agg")
console = Console()


def main(
    out: Path = Path("runs/demo"),
    steps: Annotated[int, typer.Option(min=1)] = 100_000,
    seed: int = 0,
    compile: bool = True,
    resume: bool = False,
) -> None:
    """Train, export, prove, play; everything that is made goes to OUT."""
    torch.set_num_threads(1)  # the networks are small: a second thread only waits
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise typer.BadParameter(f"there is no {checkpoint} to go on from")
    try:
        loss, history = _train(steps, seed, compile, checkpoint, resume)
        title = "Artefacts, in ONNX Runtime against eager on random inputs"
        console.print(checks_table(title, export(loss, history, out)))
        play(out / "policy.onnx")
    except KeyboardInterrupt:
        kept = f"Go on from {checkpoint} with --resume." if checkpoint.exists() else ""
        console.print(f"\nInterrupted. {kept}")
        raise typer.Exit(130) from None


def _train(
    steps: int, seed: int, compile: bool, checkpoint: Path, resume: bool
) -> tuple[ClipPPOLoss, list[Progress]]:
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("return {task.fields[mean_return]:.1f}"),
        TextColumn("{task.fields[rate]:.0f} steps/s"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    first = "; the first update compiles" if compile else ""
    console.print(f"Training ClipPPOLoss on CartPole-v1{first}.")
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("train", total=steps, mean_return=0.0, rate=0.0)
        loss, history = train(steps, seed, compile, checkpoint, _follow(bar, task), resume)
    last = history[-1]
    verdict = "Solved" if solved(history) else "Stopped"
    console.print(f"{verdict} after {last.steps:,} steps, mean return {last.mean_return:.1f}.")
    return loss, history


def _follow(bar: Bar, task: int) -> Callable[[Progress], None]:
    """Show progress, with the speed since the first rollout: that one compiles."""
    first: list[tuple[float, int]] = []

    def follow(progress: Progress) -> None:
        first.append((time.perf_counter(), progress.steps))
        seconds, steps = first[-1][0] - first[0][0], first[-1][1] - first[0][1]
        rate = steps / seconds if seconds else 0.0
        bar.update(task, completed=progress.steps, mean_return=progress.mean_return, rate=rate)

    return follow


def export(loss: ClipPPOLoss, history: list[Progress], out: Path) -> list[Report]:
    """Policy, value network and estimator as ONNX files, and the learning curve."""
    _draw(history, out / "learning_curve.png")
    observation = torch.randn(2, 4)
    value = torch.randn(2, 8)
    flag = torch.zeros(2, 8, dtype=torch.bool)
    sequence = {"reward": value, "value": value, "next_value": value}
    gamma, lmbda = (float(x) for x in (loss.value_estimator.gamma, loss.value_estimator.lmbda))
    return [
        to_onnx(loss.actor_network, observation, out / "policy.onnx"),
        to_onnx(
            loss.critic_network,
            {"input": observation},
            out / "value.onnx",
            output_names=("value",),
        ),
        to_onnx(
            partial(functional.gae, gamma=gamma, lmbda=lmbda),
            {**sequence, "terminated": flag, "done": flag},
            out / "gae.onnx",
            dynamic=("batch", "time"),
        ),
    ]


def play(policy: Path) -> None:
    """Twenty episodes in a process that never imports torch."""
    console.print("Playing 20 episodes with ONNX Runtime alone (torch is not imported) …")
    command = [sys.executable, "-m", f"{__package__}.play", str(policy), "CartPole-v1", "20"]
    subprocess.run(command, check=True)


def _draw(history: list[Progress], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot([row.steps for row in history], [row.mean_return for row in history])
    axes.axhline(475, color="grey", linestyle="--", linewidth=1)
    axes.text(0, 478, "solved", color="grey", va="bottom")
    axes.set(xlabel="environment steps", ylabel="return, mean of 20 episodes", ylim=(0, 520))
    axes.set_title("ClipPPOLoss on CartPole-v1")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
