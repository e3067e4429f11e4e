"""The documentation's site: nothing public is without a page, and formulas are mathematics."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

import compiled_rl
from docs.site import charts, formulas
from docs.site.api import FOLDERS, entries
from docs.site.differences import rows
from docs.site.docstrings import rendered, with_formula
from docs.site.links import relinked
from docs.site.pages import api_navigation, pages
from tests.pages import ROOT, patched, read

INTERNAL = {"adapters", "kernels", "examples"}
PAGES = pages()
PUBLIC = [x for x in entries() if not x.package.startswith("compiled_rl.losses.")]


def test_every_package_is_public_or_known_as_internal():
    packages = {x.name for x in pkgutil.iter_modules(compiled_rl.__path__) if x.ispkg}
    assert packages - INTERNAL == set(FOLDERS) - {"helpers", "testing"}


def test_every_public_name_has_a_page_in_the_navigation():
    linked = re.findall(r"api/\w+/\w+\.md", str(api_navigation()))
    shown = {re.search(r"^::: (\S+)$", PAGES[x], re.MULTILINE)[1] for x in linked}
    for package in ["compiled_rl", *[f"compiled_rl.{x}" for x in FOLDERS if x != "helpers"]]:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ["assert_compiles_once", "count_graphs"]):
            value = getattr(module, name)
            if not name.startswith("_") and not inspect.ismodule(value):
                assert f"{value.__module__}.{value.__qualname__}" in shown


NO_FORMULA = {"LossModule", "DeclaredLoss", "ValueEstimatorBase", "ValueEstimators", "Steps"}
PROMISED = ("functional", "losses", "estimators")


@pytest.mark.parametrize("entry", [x for x in PUBLIC if x.folder in PROMISED], ids=lambda x: x.name)
def test_a_formula_is_mathematics(entry):
    if entry.name in NO_FORMULA or entry.name.endswith(("Output", "_kwargs", "_estimator")):
        return
    text = rendered(with_formula(inspect.getdoc(entry.value)))
    assert "<math" in text.split("Args:")[0]


@pytest.mark.parametrize(
    ("text", "xml"),
    [
        ("a / (b + c)", "<mfrac><mi>a</mi><mrow>"),
        ("gamma * x[t + 1]", "<msub><mi>x</mi>"),
        ("0 if done else x", '<mtable class="cases">'),
        ("sum over the critics of y", "<munder><mo>∑</mo><mi>critics</mi></munder>"),
        ("sum over k of a[k] + b[k]", '<mo stretchy="false">(</mo>'),
        ("exp(x)^2", "<msup>"),
        ("x = sqrt(|y|)", "<msqrt>"),
        ("Q'(s, a)", "<msup><mi>Q</mi><mo>\u2032</mo></msup>"),
    ],
)
def test_the_grammar(text, xml):
    assert xml in formulas.mathml(text)


@pytest.mark.parametrize("text", ['load("a.onnx")', "x.mean()", "a +", "(a", "a)", "a[t", "# why"])
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(formulas.NoFormulaError):
        formulas.mathml(text)


def test_what_is_no_formula_is_shown_as_it_is():
    text = "An example.\n\n    x.mean()\n\nIt is one.\n\n    y = 2 * x\n"
    shown = rendered(text)
    assert "    x.mean()\n" in shown
    assert shown.count("<math") == 1
    fenced = rendered("One.\n\n.. code-block:: python\n\n    f(x)\n    g(x)\n\nTwo.\n")
    assert "```python\nf(x)\ng(x)\n```\n" in fenced


def test_every_difference_is_on_a_page():
    known = {x.name: x.value for x in entries()}
    page = read("docs/differences.md")
    every = rows(page, known)
    assert len(every) == page.count("| `test_")
    for row in every:
        assert row.of
    losses = [x for x in PUBLIC if x.folder == "losses" and x.name != "LossModule"]
    for entry in losses:
        told = PAGES[entry.page].split("## What differs")[1]
        assert all(row.cells[0] in told for row in every if entry.value in row.of)
        assert "| TorchRL | here | why |" in told


def test_torchrls_name_is_on_the_page():
    told = PAGES["api/functional/gae.md"].split("## What differs")[1]
    assert "`torchrl.objectives.value.functional.generalized_advantage_estimate`" in told
    assert "scalars come last" in told
    assert "[differs](../../estimators.md)" in told


def test_links_hold_where_a_text_is_shown():
    text = "[a](updates.md#epochs) [b](../examples/x.png) [c](#here) [d](https://e.org)"
    shown = relinked(text, "docs/differences.md", "api/losses/A2CLoss.md")
    expected = "[a](../../updates.md#epochs) [b](../../examples/x.png) "
    assert shown == expected + "[c](../../differences.md#here) [d](https://e.org)"
    assert relinked("[c](#here)", "docs/updates.md", "updates.md") == "[c](#here)"
    assert relinked("[a](README.md)", "CHANGELOG.md", "changelog.md") == "[a](index.md)"


@pytest.mark.parametrize("chart", charts.CHARTS, ids=lambda x: x.name)
def test_pictures_show_the_numbers_of_the_tables(chart):
    page = read(charts.PAGE)
    measured = charts.measured(chart, page)
    for name, values in measured.items():
        assert values
        lines = [line for line in page.splitlines() if f"| {name} |" in line]
        for value in values.values():
            wanted = (f"{value:,.0f} ", f"{value:.1f} ", f"{value:,.1f} ")
            assert value != value or any(x in line for line in lines for x in wanted)
    assert f"(../{chart.path})" in charts.illustrated(page)


def test_a_table_is_read_as_it_is_written():
    page = "\n## `python -m benchmarks.updates`\n\n| | | 64 | 256 |\n|---|---|---|---|\n"
    page += "| A | torchrl | 1 | 2,000 (1.0) |\n|  | ours | none | 8.5 s |\n\nEnd."
    found = charts.measured(charts.CHARTS[2], page)
    assert (found["torchrl"], found["ours"]) == ({"A": 2000.0}, {"A": 8.5})


def test_a_diff_that_does_not_fit_is_refused():
    assert patched("\na\nb\n", "@@\n a\n-b\n+c\n") == "\na\nc\n"
    with pytest.raises(AssertionError):
        patched("\na\nb\n", "@@\n a\n-c\n")


def test_it_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for entry in entries():
        page = (tmp_path / entry.page).with_suffix(".html").read_text()
        assert f'id="{entry.identifier}"' in page
        assert not re.search(rf'id="{entry.identifier}\._(?!_call__)', page), entry.page
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img)[^>]+src="(\w+:)', page.read_text())
        assert not fetched, page
