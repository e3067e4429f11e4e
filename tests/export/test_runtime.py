"""Policies run where torch is not: state, noise, parameters, providers, and what is refused."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from compiled_rl.export import OnnxModel, OnnxPolicy, buffers, session, to_onnx
from compiled_rl.modules import RecurrentPolicy
from tests.export.policies import make

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
RECURRENT = ("gru", "frame stack")


def numpy_of(tensors):
    return {name: x.numpy() for name, x in tensors.items()}


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def mixed(x, m_in):
    """A state whose rows are its second axis."""
    m_out = 0.5 * m_in + x[:, :2].t()
    return {"action": m_out.t() * 2, "m_out": m_out}


def shared(x, m_in):
    """A state that belongs to no row."""
    return {"action": x * m_in.sum(0), "m_out": 2 * m_in}


def grouped(joints, command):
    return {"action": torch.cat([joints, command], -1) ** 2}


class Jittered(nn.Module):
    def forward(self, observation, noise):
        return {"action": observation.tanh() + noise, "log_prob": noise.square().sum(-1)}

    def draw_noise(self, data):
        return {"noise": torch.randn_like(data["observation"])}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every file of this module, and what it was made of."""
    folder = tmp_path_factory.mktemp("policies")
    made = {}

    def export(name, target, example, *dynamic, **options):
        report = to_onnx(target, example, folder / f"{name}.onnx", *dynamic, **options)
        made[name] = target, report.path

    for name in ("mlp", "frame stack", "as rsl_rl"):
        row = make(name)
        export(name, row.target, row.inputs(2), **row.options)
    observation = torch.randn(2, 4)
    policy = RecurrentPolicy(nn.GRUCell(4, 8), nn.Linear(8, 2))
    export("gru", policy, {"observation": observation, **policy.initial_state(observation)})
    network = nn.Linear(4, 2)
    export("held", network, {"input": observation}, parameters=network, input_names=["observation"])
    export("normal", Jittered(), {"observation": observation})
    row = make("categorical, sampled")
    export("uniform", row.target, {"observation": row.inputs(2)["observation"]})
    export("groups", grouped, {"joints": torch.randn(2, 3), "command": torch.randn(2, 1)})
    example = {"x": torch.randn(2, 4), "m_in": torch.randn(2, 2)}
    export("rows last", mixed, example, {"x": ("batch", None), "m_in": (None, "batch")})
    example = {"x": torch.randn(2, 4), "m_in": torch.randn(3, 4)}
    export("shared", shared, example, {"x": ("batch", None), "m_in": ("agents", None)})
    return made


def test_an_action_at_any_number_of_environments(files):
    target, path = files["mlp"]
    policy = OnnxPolicy(path)
    for batch in (1, 64, 1, 3):
        observation = torch.randn(batch, 4)
        expected = target(observation).detach().numpy()
        close(policy(observation.numpy()), expected)
        close(policy(observation=observation.numpy()[:, ::-1].copy()[:, ::-1]), expected)


def test_what_is_returned_stays(files):
    policy, observation = OnnxPolicy(files["mlp"][1]), np.ones((2, 4), np.float32)
    action = policy(observation)
    kept = action.copy()
    policy(-observation)
    np.testing.assert_array_equal(action, kept)
    observation[:] = 5  # nor is what was given read again
    close(policy(np.ones((2, 4), np.float32)), kept)


def test_observations_in_order_or_by_name(files):
    target, path = files["groups"]
    policy = OnnxPolicy(path)
    assert policy.observations == ["joints", "command"]
    joints, command = torch.randn(5, 3), torch.randn(5, 1)
    expected = target(joints, command)["action"].numpy()
    joints, command = joints.numpy(), command.numpy()
    close(policy(joints, command), expected)
    close(policy(joints, command=command), expected)
    close(policy(command=command, joints=joints), expected)


@pytest.fixture(params=["bound", "not bound"])
def binding(request, monkeypatch):
    """On a CPU, and as on another provider."""
    if request.param == "not bound":
        monkeypatch.setattr(buffers, "CPU", "another")
        monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", refuse)
        return
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", refuse)


def refuse(*_):
    raise AssertionError("the session must be run the other way")


@pytest.mark.parametrize("name", RECURRENT)
def test_state_is_carried_and_episodes_begin(name, files, binding):
    target, path = files[name]
    policy, batch = OnnxPolicy(path), 3
    assert policy.observations == ["observation"]
    starts, state = torch.ones(batch, dtype=torch.bool), {}
    for step in range(8):
        observation = torch.randn(batch, 4)
        if not state:
            state = target.initial_state(observation)
        with torch.no_grad():
            outputs = target(observation=observation, **{**state, "is_init": starts})
        close(policy(observation.numpy()), outputs["action"])
        state = {k: outputs[out] for k, out in target.state_names.items()}
        starts = torch.rand(batch) < 0.4 if step % 3 == 1 else torch.zeros(batch, dtype=torch.bool)
        if starts.any():
            policy.reset(starts.numpy())


def test_an_episode_goes_on_from_a_given_state(files):
    target, path = files["gru"]
    observation, h_in = torch.randn(2, 4), torch.randn(2, 8)
    with torch.no_grad():
        expected = target(observation, h_in)["action"]
    close(OnnxPolicy(path)(observation.numpy(), h_in=h_in.numpy()), expected)


def test_a_state_of_other_rows_must_be_given_and_is_not_reset_by_row(files):
    policy, x = OnnxPolicy(files["shared"][1]), np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"`m_in` must be given, got none, and .* \['agents'\]"):
        policy(x)
    m_in = np.ones((5, 4), np.float32)
    close(policy(x, m_in=m_in), x * 5)
    close(policy(x), x * 10)
    with pytest.raises(ValueError, match=r"`mask` must go with a state that has the axis 'batch'"):
        policy.reset(np.array([True, False]))
    policy.reset()
    close(policy(x, m_in=m_in), x * 5)


def test_a_reset_of_all_begins_anew_at_any_number(files):
    policy = OnnxPolicy(files["gru"][1])
    observation = np.ones((2, 4), np.float32)
    first = policy(observation)
    assert not np.allclose(policy(observation), first)
    with pytest.raises(ValueError, match=r"sizes must be \{'batch': 2\} .*, got \{'batch': 3\}"):
        policy(np.ones((3, 4), np.float32))
    policy.reset()
    close(policy(np.ones((3, 4), np.float32)), first[[0, 0, 0]])


@pytest.mark.parametrize("name", ["as rsl_rl", "rows last"])
def test_a_file_that_is_not_told_of_starts_has_a_state_of_zero(name, files, binding):
    policy = OnnxPolicy(files[name][1])
    assert "is_init" not in policy.inputs
    observation = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    first, second = policy(observation), policy(observation)
    policy.reset(np.array([False, True, False]))
    third = policy(observation)
    close(third[1], first[1])
    assert not np.allclose(third[0], first[0])
    assert not np.allclose(third[0], second[0])


def test_the_state_and_the_starts_may_be_given(files):
    target, path = files["gru"]
    policy, observation = OnnxPolicy(path), torch.randn(2, 4)
    policy(observation.numpy())
    h_in, is_init = torch.randn(2, 8), torch.tensor([True, False])
    with torch.no_grad():
        outputs = target(observation, h_in, is_init)
        after = target(observation, outputs["h_out"], torch.zeros(2, dtype=torch.bool))
    got = policy(observation.numpy(), h_in=h_in.numpy(), is_init=is_init.numpy())
    close(got, outputs["action"])
    close(policy(observation.numpy()), after["action"])


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_is_drawn(kind, files):
    target, path = files[kind]
    observation = torch.randn(500, 4)
    outputs, again, other = [OnnxPolicy(path, seed=seed)(observation.numpy()) for seed in (7, 7, 8)]
    assert set(outputs) >= {"action", "log_prob"}
    for name, x in outputs.items():
        np.testing.assert_array_equal(x, again[name])
    assert (outputs["action"] != other["action"]).any()
    generator = np.random.default_rng(7)
    draw = generator.random if kind == "uniform" else generator.standard_normal
    shape = next(x["shape"] for x in OnnxModel(path).contract["inputs"] if x.get("noise") == kind)
    noise = draw([500, *shape[1:]], dtype=np.float32)
    with torch.no_grad():
        expected = target(observation, torch.from_numpy(noise))
    policy = OnnxPolicy(path, seed=9)
    given = policy(observation.numpy(), noise=noise)
    for name, x in expected.items():
        np.testing.assert_allclose(outputs[name], x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(given[name], x, rtol=1e-4, atol=1e-5)


def test_parameters_are_held_loaded_and_given(files, binding, monkeypatch):
    target, path = files["held"]
    policy, observation = OnnxPolicy(path), torch.randn(3, 4)
    before = target(observation).detach()
    assert policy.observations == ["observation"]
    assert set(policy.held) == set(dict(target.named_parameters()))
    close(policy(observation.numpy()), before)
    new = {name: p.detach().numpy() * 1.5 for name, p in target.named_parameters()}
    with torch.no_grad():
        after = torch.func.functional_call(
            target, {name: torch.from_numpy(x) for name, x in new.items()}, (observation,)
        ).numpy()
    monkeypatch.undo()  # what is given for one call is not bound
    close(policy(observation.numpy(), **new), after)
    close(policy(observation.numpy()), before)
    policy.load({**new, "optimizer.step": np.zeros(1)})
    close(policy(observation.numpy()), after)
    close(policy(observation.numpy()[:1]), after[:1])
    name = next(iter(new))
    new[name][:] = 0
    close(policy(observation.numpy()), after)


def test_what_load_refuses(files):
    policy = OnnxPolicy(files["held"][1])
    name, other = list(policy.held)[:2]
    before = {k: x.copy() for k, x in policy.held.items()}
    with pytest.raises(ValueError, match=r"OnnxPolicy.load: `arrays` must have some of the param"):
        policy.load({"weights": np.zeros(3)})
    with pytest.raises(
        ValueError, match=rf"OnnxPolicy: `{other}` must be a float32 array of shape"
    ):
        policy.load({name: before[name] + 1, other: np.zeros((1, 1, 1), np.float32)})
    for k, x in policy.held.items():
        np.testing.assert_array_equal(x, before[k])


f32 = np.float32
REFUSED = {
    "float64": (
        "mlp",
        lambda p: p(np.zeros((1, 4))),
        r"OnnxPolicy: `observation` must be a float32 array of shape \['batch', 4\] .*, got "
        r"float64 of shape \[1, 4\]; convert it with `.astype\(np.float32\)`",
    ),
    "a list": ("mlp", lambda p: p([[0.0] * 4]), "`observation` must be a float32 .*, got list of"),
    "no axis of environments": (
        "mlp",
        lambda p: p(np.zeros(4, f32)),
        r"got float32 of shape \[4\]",
    ),
    "another width": ("mlp", lambda p: p(np.zeros((1, 3), f32)), r"got float32 of shape \[1, 3\]"),
    "no observation": ("mlp", lambda p: p(), r"observations are \['observation'\], got 0 in order"),
    "too many": ("mlp", lambda p: p(np.zeros((1, 4), f32), np.zeros(1)), "got 2 in order and"),
    "twice": (
        "mlp",
        lambda p: p(np.zeros((1, 4), f32), observation=np.zeros((1, 4), f32)),
        r"got 1 in order and \['observation'\] by name",
    ),
    "another name": ("mlp", lambda p: p(obs=np.zeros((1, 4), f32)), r"and \['obs'\] by name"),
    "numbers that would broadcast": (
        "groups",
        lambda p: p(np.zeros((3, 3), f32), np.zeros((1, 1), f32)),
        r"`command` must be .* with \{'batch': 3\}, got float32 of shape \[1, 1\]",
    ),
    "a state of another size": (
        "gru",
        lambda p: p(np.zeros((2, 4), f32), h_in=np.zeros((3, 8), f32)),
        r"`h_in` must be a float32 array of shape \['batch', 8\] with \{'batch': 2\}",
    ),
    "a mask of numbers": (
        "gru",
        lambda p: (p(np.zeros((2, 4), f32)), p.reset(np.zeros(2))),
        r"OnnxPolicy.reset: `mask` must be a bool array of shape \[2\], got float64 of shape \[2\]",
    ),
    "a mask of another size": (
        "gru",
        lambda p: (p(np.zeros((2, 4), f32)), p.reset(np.zeros(3, bool))),
        r"of shape \[2\], got bool of shape \[3\]",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, files):
    name, call, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence):
        call(OnnxPolicy(files[name][1]))


def test_a_refused_call_changes_nothing(files):
    policies = [OnnxPolicy(files["gru"][1]) for _ in range(2)]
    observation = np.ones((2, 4), f32)
    for policy in policies:
        policy(observation)
    with pytest.raises(ValueError, match="`is_init` must be a bool array"):
        policies[0](observation, h_in=np.ones((2, 8), f32), is_init=np.ones(2))
    np.testing.assert_array_equal(policies[0](observation), policies[1](observation))


# ---- Providers -----------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """As on a machine whose ONNX Runtime was built with CUDA and does not find its libraries."""
    real, asked = onnxruntime.InferenceSession, []

    def opening(path, options, providers, **_):
        asked.append(providers)
        return real(path, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", opening)
    return asked


@pytest.mark.parametrize("kind", [OnnxModel, OnnxPolicy])
def test_the_providers_are_those_of_the_session(kind, files, opened):
    assert kind(files["mlp"][1]).providers == [CPU]
    assert opened == [[(CUDA, {"use_tf32": 0}), CPU]]


@pytest.mark.parametrize("kind", [OnnxModel, OnnxPolicy])
def test_a_provider_that_the_session_does_not_get(kind, files, opened):
    asked = ((CUDA, {"device_id": 1}), CPU)
    sentence = rf"{kind.__name__}: `providers` must be of .*, \['{CPU}'\], got \['{CUDA}'\]"
    with pytest.raises(ValueError, match=sentence):
        kind(files["mlp"][1], providers=asked)
    assert opened == [[*asked]]


@pytest.mark.filterwarnings("error")
def test_a_provider_that_is_not_there(files):
    with pytest.raises(ValueError, match=r"`providers` must be of those .*, got \['Tensorrt"):
        OnnxPolicy(files["mlp"][1], providers=("TensorrtExecutionProvider", CPU))
    with pytest.raises(ValueError, match="`providers` must be a sequence of names, got 'CPUExec"):
        OnnxPolicy(files["mlp"][1], providers=CPU)
    for providers in (None, (CPU,)):
        assert OnnxPolicy(files["mlp"][1], providers=providers).providers == [CPU]


# ---- Installations and files ---------------------------------------------------------------------


def test_two_distributions_that_overwrite_each_other(files, monkeypatch):
    monkeypatch.setattr(session, "version", lambda name: "1.31.1")
    with pytest.raises(
        RuntimeError, match=r"OnnxPolicy: .*both installed; run `pip uninstall -y o"
    ):
        OnnxPolicy(files["mlp"][1])


def test_what_an_uninstallation_leaves(files, monkeypatch):
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(RuntimeError, match=r"OnnxModel: one of .*what is left of them is empty"):
        OnnxModel(files["mlp"][1])


def test_one_distribution_alone(files, monkeypatch):
    def only_gpu(name):
        if name != "onnxruntime-gpu":
            raise PackageNotFoundError
        return "1.31.1"

    monkeypatch.setattr(session, "version", only_gpu)
    assert OnnxPolicy(files["mlp"][1])(np.zeros((1, 4), f32)).shape == (1, 2)


def test_a_corrupted_file(files, tmp_path):
    path, beside = tmp_path / "p.onnx", tmp_path / "p.onnx.contract.json"
    intact = files["mlp"][1]
    path.write_bytes(intact.read_bytes())
    text = (intact.parent / f"{intact.name}.contract.json").read_text()
    beside.write_text(text)
    OnnxPolicy(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"p.onnx is corrupted, or .*SHA-256 must be"):
        OnnxPolicy(path)
    beside.write_text(text[:-20])
    with pytest.raises(ValueError, match=r"p.onnx.contract.json is corrupted, it is no contract"):
        OnnxModel(path)
    path.write_bytes(intact.read_bytes())
    beside.write_text(json.dumps({"format": "onnx"}))  # which vouches for nothing
    with pytest.raises(ValueError, match=r"contract.json is corrupted, .*'sha256' is missing"):
        OnnxModel(path)
    beside.unlink()
    OnnxModel(path)


def test_no_torch_is_needed(files):
    code = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
from compiled_rl.export import OnnxPolicy
policy = OnnxPolicy({str(files["gru"][1])!r})
print(policy(np.zeros((2, 4), np.float32)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 2)"
