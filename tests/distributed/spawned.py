"""Runs a function in several processes of a gloo group; a failing one's traceback is shown."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

START = "spawn"
PATIENCE = timedelta(seconds=300)  # of a collective, on a machine that does other things, too


def run(function: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on each rank; tensors, numbers and strings."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _main, (function, processes, folder, arguments), processes, start_method=START
        )
        return [torch.load(Path(folder, str(rank))) for rank in range(processes)]


def _main(
    rank: int, function: Callable[..., Any], processes: int, folder: str, arguments: Any
) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, PATIENCE, rank=rank, world_size=processes)
    try:
        torch.save(function(*arguments), Path(folder, str(rank)))
    finally:
        dist.destroy_process_group()
