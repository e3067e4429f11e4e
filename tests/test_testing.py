"""The compile guard passes what is sound and names what is not."""

import re

import pytest
import torch
from torch import nn

from compiled_rl import ClipPPOLoss
from compiled_rl.testing import assert_compiles_once
from tests.losses.networks import as_keywords, make_data, plain_networks

ROWS = [torch.randn(n, 3) for n in (2, 3, 5, 8)]


class Scaled(nn.Module):
    """A module with a python float, which TorchDynamo makes a constant in some calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.5

    def forward(self, x):
        return x * torch.scalar_tensor(self.scale)


class Counting(nn.Module):
    """A module that writes a buffer, and wrongly so where it is told to."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("calls", torch.zeros([]))

    def forward(self, x):
        self.calls += 2 if self.wrong and torch.compiler.is_compiling() else 1
        return x * 1


def refused(fn, batches, *words, **others):
    with pytest.raises(AssertionError) as error:
        assert_compiles_once(fn, batches, **others)
    sentence = str(error.value)
    assert "\n" not in sentence
    for word in words:
        assert re.search(word, sentence), sentence


def test_a_loss_passes_and_keeps_its_coefficients():
    loss = ClipPPOLoss(*plain_networks("normal"))
    batches = [as_keywords(make_data(loss.actor_network, (n,), seed=n)) for n in (2, 3, 5)]
    assert_compiles_once(loss, batches, coefficients={"clip_epsilon": [0.1, 0.15, 0.25, 0.3]})
    assert loss.clip_epsilon.item() == pytest.approx(0.2)


def test_functions_noise_and_buffers_pass():
    assert_compiles_once(lambda x: x + torch.randn_like(x), ROWS)
    assert_compiles_once(lambda x, k: {"a": (x, x * k)}, [(x, 2 * x) for x in ROWS])
    module = Counting()
    assert_compiles_once(module, ROWS)
    assert module.calls == len(ROWS)


def test_a_break_is_named_with_its_place():
    def branches(x):
        return x if x.sum() > 0 else -x

    line = branches.__code__.co_firstlineno + 1
    refused(branches, ROWS, "`branches` on batch 0", "Data-dependent", rf"test_testing\.py:{line}")


def test_a_recompilation_is_named_with_its_guard():
    refused(
        Scaled(),
        ROWS[:1],
        r"batch 0 at scale=0\.2",
        r"guard self\.scale == 0\.1 and self\.scale == 0\.5",
        coefficients={"scale": [0.1, 0.2, 0.3, 0.4]},
    )


def test_one_graph_may_be_asked_for():
    assert_compiles_once(torch.sin, ROWS[:1] * 2, max_graphs=1)
    refused(torch.sin, ROWS[:2], "no graph beyond 1", max_graphs=1)


def test_attributes_are_set_back_after_a_failure():
    module = Scaled()
    refused(module, ROWS[:1], "guard", coefficients={"scale": [0.1, 0.2, 0.3, 0.4]})
    assert module.scale == 0.5


def other_value(x):
    return x + 1 if torch.compiler.is_compiling() else x


def other_gradient(x):
    return x * 2 - x.detach() if torch.compiler.is_compiling() else x * 1


def no_gradient(x):
    return x.detach() * 1 if torch.compiler.is_compiling() else x * 1


def other_names(x):
    return {"a": x} if torch.compiler.is_compiling() else {"b": x}


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (other_value, r"another output: .*difference: 1"),
        (other_gradient, r"another gradient of leaf 0 of shape \[2, 3\]"),
        (no_gradient, r"another output\.requires_grad"),
        (other_names, r"must return \[.*'b'.*\], compiled got \[.*'a'.*\]"),
        (Counting(wrong=True), "another buffer calls"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_wrong_value_is_named(fn, word):
    refused(fn, [x.clone().requires_grad_() for x in ROWS], "on batch 0", word)


def test_nothing_to_run_is_refused():
    with pytest.raises(ValueError, match="`batches` must hold a batch, got none"):
        assert_compiles_once(torch.sin, [])
