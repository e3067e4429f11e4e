"""The types that the wheel shows to a client's checker."""

import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.package.rooms import linked_room, try_to
from tests.package.test_distributions import PROJECT, source, wheel

pytestmark = pytest.mark.slow  # mypy reads all of torch
__all__ = ["source", "wheel"]  # fixtures
CLIENT = Path(__file__).parent / "client.py"


@pytest.fixture(scope="module")
def check(wheel, tmp_path_factory):
    """``mypy --strict`` on a file, which sees the wheel among a stranger's libraries."""
    folder = tmp_path_factory.mktemp("types")
    python = linked_room(folder / "room", *PROJECT["dependencies"])
    (site,) = folder.glob("room/lib/python*/site-packages")
    for name in ("compiled_rl", "tests"):
        (site / name).unlink()
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    options = ["--strict", "--config-file", "", "--cache-dir", folder / "cache"]

    def run(file: Path):
        shutil.copy(file, folder)
        mypy = [sys.executable, "-m", "mypy", *options, "--python-executable", python]
        return try_to([*mypy, file.name], folder)

    return run


def test_a_typed_client(check):
    done = check(CLIENT)
    assert not done.returncode, done.stdout + done.stderr


def test_a_wrong_call_is_seen(check, tmp_path):
    """That the checker reads the package at all."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from compiled_rl import functional\nfunctional.gae(1)\n")
    told = check(wrong).stdout
    assert "[call-arg]" in told
    assert "[import-untyped]" not in told
