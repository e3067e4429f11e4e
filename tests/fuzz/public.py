"""Every public callable, and the few that are not fuzzed, each with its reason."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from torch import nn

FOLDERS = ("functional", "modules", "estimators", "losses", "training", "export", "adapters")

RESULT = "a tuple of results"
ABSTRACT = "a base: its subclasses are fuzzed"
SEAM = "made and called by losses, estimators and policies, which are fuzzed"
OF_A_FILE = "made by the loaders, which are fuzzed; of damaged files in tests/fuzz_files"
METHODS = ("set_keys", "make_value_estimator")  # that a user calls, beside the instance itself
NOT_FUZZED = {
    "functional.AdvantageOutput": RESULT,
    "functional.SampleOutput": RESULT,
    "modules.ActionOutput": RESULT,
    "estimators.Steps": RESULT,
    "export.Report": RESULT,
    "modules.CoefficientModule": ABSTRACT,
    "modules.Family": ABSTRACT,
    "modules.NamedModule": ABSTRACT,
    "modules.ValueNorm": ABSTRACT,
    "estimators.ValueEstimatorBase": ABSTRACT,
    "losses.LossModule": ABSTRACT,
    "losses.DeclaredLoss": ABSTRACT,
    "losses.OffPolicyLoss": ABSTRACT,
    "estimators.ValueEstimators": "an enumeration",
    "modules.FromDistribution": "made by family_of, which is fuzzed",
    "compiled_rl._vmap_func": "TorchRL's private name for torch.vmap, which refuses by itself",
    "export.ExportError": "an exception",
    "export.CorruptedError": "an exception",
    "export.InstallationError": "an exception",
    "training.SplitBatch": "needs processes: tests/distributed",
    "export.Options": "the type of keyword arguments",
    "export.Contract": "a pydantic model, which names the field that it refuses",
    "export.Deployment": "a dataclass, checked by the exporters",
    "export.to_tensorrt": "without a GPU it says so before it reads an argument",
    "export.TorchModel": OF_A_FILE,
    "export.OnnxModel.__call__": "tests/export gives it wrong arrays; it needs a file",
    "export.OnnxPolicy.__call__": "tests/export gives it wrong arrays; it needs a file",
    "export.OnnxTrainer.__call__": "tests/export gives it wrong arrays; it needs a file",
    "modules.Concatenated.forward": "takes any number of tensors without names",
    "modules.Ensemble.forward": "hands its inputs to the user's networks",
    "modules.ExpectedActionValue.forward": "functional.expected_action_value of the user's network",
    "modules.Reads.forward": "hands its inputs to the user's network",
    "training.Update.__call__": "the pure function behind UpdateStep, which is fuzzed",
    "training.NamedUpdate.__call__": "the pure function behind an exported step",
    **{
        f"adapters.{name}": SEAM
        for name in (
            "Data", "EnsembleForm", "Field", "HeadForm", "KeyedModule", "PlainActor",
            "PlainForm", "PlainPolicy", "describe", "deterministic_actor", "given", "in_next",
            "is_policy", "keyword", "output_type", "read", "select_valid", "unique", "write",
        )
    },
}  # fmt: skip


def public() -> Iterator[tuple[str, Any]]:
    """Every callable of every ``__all__``, under the name of the folder that it is at home in."""
    seen: set[int] = set()
    for folder in (*FOLDERS, ""):
        module = import_module(f"compiled_rl.{folder}" if folder else "compiled_rl")
        for name in module.__all__:
            found = getattr(module, name)
            if id(found) not in seen and not inspect.ismodule(found) and callable(found):
                seen.add(id(found))
                yield f"{folder or 'compiled_rl'}.{name}", found


def needed() -> Iterator[str]:
    """The names under which there must be a call: of a class its constructor and what it does."""
    for name, found in public():
        if name in NOT_FUZZED:
            continue
        if not inspect.isclass(found):
            yield name
            continue
        yield f"{name}()"
        if issubclass(found, nn.Module):
            if found.forward is not nn.Module.forward:
                yield f"{name}.forward"
            yield from (f"{name}.{method}" for method in METHODS if hasattr(found, method))
        elif "__call__" in dir(found):
            yield f"{name}.__call__"
