"""Environments that hold what a stranger has, and nothing else.

``linked_room`` takes the libraries from the running environment, as links: it is made in a second
and needs no index, but tries no installation. ``installed_room`` is what a stranger types.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def closure(texts: Iterable[str]) -> set[str]:
    """The distributions that these requirements bring, as the running environment has them."""
    known: dict[str, set[str]] = {}
    wanted = [Requirement(text) for text in texts]
    while wanted:
        requirement = wanted.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        new = extras - known.get(name, set())
        known.setdefault(name, set()).update(new)
        if new:
            needed = [Requirement(text) for text in distribution(name).requires or ()]
            wanted += [x for x in needed if _applies(x, new)]
    return set(known)


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def linked_room(folder: Path, *requirements: str) -> Path:
    """The Python of an environment with these libraries, this tree's package and its tests."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in closure(requirements):
        library = distribution(name)
        for top in {file.parts[0] for file in library.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(library.locate_file(top))
    for package in ("compiled_rl", "tests"):
        (site / package).symlink_to(ROOT / package)
    return folder / "bin" / "python"


def installed_room(folder: Path, *arguments: str | Path) -> Path:
    """The Python of an environment in which pip has installed this, and the tests beside it."""
    venv.create(folder, symlinks=True, with_pip=True)
    python = folder / "bin" / "python"
    pip_install(python, *arguments)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests").symlink_to(ROOT / "tests")
    return python


def pip_install(python: Path, *arguments: str | Path) -> None:
    """``pip install``, within the releases that this project is tested with."""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*pip, "--constraint", ROOT / "constraints.txt", *arguments], folder=folder_of(python))


def folder_of(python: Path) -> Path:
    """The environment's: nothing of the tree is imported from there."""
    return python.parents[1]


def call(command: Iterable[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that knows nothing of the one that is running; it works."""
    done = try_to(command, folder)
    assert not done.returncode, done.stdout + done.stderr
    return done


def try_to(command: Iterable[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Likewise; it may fail."""
    clean = {k: x for k, x in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(x) for x in command], cwd=folder, env=clean, capture_output=True, text=True
    )


def build(folder: Path, hook: str) -> Path:
    """A wheel or an sdist of a folder, as its build backend makes it: ``build_wheel``, ...

    What ``pip`` and ``build`` call; building needs no index so.
    """
    dist = folder / "dist"
    dist.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.{hook}({str(dist)!r})"
    call([sys.executable, "-c", code], folder)
    (made,) = dist.glob("*.whl" if hook == "build_wheel" else "*.tar.gz")
    return made
