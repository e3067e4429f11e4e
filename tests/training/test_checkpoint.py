"""Checkpoints are whole or absent, and run no code."""

from pathlib import Path

import pytest
import torch

from compiled_rl.files import replaced
from compiled_rl.training import checkpoint
from compiled_rl.training.checkpoint import load_checkpoint, save_checkpoint


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "state.pt"
    save_checkpoint(path, {"x": torch.arange(3), "steps": 7})
    state = load_checkpoint(path)
    assert torch.equal(state["x"], torch.arange(3))
    assert state["steps"] == 7


def test_an_interrupted_write_leaves_the_previous_one(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"steps": 1})

    def half_a_write(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", half_a_write)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"steps": 2})
    assert load_checkpoint(path) == {"steps": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"call": print}, path)
    with pytest.raises(ValueError, match=r"state.pt must be a checkpoint of tensors, .*print"):
        load_checkpoint(path)


@pytest.mark.parametrize("held", [object(), Path("a"), lambda: 0], ids=["object", "path", "code"])
def test_what_could_not_be_read_again_is_not_written(tmp_path, held):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"steps": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"save_checkpoint: `state` must hold tensors, numbers"):
        save_checkpoint(path, {"steps": 2, "deep": [{"x": held}]})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError, match="save_checkpoint: `path` must be a file, got the"):
        save_checkpoint(tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "run.pt"
    with replaced("one", path) as one:
        one.write(b"one, ")
        with replaced("other", path) as other:
            other.write(b"another")
        assert path.read_bytes() == b"another"
        one.write(b"whole")
    assert path.read_bytes() == b"one, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_gpu_saved_is_read_without_one(tmp_path, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save({"x": torch.ones(3)}, tmp_path / "run.pt")
    assert torch.equal(load_checkpoint(tmp_path / "run.pt")["x"], torch.ones(3))
