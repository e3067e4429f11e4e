"""The README tells the truth: its code runs, its commands exist, and it is short."""

import re

import pytest

from tests.pages import ROOT, blocks, read, run

LINES = read("README.md").splitlines()
BLOCKS = blocks("\n".join(LINES))


def test_the_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run(BLOCKS)
    assert namespace["losses"].loss_objective.isfinite()
    assert namespace["report"].max_error < 1e-5
    assert namespace["action"].shape == (128,)
    assert namespace["trainer"].updates == 1


def test_it_is_short_and_shows_the_code_first():
    assert len(LINES) <= 150
    first = "\n".join(LINES[:15])
    for shown in (
        "make demo",
        "make test",
        "torch.compile(functional.gae)",
        "loss(**batch",
        "loss(Te",
    ):
        assert shown in first


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", "\n".join(LINES)))))
def test_its_commands_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_its_picture_is_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", "\n".join(LINES))
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
