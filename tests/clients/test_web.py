"""ONNX files in onnxruntime-web: WebAssembly, here under node, elsewhere in a browser."""

import numpy as np
import pytest
import torch

from compiled_rl.export import OnnxModel, OnnxTrainer, to_onnx
from tests.clients.conftest import BATCHES, bound_gae, check_outputs, run_web
from tests.export.learning import loss_and_batch, step_of
from tests.export.targets import sequence
from tests.export.test_training import resampled

pytestmark = pytest.mark.slow


def arrays(tensors):
    return {name: x.numpy() for name, x in tensors.items()}


def test_policy(policy, policy_onnx):
    observations = [torch.randn(batch, 4) for batch in BATCHES]
    results = run_web(policy_onnx, [arrays({"observation": x}) for x in observations])
    for got, observation in zip(results, observations, strict=True):
        check_outputs(got, {"action": policy(observation)})


def test_gae_of_any_length(gae_onnx):
    calls = [sequence(*sizes) for sizes in ((1, 1), (3, 23), (64, 5))]
    for got, inputs in zip(run_web(gae_onnx, map(arrays, calls)), calls, strict=True):
        check_outputs(got, bound_gae(**inputs)._asdict())


def mixed(pixels, index, keep, x):
    """Every dtype that a policy takes, in and out."""
    return {
        "shown": torch.where(keep.unsqueeze(-1), pixels, 255),
        "next_index": index * 2**40 + 1,
        "drop": ~keep,
        "log": x.log(),
    }


def test_every_dtype(tmp_path):
    """An integer that no double holds, infinity and NaN, for which JSON has no numbers, too."""
    inputs = {
        "pixels": torch.tensor([[0, 128], [7, 255], [1, 2]], dtype=torch.uint8),
        "index": torch.tensor([2**20, -3, 0]),
        "keep": torch.tensor([True, False, True]),
        "x": torch.tensor([2.0, 0.0, -1.0]),
    }
    example = {**inputs, "x": inputs["x"].abs()}
    path = to_onnx(mixed, example, tmp_path / "mixed.onnx").path
    (got,) = run_web(path, [arrays(inputs)])
    assert np.isneginf(got["log"][1])
    assert np.isnan(got["log"][2])
    check_outputs(got, mixed(**inputs))


def filtered(h_in, gain, x):
    """A recurrent state, and one that stays as it was."""
    h_out = h_in + gain * (x - h_in)
    return {"y": h_out.tanh(), "h_out": h_out}


def test_state_is_carried_from_call_to_call(tmp_path):
    gain = torch.tensor(0.3)
    h, *xs = torch.randn(21, 3, 2)
    state = {"h_in": "h_out", "gain": None}
    first, *others = [{"x": x} for x in xs]
    path = to_onnx(filtered, {"h_in": h, "gain": gain, "x": h}, tmp_path / "filtered.onnx").path
    calls = [arrays(x) for x in ({"h_in": h, "gain": gain, **first}, *others)]
    for got, x in zip(run_web(path, calls, state), xs, strict=True):
        expected = filtered(h, gain, x)
        check_outputs(got, expected)
        h = expected["h_out"]


def test_twenty_training_steps(tmp_path):
    """Adam, clipping, and losses, in a browser's runtime."""
    loss, batch = loss_and_batch("ClipPPOLoss")
    step = step_of(loss)
    path = to_onnx(step, batch, tmp_path / "step.onnx").path
    state = OnnxModel(path).contract["state"]
    batches = [resampled(batch, 32) for _ in range(20)]
    first, *others = [arrays(each) for each in batches]
    *_, last = run_web(path, [{**OnnxTrainer(path).state, **first}, *others], state)
    for each in batches:
        step(each)
    for name, parameter in loss.named_parameters():
        expected = parameter.detach().numpy()
        np.testing.assert_allclose(last[state[name]], expected, rtol=1e-5, atol=1e-5)
