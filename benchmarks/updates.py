"""How long does one ClipPPO update take: loss, gradients, clipping, Adam step?

Contenders do the same work from the same batch: TorchRL's loss eagerly and compiled, with
``backward``, ``clip_grad_norm_`` and Adam; the same formula by hand, eagerly; ours, eagerly and
compiled. Networks are 64x64 tanh MLPs, 17 observations, 6 actions. ``torchrl-compiled`` is the loss
compiled, as TorchRL's own scripts do it, with the Inductor options that ours has; what stays eager
there is the price of that recipe. ``plain`` computes no metrics.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import torch
import typer
from rich.console import Console
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torchrl.modules import IndependentNormal
from torchrl.objectives import ClipPPOLoss as TorchRLClipPPOLoss

from benchmarks.timing import Row, measure, one_thread, save, show
from compiled_rl import ClipPPOLoss, Policy, UpdateStep
from compiled_rl.modules import Normal, StateDependentScale

OPTIONS = {"cpp.use_decompose_tanh": True, "fallback_random": True}
BATCHES = (64, 256, 4096)
Step = Callable[[], object]


def main(quick: bool = False, json: Optional[Path] = None) -> None:
    """Print medians, ratios and compile seconds."""
    one_thread()
    rows: list[Row] = []
    for batch in BATCHES:
        contenders = _contenders(_batch(batch))
        seconds = {name: _first_call(step) for name, step in contenders.items()}
        rows += measure("clip ppo update", str(batch), contenders, 20 if quick else 60)
        slow = {name: s for name, s in seconds.items() if "compiled" in name}
        Console().print(f"first call at batch {batch}: {slow}")
    show("ClipPPO update, one thread", rows, against="torchrl")
    save(json, rows)


def _contenders(data: TensorDict) -> dict[str, Step]:
    tensors = {name: x for name, x in data.items() if name != "next"}
    return {
        "torchrl": _torchrl(data, compiled=False),
        "torchrl-compiled": _torchrl(data, compiled=True),
        "plain": _plain(tensors),
        "ours, eager": _ours(tensors, "eager"),
        "ours, compiled": _ours(tensors, "compiled"),
        "ours, compiled, TensorDict": _ours(data, "compiled"),
    }


def _mlp(out: int, *last: nn.Module) -> nn.Sequential:
    hidden = [nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(64, out), *last)


def _networks() -> tuple[Policy, nn.Module]:
    torch.manual_seed(0)
    return Policy(_mlp(12, StateDependentScale()), Normal), _mlp(1)


def _batch(size: int) -> TensorDict:
    policy, _ = _networks()
    observation = torch.randn(size, 17)
    action, log_prob = policy.act(observation)
    columns = {name: torch.randn(size, 1) for name in ("advantage", "value_target")}
    return TensorDict(
        {"observation": observation, "action": action, "action_log_prob": log_prob, **columns},
        [size],
    )


def _total(outputs: Any) -> Tensor:
    return outputs["loss_objective"] + outputs["loss_entropy"] + outputs["loss_critic"]


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
    policy, critic = _networks()
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy.network, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=IndependentNormal
        ),
    )
    loss = TorchRLClipPPOLoss(actor, TensorDictModule(critic, ["observation"], ["state_value"]))
    call = torch.compile(loss, fullgraph=True, options=OPTIONS) if compiled else loss
    return _by_hand(lambda: _total(call(data)), loss)


def _plain(tensors: dict[str, Tensor]) -> Step:
    policy, critic = _networks()

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
    loss = ClipPPOLoss(*_networks())
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    step = UpdateStep(loss, optimizer, max_grad_norm=0.5, mode=mode)
    return lambda: step(data)


def _first_call(step: Step) -> str:
    start = time.perf_counter()
    step()
    return f"{time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    typer.run(main)
