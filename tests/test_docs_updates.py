"""The code of docs/updates.md runs, in order, and does what the page says."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parent.parent / "docs" / "updates.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    """Traced, but not compiled: that takes a while."""
    monkeypatch.chdir(tmp_path)
    compile_ = torch.compile
    plain = lambda f, options, **others: compile_(f, backend="aot_eager", **others)  # noqa: E731
    monkeypatch.setattr(torch, "compile", plain)
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    assert len(BLOCKS) == 6
    assert names["adam"].param_groups[0]["lr"] != 3e-4
    assert names["often"].updates == 4
    assert names["seldom"].updates == 2
    assert names["step"].updates == 1
    assert (tmp_path / "run.pt").exists()
