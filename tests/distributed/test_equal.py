"""A batch that is split among processes: twenty updates equal those of one process, to rounding."""

from typing import Any

import pytest
import torch

from tests.distributed import cases, spawned

BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


def differences(
    names: list[str], dtype: torch.dtype, masks: int = 2, mode: str = "eager"
) -> dict[str, float]:
    """Of each case, with a mask in every second update."""
    return {name: cases.difference(name, dtype, masks, mode) for name in names}


def check(names: list[str], processes: int, dtype: torch.dtype, *how: Any) -> None:
    for rank, found in enumerate(spawned.run(differences, processes, names, dtype, *how)):
        assert list(found) == names
        beyond = {name: x for name, x in found.items() if not x < BOUND[dtype]}
        assert not beyond, f"rank {rank}: {beyond}"


def test_two_processes():
    names = ("ClipPPOLoss, normalised", "KLPENPPOLoss, adapted", "MAPPOLoss, running", "SACLoss")
    check(list(names), 2, torch.float64)


@pytest.mark.slow
def test_every_loss_on_two_processes():
    check(list(cases.PREPARED), 2, torch.float64)


@pytest.mark.slow
def test_every_loss_in_single_precision():
    check(list(cases.PREPARED), 2, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_every_loss_on_more_and_on_fewer(processes):
    check(list(cases.PREPARED), processes, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.PREPARED)
def test_every_loss_compiled(name):
    check([name], 2, torch.float64, 0, "default")


@pytest.mark.slow
def test_a_mask_comes_and_goes_compiled():
    check(["ClipPPOLoss, normalised"], 2, torch.float64, 2, "default")


@pytest.mark.slow
def test_compiled_on_four_processes():
    check(["ClipPPOLoss, normalised"], 4, torch.float64, 0, "default")
    check(["SACLoss"], 4, torch.float32, 0, "default")
