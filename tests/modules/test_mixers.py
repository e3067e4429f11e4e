"""Mixers: TorchRL's numbers, monotone, refused in words, and in the forms that are shipped."""

import pytest
import torch
from torch import Tensor, nn
from torchrl.modules import QMixer as TorchRLQMixer
from torchrl.modules import VDNMixer as TorchRLVDNMixer

from compiled_rl.export import OnnxModel, to_onnx
from compiled_rl.modules import QMixer, VDNMixer

STATE, EMBEDDING, AGENTS = (2, 3), 5, 4


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """Ours and TorchRL's, after the same seed."""
    made = []
    for qmix, vdn in ((QMixer, VDNMixer), (TorchRLQMixer, TorchRLVDNMixer)):
        torch.manual_seed(0)
        made.append(qmix(STATE, EMBEDDING, AGENTS, "cpu") if kind == "qmix" else vdn(AGENTS, "cpu"))
    return made[0], made[1]


def inputs(kind: str, *batch: int) -> list[Tensor]:
    torch.manual_seed(1)
    given = [torch.randn(*batch, AGENTS, 1), torch.randn(*batch, *STATE)]
    return given if kind == "qmix" else given[:1]


@pytest.mark.parametrize("kind", ["qmix", "vdn"])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3)], ids=str)
def test_a_seed_gives_torchrls_values_and_gradients(kind, batch):
    ours, theirs = pair(kind)
    given = [x.requires_grad_() for x in inputs(kind, *batch)]
    mine, expected = ours(*given), theirs(*given)
    assert mine.shape == (*batch, 1)
    torch.testing.assert_close(mine, expected)
    of_ours, of_theirs = (
        torch.autograd.grad(x.sum(), [*given, *mixer.parameters()])
        for x, mixer in ((mine, ours), (expected, theirs))
    )
    torch.testing.assert_close(of_ours, of_theirs)


def test_state_dicts_are_exchanged():
    ours, theirs = pair("qmix")
    for source, other in ((theirs, ours), (ours, theirs)):
        with torch.no_grad():
            for x in source.parameters():
                x.mul_(0.7)
        other.load_state_dict(source.state_dict())
        torch.testing.assert_close(ours(*inputs("qmix", 5)), theirs(*inputs("qmix", 5)))


def test_no_agent_is_worth_less_by_being_worth_more():
    mixer, _ = pair("qmix")
    value, state = inputs("qmix", 200)
    (slope,) = torch.autograd.grad(mixer(value.requires_grad_(), state).sum(), value)
    assert (slope > 0).all()
    for agent in range(AGENTS):
        raised = value.clone()
        raised[:, agent] += 0.5
        assert (mixer(raised, state) > mixer(value, state)).all()


def test_a_batch_without_steps():
    for kind in ("qmix", "vdn"):
        assert pair(kind)[0](*inputs(kind, 0)).shape == (0, 1)


@pytest.mark.parametrize(
    ("kind", "shapes", "words"),
    [
        ("qmix", [(7, 3, 1), (7, 2, 3)], r"`chosen_action_value` must be of shape \[\*B, 4, 1\]"),
        ("qmix", [(7, 4), (7, 2, 3)], r"`chosen_action_value` must .* got \[7, 4\]"),
        ("qmix", [(7, 4, 1), (7, 6)], r"`state` must be of shape \[7, 2, 3\], got \[7, 6\]"),
        ("qmix", [(7, 4, 1), (2, 3)], r"`state` must be of shape \[7, 2, 3\], got \[2, 3\]"),
        ("vdn", [(4,)], r"VDNMixer: `chosen_action_value` must be of shape .* got \[4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(kind, shapes, words):
    with pytest.raises(ValueError, match=words):
        pair(kind)[0](*[torch.zeros(shape) for shape in shapes])


@pytest.mark.parametrize("kind", ["qmix", "vdn"])
def test_scripted_and_in_onnx_runtime(kind, tmp_path):
    mixer, _ = pair(kind)
    names = ("chosen_action_value", "state")
    example = dict(zip(names, inputs(kind, 5), strict=False))
    scripted = torch.jit.script(mixer)
    model = OnnxModel(to_onnx(mixer, example, tmp_path / "mixer.onnx", ("batch",)).path)
    for size in (1, 5, 9):
        given = dict(zip(names, inputs(kind, size), strict=False))
        expected = mixer(**given)
        torch.testing.assert_close(scripted(**given), expected)
        (x,) = model(**{name: x.numpy() for name, x in given.items()}).values()
        torch.testing.assert_close(torch.from_numpy(x), expected)
