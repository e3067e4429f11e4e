"""Every kind of policy ships in every form and computes what its maker says."""

import pytest
import torch

from compiled_rl.export import (
    OnnxModel,
    load_aotinductor,
    load_pt2,
    load_torchscript,
    to_aotinductor,
    to_onnx,
    to_pt2,
    to_torchscript,
)
from compiled_rl.export.signature import deployable
from tests.export.policies import POLICIES, make

FORMS = {
    "onnx": (to_onnx, "policy.onnx"),
    "pt2": (to_pt2, "policy.pt2"),
    "torchscript": (to_torchscript, "policy.pt"),
    "aotinductor": (to_aotinductor, "package.pt2"),
}
LOAD = {"pt2": load_pt2, "torchscript": load_torchscript, "aotinductor": load_aotinductor}
# One of each kind; the others are for `make slow`.
FAST = {
    "onnx": {"mlp", "cnn", "gru cell", "lstm", "attention", "masked logits", "groups"}
    | {"rescaled, sampled", "as rsl_rl", "gru actor"},
    "pt2": {"mlp", "gru cell", "tanh actor"},
}
# Near its bounds float32 knows the log-probability of a truncated normal to 3e-4.
TOLERANCE = {"truncated, sampled": 1e-4, "truncated-bounds, sampled": 1e-4}


def tier(name, form):
    marks = () if name in FAST.get(form, ()) else pytest.mark.slow
    return pytest.param(name, form, marks=marks, id=f"{name}-{form}")


def run(form, path, inputs):
    """The outputs of a file, by name."""
    if form != "onnx":
        return LOAD[form](path)(**inputs)
    outputs = OnnxModel(path)(**{name: x.numpy() for name, x in inputs.items()})
    return {name: torch.from_numpy(x) for name, x in outputs.items()}


def under(names, inputs):
    """Inputs under the names of the file, the first of which were given."""
    new = [*names, *list(inputs)[len(names) :]]
    return dict(zip(new, inputs.values(), strict=True))


@pytest.mark.parametrize(
    ("name", "form"), [tier(name, form) for form in FORMS for name in POLICIES]
)
def test_every_policy_in_every_form(name, form, tmp_path):
    row, tolerance = make(name), TOLERANCE.get(name, 1e-5)
    to, file = FORMS[form]
    report = to(row.target, row.inputs(2), tmp_path / file, **row.options)
    assert [check.sizes for check in report.checks] == [{"batch": n} for n in (1, 3, 64)]
    assert report.max_error < tolerance
    inputs = row.inputs(17)
    got = run(form, report.path, under(row.options.get("input_names", ()), inputs))
    with torch.no_grad():
        expected = row.expected(inputs)
    assert list(got) == list(expected)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_deployed_is_what_its_maker_computes(name):
    row = make(name)
    for batch in (1, 3, 64):
        inputs = row.inputs(batch)
        with torch.no_grad():
            outputs, expected = deployable(row.target)(**inputs), row.expected(inputs)
        outputs = outputs._asdict() if hasattr(outputs, "_asdict") else outputs
        assert len(outputs) == len(expected)
        for got, x in zip(outputs.values(), expected.values(), strict=True):
            torch.testing.assert_close(got, x)


def test_noise_that_is_not_given_is_drawn(tmp_path):
    row = make("rescaled, sampled")
    observation = {"observation": row.inputs(2)["observation"]}
    report = to_pt2(row.target, observation, tmp_path / "policy.pt2")
    inputs = row.inputs(5)
    with torch.no_grad():
        torch.testing.assert_close(load_pt2(report.path)(**inputs), row.expected(inputs))
