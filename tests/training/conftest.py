"""What the tests of the update step share."""

import pytest
import torch

from compiled_rl.testing import count_graphs


@pytest.fixture
def counted(monkeypatch):
    """Steps that are made in the test compile with a backend that counts."""
    with count_graphs() as graphs:
        compile_ = torch.compile

        def counting(function, options, **others):
            guards = {"guard_filter_fn": options["guard_filter_fn"]}  # else none is left out
            return compile_(function, backend=graphs.backend, options=guards, **others)

        monkeypatch.setattr(torch, "compile", counting)
        yield graphs
