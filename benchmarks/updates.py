"""How long does one ClipPPO update take: loss, gradients, clipping, Adam step?

Contenders do the same work from the same batch: TorchRL's loss eagerly and compiled, with
``backward``, ``clip_grad_norm_`` and Adam; the same formula by hand, eagerly; ours, eagerly and
compiled. Networks are 64x64 tanh MLPs, 17 observations, 6 actions. ``torchrl-compiled`` is the loss
compiled, as TorchRL's own scripts do it, with the Inductor options that ours has; what stays eager
there is the price of that recipe. ``plain`` computes no metrics.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import torch
import typer
from rich.console import Console
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.objectives import ClipPPOLoss as TorchRLClipPPOLoss

from benchmarks.timing import Row, measure, one_thread, save, show
from benchmarks.workload import (
    BATCHES,
    OPTIONS,
    Step,
    first_call,
    make_batch,
    networks,
    torchrl_networks,
    total,
)
from compiled_rl import ClipPPOLoss, UpdateStep


def main(quick: bool = False, json: Optional[Path] = None) -> None:
    """Print medians, ratios and compile seconds."""
    one_thread()
    rows: list[Row] = []
    for batch in BATCHES:
        data = make_batch(batch, torchrl_networks()[0]).exclude("loc", "scale")
        contenders = _contenders(data)
        seconds = {name: first_call(step) for name, step in contenders.items()}
        rows += measure("clip ppo update", str(batch), contenders, 20 if quick else 60)
        slow = {name: s for name, s in seconds.items() if "compiled" in name}
        Console().print(f"first call at batch {batch}: {slow}")
    show("ClipPPO update, one thread", rows, against="torchrl")
    save(json, rows)


def _contenders(data: TensorDict) -> dict[str, Step]:
    tensors = dict(data.items())
    return {
        "torchrl": _torchrl(data, compiled=False),
        "torchrl-compiled": _torchrl(data, compiled=True),
        "plain": _plain(tensors),
        "ours, eager": _ours(tensors, "eager"),
        "ours, compiled": _ours(tensors, "compiled"),
        "ours, compiled, TensorDict": _ours(data, "compiled"),
    }


def _by_hand(forward: Callable[[], Tensor], module: nn.Module) -> Step:
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-4)
    params = list(module.parameters())

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        nn.utils.clip_grad_norm_(params, 0.5)
        optimizer.step()

    return step


def _torchrl(data: TensorDict, compiled: bool) -> Step:
    loss = TorchRLClipPPOLoss(*torchrl_networks())
    call = torch.compile(loss, fullgraph=True, options=OPTIONS) if compiled else loss
    return _by_hand(lambda: total(call(data)), loss)


def _plain(tensors: dict[str, Tensor]) -> Step:
    policy, critic = networks()

    def forward() -> Tensor:
        loc, scale = policy.network(tensors["observation"])
        distribution = torch.distributions.Normal(loc, scale, validate_args=False)
        log_ratio = distribution.log_prob(tensors["action"]).sum(-1) - tensors["action_log_prob"]
        advantage = tensors["advantage"].squeeze(-1)
        clipped = log_ratio.exp().clamp(0.8, 1.2) * advantage
        objective = -torch.minimum(log_ratio.exp() * advantage, clipped).mean()
        entropy = distribution.entropy().sum(-1).mean()
        value = critic(tensors["observation"])
        regression = nn.functional.smooth_l1_loss(value, tensors["value_target"])
        return objective - 0.01 * entropy + regression

    return _by_hand(forward, nn.ModuleList([policy, critic]))


def _ours(data: Any, mode: str) -> Step:
    loss = ClipPPOLoss(*networks())
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    step = UpdateStep(loss, optimizer, max_grad_norm=0.5, mode=mode)
    return lambda: step(data)


if __name__ == "__main__":
    typer.run(main)
