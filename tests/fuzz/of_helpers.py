"""A valid call of the helpers of hand-written losses and of what tests a user's own code."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

import compiled_rl
from compiled_rl import estimators, testing
from compiled_rl.adapters import hold_out, torchrl
from tests.fuzz.call import Call, Made
from tests.fuzz.mutations import FRACTION
from tests.fuzz.of_losses import NAMES, policy, steps
from tests.fuzz.of_modules import Fresh, made
from tests.losses.peers import networks


def stands_for(real: Callable[..., Any]) -> Callable[[Any], Any]:
    """Mark what calls ``real``, whose docstring says what is raised."""

    def marked(function: Any) -> Any:
        function.stands_for = real
        return function

    return marked


@stands_for(hold_out.hold_out_net)
def held_net(network: Any) -> None:
    with hold_out.hold_out_net(network):
        pass


@stands_for(hold_out.hold_out_params)
def held_params(params: Any) -> Any:
    with hold_out.hold_out_params(params) as held:
        return held


def next_value() -> Made:
    data = steps((4,), "next_reward", "next_done")

    @stands_for(hold_out.next_state_value)
    def call(**tensors: Any) -> Tensor:
        others = {k: tensors.pop(k) for k in ("pred_next_val", "gamma") if k in tensors}
        given = {("next", k.removeprefix("next_")): x for k, x in tensors.items()}
        return hold_out.next_state_value(TensorDict(given, []), **others)

    return call, {**data, "pred_next_val": torch.randn(4, 1), "gamma": 0.9}


@stands_for(estimators.make_estimator)
def estimator(value_type: Any, gamma: Any = 0.9) -> Any:
    return estimators.make_estimator(value_type, {"gamma": gamma})


@stands_for(testing.assert_compiles_once)
def compiles(fn: Any, batches: Any) -> None:
    testing.assert_compiles_once(fn, batches)


def calls() -> list[Call]:
    ranges: dict[str, Any] = {"ranges": {"gamma": FRACTION}}
    number = {"next_reward": {"a number"}, "next_done": {"a number"}}
    pair = {"v1": torch.randn(4), "v2": torch.randn(4), "loss_function": "l2"}
    named: dict[str, Any] = {"names": {"v1": {"value"}, "v2": {"value_target", "value"}}}
    return [
        made("compiled_rl.hold_out_net", held_net, network=Fresh(lambda: nn.Linear(2, 2))),
        made(
            "compiled_rl.hold_out_params",
            held_params,
            params=Fresh(lambda: [torch.ones(2, requires_grad=True)]),
            allowed={"params": {"an empty dict"}},
        ),
        Call(
            "compiled_rl.next_state_value",
            next_value,
            **ranges,
            names=NAMES,
            allowed=number,
            signed=False,
        ),
        made("compiled_rl.distance_loss", torchrl.distance_loss, **pair, **named),
        made("compiled_rl.add_random_module", torchrl.add_random_module, module=nn.Dropout),
        made("compiled_rl.to_policy", compiled_rl.to_policy, actor=Fresh(lambda: networks()[0])),
        made(
            "estimators.make_estimator",
            estimator,
            value_type="gae",
            allowed={"gamma": {"a tensor with an axis"}},  # a discount for each step
            **ranges,
        ),
        made("estimators.default_value_kwargs", estimators.default_value_kwargs, value_type="gae"),
        made(
            "testing.assert_compiles_once",
            compiles,
            fn=Fresh(policy),
            batches=Fresh(list),
            skipped={"fn": "it is compiled"},
            only={
                "batches": {"None", "a string", "an object", "an empty dict", "a number", "empty"}
            },
        ),
    ]
