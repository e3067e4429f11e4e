"""The benchmark of files compares what computes the same."""

import pytest
import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarks.contenders import step_of
from benchmarks.exported import EXAMPLE, LEARNED, export, policy, policy_contenders, step_contenders
from benchmarks.workload import OBSERVATION


def first(output):
    """The action in what a contender returns, as a tensor."""
    if isinstance(output, tuple | list):
        output = output[0]
    return torch.as_tensor(output)


def test_policies_act_alike(tmp_path):
    files = []
    made = export(
        "policy", policy(), torch.randn(2, OBSERVATION), tmp_path, files, ("onnx", "torchscript")
    )
    observation = 3 * torch.randn(5, OBSERVATION) + 1
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        contenders = policy_contenders(made, observation)
        acted = {name: act() for name, act in contenders.items() if "bound" not in name}
    acted["torchrl"] = policy().rescale(acted["torchrl"]["action"])
    assert sorted(acted) == ["OnnxPolicy", "eager", "onnxruntime", "torchrl", "torchscript"]
    for output in acted.values():
        torch.testing.assert_close(first(output), policy()(observation), rtol=1e-5, atol=1e-5)
    (size,) = [row.value for row in files if row.contender == "onnx" and row.unit == "B"]
    assert size < 30_000


@pytest.mark.slow
def test_steps_are_taken(tmp_path):
    subject = LEARNED["ClipPPOLoss"]
    step = step_of(subject, subject.plain(), mode="eager")
    batch = dict(subject.data(EXAMPLE).flatten_keys("_").items())
    made = export("step", step, batch, tmp_path, [], ("onnx",))
    contenders = step_contenders(subject, made, 16)
    trainer = contenders["onnxruntime"].func
    before = {name: x.copy() for name, x in trainer.state.items()}
    contenders["onnxruntime"]()
    assert any((before[name] != x).any() for name, x in trainer.state.items())
