"""A valid call of everything that trains; steps run eagerly, so that a call takes no compiler."""

from typing import Any

import gymnasium
import torch
from torch import nn

from compiled_rl import losses, modules, training
from compiled_rl.modules import families
from compiled_rl.training.optimisers import optimisers_of
from tests.fuzz.call import AT_LEAST_ONE, Call, Made
from tests.fuzz.mutations import FRACTION, NOT_NEGATIVE, POSITIVE, Range
from tests.fuzz.of_losses import CHOICE, NAMES, NETWORK, critic, steps
from tests.fuzz.of_modules import Fresh, made

ROWS, ACTIONS = 4, 3
CONTAINER = {"batch": {"tensordict", "observation"}}


def dqn() -> Any:
    torch.manual_seed(0)
    return losses.DQNLoss(critic(ACTIONS), action_space="categorical")


def adam(loss: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(loss.parameters())


def step(**options: Any) -> training.UpdateStep:
    loss = dqn()
    updater = training.SoftUpdate(loss, tau=0.1)
    return training.UpdateStep(loss, adam(loss), target_updater=updater, mode="eager", **options)


def batch() -> dict[str, Any]:
    return steps((ROWS,), *CHOICE)


def environments() -> Any:
    return gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * 2,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )


def actor() -> modules.Policy:
    torch.manual_seed(0)
    return modules.Policy(nn.Linear(4, 2), families.Categorical())


def new_step() -> Made:
    loss = dqn()
    given = {
        "loss": loss, "optimizer": adam(loss), "max_grad_norm": 0.5, "mode": "eager",
        "target_updater": training.SoftUpdate(loss, tau=0.1), "minimise": ["loss"],
        "accumulate": 1, "autocast": torch.bfloat16, "generator": torch.Generator(),
    }  # fmt: skip
    return training.UpdateStep, given


def new_update() -> Made:
    loss = dqn()
    names = {parameter: name for name, parameter in loss.named_parameters()}
    optimisers = optimisers_of(adam(loss), names)
    return training.Update, {"loss": loss, "optimisers": optimisers, "max_grad_norm": 0.5}


def calls() -> list[Call]:
    numbers = {
        "max_grad_norm": POSITIVE, "accumulate": AT_LEAST_ONE, "epochs": AT_LEAST_ONE,
        "minibatch_size": AT_LEAST_ONE, "target_kl": POSITIVE, "tau": FRACTION, "eps": FRACTION,
        "value_network_update_interval": Range(0.0, 1e6), "steps": AT_LEAST_ONE,
        "seed": NOT_NEGATIVE,
    }  # fmt: skip
    ranges: dict[str, Any] = {"ranges": numbers}
    copies: dict[str, Any] = {**ranges, "writes": frozenset({"loss_module"})}
    columns = {"shifted_valid": {"an axis more"}, "action": {"an axis more"}}
    data: dict[str, Any] = {"names": NAMES, "users": NETWORK, "allowed": columns}
    return [
        Call("training.UpdateStep()", new_step, **ranges),
        Call("training.UpdateStep.__call__", lambda: (step(), batch()), **data),
        Call("training.Update()", new_update, **ranges),
        made(
            "training.UpdateEpochs",
            training.UpdateEpochs,
            step=Fresh(step),
            epochs=2,
            minibatch_size=2,
            words=frozenset({"kl"}),
            **ranges,
        ),
        Call(
            "training.UpdateEpochs.__call__",
            lambda: (
                training.UpdateEpochs(step(), epochs=2, minibatch_size=2),
                {"batch": batch(), "permutation": torch.stack([torch.randperm(ROWS)] * 2)},
            ),
            names=CONTAINER,
        ),
        made(
            "training.NamedUpdate",
            training.NamedUpdate,
            step=Fresh(step),
            batch=Fresh(batch),
            names=CONTAINER,
        ),
        made("training.SoftUpdate", training.SoftUpdate, loss_module=Fresh(dqn), tau=0.1, **copies),
        made("training.HardUpdate", training.HardUpdate, loss_module=Fresh(dqn), **copies),
        made(
            "training.TargetNetUpdater", training.TargetNetUpdater, loss_module=Fresh(dqn), **copies
        ),
        made("training.Environments", training.Environments, envs=Fresh(environments), **ranges),
        made(
            "training.Collector",
            training.Collector,
            envs=Fresh(environments),
            policy=Fresh(actor),
            **ranges,
        ),
        Call(
            "training.Environments.step",
            lambda: (training.Environments(environments()).step, {"action": torch.tensor([0, 1])}),
            users=frozenset({"action"}),
        ),
        Call(
            "training.Collector.collect",
            lambda: (training.Collector(environments(), actor()).collect, {"steps": 2}),
            **ranges,
        ),
    ]
