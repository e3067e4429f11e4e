"""ONNX files compute what was trained, or are not there."""

import copy
import hashlib
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compiled_rl.export import ExportError, OnnxModel, artefact, to_onnx, trials, verify
from compiled_rl.export import onnx as to_onnx_module
from compiled_rl.functional import gae, linear_recurrence
from tests.export.targets import HIGH, LOW, left_in, sequence, targets


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
    assert left_in(tmp_path) == ["policy.onnx", "policy.onnx.contract.json"]
    beside = json.loads((tmp_path / "policy.onnx.contract.json").read_text())
    inside = OnnxModel(tmp_path / "policy.onnx").contract
    assert beside.pop("sha256") == hashlib.sha256(report.path.read_bytes()).hexdigest()
    assert beside == inside
    (observation,), (action,) = inside["inputs"], inside["outputs"]
    assert all(entry.pop("meaning") for entry in (observation, action))
    assert observation == {"name": "observation", "dtype": "float32", "shape": ["batch", 4]}
    assert [action.pop("low"), action.pop("high")] == [LOW.tolist(), HIGH.tolist()]
    assert action == {"name": "action", "dtype": "float32", "shape": ["batch", 2]}
    assert inside["versions"]["opset"] == 18
    assert inside["normalizer"]["mean"] == policy.network[0].mean.tolist()
    assert [row["max_error"] for row in inside["verification"]] == [
        check.max_error for check in report.checks
    ]


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


class Replaces(Counts):
    def forward(self, x):
        self.count = self.count + 1
        return x + (self.count > 20)


def dependent(x):
    return x * 2 if x.sum() > 0 else x


def failures():
    x = torch.randn(2, 4)
    return {
        "a buffer that changes": (
            Counts(),
            x,
            {},
            "Counts must not change its own tensors, got changes of .*count",
        ),
        "a buffer that is replaced": (
            Replaces(),
            x,
            {},
            "Replaces must not change its own tensors",
        ),
        "a single string": (torch.relu, x, {"dynamic": "batch"}, "`dynamic` must be a sequence of"),
        "no name for an input": (torch.tanh, x, {}, "tanh does not tell its inputs' names"),
        "no tensor returned": (lambda x: None, x, {}, "must return tensors, got a NoneType"),
        "another input's name": (lambda x: x, {"y": x}, {}, r"could not be called with \['y'\]"),
        "nothing finite": (
            lambda x: (-x.square() - 1).sqrt(),
            x,
            {},
            "must have a finite value to be verified",
        ),
        "a branch on data": (dependent, x, {}, "dependent could not be exported: it branches on"),
        "an operator without a conversion": (
            lambda x: torch.special.i0e(x),
            x,
            {},
            "the target calls prims.bessel_i0e.default, which has no ONNX form",
        ),
        "another suffix": (
            torch.relu,
            x,
            {"name": "f.pt"},
            "`path` must be a file that ends in .onnx, got .*f.pt",
        ),
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
    state = copy.deepcopy(target.state_dict()) if isinstance(target, nn.Module) else {}
    with pytest.raises(ExportError, match=sentence):
        to_onnx(target, example, tmp_path / "new" / "folder" / name, **options)
    assert left_in(tmp_path) == []
    if state:
        torch.testing.assert_close(target.state_dict(), state, rtol=0, atol=0)


def test_a_wrong_file_is_found_out_and_the_older_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "f.onnx"
    to_onnx(lambda x: x + 1, torch.randn(2, 4), path)
    before = path.read_bytes()
    translate = to_onnx_module._model

    def wrong(*arguments):
        model = translate(*arguments)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.1), tensor.name))
        return model

    monkeypatch.setattr(to_onnx_module, "_model", wrong)
    with pytest.raises(
        ExportError, match=r"`output` at .* must equal eager's to 1e-05, got an err"
    ):
        to_onnx(lambda x: x + 1, torch.randn(2, 4), path)
    assert path.read_bytes() == before
    assert left_in(tmp_path) == ["f.onnx", "f.onnx.contract.json"]


def two_outputs(x):
    return {"a": x * 2.0, "b": x * 3.0}


def corrupt(model, output: str, change) -> None:
    """Put ``change``'s node between the graph and one of its outputs."""
    for node in model.graph.node:
        node.output[:] = [f"{name}_raw" if name == output else name for name in node.output]
    model.graph.node.append(change(f"{output}_raw", output))


@pytest.mark.parametrize(
    ("output", "change", "sentence"),
    [
        (
            "b",
            lambda a, b: onnx.helper.make_node("Relu", [a], [b]),
            "`b` at .* must equal eager's to 1e-05",
        ),
        (
            "a",
            lambda a, b: onnx.helper.make_node("Unsqueeze", [a, "axes"], [b]),
            "`a` (at .* )?must be float32 of shape",
        ),
    ],
    ids=["another value", "another shape"],
)
def test_every_output_is_compared_by_value_and_shape(
    output, change, sentence, tmp_path, monkeypatch
):
    translate = to_onnx_module._model

    def wrong(*arguments):
        model = translate(*arguments)
        axes = onnx.numpy_helper.from_array(np.array([0]), "axes")
        model.graph.initializer.append(axes)
        corrupt(model, output, change)
        for x in model.graph.output:
            x.type.tensor_type.ClearField("shape")
        return model

    monkeypatch.setattr(to_onnx_module, "_model", wrong)
    with pytest.raises(ExportError, match=sentence):
        to_onnx(two_outputs, torch.randn(2, 4), tmp_path / "f.onnx")
    assert left_in(tmp_path) == []


def test_a_model_that_breaks_the_standard_is_refused(tmp_path, monkeypatch):
    """A graph without a name: the checker alone sees it."""

    def unnamed(model):
        model.graph.name = ""

    monkeypatch.setattr(to_onnx_module, "_strip", unnamed)
    with pytest.raises(ExportError, match=r"could not be exported: .*name"):
        to_onnx(two_outputs, torch.randn(2, 4), tmp_path / "f.onnx")
    assert left_in(tmp_path) == []


def test_the_example_itself_is_compared(tmp_path, monkeypatch):
    """Standard normal inputs never reach the values at which this file is wrong."""
    translate = to_onnx_module._model

    def wrong(*arguments):
        model = translate(*arguments)
        for name, value in (("low", -50.0), ("high", 50.0)):
            tensor = onnx.numpy_helper.from_array(np.float32(value), name)
            model.graph.initializer.append(tensor)
        corrupt(model, "b", lambda a, b: onnx.helper.make_node("Clip", [a, "low", "high"], [b]))
        return model

    monkeypatch.setattr(to_onnx_module, "_model", wrong)
    with pytest.raises(ExportError, match=r"`b` at .*the example.* must equal eager's"):
        to_onnx(two_outputs, torch.tensor([[-100.0], [100.0]]), tmp_path / "f.onnx")


def test_small_outputs_are_held_to_their_own_size(tmp_path, monkeypatch):
    def wrong(*arguments):
        model = translate(*arguments)
        for tensor in model.graph.initializer:
            value = 1.5 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), tensor.name))
        return model

    translate = to_onnx_module._model
    monkeypatch.setattr(to_onnx_module, "_model", wrong)
    with pytest.raises(ExportError, match="must equal eager's"):
        to_onnx(lambda x: x * 1e-6, torch.randn(2, 4), tmp_path / "f.onnx")


def test_what_verification_draws():
    generator = torch.Generator().manual_seed(0)
    for example in (torch.rand(50) + 2, torch.rand(50), torch.rand(50) * 255):
        drawn = trials.fresh(example, [200], generator)
        assert drawn.min() >= example.min()
        assert drawn.max() <= example.max()
        assert drawn.std() > 0.1 * example.std()
    assert trials.fresh(torch.zeros(3), [200], generator).std() > 0.5
    assert set(trials.fresh(torch.tensor([2, 4]), [200], generator).tolist()) == {2, 3, 4}
    assert trials.fresh(torch.tensor([True]), [200], generator).dtype == torch.bool


def test_three_axes_may_change(tmp_path):
    report = to_onnx(lambda x: x * 2, torch.randn(2, 3, 4), tmp_path / "f.onnx", ("a", "b", "c"))
    assert [tuple(check.sizes.values()) for check in report.checks] == [
        (1, 23, 5),
        (3, 1, 2),
        (64, 7, 1),
    ]


@pytest.mark.parametrize("held", ["partial", "bound", "closure"])
def test_a_module_inside_a_function_is_put_in_eval_mode(held, tmp_path):
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    target = {
        "partial": partial(module),
        "bound": module.forward,
        "closure": lambda input: module(input),
    }[held]
    before = copy.deepcopy(module.state_dict())
    to_onnx(target, {"input": torch.randn(2, 4)}, tmp_path / "f.onnx")
    assert module.training
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_float64_is_not_taken_through_float32(tmp_path):
    inputs = {
        name: x.double() if x.is_floating_point() else x for name, x in sequence(3, 50).items()
    }
    bound = partial(gae, gamma=0.99, lmbda=0.95)
    report = to_onnx(bound, inputs, tmp_path / "gae.onnx", ("batch", "time"))
    assert report.max_error < 1e-12
    with pytest.raises(ExportError, match="must equal eager's to 1e-11"):
        to_onnx(lambda x: x * 0.99, torch.randn(2, 3).double(), tmp_path / "f.onnx")


def test_an_interrupt_between_the_two_names_leaves_no_other_files_contract(tmp_path, monkeypatch):
    path, replace, calls = tmp_path / "f.onnx", os.replace, []
    to_onnx(lambda x: x + 1, torch.randn(2, 4), path)

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(artefact.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_onnx(lambda x: x + 2, torch.randn(2, 4), path)
    assert left_in(tmp_path) == ["f.onnx"]
    assert OnnxModel(path)(x=np.zeros((1, 4), np.float32))["output"].max() == 2


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(artefact, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_onnx(targets()["value"], torch.randn(2, 4), tmp_path / "f.onnx")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("opset", [17, 99])
def test_an_opset_that_there_is_not(opset, tmp_path):
    with pytest.raises(ExportError, match=f"`opset` must be from 18 to .*, got {opset}"):
        to_onnx(two_outputs, torch.randn(2, 4), tmp_path / "f.onnx", opset=opset)


def test_another_opset(tmp_path):
    to_onnx(two_outputs, torch.randn(2, 4), tmp_path / "f.onnx", opset=20)
    assert OnnxModel(tmp_path / "f.onnx").contract["versions"]["opset"] == 20


def test_the_runtime_names_its_inputs(tmp_path):
    to_onnx(lambda x: x + 1, torch.randn(2, 4), tmp_path / "f.onnx")
    with pytest.raises(ValueError, match=r"the inputs are \['x'\], got \['y'\]"):
        OnnxModel(tmp_path / "f.onnx")(y=np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"`x` must be a float32 array of shape .*, got float64"):
        OnnxModel(tmp_path / "f.onnx")(x=np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"`x` must be a float32 array .* of shape \[1, 3\]"):
        OnnxModel(tmp_path / "f.onnx")(x=np.zeros((1, 3), np.float32))
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken.onnx is not a model that can be run"):
        OnnxModel(tmp_path / "broken.onnx")
    with pytest.raises(FileNotFoundError, match="`path` must be a file"):
        OnnxModel(tmp_path / "none.onnx")


def test_a_tolerance_of_nothing_is_one():
    """And not that of no tolerance."""
    one = torch.ones(1)
    assert verify._beyond(one + 1e-6, one, 0.0).all()
    assert not verify._beyond(one + 1e-6, one, None).any()


def test_a_neighbour_that_is_infinite_excuses_nothing(tmp_path, monkeypatch):
    translate = to_onnx_module._model

    def wrong(*arguments):
        model = translate(*arguments)
        tensor = onnx.numpy_helper.from_array(np.float32(-8.0), "low")
        model.graph.initializer.append(tensor)
        corrupt(model, "output", lambda a, b: onnx.helper.make_node("Max", [a, "low"], [b]))
        return model

    monkeypatch.setattr(to_onnx_module, "_model", wrong)
    example = torch.tensor([[0.0], [1 - 2**-24]])
    with pytest.raises(ExportError, match=r"`output` at .*the example.* must equal eager's"):
        to_onnx(lambda x: (1 - x).clamp(min=0).log(), example, tmp_path / "f.onnx")


def test_a_state_that_stays_is_told_from_one_that_moves():
    """However small a step is beside the tolerance of what it moves."""
    before = torch.tensor([1.0, -2.0, 0.5])
    after = before + 1e-6 * torch.tensor([1.0, 2.0, -1.0])
    assert verify._astray(before, after, before, None).all()
    assert not verify._astray(after, after, before, None).any()
    rounded = torch.nextafter(after, torch.full_like(after, 9.0))
    assert not verify._astray(rounded, after, before, None).any()


class Noisy(nn.Module):
    """Whose noise the caller draws."""

    def draw_noise(self, tensors):
        return {"noise": torch.randn_like(tensors["x"])}

    def forward(self, x, noise):
        return x + noise


def test_exporting_what_draws_leaves_the_users_generator(tmp_path):
    before = torch.get_rng_state()
    to_onnx(Noisy(), {"x": torch.randn(2, 3, generator=torch.Generator())}, tmp_path / "f.onnx")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_protects_a_division_is_in_the_file(tmp_path):
    """The exporter's own optimiser takes ``x + 1e-8`` for ``x``, and ``0.999999 * x``, too."""

    def direction(x):
        return x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-8)

    to_onnx(direction, torch.randn(2, 4), tmp_path / "f.onnx")
    at_rest = OnnxModel(tmp_path / "f.onnx")(x=np.zeros((1, 4), np.float32))
    np.testing.assert_array_equal(at_rest["output"], 0)
    to_onnx(lambda x: (x * 0.999999 - 1) * 1e6, torch.ones(2, 4), tmp_path / "g.onnx")
    got = OnnxModel(tmp_path / "g.onnx")(x=np.ones((1, 4), np.float32))
    np.testing.assert_allclose(got["output"], -1, atol=0.05)


def test_zeros_are_tried(tmp_path, monkeypatch):
    """No random input shows that this file lacks what protects a division."""
    translate = to_onnx_module._model

    def wrong(*arguments):
        model = translate(*arguments)
        for tensor in model.graph.initializer:
            if onnx.numpy_helper.to_array(tensor) == np.float32(1e-8):
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(0), tensor.name))
        return model

    monkeypatch.setattr(to_onnx_module, "_model", wrong)
    with pytest.raises(ExportError, match=r"`output` at .*zeros.* must equal eager's"):
        to_onnx(lambda x: x / (x.abs() + 1e-8), torch.randn(2, 4), tmp_path / "f.onnx")


@pytest.mark.parametrize("function", [torch.expm1, torch.log1p])
def test_digits_near_zero_are_in_the_file(function, tmp_path):
    to_onnx(lambda x: function(x), torch.rand(2, 3), tmp_path / "file.onnx")
    model = OnnxModel(tmp_path / "file.onnx")
    x = torch.tensor([[1e-30, -1e-8, 1e-4], [0.3, -0.49, 0.51], [-0.9, 20.0, float("inf")]])
    (got,) = model(**{model.inputs[0]: x.numpy()}).values()
    expected = function(x.double()).float().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=0)
