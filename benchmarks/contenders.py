"""Who takes part in the benchmarks of whole updates: eight losses, and each contender's update.

Contenders do the same work from the same batch with the same networks: gradients of the sum of the
losses; clipping and one Adam on-policy; an Adam a network (QMIX and the formulas by hand: one for
all, which computes the same) and Polyak averages of the delayed networks off-policy.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from tensordict.nn import CudaGraphModule
from torch import nn
from torchrl import modules
from torchrl import objectives as torchrl

import compiled_rl
from benchmarks.plain import make_update, networks_of
from benchmarks.transitions import SUBJECTS as OFF_POLICY
from benchmarks.transitions import Subject
from benchmarks.workload import OPTIONS, TAU, make_batch, networks, torchrl_networks, total
from compiled_rl import UpdateStep
from compiled_rl.modules import Normal, TanhNormal

Update = Callable[[Any], object]
UNCOMPILED = ("KLPENPPOLoss",)  # TorchRL's; see `losses.py`


def _on_policy(name: str, ours: Any, theirs: Any, *left_out: str, **arguments: float) -> Subject:
    """A loss of a policy whose family is ``ours`` here and ``theirs`` in TorchRL."""
    return Subject(
        name,
        partial(networks, ours),
        ("",),  # one optimiser for both networks
        arguments,
        data=lambda size: make_batch(size, torchrl_networks(theirs)[0]).exclude(*left_out),
        wrap=lambda *_: torchrl_networks(theirs),
        max_grad_norm=0.5,
    )


PARAMS = ("loc", "scale")  # of the policy that acted, which only a divergence needs
STILL = {"increment": 1.0, "decrement": 1.0}  # or beta goes to zero on one batch
SUBJECTS = [
    _on_policy("A2CLoss", TanhNormal, modules.TanhNormal, *PARAMS),
    _on_policy("ClipPPOLoss", Normal, modules.IndependentNormal, *PARAMS),
    _on_policy("KLPENPPOLoss", Normal, modules.IndependentNormal, **STILL),
    *OFF_POLICY,
]


class Contender(NamedTuple):
    """How an update is made of a loss, and whether it takes a TensorDict or tensors by name."""

    make: Callable[[Subject, torch.device], Update]
    nested: bool = False
    compiled: bool = False

    def batch(self, subject: Subject, size: int, device: torch.device) -> Any:
        """A batch in the form that the update takes."""
        data = subject.data(size).to(device)
        return data if self.nested else dict(data.flatten_keys("_").items())

    def update(self, subject: Subject, device: torch.device) -> Update:
        """The update; on a GPU it is over when it returns."""
        update = self.make(subject, device)
        if device.type == "cpu":
            return update

        def finished(batch: Any) -> None:
            update(batch)
            torch.cuda.synchronize(device)

        return finished


def contenders_of(subject: Subject) -> Mapping[str, Contender]:
    """Those that can train a loss."""
    missing = ("torchrl-compiled",) if subject.name in UNCOMPILED else ()
    return {name: contender for name, contender in CONTENDERS.items() if name not in missing}


def quiet() -> None:
    """Leave out what is said of targets that no updater moves yet, and of compiling."""
    warnings.filterwarnings("ignore", message=".*o target network updater|.*no updater was made")
    warnings.filterwarnings("ignore", category=FutureWarning, module="tensordict")
    torch._logging.set_logs(dynamo=logging.ERROR)


def _torchrl(subject: Subject, device: torch.device, compiled: bool) -> Update:
    loss = subject.wrapped(torchrl).to(device)
    loss(subject.data(2).to(device))  # some of its losses have their state from then on
    optimizers, params = subject.optimizers(loss), list(loss.parameters())
    updater = _updater(torchrl, subject, loss)
    # The way of TorchRL's own scripts, with the Inductor options that ours has.
    options = OPTIONS if device.type == "cpu" else None
    call = torch.compile(loss, fullgraph=True, options=options) if compiled else loss

    def update(batch: TensorDict) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        total(call(batch)).backward()
        if subject.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(params, subject.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        if updater is not None:
            updater.step()

    return update


def _plain(subject: Subject, device: torch.device, capturable: bool = False) -> Update:
    own = networks_of(subject.plain().to(device))
    return make_update(subject.name, own, subject.max_grad_norm, capturable)


def _leanrl(subject: Subject, device: torch.device) -> Update:
    on_gpu = device.type == "cuda"
    update = torch.compile(_plain(subject, device, capturable=on_gpu))
    return CudaGraphModule(update) if on_gpu else update


def _ours(subject: Subject, device: torch.device, drop_in: bool = False, **mode: str) -> Update:
    loss = (subject.wrapped(compiled_rl) if drop_in else subject.plain()).to(device)
    if device.type == "cuda":
        mode = {"mode": "reduce-overhead"} | mode
    step = step_of(subject, loss, **mode)
    return step if drop_in else lambda batch: step(**batch)


def step_of(subject: Subject, loss: nn.Module, **mode: Any) -> UpdateStep:
    """The update of one of our losses."""
    return UpdateStep(
        loss,
        subject.optimizers(loss),
        max_grad_norm=subject.max_grad_norm,
        target_updater=_updater(compiled_rl, subject, loss),
        **mode,
    )


def _updater(library: Any, subject: Subject, loss: nn.Module) -> Any:
    """On-policy losses have no frozen copies."""
    return library.SoftUpdate(loss, tau=TAU) if subject.max_grad_norm is None else None


CONTENDERS = {
    "torchrl": Contender(partial(_torchrl, compiled=False), nested=True),
    "torchrl-compiled": Contender(partial(_torchrl, compiled=True), nested=True, compiled=True),
    "plain": Contender(_plain),
    "leanrl": Contender(_leanrl, compiled=True),
    "ours": Contender(_ours, compiled=True),
    "ours, drop-in": Contender(partial(_ours, drop_in=True), nested=True, compiled=True),
    "ours, eager": Contender(partial(_ours, mode="eager")),
}
