"""What `make soak` says is what there was: growth, drift and leftovers are found."""

import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks import soak
from benchmarks.contenders import SUBJECTS
from benchmarks.soak import drift_of_updates, exported, flat, memory_of_updates, within_rounding
from benchmarks.workload import networks

PPO = next(subject for subject in SUBJECTS if subject.name == "ClipPPOLoss")


def test_growth_is_found():
    assert flat("", {1: 100.0, 2: 100.9, 3: 90.0}).holds
    assert not flat("", {1: 100.0, 2: 101.1, 3: 90.0}).holds


def test_drift_is_found():
    rounding = {1: 1e-7, 2: 1e-6}
    assert within_rounding("", {1: 9e-7, 2: 9e-6}, rounding).holds
    assert not within_rounding("", {1: 2e-6, 2: 1e-6}, rounding).holds
    assert not within_rounding("", {1: 1e-7, 2: 2e-5}, rounding).holds


def test_every_call_is_another():
    batches = soak.batches_of(PPO)
    assert len({batch["observation"].shape[0] for batch in batches}) > 30
    assert sum("shifted_valid" in batch for batch in batches) == len(batches) / 2
    drawn = list(soak.calls(PPO, 9, ""))
    again = list(soak.calls(PPO, 9, ""))
    assert len({share for _, share, _ in drawn}) == 9
    for (k, share, batch), (other, same, copy) in zip(drawn, again, strict=True):
        assert (k, share) == (other, same)
        torch.testing.assert_close(batch, copy, rtol=0, atol=0)


def test_eager_does_not_drift_from_itself(monkeypatch):
    trained = soak.Trained
    monkeypatch.setattr(soak, "Trained", lambda subject, mode: trained(subject, "eager"))
    compiled, rounding = drift_of_updates(PPO, 20)
    assert max(compiled.values()) == 0
    assert min(rounding.values()) > 0


@pytest.mark.slow
def test_a_call_that_compiles_again_is_an_error(monkeypatch):
    assert len(memory_of_updates(PPO, 300)) > 3
    batches = soak.batches_of(PPO)
    odd = [{k: x[:1] for k, x in batch.items()} for batch in batches]  # one row is another graph
    calls = soak.calls

    def ending_oddly(*arguments):
        for k, share, batch in calls(*arguments):
            yield k, share, batch if k < 290 else odd[k % len(odd)]

    monkeypatch.setattr(soak, "calls", ending_oddly)
    with pytest.raises(RuntimeError, match="recompile"):
        memory_of_updates(PPO, 300)


@pytest.mark.slow
def test_leftovers_of_exports_are_counted(monkeypatch):
    left, _ = exported(4)
    assert set(left.values()) == {0}
    export, kept = soak._export, []

    def untidy(make):
        kept.append(networks()[0])
        Path(tempfile.gettempdir(), str(len(kept))).touch()
        return export(make) + 1

    monkeypatch.setattr(soak, "_export", untidy)
    left, _ = exported(4)
    assert min(left.values()) >= 4
