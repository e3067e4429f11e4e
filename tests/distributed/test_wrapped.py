"""DDP and FSDP2: the eager loss and ``backward`` learn as one process does; a step refuses them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from compiled_rl import A2CLoss, ClipPPOLoss, Policy, UpdateStep, ValueHead
from compiled_rl.adapters import keyword
from compiled_rl.modules import Categorical
from compiled_rl.training import SplitBatch
from tests.distributed import spawned
from tests.export.learning import loss_and_batch
from tests.losses.without_tensordict import CASES, N

Wrap = Callable[[nn.Module], nn.Module]


def sharded(module: nn.Module) -> nn.Module:
    """FSDP2, which changes the module itself."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(module, mesh=mesh)
    return module


WRAPS: dict[str, Wrap] = {"DDP": DistributedDataParallel, "FSDP2": sharded}


def total(loss: nn.Module, outputs: Any) -> Tensor:
    """What an update minimises."""
    if isinstance(outputs, Tensor):
        return outputs
    return torch.stack([getattr(outputs, name) for name in loss.minimised]).sum()


def half(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's rows of two equal parts: the wrappers average gradients."""
    size = N // dist.get_world_size()
    return {k: x.split(size)[dist.get_rank()] for k, x in batch.items()}


def gradients_apart(module: nn.Module, whole: nn.Module) -> float:
    worst = 0.0
    for (name, p), q in zip(module.named_parameters(), whole.parameters(), strict=True):
        grad = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        assert (grad is None) == (q.grad is None), name
        worst = max(worst, 0.0 if grad is None else float((grad - q.grad).abs().max()))
    assert any(q.grad is not None and q.grad.abs().max() > 0 for q in whole.parameters())
    return worst


def with_noise(loss: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    drawn = loss.draw_noise(loss.inputs(batch, {}), torch.Generator().manual_seed(0))
    return batch | {keyword(key): x for key, x in drawn.items()}


def whole_losses(wrap: str) -> dict[str, Any]:
    """Every loss, wrapped whole."""
    return {name: _tried(lambda name=name: _whole_loss(name, wrap)) for name in CASES}


def _whole_loss(name: str, wrap: str) -> float:
    (loss, batch), (alone, _) = loss_and_batch(name), loss_and_batch(name)
    for each in (loss, alone):
        each.normalize_advantage = False  # it is that of a part; see the next one
    batch = with_noise(alone, batch)
    total(alone, alone(**batch)).backward()
    wrapped = WRAPS[wrap](loss)
    total(loss, wrapped(**half(batch))).backward()
    return gradients_apart(wrapped, alone)


def of_the_whole_batch(wrap: str) -> dict[str, Any]:
    """Advantages normalised over a batch in ragged parts; the wrappers average, so it is scaled."""
    (loss, batch), (alone, _) = loss_and_batch("MAPPOLoss"), loss_and_batch("MAPPOLoss")
    total(alone, alone(**batch)).backward()
    wrapped, rows = WRAPS[wrap](loss), slice(0, 4) if dist.get_rank() == 0 else slice(4, N)
    with SplitBatch(dist.group.WORLD):
        outputs = wrapped(**{k: x[rows] for k, x in batch.items()})
    (total(loss, outputs) * dist.get_world_size()).backward()
    return {"MAPPOLoss": gradients_apart(wrapped, alone)}


def networks(wrap: Wrap) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return Policy(wrap(nn.Linear(4, 3)), Categorical), wrap(ValueHead(4))


def of_networks(wrap: str) -> dict[str, Any]:
    """Losses of an actor and a critic, of which each is wrapped; the actor's network is."""
    return {
        kind.__name__: _tried(lambda kind=kind: _of_networks(kind, WRAPS[wrap]))
        for kind in (A2CLoss, ClipPPOLoss)
    }


def _of_networks(kind: Any, wrap: Wrap) -> float:
    loss, alone = kind(*networks(wrap)), kind(*networks(lambda module: module))
    torch.manual_seed(1)
    batch = {"observation": torch.randn(N, 4), "action": torch.randint(3, (N,))}
    batch |= {name: torch.randn(N) for name in ("action_log_prob", "advantage", "value_target")}
    total(alone, alone(**batch)).backward()
    total(loss, loss(**half(batch))).backward()
    return gradients_apart(loss, alone)


def _tried(compute: Callable[[], float]) -> Any:
    try:
        return compute()
    except Exception as error:
        return repr(error)


def refusal(wrap: str) -> str:
    loss = A2CLoss(*networks(WRAPS[wrap]))
    with pytest.raises(TypeError) as caught:
        UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1), mode="eager")
    return str(caught.value)


def check(found: list[dict[str, Any]], unfit: tuple[str, ...] = ()) -> None:
    for rank, each in enumerate(found):
        refused = [name for name, x in each.items() if "scalar parameters" in str(x)]
        assert refused == list(unfit)
        fit = {name: x for name, x in each.items() if name not in unfit}
        beyond = {name: x for name, x in fit.items() if not (isinstance(x, float) and x < 1e-6)}
        assert fit, rank
        assert not beyond, f"rank {rank}: {beyond}"


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPS)
def test_every_loss_may_be_wrapped(wrap):
    learned_temperatures = ("DiscreteSACLoss", "SACLoss")  # 0-d, which torch's FSDP2 refuses
    check(spawned.run(whole_losses, 2, wrap), learned_temperatures if wrap == "FSDP2" else ())


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPS)
def test_statistics_may_be_of_the_whole_batch(wrap):
    check(spawned.run(of_the_whole_batch, 2, wrap))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPS)
def test_networks_may_be_wrapped(wrap):
    check(spawned.run(of_networks, 2, wrap))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrap", "kind"), [("DDP", "DistributedDataParallel"), ("FSDP2", "FSDPModule")]
)
def test_a_step_refuses_them(wrap, kind):
    for sentence in spawned.run(refusal, 2, wrap):
        assert f"`loss` must hold plain modules, got a {kind} at `actor_network.net" in sentence
