"""What the type checker of a client sees. ``mypy --strict`` reads it; nothing runs it.

An ``ignore`` is a wrong call: without an error there, mypy complains of the ``ignore``.
"""

from pathlib import Path
from typing import Any, assert_type

import torch
from torch import Tensor, nn

import compiled_rl
from compiled_rl import (
    GAE,
    ClipPPOLoss,
    DQNLoss,
    Policy,
    SoftUpdate,
    UpdateEpochs,
    UpdateStep,
    ValueHead,
    functional,
)
from compiled_rl.export import Contract, OnnxPolicy, Report, TorchModel, load_pt2, to_onnx, to_pt2
from compiled_rl.functional import AdvantageOutput
from compiled_rl.losses import LossModule
from compiled_rl.modules import Categorical
from compiled_rl.testing import assert_compiles_once
from compiled_rl.training import Collector

x, done = torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.bool)

# Functions.
assert_type(functional.gae(x, x, x, done, done), AdvantageOutput)
assert_type(functional.gae(x, x, x, done, done, 0.9, mask=done).advantage, Tensor)
assert_type(functional.td_lambda_return(x, x, done, done), Tensor)
functional.gae(x, x, x, done)  # type: ignore[call-arg]
functional.gae(x, x, x, done, done, gama=0.9)  # type: ignore[call-arg]
functional.gae(x, x, x, done, done, gamma="0.9")  # type: ignore[arg-type]
_ = functional.gae(x, x, x, done, done).advantages  # type: ignore[attr-defined]

# Losses: what comes decides what is returned, a named tuple, a dict or a TensorDict.
loss = ClipPPOLoss(Policy(nn.Linear(4, 2), Categorical), ValueHead(4), clip_epsilon=0.2)
assert_type(loss, ClipPPOLoss)
assert_type(loss(observation=x), Any)
assert isinstance(loss, LossModule)
dqn = DQNLoss(nn.Linear(4, 2), action_space="categorical", double_dqn=True)
ClipPPOLoss(Policy(nn.Linear(4, 2), Categorical), ValueHead(4), clip_eps=0.2)  # type: ignore[call-arg]
DQNLoss(nn.Linear(4, 2), double="yes")  # type: ignore[call-arg]

# Estimators.
estimator = GAE(gamma=0.9, lmbda=0.9, value_network=ValueHead(4))
assert_type(estimator, GAE)
GAE(gamma=0.9, lambda_=0.9, value_network=None)  # type: ignore[call-arg]

# The update.
optimizer = torch.optim.Adam(loss.parameters())
step = UpdateStep(loss, optimizer, max_grad_norm=0.5)
assert_type(step({"observation": x}), dict[str, Tensor])
assert_type(step(observation=x)["grad_norm"], Tensor)
assert_type(step.state_dict(), dict[str, Any])
epochs = UpdateEpochs(step, epochs=2, minibatch_size=16)
assert_type(epochs({"observation": x}), dict[str, Tensor])
UpdateStep(dqn, optimizer, target_updater=SoftUpdate(dqn, tau=0.01))
UpdateStep(loss)  # type: ignore[call-arg]
UpdateStep(loss, optimizer, mode="fast")  # type: ignore[arg-type]
UpdateStep(nn.Linear(4, 2), optimizer)  # type: ignore[arg-type]
UpdateStep(loss, optimizer, target_updater=0.01)  # type: ignore[arg-type]

# Files.
report = to_onnx(loss, {"observation": x}, Path("a.onnx"), dynamic=("batch",), tolerance=1e-4)
assert_type(report, Report)
assert_type(report.max_error, float)
assert_type(to_pt2(functional.gae, (x,), "gae.pt2", max_time=16), Report)
assert_type(load_pt2("gae.pt2"), TorchModel)
assert_type(load_pt2("gae.pt2")(reward=x), dict[str, Tensor])
assert_type(OnnxPolicy("a.onnx").contract, dict[str, Any])
assert_type(Contract.model_validate_json("{}"), Contract)
to_onnx(loss, {"observation": x})  # type: ignore[call-arg]
to_onnx(loss, {"observation": x}, "a.onnx", tolerence=1e-4)  # type: ignore[call-arg]

# The rest.
assert_type(Policy(nn.Linear(4, 2), Categorical).act(x).log_prob, Tensor)
assert_type(Collector(None, Policy(nn.Linear(4, 2), Categorical)).collect(3), dict[str, Tensor])
assert_compiles_once(loss, [{"observation": x}])
assert_compiles_once(loss)  # type: ignore[call-arg]
_ = compiled_rl.PPO  # type: ignore[attr-defined]
