"""Try mutations in this process: ``python -m tests.fuzz_files.trial FOLDER KIND MODE FIRST COUNT``.

A process of its own, since a runtime may be brought down, and memory is limited. A line of JSON is
printed before and after each mutation, so that the one that ended the process is known.
"""

import faulthandler
import hashlib
import json
import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compiled_rl.export.errors import CorruptedError
from compiled_rl.export.names import contract_of
from tests.fuzz_files.kinds import KINDS, Kind, Mode, Results, modes_of, sealed

SECONDS, MEMORY = 120, 4 << 30  # for one mutation; beyond what the process has before


def try_mutations(folder: Path, kind: Kind, mode: Mode, first: int, count: int) -> None:
    """Print what became of each."""
    expected = kind.use(folder / kind.file)
    _limit_memory()
    for index in range(first, first + count):
        _say({"index": index})
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome, why = outcome_of(folder, kind, mode, index, expected)
        faulthandler.cancel_dump_traceback_later()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _say({"index": index, "outcome": outcome, "why": why, "rss": grown})


def outcome_of(
    folder: Path, kind: Kind, mode: Mode, index: int, expected: Results
) -> tuple[str, str]:
    """``refused``, ``equal`` or ``other``, or what must not be, ``failed``; and why."""
    others = [x.read_bytes() for other in KINDS if (x := folder / other.file).exists()]
    draw = random.Random(f"{kind.name} {mode.name} {index}")
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / kind.file
        for x in folder.iterdir():
            if x in (folder / kind.file, contract_of(folder / kind.file)):
                shutil.copy(x, made)
            else:
                (path.parent / x.name).symlink_to(x)
        _mutate(path, mode, others, draw)
        return _outcome(path, kind, mode, expected)


def _mutate(target: Path, mode: Mode, others: list[bytes], draw: random.Random) -> None:
    """A file and its contract, as they are after the mutation."""
    beside = contract_of(target)
    at = beside if mode.of_contract else target
    at.write_bytes(mode.mutate(at.read_bytes(), others, draw))
    if mode.beside == "gone":
        beside.unlink(missing_ok=True)
    elif mode.beside == "sealed":
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        beside.write_bytes(sealed(beside.read_bytes(), digest))


def _outcome(path: Path, kind: Kind, mode: Mode, expected: Results) -> tuple[str, str]:
    try:
        results = kind.use(path)
    except (ValueError, FileNotFoundError) as error:
        sentence = str(error)
        named = not isinstance(error, CorruptedError) or path.name in sentence
        good = named and "\n" not in sentence and len(sentence) < 1000
        return ("refused" if good else "failed"), f"{type(error).__name__}: {sentence}"
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}"
    if _equal(results, expected):
        return "equal", ""
    return ("failed" if mode.beside == "kept" else "other"), "other results"


def _equal(results: Results, expected: Results) -> bool:
    return results.keys() == expected.keys() and all(
        results[name].dtype == x.dtype
        and np.array_equal(results[name], x, equal_nan=x.dtype.kind == "f")
        for name, x in expected.items()
    )


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _say(x: dict[str, Any]) -> None:
    print(json.dumps(x), flush=True)


if __name__ == "__main__":
    (kind,) = [kind for kind in KINDS if kind.name == sys.argv[2]]
    (mode,) = [mode for mode in modes_of(kind) if mode.name == sys.argv[3]]
    try_mutations(Path(sys.argv[1]), kind, mode, int(sys.argv[4]), int(sys.argv[5]))
