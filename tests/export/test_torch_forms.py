"""Files of torch's own forms compute what eager computes, anywhere, and refuse what is too long."""

import json
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from torch import nn

from compiled_rl import export
from compiled_rl.export import (
    ExportError,
    load_aotinductor,
    load_pt2,
    load_torchscript,
    program,
    to_aotinductor,
    to_onnx,
    to_pt2,
    to_torchscript,
    torchscript,
)
from compiled_rl.functional import gae, linear_recurrence
from tests.export.targets import Critic, left_in, rollout, sequence, targets

BOTH = ("batch", "time")
SHORT = 50
bound_gae = partial(gae, gamma=1.0, lmbda=1.0)  # nothing fades: every doubling counts

# How each is run where this package is not, as its users would write it.
ALONE = {
    "pt2": "torch.export.load(path).module()",
    "aotinductor": "torch._inductor.aoti_load_package(path)",
    "torchscript": "torch.jit.load(path)",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The same estimator in every form; the package takes AOTInductor ten to twenty seconds."""
    folder = tmp_path_factory.mktemp("forms")
    example = sequence(2, 3)
    reports = {
        "pt2": to_pt2(bound_gae, example, folder / "gae.pt2", BOTH, SHORT),
        "aotinductor": to_aotinductor(bound_gae, example, folder / "package.pt2", BOTH, SHORT),
        "torchscript": to_torchscript(bound_gae, example, folder / "gae.pt", BOTH, SHORT),
    }
    assert len(left_in(folder)) == 2 * len(reports)
    return {form: report.path for form, report in reports.items()}


LOAD = {"pt2": load_pt2, "aotinductor": load_aotinductor, "torchscript": load_torchscript}
every_form = pytest.mark.parametrize("form", LOAD)


@every_form
def test_up_to_the_longest_and_no_further(form, files):
    model = LOAD[form](files[form])
    never = dict.fromkeys(("terminated", "done"), torch.zeros(2, SHORT, dtype=torch.bool))
    sizes = ((1, 1), (3, 7), (64, 23), (2, SHORT))
    for inputs in (*[sequence(*size) for size in sizes], sequence(2, SHORT) | never):
        torch.testing.assert_close(tuple(model(**inputs).values()), tuple(bound_gae(**inputs)))
    with pytest.raises(ValueError, match="TorchModel: `time` must be at most 50, got 51"):
        model(**sequence(2, SHORT + 1))


@every_form
def test_the_file_itself_refuses_where_nothing_of_this_package_is(form, files, tmp_path):
    inputs, longer = sequence(3, SHORT), sequence(3, SHORT + 1)
    expected = tuple(bound_gae(**inputs))
    torch.save([tuple(inputs.values()), tuple(longer.values()), expected], tmp_path / "data.pt")
    code = f"""
import sys
sys.modules["compiled_rl"] = None
import torch
path, data = sys.argv[1:]
run = {ALONE[form]}
inputs, longer, expected = torch.load(data)
torch.testing.assert_close(tuple(run(*inputs)), expected)
try:
    run(*longer)
except Exception as error:
    print("refused:", str(error).splitlines()[-1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, files[form], tmp_path / "data.pt"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
    assert "50" in done.stdout


@every_form
def test_the_contract_is_beside_the_file_and_in_it(form, files):
    inside = LOAD[form](files[form]).contract
    beside = json.loads(Path(f"{files[form]}.contract.json").read_text())
    assert beside.pop("sha256")
    assert beside == inside
    assert inside["format"] == form
    assert inside["max"] == {"time": SHORT}
    assert inside["outputs"] == [
        {"name": name, "dtype": "float32", "shape": ["batch", "time"]}
        for name in ("advantage", "value_target")
    ]
    assert [row["sizes"]["time"] for row in inside["verification"]] == [23, 1, 7, SHORT]


@every_form
def test_what_does_not_fit_is_refused_by_name(form, files):
    """A compiled package would read past the end of a tensor that is too short."""
    model, inputs = LOAD[form](files[form]), sequence(3, 7)
    for name, wrong, sentence in (
        ("done", inputs["done"][:, :2], r"`done` must be a bool tensor .*'time': 7.*\[3, 2\]"),
        ("value", inputs["value"].double(), "`value` must be a float32 tensor .* got float64"),
        ("value", inputs["value"][0], r"`value` must be a float32 tensor .* shape \[7\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            model(**{**inputs, name: wrong})
    with pytest.raises(ValueError, match=r"the inputs are .*'done'.*, got"):
        model(**{name: x for name, x in inputs.items() if name != "done"})


@every_form
def test_inputs_of_another_layout(form, files):
    inputs = {name: x.t() for name, x in sequence(7, 3).items()}
    got = tuple(LOAD[form](files[form])(**inputs).values())
    torch.testing.assert_close(got, tuple(bound_gae(**inputs)))


@every_form
def test_nothing_of_the_sources_is_in_the_file(form, files):
    """What the compiler itself puts into a package, the paths of torch's headers, is not ours."""
    root = Path(__file__).parents[2]
    ours = [str(root / folder).encode() for folder in ("compiled_rl", "export", "tests")]
    with ZipFile(files[form]) as archive:
        assert not [n for n in archive.namelist() if n.endswith((".cpp", ".debug_pkl"))]
        for name in archive.namelist():
            content = archive.read(name)
            assert not [path for path in ours if path in content]
            assert b"stack_trace" not in content
            assert b'"from_node"' not in content


@pytest.mark.parametrize(
    ("to", "load", "suffix"),
    [(to_pt2, load_pt2, "pt2"), (to_torchscript, load_torchscript, "pt")],
    ids=["pt2", "torchscript"],
)
class TestModules:
    @pytest.mark.parametrize("kind", ["categorical", "normal", "value"])
    def test_policies_and_values(self, kind, to, load, suffix, tmp_path):
        target = targets()[kind]
        report = to(target, torch.randn(1, 4), tmp_path / f"file.{suffix}")
        assert [check.sizes for check in report.checks] == [{"batch": n} for n in (1, 3, 64)]
        model, observation = load(report.path), torch.randn(17, 4)
        (got,) = model(**{model.inputs[0]: observation}).values()
        torch.testing.assert_close(got, target.eval()(observation).detach())

    def test_a_recurrence_inside_a_module(self, to, load, suffix, tmp_path):
        critic = Critic()
        report = to(critic, rollout(2, 3), tmp_path / f"critic.{suffix}", BOTH, SHORT)
        model = load(report.path)
        for batch, time in ((1, 1), (3, 23), (2, SHORT)):
            inputs = rollout(batch, time)
            expected = [x.detach() for x in critic(**inputs)]
            torch.testing.assert_close([*model(**inputs).values()], expected)
        with pytest.raises(Exception, match=r"time|50"):
            model.program(*rollout(2, SHORT + 1).values())

    def test_a_module_needs_a_bound(self, to, load, suffix, tmp_path):
        with pytest.raises(ExportError, match=f"^{to.__name__}: `max_time` must be given for a"):
            to(Critic(), rollout(2, 3), tmp_path / f"critic.{suffix}", BOTH)
        assert left_in(tmp_path) == []


def test_time_first_and_more_axes(tmp_path):
    target = partial(linear_recurrence, time_dim=0, reverse=False)
    example = {"x": torch.randn(2, 3, 4), "decay": torch.rand(2, 3, 4)}
    report = to_pt2(target, example, tmp_path / "y.pt2", ("time", "batch"), 700)
    assert [check.sizes["time"] for check in report.checks] == [23, 1, 7, 700]
    inputs = {"x": torch.randn(33, 5, 4), "decay": torch.rand(33, 5, 4)}
    got = load_pt2(report.path)(**inputs)["output"]
    torch.testing.assert_close(got, target(**inputs))


def test_what_starts_the_recurrence_is_not_read(tmp_path):
    report = to_pt2(
        linear_recurrence, (torch.randn(2, 3), torch.rand(2, 3)), tmp_path / "y.pt2", BOTH, SHORT
    )
    x, decay = torch.randn(2, 9), torch.rand(2, 9)
    decay[:, -1] = torch.nan
    got = load_pt2(report.path)(x=x, decay=decay)["output"]
    torch.testing.assert_close(got, linear_recurrence(x, decay))


def refusals():
    pair = {"x": torch.randn(2, 3), "decay": torch.rand(2, 3)}
    return {
        "no bound": (BOTH, None, pair, "`max_time` must be given for a dynamic time axis, got Non"),
        "no time": (("batch",), 9, pair, "`max_time` must go with an axis `time`, got"),
        "too short": (BOTH, 1, pair, "`max_time` must be at least 2, got 1"),
        "a longer example": (BOTH, 2, pair, "`example` must have a `time` of at most 2, got 3"),
        "no such axis": (
            BOTH,
            9,
            {k: x[0] for k, x in pair.items()},
            "`dynamic` must name axes that an input",
        ),
        "another name": (("batch", "steps"), None, pair, "the recurrence must run over an axis"),
        "a single string": ("batch", None, pair, "`dynamic` must be a sequence of different axis"),
    }


@pytest.mark.parametrize("what", refusals())
def test_a_refusal_leaves_nothing(what, tmp_path):
    dynamic, max_time, example, sentence = refusals()[what]
    with pytest.raises(ExportError, match=f"^to_pt2: {sentence}") as error:
        to_pt2(linear_recurrence, example, tmp_path / "new" / "y.pt2", dynamic, max_time)
    assert "\n" not in str(error.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("to", [to_onnx, to_pt2, to_aotinductor, to_torchscript])
def test_every_sentence_begins_with_the_function_that_was_called(to, tmp_path):
    sentence = rf"^{to.__name__}: `path` must be a file that ends in \.\w+, got .*f.bin"
    with pytest.raises(ExportError, match=sentence):
        to(torch.relu, torch.randn(2, 3), tmp_path / "f.bin")


def test_too_few_doublings_are_found_out(tmp_path, monkeypatch):
    enough = program.bounded_doubling
    too_few = lambda *arguments: enough(*arguments[:-1], arguments[-1] - 1)  # noqa: E731
    monkeypatch.setattr(program, "bounded_doubling", too_few)
    example = {"x": torch.randn(2, 64), "decay": torch.ones(2, 64)}
    with pytest.raises(ExportError, match=r"to_pt2: the output `output` at .* must equal eager"):
        to_pt2(linear_recurrence, example, tmp_path / "y.pt2", BOTH, 64)
    assert left_in(tmp_path) == []


def test_a_file_that_does_not_refuse_is_found_out(tmp_path, monkeypatch):
    """The checks of the program that it is made from are left out of it."""
    forward = torchscript._forward

    def unguarded(parameters, call, axes):
        return forward(parameters, call, axes._replace(max_time=None))

    monkeypatch.setattr(torchscript, "_forward", unguarded)
    with pytest.raises(ExportError, match=r"to_torchscript: the file must refuse .*51"):
        to_torchscript(Critic(), rollout(2, 3), tmp_path / "f.pt", BOTH, SHORT)
    assert left_in(tmp_path) == []


class TestScripted:
    def test_names_and_defaults_survive(self, tmp_path):
        report = to_torchscript(gae, sequence(2, 3), tmp_path / "gae.pt", BOTH)
        assert [check.sizes["time"] for check in report.checks] == [23, 1, 7, 700]
        module, inputs = torch.jit.load(report.path), sequence(3, 2000)
        torch.testing.assert_close(tuple(module(**inputs)), tuple(gae(**inputs)))
        torch.testing.assert_close(
            module(**inputs, gamma=0.5, mask=inputs["done"]).advantage,
            gae(**inputs, gamma=0.5, mask=inputs["done"]).advantage,
        )

    def test_tensors_come_in_the_order_of_the_example(self, tmp_path):
        example = {
            "decay": torch.rand(2, 3),
            "mask": torch.rand(2, 3) > 0.5,
            "x": torch.randn(2, 3),
        }
        report = to_torchscript(linear_recurrence, example, tmp_path / "y.pt", BOTH)
        got = torch.jit.load(report.path)(*example.values(), reverse=False)
        torch.testing.assert_close(got, linear_recurrence(**example, reverse=False))

    def test_bound_tensors_are_buffers(self, tmp_path):
        target = partial(gae, gamma=torch.tensor(0.7), time_dim=0)
        report = to_torchscript(target, sequence(3, 2), tmp_path / "gae.pt", ("time", "batch"))
        module, inputs = torch.jit.load(report.path), sequence(9, 2)
        assert list(dict(module.named_buffers())) == ["bound_gamma"]
        torch.testing.assert_close(tuple(module(**inputs)), tuple(target(**inputs)))

    def test_nobody_is_warned(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = to_torchscript(gae, sequence(2, 3), tmp_path / "gae.pt", BOTH)
            load_torchscript(report.path)
            to_torchscript(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "linear.pt")

    def test_what_cannot_be_scripted(self, tmp_path):
        with pytest.raises(ExportError, match=r"^to_torchscript: .* could not be exported: "):
            to_torchscript(lambda x: (lambda y: y)(x) + 1, torch.randn(2, 3), tmp_path / "f.pt")
        assert left_in(tmp_path) == []


@pytest.mark.slow
def test_a_compiled_policy(tmp_path):
    target = targets()["normal"]
    report = to_aotinductor(target, torch.randn(1, 4), tmp_path / "policy.pt2")
    observation = torch.randn(17, 4)
    got = load_aotinductor(report.path)(observation=observation)["action"]
    torch.testing.assert_close(got, target.eval()(observation).detach())


def test_what_is_no_file_of_its_kind(files, tmp_path):
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"no archive")
    for load in LOAD.values():
        with pytest.raises(FileNotFoundError, match=f"{load.__name__}: `path` must be a file"):
            load(tmp_path / "none.pt2")
        with pytest.raises(ValueError, match=f"{load.__name__}: .* is not a file that can be run"):
            load(broken)
    with pytest.raises(ValueError, match=r"load_pt2: .* is not a file that can be run"):
        load_pt2(files["aotinductor"])


def test_torchs_own_forms_need_no_onnx():
    names = ("onnx", "onnxruntime", "onnxscript", "tensordict")
    code = (
        "import sys; from compiled_rl.export import to_pt2, to_aotinductor, to_torchscript; "
        f"print([name for name in {names} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in export.__all__:
        assert getattr(export, name) is not None


def test_names_that_are_no_identifiers_stay_apart(tmp_path):
    """Parameters of a ``Sequential``, a keyword, and two that would become one."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 2))
    assert torchscript._identifiers(["a.b", "a_b", "0.w", "_0_w", "in", "self"]) == [
        *("a_b", "a_b_", "_0_w", "_0_w_", "in_", "self_")
    ]
    x = torch.randn(5, 4)
    to_torchscript(network[0], x, tmp_path / "f.pt", parameters=network, input_names=("in",))
    model = load_torchscript(tmp_path / "f.pt")
    assert model.inputs == ["in", "0.weight", "0.bias"]
    weight, bias = torch.randn(4, 4), torch.randn(4)
    (got,) = model(**{"in": x, "0.weight": weight, "0.bias": bias}).values()
    torch.testing.assert_close(got, x @ weight.T + bias)
    names = ("a.b", "a_b")
    to_torchscript(network[1], (x, x), tmp_path / "g.pt", input_names=names)
    other = torch.randn(5, 4)
    (got,) = load_torchscript(tmp_path / "g.pt")(**{"a.b": x, "a_b": other}).values()
    torch.testing.assert_close(got, network[1](x, other).detach())
