"""What works with torch alone, for a process that has nothing else.

Prints, a line each: every function that computes what its oracle does; every loss; every loss's
update step; every estimator. Then, for each public name that needs more, the sentence that says so.
"""

import sys
import warnings
from importlib import import_module

import torch
from torch import nn

import compiled_rl
from compiled_rl import ValueHead, estimators, functional
from tests import cases
from tests.export.learning import loss_and_batch, step_of
from tests.losses import without_tensordict

ABSENT = ("numpy", "numba", "tensordict", "pydantic", "onnx", "onnxruntime", "typer", "rich")
PUBLIC = ("compiled_rl", "compiled_rl.training", "compiled_rl.export")


def functions() -> None:
    """Each row of the contract, at one size."""
    for case in cases.CASES:
        inputs = case.draw(3, 5)
        outputs = case.call(case.function, inputs)
        expected = case.call(case.oracle, inputs)
        for x, y in zip(outputs, expected, strict=True):
            torch.testing.assert_close(x, torch.as_tensor(y, dtype=x.dtype).reshape(x.shape))
    print("functions", len({case.function for case in cases.CASES}), len(functional.__all__))


def steps() -> None:
    """The update of every loss, eager."""
    for name in without_tensordict.CASES:
        loss, batch = loss_and_batch(name)
        assert all(x.isfinite().all() for x in step_of(loss)(**batch).values()), name
        print("step", name)


def values() -> None:
    """Every estimator, by keyword."""
    recorded = without_tensordict.transitions() | without_tensordict.RECORDED
    sequence = {key: x.unsqueeze(0) for key, x in recorded.items()}
    of_agents = {key: x.unsqueeze(0) for key, x in without_tensordict.of_a_team().items()}
    critic, policy = ValueHead(4), without_tensordict.policy()
    made = [
        estimators.TD0Estimator(gamma=0.9, value_network=critic),
        estimators.TD1Estimator(gamma=0.9, value_network=critic),
        estimators.TDLambdaEstimator(gamma=0.9, lmbda=0.9, value_network=critic),
        estimators.GAE(gamma=0.9, lmbda=0.9, value_network=critic),
        estimators.VTrace(gamma=0.9, actor_network=policy, value_network=critic),
        estimators.MultiAgentGAE(gamma=0.9, lmbda=0.9, value_network=nn.Linear(4, 1)),
    ]
    for estimator in made:
        data = of_agents if isinstance(estimator, estimators.MultiAgentGAE) else sequence
        taken = without_tensordict.keywords(estimator)
        outputs = estimator(**{key: x for key, x in data.items() if key in taken})
        assert all(x.isfinite().all() for x in outputs)
        print("estimator", type(estimator).__name__)


def sentences() -> None:
    """Of each public name, that it is there or why not."""
    for place in PUBLIC:
        module = import_module(place)
        for name in module.__all__:
            try:
                getattr(module, name)
            except ModuleNotFoundError as error:
                print("missing", error)
            else:
                print("there", f"{place}.{name}")
    loss, _ = loss_and_batch("ClipPPOLoss")
    for reach in (
        lambda: loss.actor_network_params,
        lambda: compiled_rl.to_policy(nn.Linear(1, 1)),
    ):
        try:
            reach()
        except ModuleNotFoundError as error:
            print("missing", error)


if __name__ == "__main__":
    found = [name for name in ABSENT if sys.modules.get(name) is not None]
    assert not found, found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        functions()
    for warning in caught:
        print("warned", warning.message)
    without_tensordict.main()
    steps()
    values()
    sentences()
