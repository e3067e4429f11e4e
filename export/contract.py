"""What travels with an artefact: its names, shapes, units, and what verification measured."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Optional

import torch
from pydantic import ValidationError
from torch import Tensor

from compiled_rl.adapters import keyword
from compiled_rl.export.errors import ExportError
from compiled_rl.export.options import Deployment
from compiled_rl.export.schema import (
    Contract,
    Entry,
    Format,
    Measured,
    Normalizer,
    Schedule,
    first_of,
)
from compiled_rl.export.signature import modules_of, name_of
from compiled_rl.export.subject import Subject
from compiled_rl.export.trials import CORNERS, Trial
from compiled_rl.export.verify import Check, dtype_name
from compiled_rl.losses import LossModule
from compiled_rl.modules import ActionRescaler, ObservationNormalizer
from compiled_rl.training import UpdateEpochs, UpdateStep


def make_contract(
    form: Format,
    subject: Subject,
    deployment: Deployment,
    trials: Sequence[Trial],
    versions: Mapping[str, Any],
) -> Contract:
    """The contract of an artefact that is not yet verified.

    An axis is a size, the name of the axis that it follows, or null where it is neither.

    Raises:
        ExportError: the deployment names what is not there, or has values of other kinds.
    """
    target, axes, first = subject.target, subject.axes, trials[CORNERS]
    known = {**first.inputs, **first.expected}
    _check_deployment(deployment, known)
    about = {name: _about(name, subject, deployment) for name in known}
    try:
        return Contract(
            format=form,
            target=name_of(target),
            algorithm=deployment.algorithm or _algorithm(target),
            inputs=[
                Entry(**_tensor(name, x, axes.named_shape(name, x)), **about[name])
                for name, x in first.inputs.items()
            ],
            outputs=[
                Entry(**_tensor(name, x, _followed(name, trials[CORNERS:])), **about[name])
                for name, x in first.expected.items()
            ],
            dynamic=list(axes.names),
            max=axes.limits,
            state=subject.state,
            schedule=_schedule(target),
            control_rate=deployment.control_rate,
            action_scale=_plain(deployment.action_scale),
            action_offset=_plain(deployment.action_offset),
            normalizer=_normalizer(target),
            versions={"compiled_rl": _own_version(), "torch": torch.__version__, **versions},
        )
    except ValidationError as error:
        raise ExportError(f"`deployment` does not fit the contract {first_of(error)}") from None


def verified(contract: Contract, checks: Sequence[Check]) -> Contract:
    """The contract with what was measured."""
    rows = [Measured(sizes=c.sizes, max_error=c.max_error, ties=c.ties) for c in checks]
    return contract.model_copy(update={"verification": rows})


def as_json(contract: Contract) -> dict[str, Any]:
    """Plain values; what is not said is left out, but for the null of an axis or a state."""
    written: dict[str, Any] = contract.model_dump(exclude_defaults=True)
    return {"schema_version": contract.schema_version, **written}


def write_contract(contract: Contract, artefact: Path, path: Path) -> None:
    """Write the contract of ``artefact`` to ``path``, with the artefact's SHA-256."""
    digest = hashlib.sha256(artefact.read_bytes()).hexdigest()
    path.write_text(json.dumps({**as_json(contract), "sha256": digest}, indent=2) + "\n")


def _tensor(name: str, x: Tensor, shape: Sequence[int | str | None]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype_name(x), "shape": list(shape)}


def _followed(name: str, trials: Sequence[Trial]) -> list[int | str | None]:
    """The shape of an output, as the sizes that were tried tell."""
    shapes = zip(*[trial.expected[name].shape for trial in trials], strict=True)
    return [_axis(list(sizes), [trial.sizes for trial in trials]) for sizes in shapes]


def _axis(seen: list[int], tried: Sequence[Mapping[str, int]]) -> Optional[int | str]:
    for name in tried[0]:
        if [sizes[name] for sizes in tried] == seen:
            return name
    return seen[0] if seen == seen[:1] * len(seen) else None


def _about(name: str, subject: Subject, deployment: Deployment) -> dict[str, Any]:
    """What is known of an input or output beside its dtype and shape."""
    low, high = deployment.ranges.get(name, _range(name, subject.target))
    components = deployment.components.get(name)
    return {
        "meaning": deployment.meanings.get(name, _meaning(name, subject)),
        "low": _plain(low),
        "high": _plain(high),
        "components": None if components is None else list(components),
        "noise": subject.noise.get(name),
    }


def _range(name: str, target: Any) -> tuple[Any, Any]:
    """The actuators' range, where the graph maps to it."""
    for module in modules_of(target):
        if isinstance(module, ActionRescaler) and name in ("action", "actions"):
            return module.low.tolist(), module.high.tolist()
    return None, None


def _meaning(name: str, subject: Subject) -> Optional[str]:
    """What a loss's fields say, or what the name has always meant."""
    fields = getattr(_loss_of(subject.target), "fields", ())
    meanings = {keyword(field.key): field.meaning for field in fields}
    drawn = "what is drawn at random, by whoever calls" if name in subject.noise else None
    return meanings.get(name) or _MEANINGS.get(name) or drawn


_MEANINGS = {
    "observation": "what the agent sees",
    "obs": "what the agent sees",
    "next_observation": "what the agent sees after the action",
    "agents_observation": "what each agent sees",
    "next_agents_observation": "what each agent sees after the actions",
    "action": "the deterministic action, in the environment's units",
    "actions": "the deterministic action, in the environment's units",
    "is_init": "whether an episode begins at this step: what was remembered is forgotten",
    "h_in": "hidden state after the step before, zeros at first",
    "h_out": "hidden state after this step",
    "c_in": "cell state after the step before, zeros at first",
    "c_out": "cell state after this step",
    "loc": "location of the distribution that actions are drawn from",
    "scale": "its scale",
    "logits": "unnormalised log-probabilities of the actions",
    "log_prob": "log-probability of the action, in nats",
    "minibatches": "the rows of the batch that each update learns from",
    "grad_norm": "norm of all gradients before clipping",
}


def _loss_of(target: Any) -> Optional[LossModule]:
    step = target.step if isinstance(target, UpdateEpochs) else target
    loss = step.loss if isinstance(step, UpdateStep) else step
    return loss if isinstance(loss, LossModule) else None


def _algorithm(target: Any) -> Optional[str]:
    loss = _loss_of(target)
    return None if loss is None else type(loss).__name__


def _schedule(target: Any) -> Optional[Schedule]:
    if not isinstance(target, UpdateEpochs):
        return None
    bounded = target.target_kl is not None
    return Schedule(
        epochs=target.epochs,
        minibatch_size=target.minibatch_size,
        target_kl=target.target_kl,
        kl=target.kl if bounded else None,
    )


def _normalizer(target: Any) -> Optional[Normalizer]:
    """What the graph holds already, for a reader."""
    for module in modules_of(target):
        if isinstance(module, ObservationNormalizer):
            return Normalizer(
                mean=module.mean.tolist(),
                var=module.var.tolist(),
                epsilon=module.epsilon,
                clip=min(module.clip, torch.finfo(module.mean.dtype).max),  # JSON has no infinity
            )
    return None


def _check_deployment(deployment: Deployment, known: Mapping[str, Tensor]) -> None:
    for table in ("components", "meanings", "ranges"):
        for name, value in getattr(deployment, table).items():
            if name not in known:
                raise ExportError(
                    f"`deployment.{table}` must be of inputs and outputs {list(known)}, "
                    f"got {name!r}"
                )
            last = known[name].shape[-1:]
            if table == "components" and (len(value),) != tuple(last):
                raise ExportError(
                    f"`deployment.components` of {name!r} must have {list(last)} names, "
                    f"got {len(value)}"
                )


def _plain(number: Any) -> Any:
    """A number, or a list of them, whatever sequence holds them."""
    if number is None or isinstance(number, int | float):
        return number
    return [float(x) for x in number]


def _own_version() -> str:
    try:
        return version("compiled_rl")
    except PackageNotFoundError:
        return "unknown"
