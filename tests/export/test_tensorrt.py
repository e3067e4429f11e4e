"""What torch-tensorrt is asked for, and that nothing is written where there is none.

No engine is built: a stand-in takes the program, records what it is called with, and gives the
program back, so that the file is saved, loaded and verified.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from compiled_rl.export import ExportError, load_tensorrt, tensorrt, to_tensorrt
from compiled_rl.export.program import portable_program
from compiled_rl.export.subject import subject_of
from compiled_rl.export.tensorrt import shape_specification
from compiled_rl.functional import linear_recurrence
from compiled_rl.modules import RecurrentPolicy
from tests.export.targets import left_in

BOTH = ("batch", "time")


def subject(target, example, dynamic=("batch",), max_time=None):
    return subject_of(target, example, dynamic, max_time, True, {})


def doubled(x):
    return x * 2


def recurrent(batch):
    """A policy with a memory, and inputs of this number of rows."""
    policy, observation = RecurrentPolicy(nn.GRUCell(4, 8), nn.Linear(8, 2)), torch.randn(batch, 4)
    return policy, {"observation": observation, **policy.initial_state(observation)}


def summed(x):
    """What is still to come: nothing fades, so every doubling counts."""
    return linear_recurrence(x, torch.ones_like(x))


def changed(module, change):
    """A module that computes something else."""
    for p in module.parameters():
        p.data = change(p.data)
    return module


@pytest.fixture
def stand_in(monkeypatch):
    """A GPU that is none, and a torch-tensorrt with the signatures of 2.13."""
    calls = []

    def compile(
        exported_program,
        *,
        arg_inputs,
        disable_tf32=False,
        min_block_size=5,
        enable_autocast=False,
        autocast_low_precision_type=None,
    ):
        calls.append(SimpleNamespace(**locals()))
        module = exported_program.module()
        return changed(module, lambda p: p.half().float()) if enable_autocast else module

    def save(module, file_path, *, extra_files, arg_inputs, dynamic_shapes):
        calls.append(SimpleNamespace(**locals()))
        program = torch.export.export(module, tuple(arg_inputs), dynamic_shapes=dynamic_shapes)
        torch.export.save(program, file_path, extra_files=extra_files)

    stub = ModuleType("torch_tensorrt")
    stub.dynamo = SimpleNamespace(compile=compile)
    stub.save, stub.Input, stub.__version__ = save, lambda **options: options, "2.13.0"
    monkeypatch.setitem(sys.modules, "torch_tensorrt", stub)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.1"))
    monkeypatch.setattr(tensorrt, "_DEVICE", "cpu")
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "a GPU")
    return calls


# ---- Shapes --------------------------------------------------------------------------------------


def test_the_shapes_of_every_input():
    seen = shape_specification(subject(*recurrent(2)), {"batch": (2, 8, 32)})
    assert seen == [
        {
            "min_shape": (2, *rest),
            "opt_shape": (8, *rest),
            "max_shape": (32, *rest),
            "dtype": dtype,
        }
        for rest, dtype in (((4,), torch.float32), ((8,), torch.float32), ((), torch.bool))
    ]


def test_shapes_that_are_left_out():
    (seen,) = shape_specification(subject(doubled, torch.randn(2, 3)))
    assert [seen[f"{kind}_shape"] for kind in ("min", "opt", "max")] == [(1, 3), (64, 3), (4096, 3)]
    (seen,) = shape_specification(subject(summed, torch.randn(2, 3), BOTH, 50))
    assert [seen[f"{kind}_shape"] for kind in ("min", "opt", "max")] == [
        (1, 1),
        (64, 50),
        (4096, 50),
    ]
    (fixed,) = shape_specification(subject(doubled, torch.randn(2, 3), ()))
    assert fixed["min_shape"] == fixed["opt_shape"] == fixed["max_shape"] == (2, 3)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"rows": (1, 2, 3)}, r"`shapes` must be of the axes \['batch'\], got \['batch', 'rows'\]"),
        (
            {"batch": (1, 8)},
            r"`shapes` of `batch` must be a smallest, a usual and .*, got \(1, 8\)",
        ),
        ({"batch": (8, 4, 16)}, r"a larger size, from 1 on, got \(8, 4, 16\)"),
        ({"batch": (1, 32, 16)}, r"got \(1, 32, 16\)"),
        ({"batch": (0, 1, 2)}, r"got \(0, 1, 2\)"),
        ({"batch": (4, 4, 4)}, r"got \(4, 4, 4\); an axis of one size is not in `dynamic`"),
        ({"batch": (1.0, 2.0, 3.0)}, r"got \(1.0, 2.0, 3.0\)"),
        ({"batch": 64}, "got 64"),
    ],
)
def test_shapes_that_are_none(shapes, sentence):
    with pytest.raises(ExportError, match=sentence):
        shape_specification(subject(doubled, torch.randn(2, 3)), shapes)


def test_an_axis_without_shapes():
    of = subject(lambda x: x * 2, torch.randn(2, 3), ("batch", "agents"))
    with pytest.raises(ExportError, match=r"axes \['batch', 'agents'\], got \['batch'\]"):
        shape_specification(of)


def test_the_longest_time_is_that_of_the_recurrence():
    of = subject(summed, torch.randn(2, 3), BOTH, 50)
    with pytest.raises(
        ExportError, match=r"`shapes` of `time` must end at `max_time`, 50, got \(1"
    ):
        shape_specification(of, {"time": (1, 60, 60)})


# ---- The machine ---------------------------------------------------------------------------------


def test_without_a_gpu_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ExportError, match="to_tensorrt: a GPU must be there, for which to build, go"
    ):
        to_tensorrt(doubled, torch.randn(2, 3), tmp_path / "new" / "f.pt2")
    assert left_in(tmp_path) == []


def test_without_torch_tensorrt_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "a GPU")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(
        ExportError, match=r"torch-tensorrt must be installed, the extra `tensorrt`, "
    ):
        to_tensorrt(doubled, torch.randn(2, 3), tmp_path / "new" / "f.pt2")
    assert left_in(tmp_path) == []
    (tmp_path / "f.pt2").write_bytes(b"")
    with pytest.raises(ValueError, match=r"load_tensorrt: .*f.pt2 is not a file that can be run"):
        load_tensorrt(tmp_path / "f.pt2")


def test_every_tensor_of_the_program_moves_to_the_device():
    of = subject(summed, torch.randn(2, 3), BOTH, 50)
    moved = move_to_device_pass(portable_program(of), "meta")
    values = [node.meta.get("val") for node in moved.graph.nodes]
    devices = {x.device.type for x in values if isinstance(x, torch.Tensor)}
    named = {str(node.kwargs["device"]) for node in moved.graph.nodes if "device" in node.kwargs}
    assert devices == named == {"meta"}


# ---- The call ------------------------------------------------------------------------------------


def test_what_torch_tensorrt_is_asked_for(tmp_path, stand_in):
    target, example = recurrent(2)
    path, shapes = tmp_path / "policy.pt2", {"batch": (2, 4, 8)}
    report = to_tensorrt(target, example, path, shapes=shapes)
    compiled, *saved = stand_in
    assert compiled.arg_inputs == shape_specification(subject(target, example), shapes)
    asked = (compiled.disable_tf32, compiled.min_block_size, compiled.enable_autocast)
    assert asked == (True, 1, False)
    assert [len(x) for x in saved[0].arg_inputs] == [8, 8, 8]
    assert [check.sizes["batch"] for check in report.checks] == [2, 4, 8]
    assert report.max_error < 1e-6
    contract = json.loads((tmp_path / "policy.pt2.contract.json").read_text())
    assert (contract["format"], contract["max"]) == ("tensorrt", {"batch": 8})
    versions = {"torch_tensorrt": "2.13.0", "tensorrt": "11.0.1", "gpu": "a GPU", "fp16": False}
    assert versions.items() <= contract["versions"].items()
    assert contract["state"] == {"h_in": "h_out"}
    model, (_, inputs) = load_tensorrt(path), recurrent(5)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs), target(**inputs))
    with pytest.raises(ValueError, match="`batch` must be at most 8, got 9"):
        model(**recurrent(9)[1])


def test_half_precision_is_asked_for_and_allowed_for(tmp_path, stand_in):
    target, example = nn.Linear(3, 2), torch.randn(2, 3)
    report = to_tensorrt(target, example, tmp_path / "f.pt2", fp16=True)
    assert stand_in[0].enable_autocast
    assert stand_in[0].autocast_low_precision_type == torch.float16
    assert 1e-5 < report.max_error < 1e-2
    with pytest.raises(
        ExportError, match=r"to_tensorrt: the output `output` .* must equal eager's"
    ):
        to_tensorrt(target, example, tmp_path / "f.pt2", fp16=True, tolerance=1e-6)


def test_a_wrong_engine_is_found_out(tmp_path, stand_in, monkeypatch):
    def wrong(program, **_):
        return changed(program.module(), lambda p: p + 1)

    monkeypatch.setattr(sys.modules["torch_tensorrt"].dynamo, "compile", wrong)
    with pytest.raises(ExportError, match=r"`output` at .* must equal eager's"):
        to_tensorrt(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "f.pt2")
    assert left_in(tmp_path) == []


def test_one_shape_is_static_and_the_longest_time_is_refused(tmp_path, stand_in):
    to_tensorrt(doubled, torch.randn(2, 3), tmp_path / "f.pt2", ())
    assert stand_in[0].arg_inputs == [{"shape": (2, 3), "dtype": torch.float32}]
    path, shapes = tmp_path / "sum.pt2", {"batch": (3, 4, 5)}
    report = to_tensorrt(summed, torch.randn(3, 3), path, BOTH, 9, shapes=shapes)
    assert [tuple(check.sizes.values()) for check in report.checks] == [
        (3, 9),
        (4, 9),
        (5, 1),
        (3, 9),
    ]
    x = torch.randn(3, 7)
    expected = x.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(load_tensorrt(path)(x=x)["output"], expected)
    with pytest.raises(ValueError, match="`time` must be at most 9, got 10"):
        load_tensorrt(path)(x=torch.randn(3, 10))


def test_an_example_that_is_too_large(tmp_path, stand_in):
    with pytest.raises(ExportError, match="`example` must have a `batch` of at most 8, got 9"):
        to_tensorrt(doubled, torch.randn(9, 3), tmp_path / "f.pt2", shapes={"batch": (1, 2, 8)})
    assert left_in(tmp_path) == []
