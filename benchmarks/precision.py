"""How far from float64 is every loss, estimator and function in float32, and in bfloat16?

Weights and data are float32 numbers, the same in every precision; ``float64`` computes with them
exactly, for this purpose. Losses and estimators run in float32, and in float32 under
``torch.autocast("cpu", torch.bfloat16)``, which is what ``UpdateStep(autocast=torch.bfloat16)``
does: networks in bfloat16, all else in float32. Functions, in which autocast has nothing to change,
get float32 numbers, or bfloat16 ones, which ``float64`` gets, too.

An error is the length of the difference divided by that of what is exact: of the values (what is
minimised, of every sample; of an estimator, advantage and value target), and of the gradients of
their sum (by every parameter; of an estimator, by rewards and observations). TorchRL's are on the
same networks and data. There are none beside a loss that draws its own noise, which is another in
another precision, and beside V-trace, which takes the probability of another action there.
Networks and data are those of the tests; ``tests/numbers`` holds our figures to bounds.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
import typer
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl import objectives
from torchrl.objectives import multiagent
from torchrl.objectives import value as torchrl_estimators

from compiled_rl import estimators, losses
from tests.cases import CASES, Case
from tests.losses import peers, teams
from tests.losses.q_networks import C51_SUBJECTS, Q_SUBJECTS
from tests.losses.team_networks import TEAM_SUBJECTS
from tests.losses.transitions import SUBJECTS

Numbers = list[Tensor]
Results = tuple[Numbers, Numbers]  # values and gradients


class Errors(NamedTuple):
    """Relative errors of values and gradients, in float32 and in bfloat16; None: no gradient."""

    value: float
    gradient: Optional[float]
    coarse_value: float
    coarse_gradient: Optional[float]


class Owner(NamedTuple):
    """A loss or an estimator, made of either library, and what it is shown."""

    ours: Callable[[], nn.Module]
    theirs: Optional[Callable[[], nn.Module]]
    data: Callable[[], TensorDictBase]
    results: Callable[[Any, TensorDictBase], Results]


# ---- what is compared ----------------------------------------------------------------------------


def of_loss(loss: Any, data: TensorDictBase) -> Results:
    """What is minimised, of every sample, and its gradient by every parameter."""
    outputs = loss(data.clone())
    found = [x for name, x in outputs.items() if str(name) == "loss" or name.startswith("loss_")]
    return _with_gradients(found, [p for p in loss.parameters() if p.requires_grad])


def of_estimator(estimator: Any, data: TensorDictBase) -> Results:
    """Advantage and value target, and their gradient by rewards and observations."""
    data = data.clone()
    keys = [key for key in data.keys(True, True) if _last(key) in ("reward", "observation")]
    leaves = [data[key].requires_grad_() for key in keys]
    outputs = estimator(data)
    return _with_gradients([outputs["advantage"], outputs["value_target"]], leaves)


def of_case(case: Case, inputs: dict[str, Tensor]) -> Results:
    """A function's outputs, and their gradient by what it has one to."""
    given = {k: x.clone().requires_grad_(k in case.differentiable) for k, x in inputs.items()}
    outputs = [x for x in case.call(case.function, given) if x.is_floating_point()]
    return _with_gradients(outputs, [given[name] for name in case.differentiable])


def _with_gradients(values: Numbers, leaves: Numbers) -> Results:
    if not leaves:
        return values, []
    # Each times another number: a sum of rows whose gradients cancel out would be of rounding only.
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randint(1, 5, x.shape, generator=generator).to(x.dtype) for x in values]
    total = sum((w * x).sum() for w, x in zip(weights, values, strict=True))
    assert isinstance(total, Tensor)
    grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return values, list(grads)


def _last(key: Any) -> str:
    return key if isinstance(key, str) else key[-1]


# ---- how far it is -------------------------------------------------------------------------------


def error(got: Sequence[Tensor], exact: Sequence[Tensor]) -> Optional[float]:
    """The length of the difference, divided by that of what is exact."""
    if not exact:
        return None
    a, b = (torch.cat([x.detach().double().flatten() for x in part]) for part in (got, exact))
    same = a == b  # of infinities, too
    length = torch.where(same & b.isinf(), 0.0, b).norm()
    return float(torch.where(same, 0.0, a - b).norm() / length.clamp(min=1e-300))


def errors_of(owner: Owner, make: Callable[[], nn.Module]) -> Errors:
    """Of a loss or an estimator."""
    module, data = make(), owner.data()
    fine = data.apply(lambda x: x.double() if x.is_floating_point() else x)
    exact = owner.results(_in_float64(make()), fine)
    found = []
    for precision in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with precision:
            found += [error(*pair) for pair in zip(owner.results(module, data), exact, strict=True)]
    return Errors(*found)


def _in_float64(module: nn.Module) -> nn.Module:
    for name in ("value_network", "actor_network"):  # TorchRL's estimators do not hand it on
        network = module.__dict__.get(name, module._modules.get(name))
        if isinstance(network, nn.Module):
            network.double()
    return module.double()


def errors_of_case(case: Case) -> Errors:
    """Of a function."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = case.draw(16, 64, dtype)
        fine = {k: x.double() if x.is_floating_point() else x for k, x in inputs.items()}
        results = (of_case(case, x) for x in (inputs, fine))
        found += [error(*pair) for pair in zip(*results, strict=True)]
    return Errors(*found)


# ---- who is compared -----------------------------------------------------------------------------

EACH: dict[str, Any] = {"reduction": "none"}


def _on_policy(name: str) -> Owner:
    def make(library: Any) -> nn.Module:
        # Else a call would move the penalty's weight, before or after it is used.
        held = {"increment": 1.0, "decrement": 1.0} if name == "KLPENPPOLoss" else {}
        return getattr(library, name)(*peers.networks(), **held, **EACH)

    return Owner(partial(make, losses), partial(make, objectives), _recorded, of_loss)


def _recorded() -> TensorDict:
    return peers.record(peers.networks()[0], (16, 16))


def _off_policy(subject: Any) -> Owner:
    options = EACH
    if "SAC" in subject.loss:
        options = EACH | {"scalar_output_mode": "exclude"}
    elif subject.loss == "QMixerLoss":  # TorchRL's knows the mean only
        options = {}
    ours, theirs = (partial(make, **options) for make in (subject.ours, subject.theirs))

    def data() -> TensorDictBase:
        steps = subject.data(256)
        return steps.update(ours().draw_noise(dict(steps.items(True, True)), _seeded()))

    return Owner(ours, None if subject.noise else theirs, data, of_loss)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _of_team(name: str) -> Owner:
    def make(library: Any) -> nn.Module:
        loss = getattr(library, name)(teams.team_actor(), teams.team_critic(), **EACH)
        loss.set_keys(**teams.KEYS)
        return loss

    data = partial(teams.team_steps, teams.team_actor(), (16, 16))
    return Owner(partial(make, losses), partial(make, multiagent), data, of_loss)


def _estimator(name: str) -> Owner:
    options: dict[str, Any] = {"gamma": 0.99, "differentiable": True}
    if name not in ("TD0Estimator", "TD1Estimator", "VTrace"):
        options["lmbda"] = 0.95

    def make(library: Any) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(peers.OBSERVATION, 16), nn.Tanh(), nn.Linear(16, 1))
        critic = TensorDictModule(net, ["observation"], ["state_value"])
        actor = {"actor_network": peers.networks()[0]} if name == "VTrace" else {}
        return getattr(library, name)(value_network=critic, **actor, **options)

    data = _for_agents if name == "MultiAgentGAE" else _unestimated
    # TorchRL's V-trace takes the probability of another action than the recorded one.
    theirs = None if name == "VTrace" else partial(make, torchrl_estimators)
    return Owner(partial(make, estimators), theirs, data, of_estimator)


def _unestimated() -> TensorDictBase:
    return peers.unestimated(_recorded())


def _for_agents() -> TensorDict:
    data = _recorded().select("observation", "next")
    for place in (data, data["next"]):
        place["observation"] = torch.stack([place["observation"] + k for k in range(2)], -2)
    return data


OWNERS: dict[str, Owner] = (
    {name: _on_policy(name) for name in peers.LOSSES}
    | {name: _of_team(name) for name in ("MAPPOLoss", "IPPOLoss")}
    | {
        subject.loss: _off_policy(subject)
        for subject in (
            SUBJECTS["ddpg"],
            SUBJECTS["td3"],
            SUBJECTS["sac"],
            SUBJECTS["discrete-sac"],
            Q_SUBJECTS["dqn-one-hot"],
            C51_SUBJECTS["c51-index"],
            TEAM_SUBJECTS["qmix-index"],
        )
    }
    | {
        name: _estimator(name)
        for name in estimators.__all__
        if name.endswith("Estimator") or name in ("GAE", "MultiAgentGAE", "VTrace")
    }
)


# ---- the tables ----------------------------------------------------------------------------------


def main() -> None:
    """Print what every owner's errors are, and TorchRL's."""
    warnings.filterwarnings("ignore")
    _show("Losses and estimators", _of_owners(), "under autocast")
    _show("Functions", ((case.name, errors_of_case(case), None) for case in CASES), "in bfloat16")


def _of_owners() -> Iterable[tuple[str, Errors, Optional[Errors | str]]]:
    for name, owner in OWNERS.items():
        yield name, errors_of(owner, owner.ours), _theirs(owner)


def _theirs(owner: Owner) -> Optional[Errors | str]:
    if owner.theirs is None:
        return None
    try:
        return errors_of(owner, owner.theirs)
    except Exception as failure:  # what it is, the table says
        return type(failure).__name__


def _show(
    title: str, rows: Iterable[tuple[str, Errors, Optional[Errors | str]]], coarse: str
) -> None:
    table = Table(title=f"{title}: relative error against float64")
    columns = ("float32", "its gradient", coarse, "its gradient")
    for column in ("", "", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, mine, theirs in rows:
        table.add_row(name, "ours", *map(_figure, mine))
        if isinstance(theirs, Errors):
            table.add_row("", "torchrl", *map(_figure, theirs))
        elif theirs is not None:
            table.add_row("", "torchrl", theirs)
    Console(width=110).print(table)


def _figure(x: Optional[float]) -> str:
    return "" if x is None else f"{x:.1e}"


if __name__ == "__main__":
    typer.run(main)
