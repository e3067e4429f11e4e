"""For users' tests: how many graphs a compiled function made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.backends.debugging import aot_eager


class GraphCounter:
    """Counts the graphs that were compiled with its ``backend``."""

    def __init__(self) -> None:
        self.count = 0

    def backend(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """A backend for ``torch.compile`` that counts and runs the graph eagerly."""
        self.count += 1
        compiled: Callable[..., Any] = aot_eager(module, inputs)
        return compiled


@contextmanager
def count_graphs() -> Iterator[GraphCounter]:
    """Count the graphs of what is compiled inside with the counter's backend.

    .. code-block:: python

        with count_graphs() as graphs:
            run = torch.compile(function, fullgraph=True, backend=graphs.backend)
            for batch in batches:
                run(batch)
        assert graphs.count <= 2
    """
    torch._dynamo.reset()
    yield GraphCounter()
