"""The contract: what a user says of a file, its schema, its state, what is carried."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compiled_rl import ObservationNormalizer
from compiled_rl.export import Contract, Deployment, ExportError, OnnxModel, to_onnx
from compiled_rl.export.subject import subject_of
from compiled_rl.export.trials import CORNERS, draw_trials
from tests.export.targets import left_in, targets

SCHEMA = Path(__file__).parents[2] / "docs" / "contract.schema.json"
JOINTS = ("hip", "knee")
SAID = Deployment(
    control_rate=50.0,
    action_scale=[0.25, 1 / 3],
    action_offset=0.1,
    components={"actions": JOINTS, "obs": ["a", "b", "c", "d"]},
    meanings={"obs": "joint angles, rad"},
    ranges={"obs": (-1.0, [1.0, 2.0, 3.0, 4.0])},
    algorithm="PPO",
)


def test_what_a_robot_must_know(tmp_path):
    to_onnx(
        targets()["normal"],
        torch.randn(2, 4),
        tmp_path / "policy.onnx",
        input_names=("obs",),
        output_names=("actions",),
        deployment=SAID,
    )
    contract = Contract.model_validate(OnnxModel(tmp_path / "policy.onnx").contract)
    (obs,), (actions,) = contract.inputs, contract.outputs
    assert (obs.name, actions.name) == ("obs", "actions")
    assert (contract.control_rate, contract.algorithm) == (50.0, "PPO")
    assert contract.action_scale == [0.25, 1 / 3]  # every digit
    assert contract.action_offset == 0.1
    assert actions.components == list(JOINTS)
    assert (obs.meaning, obs.low, obs.high) == ("joint angles, rad", -1.0, [1.0, 2.0, 3.0, 4.0])
    assert actions.low == [-2.0, 0.0]
    assert contract.normalizer is not None
    assert {"compiled_rl", "torch", "opset", "onnxruntime"} <= set(contract.versions)


def test_the_file_beside_it_has_the_schema_and_the_digest(tmp_path):
    report = to_onnx(targets()["value"], torch.randn(2, 4), tmp_path / "v.onnx")
    beside = json.loads((tmp_path / "v.onnx.contract.json").read_text())
    contract = Contract.model_validate(beside)
    assert contract.sha256 == hashlib.sha256(report.path.read_bytes()).hexdigest()
    assert [row.sizes for row in contract.verification] == [{"batch": n} for n in (1, 3, 64)]
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        Contract.model_validate({**beside, "speed": 1})


def test_the_published_schema_is_this_one():
    """Written by ``python -m compiled_rl.export.schema``."""
    assert json.loads(SCHEMA.read_text()) == Contract.model_json_schema()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Deployment(components={"action": ["hip"]}), r"of 'action' must have \[2\] names, got 1"),
        (Deployment(meanings={"speed": "m/s"}), "must be of inputs and outputs .*got 'speed'"),
        (Deployment(control_rate=-1.0), "does not fit the contract at control_rate: Input should"),
    ],
)
def test_what_does_not_fit_is_refused(said, sentence, tmp_path):
    with pytest.raises(ExportError, match=sentence):
        to_onnx(targets()["normal"], torch.randn(2, 4), tmp_path / "p.onnx", deployment=said)
    assert left_in(tmp_path) == []


class Filter(nn.Module):
    """A low-pass filter whose memory is an input and an output."""

    def forward(self, x, memory):
        memory = 0.9 * memory + 0.1 * x
        return {"y": memory * 2, "after": memory.clone()}


def test_a_state_that_the_user_names(tmp_path):
    example = {"x": torch.randn(2, 3), "memory": torch.zeros(2, 3)}
    to_onnx(Filter(), example, tmp_path / "f.onnx", state={"memory": "after"})
    assert OnnxModel(tmp_path / "f.onnx").contract["state"] == {"memory": "after"}
    with pytest.raises(ExportError, match=r"`state` must lead from inputs .*got 'memory' to 'z'"):
        to_onnx(Filter(), example, tmp_path / "f.onnx", state={"memory": "z"})


def test_axes_by_input(tmp_path):
    """A state that has its layers first."""
    gru = nn.GRU(4, 5, num_layers=2, batch_first=True)
    example = {"input": torch.randn(2, 3, 4), "hx": torch.zeros(2, 2, 5)}
    dynamic = {"input": ("batch", None, None), "hx": (None, "batch", None)}
    to_onnx(gru, example, tmp_path / "g.onnx", dynamic, state={"hx": "output_1"})
    x, h = torch.randn(7, 3, 4), torch.randn(2, 7, 5)
    got = OnnxModel(tmp_path / "g.onnx")(input=x.numpy(), hx=h.numpy())
    for name, expected in zip(("output_0", "output_1"), gru(x, h), strict=True):
        np.testing.assert_allclose(got[name], expected.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dynamic": {"y": ("batch", None)}}, "`dynamic` must name every axis of an input.* `y`"),
        ({"dynamic": {"x": ("batch",)}}, r"got \('batch',\) for `x`"),
        ({"input_names": ("a", "a")}, r"`input_names` must name the inputs \['x', 'memory'\]"),
        ({"input_names": "ab"}, "`input_names` must name the inputs"),
    ],
)
def test_names_and_axes_that_are_none(options, sentence, tmp_path):
    options = {"example": {"x": torch.randn(2, 3), "memory": torch.zeros(2, 3)}, **options}
    with pytest.raises(ExportError, match=sentence):
        to_onnx(Filter(), path=tmp_path / "f.onnx", **options)


def test_an_axis_has_one_size(tmp_path):
    example = {"x": torch.randn(3, 3), "y": torch.zeros(2, 3)}
    with pytest.raises(ExportError, match="one size of the axis `batch`, got 3 and 2 for `y`"):
        to_onnx(lambda x, y: (x * 2, y * 2), example, tmp_path / "f.onnx")


def test_parameters_that_are_inputs(tmp_path):
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    whole = nn.ModuleDict({"actor": network, "critic": nn.Linear(4, 1)})
    to_onnx(network, {"input": torch.randn(2, 4)}, tmp_path / "f.onnx", parameters=whole)
    model = OnnxModel(tmp_path / "f.onnx")
    assert model.contract["state"] == {f"actor.{k}": None for k, _ in network.named_parameters()}
    x, other = torch.randn(5, 4), {k: torch.randn_like(p) for k, p in network.named_parameters()}
    held = {f"actor.{name}": p.numpy() for name, p in other.items()}
    got = model(input=x.numpy(), **held)["output"]
    expected = torch.func.functional_call(network, other, (x,)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ExportError, match="a module with all 4 parameters of the target, got 0"):
        to_onnx(network, {"input": x}, tmp_path / "g.onnx", parameters=whole["critic"])


def test_parameters_are_tried_at_other_values():
    """Else a file that holds them as constants would pass."""
    network = nn.Linear(4, 2)
    options = {"parameters": network}
    subject = subject_of(network, {"input": torch.randn(2, 4)}, ("batch",), None, False, options)
    tried = [trial.inputs["weight"] for trial in draw_trials(subject)[CORNERS:]]
    assert len(tried) == 3
    for k, weight in enumerate(tried):
        assert not any(torch.equal(weight, other) for other in [network.weight, *tried[:k]])


def test_a_tie_is_no_error(tmp_path):
    """Two scores that differ by less than rounding: eager and the file may choose either."""

    def choose(x):
        return (torch.stack([x.sum(-1), x.flip(-1).sum(-1)], -1)).argmax(-1)

    to_onnx(choose, torch.rand(2, 1000), tmp_path / "f.onnx")


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.noisy = nn.Sequential(nn.Linear(4, 4), _Noise())

    def forward(self, x):
        return self.noisy(x)


class _Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Special(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = _Bessel()

    def forward(self, x):
        return self.head(x)


class _Bessel(nn.Module):
    def forward(self, x):
        return torch.special.i0e(x)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (Draws(), "`noisy.1` draws at random, so that no file could be compared"),
        (Special(), "`head` calls prims.bessel_i0e.default, which has no ONNX form; write it in"),
    ],
)
def test_errors_name_the_module_and_what_to_do(target, sentence, tmp_path):
    with pytest.raises(ExportError, match=sentence):
        to_onnx(target, torch.randn(2, 4), tmp_path / "f.onnx")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input_names": ("memory",)}, r"each another than all inputs, got .* and \['memory'\]"),
        ({"inputs_names": ("a",)}, r"the options are .*'input_names'.*, got \['inputs_names'\]"),
        ({"tolerance": float("nan")}, r"`tolerance` must be in \[0, 1\), got nan"),
        ({"tolerance": float("inf")}, r"`tolerance` must be in \[0, 1\), got inf"),
        ({"dynamic": (0,)}, r"`dynamic` must be a sequence of different axis names, got \(0,\)"),
        ({"dynamic": None}, "`dynamic` must be a sequence of different axis names, got None"),
        (
            {"deployment": Deployment(ranges={"x": (-float("inf"), 1.0)})},
            "`deployment` does not fit .* finite number",
        ),
    ],
)
def test_what_is_no_option_is_refused(options, sentence, tmp_path):
    example = {"x": torch.randn(2, 3), "memory": torch.zeros(2, 3)}
    with pytest.raises(ExportError, match=sentence):
        to_onnx(Filter(), example, tmp_path / "f.onnx", **options)
    assert left_in(tmp_path) == []


def test_a_parameter_keeps_its_name(tmp_path):
    linear, example = nn.Linear(4, 3), {"input": torch.randn(2, 4)}
    options = {"parameters": linear, "input_names": ("weight",)}
    with pytest.raises(ExportError, match=r"got \('weight',\) and \['weight', 'bias'\]"):
        to_onnx(linear, example, tmp_path / "f.onnx", **options)


def test_every_number_of_a_contract_is_json(tmp_path):
    """Who reads it may not be Python, which alone takes ``Infinity`` for a number."""
    module = nn.Sequential(ObservationNormalizer(4, clip=float("inf")), nn.Linear(4, 2))
    to_onnx(module, torch.randn(2, 4), tmp_path / "f.onnx")
    text = (tmp_path / "f.onnx.contract.json").read_text()
    assert json.loads(text)["normalizer"]["clip"] == torch.finfo(torch.float32).max
