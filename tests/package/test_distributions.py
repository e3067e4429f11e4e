"""The wheel and the sdist: the same files from either, and what they say of the package."""

import re
import shutil
import tarfile
import tomllib
import venv
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.package.rooms import ROOT, build, call, folder_of, pip_install

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
INGREDIENTS = ("pyproject.toml", "README.md", "LICENSE", "compiled_rl", "export", "examples")


def packages() -> set[str]:
    """Every folder of the package, those behind its links included."""
    top = ROOT / "compiled_rl"
    links = [path for path in top.iterdir() if path.is_symlink()]
    found = [path for folder in (top, *links) for path in folder.glob("**/__init__.py")]
    return {".".join(path.parent.relative_to(ROOT).parts) for path in found}


def test_every_folder_is_installed():
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == packages()


def test_the_links_are_links():
    """One package for every tool: nothing is there twice."""
    for name in ("export", "examples"):
        assert (ROOT / "compiled_rl" / name).is_symlink()
        assert (ROOT / "compiled_rl" / name).resolve() == (ROOT / name).resolve()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The sources as a stranger has them, without git."""
    folder = tmp_path_factory.mktemp("source")
    for name in INGREDIENTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source):
    return build(source, "build_wheel")


@pytest.fixture(scope="module")
def unpacked(source, tmp_path_factory):
    """What is in the sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(source, "build_sdist")) as archive:
        archive.extractall(folder, filter="data")
    (made,) = folder.iterdir()
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(wheel, unpacked):
    """The links have become folders there, and files of the wheel either way."""
    assert contents(build(unpacked, "build_wheel")) == contents(wheel)


@pytest.mark.slow
def test_the_wheel_has_every_source(wheel):
    sources = {
        f"{package.replace('.', '/')}/{path.name}": path.read_bytes()
        for package in packages()
        for path in (ROOT / package.replace(".", "/")).iterdir()
        if path.suffix in (".py", ".pyi", ".typed")
    }
    held = contents(wheel)
    assert {k: x for k, x in held.items() if ".dist-info/" not in k} == sources
    assert {name.partition("/")[0] for name in held if ".dist-info/" not in name} == {"compiled_rl"}
    assert "compiled_rl/py.typed" in held
    assert "compiled_rl/export/__init__.pyi" in held


@pytest.mark.slow
def test_it_says_who_it_is(wheel):
    (metadata,) = [x.decode() for name, x in contents(wheel).items() if name.endswith("METADATA")]
    told = HeaderParser().parsestr(metadata)
    assert told["License-Expression"] == "MIT"
    assert told["License-File"] == "LICENSE"
    assert told["Requires-Python"] == "<3.14,>=3.11"
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    known = re.findall(r"3\.(\d+)", " ".join(told.get_all("Classifier")))
    assert known == ["11", "12", "13"]
    assert set(told.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_build_and_twine_take_it(source, tmp_path):
    """As someone would publish it: an isolated build, and a README that renders."""
    venv.create(tmp_path / "room", symlinks=True, with_pip=True)
    python = tmp_path / "room" / "bin" / "python"
    pip_install(python, "build", "twine")
    call([python, "-m", "build", "--outdir", tmp_path / "dist", source], folder_of(python))
    made = sorted((tmp_path / "dist").iterdir())
    assert [path.suffix for path in made] == [".whl", ".gz"]
    checked = call([python, "-m", "twine", "check", "--strict", *made], folder_of(python))
    assert checked.stdout.count("PASSED") == 2
