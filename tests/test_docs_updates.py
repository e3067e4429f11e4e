"""The code of docs/updates.md runs, in order, and does what the page says."""

import torch

from tests.pages import blocks, read, run

BLOCKS = blocks(read("docs/updates.md"))


def test_the_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    """Traced, but not compiled: that takes a while."""
    monkeypatch.chdir(tmp_path)
    compile_ = torch.compile
    plain = lambda f, options, **others: compile_(f, backend="aot_eager", **others)  # noqa: E731
    monkeypatch.setattr(torch, "compile", plain)
    names = run(BLOCKS)
    assert len(BLOCKS) == 6
    assert names["adam"].param_groups[0]["lr"] != 3e-4
    assert names["often"].updates == 4
    assert names["seldom"].updates == 2
    assert names["step"].updates == 1
    assert (tmp_path / "run.pt").exists()
