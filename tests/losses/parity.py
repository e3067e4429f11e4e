"""A loss of ours and TorchRL's side by side: made alike, moved alike, compared."""

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl import objectives as torchrl

from compiled_rl import losses
from tests.losses.peers import ACTION, gradients, networks, record, unestimated

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
Arguments = dict[str, Any]


def both(
    loss: str, actor: nn.Module, critic: nn.Module, arguments: Arguments, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Our loss and TorchRL's on the same networks, the coefficients in the dtype, too."""
    if loss == "KLPENPPOLoss":  # TorchRL's moves the weight between the loss and its gradient
        arguments = {"increment": 1.0, "decrement": 1.0, **arguments}
    ours = getattr(losses, loss)(actor, critic, **arguments)
    theirs = getattr(torchrl, loss)(actor, critic, **arguments)
    return ours.to(dtype), theirs.to(dtype)


def estimate_with(member: str, ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    ours.make_value_estimator(member, gamma=0.9)
    theirs.make_value_estimator(torchrl.ValueEstimators[member], gamma=0.9)
    ours.to(dtype)
    theirs.to(dtype)


def move_targets(ours: Any, theirs: Any) -> None:
    """Away from the networks that they are copies of, by the same on both sides."""
    for name in ("actor", "critic"):
        copy = getattr(ours, f"target_{name}_network", None)
        if copy is not None:
            for x in copy.buffers():
                x.add_(0.1)
            view = getattr(theirs, f"target_{name}_network_params")
            view.data.apply_(lambda x: x.add_(0.1))


def entropy_noise(ours: Any, shape: torch.Size, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """What TorchRL's draws after the seed, of a tanh-normal: samples first there, last here."""
    if "entropy_noise" not in ours.in_keys:
        return {}
    torch.manual_seed(seed)
    zeros = torch.zeros(ours.samples_mc_entropy, *shape, ACTION, dtype=dtype)
    return {"entropy_noise": torch.normal(zeros, torch.ones_like(zeros)).movedim(0, -1)}


def assert_parity(
    ours: Any, theirs: Any, data: TensorDictBase, given: bool = True, metrics: bool = True
) -> None:
    parameters = list(ours.parameters())
    dtype = parameters[0].dtype
    noise = entropy_noise(ours, data.batch_size, dtype, seed=2)
    data = data if given else unestimated(data)
    before = data.clone()
    torch.manual_seed(2)
    expected = theirs(data.clone())
    mine = ours(data.clone().update(noise))
    assert (data == before).all()
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for name, x in expected.items(include_nested=True, leaves_only=True):
        if metrics or str(name).startswith("loss_"):
            compare(mine, name, x, close)
    for name in expected.keys():
        if name.startswith("loss_"):
            a, b = (gradients(out[name], ours) for out in (mine, expected))
            assert [x is None for x in a] == [x is None for x in b], name
            torch.testing.assert_close(a, b, **close, msg=lambda m, n=name: f"{n}: {m}")


def compare(mine: TensorDictBase, name: Any, x: Tensor, close: dict[str, float]) -> None:
    if name in ("ESS", "explained_variance"):
        if x.numel() > 1:
            return  # one for each time there, one for all here
        x = x.squeeze()
    if name == "kl" or "composite_entropy" in name:
        x = x.mean()  # one for each step there
    torch.testing.assert_close(mine[name], x, **close, msg=lambda m: f"{name}: {m}")


def pair(name: str, *kind: Any, **arguments: Any) -> tuple[Any, Any]:
    """Ours and TorchRL's, on networks of their own with the same weights."""
    made = (getattr(losses, name), getattr(torchrl, name))
    ours, theirs = (loss(*networks(*kind), **arguments) for loss in made)
    return ours, theirs


def steps(*kind: Any, shape: tuple[int, ...] = (4, 5)) -> TensorDictBase:
    return record(networks(*kind)[0], shape)
