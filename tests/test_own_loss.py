"""The blocks of docs/own_loss.md run in order, and the loss does what the page says."""

import pytest
import torch
from tensordict import TensorDict

from compiled_rl.export import to_onnx
from tests.pages import blocks, read, run

BLOCKS = blocks(read("docs/own_loss.md"))
TRAINS = next(i for i, block in enumerate(BLOCKS) if "UpdateStep" in block)


@pytest.fixture(scope="module")
def page():
    """What the page defines before it compiles anything."""
    return run(BLOCKS[:TRAINS])


@pytest.mark.slow
def test_the_blocks_run_in_order():
    assert run(BLOCKS)["last"]["loss_actor"].isfinite()


def test_the_loss_is_the_formula(page):
    loss, batch = page["loss"], page["batch"]
    logits = page["policy"].network(batch["observation"])
    log_prob = logits.log_softmax(-1).gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)
    expected = -((batch["advantage"] / 0.5).exp().clamp(max=20.0) * log_prob).mean()
    torch.testing.assert_close(loss(**batch), expected)
    torch.testing.assert_close(loss(TensorDict(batch, [32]))["log_prob"], log_prob.mean())


def test_a_mask_hides_what_may_be_anything(page):
    loss, batch = page["loss"], page["batch"]
    mask = torch.arange(32) < 20
    spoilt = {name: x.clone() for name, x in batch.items()}
    spoilt["observation"][20:] = torch.nan
    spoilt["advantage"][20:] = torch.nan
    masked = TensorDict(spoilt | {("collector", "mask"): mask}, [32])
    expected = loss(**{name: x[:20] for name, x in batch.items()})
    torch.testing.assert_close(loss(masked)["loss_actor"], expected)


def test_keys_are_set_and_shapes_refused(page):
    loss = page["AWRLoss"](page["policy"])
    loss.set_keys(action="torque")
    assert "torque" in loss.in_keys
    batch = page["batch"]
    with pytest.raises(ValueError, match="`advantage` must"):
        page["loss"](**batch | {"advantage": batch["advantage"][:5]})
    with pytest.raises(ValueError, match="advantage_weighted: `advantage` must have the shape"):
        page["advantage_weighted"](torch.zeros(3), torch.zeros(3, 1))


@pytest.mark.slow
def test_it_is_exported(page, tmp_path):
    report = to_onnx(page["loss"], page["batch"], tmp_path / "awr.onnx")
    assert report.max_error < 1e-5
