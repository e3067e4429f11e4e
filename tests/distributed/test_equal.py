"""A batch that is split among processes: twenty updates equal those of one process, to rounding."""

import pytest
import torch

from tests.distributed import cases, spawned

BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


def differences(names: list[str], dtype: torch.dtype, mode: str = "eager") -> dict[str, float]:
    """Of each case, without a mask and with one."""
    return {
        f"{name}, {'masked' if masked else 'whole'}": cases.difference(name, dtype, masked, mode)
        for name in names
        for masked in (False, True)
    }


def check(names: list[str], processes: int, dtype: torch.dtype, mode: str = "eager") -> None:
    for rank, found in enumerate(spawned.run(differences, processes, names, dtype, mode)):
        assert len(found) == 2 * len(names)
        beyond = {name: x for name, x in found.items() if not x < BOUND[dtype]}
        assert not beyond, f"rank {rank}: {beyond}"


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
    check([name], 2, torch.float64, "default")


@pytest.mark.slow
def test_compiled_on_four_processes():
    check(["ClipPPOLoss, normalised"], 4, torch.float64, "default")
    check(["SACLoss"], 4, torch.float32, "default")
