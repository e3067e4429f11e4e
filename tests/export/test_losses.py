"""Losses by their named tensors, in every file."""

import numpy as np
import pytest

from compiled_rl.export import OnnxModel, load_torchscript, to_onnx, to_pt2, to_torchscript
from tests.export.learning import CASES, loss_and_batch


def every_loss(*fast: str):
    """All of them; those that are not named here in the slow tier."""
    rows = [x if x in fast else pytest.param(x, marks=pytest.mark.slow) for x in sorted(CASES)]
    return pytest.mark.parametrize("name", rows)


def inputs_of(loss, batch):
    """The batch and the noise, by keyword, and what eager computes of them."""
    loss.eval()
    drawn = loss.draw_noise(loss.inputs(batch, {}))
    named = {k if isinstance(k, str) else "_".join(k): x for k, x in drawn.items()} | batch
    return named, loss(dict(named))


@every_loss("ClipPPOLoss", "SACLoss")
def test_to_onnx(name, tmp_path):
    loss, batch = loss_and_batch(name)
    report = to_onnx(loss, batch, tmp_path / "loss.onnx")
    assert report.max_error < 1e-5
    model = OnnxModel(tmp_path / "loss.onnx")
    named, expected = inputs_of(loss, batch)
    assert sorted(model.inputs) == sorted(named)
    got = model(**{key: x.numpy() for key, x in named.items()})
    for key in ("loss", "loss_objective", "loss_critic", "loss_actor", "loss_qvalue", "td_error"):
        if key in expected:
            np.testing.assert_allclose(
                got[key], expected[key].detach().numpy(), rtol=1e-5, atol=1e-5
            )
    assert model.contract["algorithm"] == name
    missing = [x["name"] for x in model.contract["inputs"] if "meaning" not in x]
    assert missing == [], missing


@every_loss("ClipPPOLoss")
def test_to_pt2(name, tmp_path):
    loss, batch = loss_and_batch(name)
    assert to_pt2(loss, batch, tmp_path / "loss.pt2").max_error < 1e-5


@every_loss("ClipPPOLoss")
def test_to_torchscript(name, tmp_path):
    loss, batch = loss_and_batch(name)
    assert to_torchscript(loss, batch, tmp_path / "loss.pt").max_error < 1e-5


def test_noise_is_an_input_that_says_how_it_is_drawn(tmp_path):
    loss, batch = loss_and_batch("SACLoss")
    to_torchscript(loss, batch, tmp_path / "loss.pt")
    contract = load_torchscript(tmp_path / "loss.pt").contract
    kinds = {entry["name"]: entry.get("noise") for entry in contract["inputs"]}
    assert kinds["action_noise"] == kinds["next_action_noise"] == "normal"
    assert kinds["observation"] is None


def test_a_loss_at_rest_moves_nothing(tmp_path):
    """KLPENPPO's beta moves in training mode, to which the loss is put back."""
    loss, batch = loss_and_batch("KLPENPPOLoss")
    beta = float(loss.beta)
    to_torchscript(loss, batch, tmp_path / "loss.pt")
    assert float(loss.beta) == beta
    assert loss.training
