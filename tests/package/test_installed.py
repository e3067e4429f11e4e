"""What a stranger installs, works: torch alone, and each extra."""

import shutil

import pytest

from tests.package.rooms import build, call, folder_of, installed_room, pip_install
from tests.package.test_alone import check_told
from tests.package.test_distributions import PROJECT, source, wheel

pytestmark = pytest.mark.slow
__all__ = ["source", "wheel"]  # fixtures

# What every other test runs on; and what can only be installed beside CUDA.
UNTRIED = {"dev", "tensorrt"}
ONNX = """
import numpy as np, torch
from compiled_rl import functional
from compiled_rl.export import OnnxModel, to_onnx
x, done = torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.bool)
example = dict(reward=x, value=x, next_value=x, terminated=done, done=done)
to_onnx(functional.gae, example, "gae.onnx", dynamic=("batch", "time"))
model = OnnxModel("gae.onnx", providers=["CPUExecutionProvider"])
got = model(**{name: x.numpy() for name, x in example.items()})
np.testing.assert_allclose(got["advantage"], functional.gae(**example).advantage, atol=1e-5)
"""
EDGE = """
import torch
from tensordict import TensorDict
from compiled_rl import ClipPPOLoss, Policy, ValueHead
loss = ClipPPOLoss(Policy(torch.nn.Linear(4, 2), torch.distributions.Categorical), ValueHead(4))
x = torch.randn(5)
batch = dict(observation=torch.randn(5, 4), action=torch.randint(2, (5,)), action_log_prob=x)
td = TensorDict(batch | dict(advantage=x, value_target=x), [5])
assert loss(td)["loss_objective"].isfinite()
assert loss.actor_network_params["network", "weight"].shape == (2, 4)
"""
TRAIN = "from compiled_rl.examples.a2c_cartpole import main; main(steps=1024, compile=False)"
DDPG = "import compiled_rl.examples.ddpg_half_cheetah"
COMMANDS = {
    "cli": [("-m", "compiled_rl.cli", "--help"), ("-m", "compiled_rl.cli", "--version")],
    "onnx": [("-c", ONNX)],
    "onnx-gpu": [("-c", ONNX)],
    "examples": [("-c", TRAIN)],
    "torchrl": [("-c", DDPG)],
}
COMPILED = """
import torch
from compiled_rl import UpdateStep
from tests.export.learning import RATE, loss_and_batch, step_of
(loss, batch), (again, _) = loss_and_batch("ClipPPOLoss"), loss_and_batch("ClipPPOLoss")
compiled = UpdateStep(again, torch.optim.Adam(again.parameters(), lr=RATE), max_grad_norm=0.5)
torch.testing.assert_close(compiled(**batch), step_of(loss)(**batch))
"""


@pytest.fixture
def room(tmp_path):
    """An empty environment in which pip installs; a gigabyte, so it is not kept."""

    def make(*arguments):
        return installed_room(tmp_path / "room", *arguments)

    yield make
    shutil.rmtree(tmp_path / "room")


def test_torch_alone(room, wheel):
    python = room("torch")
    pip_install(python, "--no-deps", wheel)
    check_told(call([python, "-m", "tests.package.alone"], folder_of(python)).stdout)
    call([python, "-c", COMPILED], folder_of(python))


def test_an_sdist_without_extras(room, source):
    """What is declared is enough for the edge."""
    python = room("torch", build(source, "build_sdist"))
    call([python, "-m", "pip", "check"], folder_of(python))
    call([python, "-c", EDGE], folder_of(python))


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"].keys() - UNTRIED))
def test_an_extra(extra, room, wheel):
    python = room("torch", f"{wheel}[{extra}]")
    call([python, "-m", "pip", "check"], folder_of(python))
    for command in COMMANDS.get(extra, []):
        call([python, *command], folder_of(python))
