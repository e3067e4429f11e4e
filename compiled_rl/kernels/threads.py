"""A few threads for large work: machine code called through ctypes runs without Python's lock.

Not OpenMP, whose threads a forked child would wait for in vain. A child of ``fork`` forgets its
parent's threads and starts its own when it needs some.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

# Elements below which another thread costs more than it saves.
_ENOUGH = 131_072


def useful(elements: int) -> int:
    """How many threads are worth their while, at most those that torch may use."""
    if elements < 2 * _ENOUGH:
        return 1
    return min(torch.get_num_threads(), elements // _ENOUGH)


def run(loop: Callable, shares: list[list[int]], arguments: tuple, alive: object) -> None:
    """Call a loop on every geometry of every share, a share to a thread.

    ``alive`` is what the addresses point into: an interrupt must not free it under a thread.
    """
    if len(shares) == 1:
        return _walk(loop, shares[0], arguments, alive)
    others = [_pool(len(shares) - 1).submit(_walk, loop, x, arguments, alive) for x in shares[1:]]
    _walk(loop, shares[0], arguments, alive)
    for other in others:
        other.result()


def _walk(loop: Callable, share: list[int], arguments: tuple, alive: object) -> None:
    for geometry in share:
        loop(geometry, *arguments)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compiled_rl")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
