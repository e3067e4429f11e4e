"""The code of docs/distributed.md runs, in order, in two processes."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from compiled_rl.training.compiled import Graphs
from tests.distributed import spawned

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def _run(folder: str) -> list[float]:
    """Eagerly: what is compiled is tested elsewhere."""
    os.chdir(folder)
    Graphs.__call__ = lambda self, _, __, *arguments: self._function(*arguments)  # type: ignore[method-assign]
    dist.init_process_group = lambda backend: None  # there is one
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert names["step"].updates == 1 + 4 * 3
    assert int(names["seen"].count) == 5 + 6
    return [float(p.detach().double().sum()) for p in names["loss"].parameters()]


@pytest.mark.slow
def test_the_blocks_run_in_order(tmp_path):
    one, two = spawned.run(_run, 2, str(tmp_path))
    assert len(BLOCKS) == 3
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
