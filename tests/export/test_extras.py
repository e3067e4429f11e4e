"""No extra brings both ONNX Runtimes, which are one module and overwrite each other."""

import tomllib
from itertools import combinations
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Who asks for both by name has both; `dev` is what the tests run on, a CPU, and `docs` what the
# site is built on.
KNOWN = {frozenset({extra, "onnx-gpu"}) for extra in ("onnx", "dev", "docs")}


def closure(*extras: str) -> set[str]:
    """The names of all that these extras install."""
    names: set[str] = set()
    for text in (text for extra in extras for text in EXTRAS[extra]):
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        is_own = name == canonicalize_name(PROJECT["name"])
        names |= closure(*requirement.extras) if is_own else {name}
    return names


def runtimes(*extras: str) -> set[str]:
    return {name for name in closure(*extras) if name.startswith("onnxruntime")}


def test_a_closure_is_followed():
    assert closure("torchrl") >= closure("examples") >= closure("cli") > set()
    assert runtimes("onnx") == {"onnxruntime"}
    assert runtimes("onnx-gpu") == {"onnxruntime-gpu"}
    assert runtimes("onnx", "onnx-gpu") == {"onnxruntime", "onnxruntime-gpu"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_has_one_runtime_at_most(extra):
    assert len(runtimes(extra)) <= 1


@pytest.mark.parametrize("pair", list(combinations(EXTRAS, 2)), ids="-".join)
def test_two_extras_have_one_runtime_at_most(pair):
    assert (len(runtimes(*pair)) > 1) == (frozenset(pair) in KNOWN)


def test_what_is_needed_without_extras_has_none():
    assert not [x for x in PROJECT["dependencies"] if x.startswith("onnx")]


def test_torch_tensorrt_is_of_the_same_release_as_torch():
    (torch,) = [x for x in PROJECT["dependencies"] if Requirement(x).name == "torch"]
    (tensorrt,) = EXTRAS["tensorrt"]
    assert Requirement(torch).specifier == Requirement(tensorrt).specifier
