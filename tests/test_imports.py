"""What importing brings along; each import in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import compiled_rl
from compiled_rl import losses

BLOCK = "import sys; sys.modules['tensordict'] = sys.modules['torchrl'] = None; "


def loaded(statement: str, *names: str) -> list[str]:
    code = f"import sys; {statement}; print(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_functions_bring_neither_tensordict_nor_onnx():
    assert loaded("import compiled_rl.functional", "tensordict", "onnx", "numba") == []


def test_the_losses_do_not_bring_tensordict():
    assert loaded("from compiled_rl import ClipPPOLoss, UpdateStep", "tensordict", "onnx") == []


def test_the_runtime_does_not_bring_torch():
    assert loaded("import compiled_rl.export.runtime", "torch", "onnx", "onnxscript") == []
    assert loaded("from compiled_rl.export import OnnxModel", "torch") == []


@pytest.mark.parametrize("name", compiled_rl.__all__)
def test_every_name_is_there(name):
    assert getattr(compiled_rl, name) is not None
    assert name in dir(compiled_rl)


def test_unknown_names_are_named():
    with pytest.raises(AttributeError, match="module 'compiled_rl' has no attribute 'PPO'"):
        _ = compiled_rl.PPO
    with pytest.raises(AttributeError, match="has no attribute 'to_onyx'"):
        _ = compiled_rl.export.to_onyx


def test_the_native_path_works_without_tensordict():
    code = """
import sys
sys.modules["tensordict"] = None
import torch
from torch import nn
from compiled_rl import ClipPPOLoss, Policy, UpdateStep, ValueHead
from compiled_rl.modules import Categorical
actor = Policy(nn.Linear(4, 3), Categorical)
loss = ClipPPOLoss(actor, ValueHead(4))
step = UpdateStep(loss, torch.optim.Adam(loss.parameters()), mode="eager")
x = torch.randn(5)
metrics = step(observation=torch.randn(5, 4), action=torch.randint(3, (5,)), action_log_prob=x,
               advantage=x, value_target=x)
print(sorted(metrics)[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ESS"


def test_every_native_loss_works_without_tensordict():
    """And brings nothing of what is there for TorchRL's habits alone; see the module."""
    code = f"{BLOCK}from tests.losses.without_tensordict import main; main()"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert not done.returncode, done.stderr
    abstract = {"DeclaredLoss", "LossModule", "OffPolicyLoss"}
    assert set(done.stdout.split()) == set(losses.__all__) - abstract
