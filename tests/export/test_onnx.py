"""ONNX files compute what was trained, or are not there."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compiled_rl import ObservationNormalizer, Policy, ValueHead
from compiled_rl.export import ExportError, OnnxModel, to_onnx
from compiled_rl.export import onnx as to_onnx_module
from compiled_rl.functional import gae, linear_recurrence
from compiled_rl.modules import (
    ActionRescaler,
    Categorical,
    Normal,
    OneHotCategorical,
    StateDependentScale,
    StateIndependentScale,
)

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])


def body(out: int) -> list[nn.Module]:
    normalizer = ObservationNormalizer(4)
    normalizer.update(torch.randn(100, 4) * 3 + 1)
    return [normalizer, nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, out)]


def targets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "categorical": Policy(nn.Sequential(*body(3)), Categorical),
        "one-hot": Policy(nn.Sequential(*body(3)), OneHotCategorical),
        "normal": Policy(
            nn.Sequential(*body(2), StateIndependentScale(2)), Normal, ActionRescaler(LOW, HIGH)
        ),
        "state-dependent": Policy(nn.Sequential(*body(4), StateDependentScale()), Normal),
        "value": nn.Sequential(*body(16), ValueHead(16)),
    }


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", targets())
def test_policies_and_values(kind, tmp_path):
    target = targets()[kind]
    report = to_onnx(target, torch.randn(1, 4), tmp_path / "file.onnx")
    assert [check.sizes["batch"] for check in report.checks] == [1, 3, 64]
    assert report.max_error < 1e-5
    assert report.bytes == (tmp_path / "file.onnx").stat().st_size
    model = OnnxModel(tmp_path / "file.onnx")
    observation = torch.randn(17, 4)
    (got,) = model(**{model.inputs[0]: observation.numpy()}).values()
    expected = target.eval()(observation).detach()
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-5, atol=1e-5)


def test_the_policy_has_the_fields_names(tmp_path):
    to_onnx(targets()["normal"], torch.randn(2, 4), tmp_path / "policy.onnx")
    model = OnnxModel(tmp_path / "policy.onnx")
    assert (model.inputs, model.outputs) == (["observation"], ["action"])


def test_the_contract_is_beside_the_file_and_in_it(tmp_path):
    policy = targets()["normal"]
    report = to_onnx(policy, torch.randn(2, 4), tmp_path / "policy.onnx")
    assert left_in(tmp_path) == ["policy.contract.json", "policy.onnx"]
    beside = json.loads((tmp_path / "policy.contract.json").read_text())
    inside = OnnxModel(tmp_path / "policy.onnx").contract
    import hashlib

    assert beside.pop("sha256") == hashlib.sha256(report.path.read_bytes()).hexdigest()
    assert beside == inside
    assert inside["inputs"] == [{"name": "observation", "dtype": "float32", "shape": ["batch", 4]}]
    assert inside["outputs"] == [{"name": "action", "dtype": "float32", "shape": ["batch", 2]}]
    assert inside["action_range"] == {"low": LOW.tolist(), "high": HIGH.tolist()}
    assert inside["normalizer"]["mean"] == policy.network[0].mean.tolist()
    assert [row["max_error"] for row in inside["verification"]] == [
        check.max_error for check in report.checks
    ]


def sequence(batch: int, time: int) -> dict[str, torch.Tensor]:
    done = torch.rand(batch, time) < 0.3
    return {
        "reward": torch.randn(batch, time),
        "value": torch.randn(batch, time),
        "next_value": torch.randn(batch, time),
        "terminated": done & (torch.rand(batch, time) < 0.5),
        "done": done,
    }


def test_gae_of_any_length(tmp_path):
    bound = partial(gae, gamma=0.9, lmbda=0.8)
    to_onnx(bound, sequence(1, 1), tmp_path / "gae.onnx", ("batch", "time"))
    model = OnnxModel(tmp_path / "gae.onnx")
    assert model.outputs == ["advantage", "value_target"]
    for batch, time in ((1, 1), (5, 7), (2, 23), (3, 700)):
        inputs = sequence(batch, time)
        got = model(**{name: x.numpy() for name, x in inputs.items()})
        expected = bound(**inputs)
        for name in model.outputs:
            np.testing.assert_allclose(
                got[name], getattr(expected, name).numpy(), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("time_dim", [0, 1, 2, -1])
@pytest.mark.parametrize("reverse", [True, False])
def test_the_recurrence_over_any_axis(time_dim, reverse, tmp_path):
    bound = partial(linear_recurrence, time_dim=time_dim, reverse=reverse)
    example = {"x": torch.randn(2, 3, 4), "decay": torch.rand(2, 3, 4)}
    to_onnx(bound, example, tmp_path / "y.onnx", ("a", "b"))
    inputs = {"x": torch.randn(5, 6, 4), "decay": torch.rand(5, 6, 4)}
    got = OnnxModel(tmp_path / "y.onnx")(**{name: x.numpy() for name, x in inputs.items()})
    expected = bound(**inputs)
    torch.testing.assert_close(torch.from_numpy(got["output"]), expected, rtol=1e-5, atol=1e-5)


def test_nothing_of_the_machine_is_in_the_file(tmp_path):
    to_onnx(targets()["normal"], torch.randn(2, 4), tmp_path / "policy.onnx")
    to_onnx(gae, sequence(2, 3), tmp_path / "gae.onnx", ("batch", "time"))
    here = str(Path(__file__).parents[2]).encode()
    for path in tmp_path.glob("*.onnx"):
        content = path.read_bytes()
        assert here not in content
        assert b"stack_trace" not in content
        onnx.checker.check_model(onnx.load(path), full_check=True)


def test_the_modules_modes_are_restored(tmp_path):
    policy = targets()["categorical"].train()
    policy.network[0].eval()
    before = [module.training for module in policy.modules()]
    to_onnx(policy, torch.randn(2, 4), tmp_path / "policy.onnx")
    assert [module.training for module in policy.modules()] == before


def test_two_inputs_may_be_one_tensor(tmp_path):
    """torch.export would take them for one input, without a word."""
    x = torch.randn(2, 3)
    to_onnx(lambda a, b: a - 2 * b, (x, x), tmp_path / "f.onnx")
    got = OnnxModel(tmp_path / "f.onnx")(
        a=np.ones((1, 3), np.float32), b=np.zeros((1, 3), np.float32)
    )
    np.testing.assert_allclose(got["output"], 1)


class Counts(nn.Module):
    """Changes a buffer, which ONNX would drop without a word."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x + self.count


def dependent(x):
    return x * 2 if x.sum() > 0 else x


def failures():
    x = torch.randn(2, 4)
    return {
        "a buffer that changes": (Counts(), x, {}, "must not change its buffers"),
        "a branch on data": (dependent, x, {}, "dependent could not be exported"),
        "an operator without a conversion": (
            lambda x: torch.special.i0e(x),
            x,
            {},
            "could not be exported",
        ),
        "another suffix": (torch.relu, x, {"name": "f.pt"}, "`path` must end in .onnx, got f.pt"),
        "too many tensors": (lambda x: x, (x, x), {}, "`example` has 2 tensors"),
        "no tensor": (lambda x: x, {"x": 1.0}, {}, "`example` must hold tensors, got a float"),
        "too many names": (
            lambda x: x + 1,
            x,
            {"output_names": ("a", "b")},
            "`output_names` must name 1 outputs",
        ),
        "a baked-in size": (lambda x: x.reshape(2, 4) * 2, x, {}, "could not be exported"),
    }


@pytest.mark.parametrize("what", failures())
def test_a_failure_leaves_nothing(what, tmp_path):
    target, example, options, sentence = failures()[what]
    name = options.pop("name", "f.onnx")
    with pytest.raises(ExportError, match=sentence):
        to_onnx(target, example, tmp_path / name, **options)
    assert left_in(tmp_path) == []


def test_a_wrong_file_is_found_out_and_the_older_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "f.onnx"
    to_onnx(lambda x: x + 1, torch.randn(2, 4), path)
    before = path.read_bytes()
    translate = to_onnx_module._translate

    def wrong(explicit, example, outputs, dynamic):
        model = translate(explicit, example, outputs, dynamic)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.1), tensor.name))
        return model

    monkeypatch.setattr(to_onnx_module, "_translate", wrong)
    with pytest.raises(
        ExportError, match=r"`output` at .* must equal eager's to 1e-05, got an err"
    ):
        to_onnx(lambda x: x + 1, torch.randn(2, 4), path)
    assert path.read_bytes() == before
    assert left_in(tmp_path) == ["f.contract.json", "f.onnx"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(to_onnx_module, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_onnx(targets()["value"], torch.randn(2, 4), tmp_path / "f.onnx")
    assert left_in(tmp_path) == []


def test_the_runtime_names_its_inputs(tmp_path):
    to_onnx(lambda x: x + 1, torch.randn(2, 4), tmp_path / "f.onnx")
    with pytest.raises(ValueError, match=r"the inputs are \['x'\], got \['y'\]"):
        OnnxModel(tmp_path / "f.onnx")(y=np.zeros((1, 4), np.float32))
    with pytest.raises(FileNotFoundError, match="`path` must be a file"):
        OnnxModel(tmp_path / "none.onnx")
