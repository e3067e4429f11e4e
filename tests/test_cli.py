"""The command line, as a shell sees it: what is printed where, which files, which exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

from compiled_rl.cli import app
from compiled_rl.examples.play import play
from compiled_rl.export.latency import draw_inputs, sizes_of

ROOT = Path(__file__).parents[1]
RECIPES = """
import torch
from torch import nn
from compiled_rl import Policy
from compiled_rl.functional import linear_recurrence
from compiled_rl.modules import Categorical

def make(seed=0):
    torch.manual_seed(seed)
    print("made by a recipe")
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return Policy(network, Categorical), torch.randn(2, 4)

def value():
    torch.manual_seed(0)
    return nn.Linear(4, 1), torch.randn(2, 4), {"input_names": ["obs"], "output_names": ["value"]}

def other_value():
    torch.manual_seed(1)
    return nn.Linear(4, 1), torch.randn(2, 4), {"input_names": ["obs"], "output_names": ["value"]}

def sums():
    example = {"x": torch.randn(2, 5), "decay": torch.rand(2, 5)}
    return linear_recurrence, example, {"dynamic": ("batch", "time"), "max_time": 8}

def double(x):
    return 2 * x

def twice():
    return double, torch.randn(2, 4), {"dynamic": (), "max_time": 3}

def count(observation, h_in):
    return h_in[:, 0] + 0 * observation[:, 0], h_in + 1

def counting():
    names = {"output_names": ["action", "h_out"]}
    return count, {"observation": torch.randn(2, 1), "h_in": torch.zeros(2, 1)}, names

def drawing():
    return nn.Sequential(nn.Linear(4, 1), Noisy()), torch.randn(2, 4)

class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)

def interrupted():
    raise KeyboardInterrupt

def raising():
    return undefined

def pair():
    return [nn.Linear(4, 1), torch.randn(2, 4)]

def single():
    return (nn.Linear(4, 1),)

def nothing_to_call():
    return 3, torch.randn(2, 4)

def demanding(x):
    return x

def typed():
    raise TypeError("of the recipe")

def forever():
    return nn.Linear(4, 1), torch.randn(2, 4), {"max_time": "x"}

def unknown_options():
    return nn.Linear(4, 1), torch.randn(2, 4), {"opset": 18}

number = 3
"""


def run(*arguments: object):
    return CliRunner().invoke(app, [str(x) for x in arguments], env={"COLUMNS": "100"})


def refused(code: int, *arguments: object) -> str:
    """The one sentence of a refusal."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("compiled-rl: ")
    return sentence


def answer(*arguments: object) -> dict:
    """The JSON of a command that went well."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of recipes and artefacts."""
    folder = tmp_path_factory.mktemp("made")
    recipes = folder / "agent.py"
    recipes.write_text(RECIPES)
    os.utime(recipes, (1, 1))
    three = ["--to", "onnx", "--to", "pt2", "--to", "torchscript"]
    for function, forms in (("make", three), ("sums", three), ("value", []), ("counting", [])):
        answer("export", f"{recipes}:{function}", "--out", folder, *forms, "--force")
    return folder


@pytest.fixture
def recipes(tmp_path):
    path = tmp_path / "agent.py"
    path.write_text(RECIPES)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__"}


# ---- Export --------------------------------------------------------------------------------------


def test_files_are_named_and_shown(recipes, tmp_path):
    out = tmp_path / "made"
    result = run("export", f"{recipes}:value", "--to", "onnx", "--to", "torchscript", "--out", out)
    assert result.exit_code == 0, result.output
    for name in ("value.onnx", "value.pt", "batch 64", "largest error"):
        assert name in result.stdout
    assert names(out) == {f"value{x}{y}" for x in (".onnx", ".pt") for y in ("", ".contract.json")}


def test_names_come_from_the_file_and_sizes_from_the_options(made):
    assert {"agent.onnx", "agent.pt2", "agent.pt", "sums.onnx", "sums.pt2"} <= names(made)
    contract = json.loads((made / "sums.pt2.contract.json").read_text())
    assert contract["dynamic"] == ["batch", "time"]
    assert contract["max"] == {"time": 8}


def test_options_of_the_command_line_come_first(recipes, tmp_path):
    told = ["--dynamic", "time,batch", "--max-time", 4, "--name", "it", "--opset", 19]
    forms = ["--to", "torchscript", "--to", "onnx"]
    report = answer("export", f"{recipes}:twice", *forms, "--out", tmp_path, *told)
    assert {Path(x["path"]).name for x in report["artefacts"]} == {"it.pt", "it.onnx"}
    contract = json.loads((tmp_path / "it.pt.contract.json").read_text())
    assert (contract["dynamic"], contract["max"]) == (["time", "batch"], {"time": 4})
    assert json.loads((tmp_path / "it.onnx.contract.json").read_text())["versions"]["opset"] == 19


def test_a_newer_file_is_kept_before_anything_is_done(tmp_path):
    recipe, kept = tmp_path / "agent.py", tmp_path / "agent.onnx"
    recipe.write_text("raise RuntimeError")
    kept.write_text("precious")
    os.utime(recipe, (1, 1))
    to = ["--to", "pt2", "--to", "onnx", "--out", tmp_path]
    assert "agent.onnx is newer than" in refused(3, "export", f"{recipe}:make", *to)
    assert names(tmp_path) == {"agent.py", "agent.onnx"}
    assert kept.read_text() == "precious"
    assert "line 1" in refused(2, "export", f"{recipe}:make", *to, "--force")


def test_an_older_file_is_replaced(recipes, tmp_path):
    old = tmp_path / "value.onnx"
    old.write_text("old")
    os.utime(old, (1, 1))
    answer("export", f"{recipes}:value", "--out", tmp_path)
    assert answer("inspect", old)["sha256"] == "matches"


def test_a_failure_is_one_sentence_and_no_file(recipes, tmp_path):
    before = names(tmp_path)
    to = ["--to", "onnx", "--to", "pt2", "--out", tmp_path]
    result = run("export", f"{recipes}:drawing", *to)
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert "to_onnx: " in first
    assert "draws at random" in first
    assert "to_pt2: " in second
    assert names(tmp_path) == before


def test_what_was_made_beside_a_failure_stays(recipes, tmp_path):
    to = ["--to", "torchscript", "--to", "onnx", "--opset", 3]
    result = run("export", f"{recipes}:value", *to, "--out", tmp_path, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [Path(x["path"]).name for x in report["artefacts"]] == ["value.pt"]
    assert "`opset` must be from 18" in report["failures"][0]
    assert "value.onnx" not in names(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("nowhere.py:make", "there must be a file"),
        ("agent.py", "must be FILE.py:make, got"),
        ("agent.py:absent", "must have a function `absent`, got none"),
        ("agent.py:number", "must have a function `number`, got none"),
        ("agent.py:raising", "got NameError: name 'undefined' is not defined"),
        ("agent.py:pair", "(target, example, options), got a list"),
        ("agent.py:single", "(target, example, options), got a tuple of 1"),
        ("agent.py:nothing_to_call", "must return a target that can be called, got 3"),
        ("agent.py:unknown_options", "got ['opset']"),
        ("agent.py:demanding", "must run, got TypeError: demanding() missing 1 required"),
        ("agent.py:typed", "line 65, must run, got TypeError: of the recipe"),
        ("agent.py:forever", "`max_time` must be an integer of at least 1, got 'x'"),
    ],
)
def test_a_recipe_that_is_none_is_one_sentence(recipes, recipe, sentence):
    before = names(recipes.parent)
    assert sentence in refused(2, "export", recipes.parent / recipe, "--out", recipes.parent)
    assert names(recipes.parent) == before


def test_a_recipe_beside_one_is_told_by_its_line_too(recipes, monkeypatch):
    monkeypatch.chdir(recipes.parent)
    assert "agent.py, line 50, must run" in refused(2, "export", "agent.py:raising")


@pytest.mark.parametrize("out", ["agent.py", "agent.py/inside"])
def test_where_no_folder_can_be_is_one_sentence(recipes, out):
    before = names(recipes.parent)
    assert "agent.py" in refused(2, "export", f"{recipes}:value", "--out", recipes.parent / out)
    assert names(recipes.parent) == before


@pytest.mark.parametrize(("option", "value"), [("--max-time", 0), ("--max-time", -1)])
def test_a_number_out_of_its_range_is_refused_by_its_name(recipes, option, value):
    result = run("export", f"{recipes}:make", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_a_recipe_imports_what_is_beside_it(tmp_path):
    (tmp_path / "beside_the_recipe.py").write_text(
        "from torch import nn; network = nn.Linear(4, 1)"
    )
    (tmp_path / "uses.py").write_text(
        "import torch\nfrom beside_the_recipe import network\n"
        "def make(): return network, torch.randn(2, 4)"
    )
    before = list(sys.path)
    answer("export", f"{tmp_path / 'uses.py'}:make", "--out", tmp_path)
    assert sys.path == before


def test_an_interrupt_leaves_nothing(recipes):
    before = names(recipes.parent)
    result = run("export", f"{recipes}:interrupted", "--out", recipes.parent)
    assert result.exit_code == 130
    assert names(recipes.parent) == before


# ---- Inspect -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nodes", "operator"),
    [("agent.onnx", 4, "Gemm"), ("agent.pt2", 4, "aten.linear.default"), ("agent.pt", 4, None)],
)
def test_what_is_inside(made, name, nodes, operator):
    about = answer("inspect", made / name)
    assert about["sha256"] == "matches"
    assert about["bytes"] == (made / name).stat().st_size
    assert about["contract"]["inputs"][0]["shape"] == ["batch", 4]
    assert about["graph"]["nodes"] == nodes
    assert about["graph"]["weights_bytes"] >= 4 * (4 * 8 + 8 + 8 * 2 + 2)
    assert operator is None or about["graph"]["operators"][operator] == 2
    shown = run("inspect", made / name)
    for text in ("observation", "batch x 4", "what the agent sees", "torch", "batch 64", "KiB"):
        assert text in shown.stdout


def test_loops_are_looked_into(made):
    """The recurrence is a scan whose body multiplies, and nothing else does."""
    operators = answer("inspect", made / "sums.onnx")["graph"]["operators"]
    assert operators["Scan"] == 1
    assert operators["Mul"] == 1


@pytest.mark.parametrize("name", ["agent.onnx", "agent.pt2", "agent.pt"])
@pytest.mark.parametrize("command", ["inspect", "verify", "bench", "play"])
def test_a_corrupted_file_is_refused(made, tmp_path, name, command):
    for end in ("", ".contract.json"):
        shutil.copy(made / f"{name}{end}", tmp_path)
    broken = bytearray((tmp_path / name).read_bytes())
    broken[len(broken) // 2] ^= 1
    (tmp_path / name).write_bytes(broken)
    more = {"verify": ["--against", f"{made}/agent.py:make"], "play": ["--env", "CartPole-v1"]}
    assert "is corrupted" in refused(1, command, tmp_path / name, *more.get(command, []))


def test_a_file_without_its_contract_beside_it_has_it_inside(made, tmp_path):
    shutil.copy(made / "agent.pt2", tmp_path)
    about = answer("inspect", tmp_path / "agent.pt2")
    assert about["sha256"] is None
    assert about["contract"]["target"] == "Policy"


@pytest.mark.parametrize("name", ["nothing.onnx", "text.onnx", "text.pt2"])
def test_what_is_no_artefact_is_one_sentence(tmp_path, name):
    (tmp_path / f"text{Path(name).suffix}").write_text("a text")
    code = 2 if name.startswith("nothing") else 1
    for command in (["inspect"], ["bench"], ["play", "--env", "CartPole-v1"]):
        refused(code, command[0], tmp_path / name, *command[1:])


# ---- Verify --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["agent.onnx", "agent.pt2", "agent.pt"])
def test_the_same_is_the_same(made, name):
    report = answer("verify", made / name, "--against", f"{made}/agent.py:make")
    assert [check["sizes"]["batch"] for check in report["checks"]] == [1, 3, 64]
    shown = run("verify", made / name, "--against", f"{made}/agent.py:make")
    assert "largest error" in shown.stdout


@pytest.mark.parametrize(("name", "longest"), [("sums.onnx", 700), ("sums.pt2", 8), ("sums.pt", 8)])
def test_axes_are_those_of_the_contract(made, name, longest):
    report = answer("verify", made / name, "--against", f"{made}/agent.py:sums")
    assert max(check["sizes"]["time"] for check in report["checks"]) == longest


def test_another_network_is_told(made):
    sentence = refused(
        1, "verify", made / "value.onnx", "--against", f"{made}/agent.py:other_value"
    )
    assert "the output `value` at" in sentence
    assert "must equal eager's" in sentence


def test_another_target_is_told(made):
    sentence = refused(1, "verify", made / "value.onnx", "--against", f"{made}/agent.py:sums")
    assert "must have the inputs of the file, {'obs': ['batch', 4]}, got {'x'" in sentence


@pytest.mark.slow
def test_a_compiled_package_is_known_by_its_contract(recipes, tmp_path):
    made = answer("export", f"{recipes}:make", "--to", "aoti", "--to", "pt2", "--out", tmp_path)
    assert [Path(x["path"]).name for x in made["artefacts"]] == ["agent.aoti.pt2", "agent.pt2"]
    (tmp_path / "agent.aoti.pt2.contract.json").unlink()
    for name, form in (("agent.aoti.pt2", "aotinductor"), ("agent.pt2", "pt2")):
        about = answer("inspect", tmp_path / name)
        assert about["contract"]["format"] == form
        assert (about["graph"]["code_bytes"] > 0) == (form == "aotinductor")
        answer("verify", tmp_path / name, "--against", f"{recipes}:make")
        rows = answer("bench", tmp_path / name, "--batch", 2)["rows"]
        assert [row["contender"] for row in rows] == [form]


# ---- Bench ---------------------------------------------------------------------------------------


def test_contenders_at_every_batch(made):
    rows = answer("bench", made / "agent.onnx", "--batch", 1, "--batch", 8)["rows"]
    contenders = ["onnxruntime", "onnxruntime, bound"]
    assert [row["contender"] for row in rows] == [*contenders, *contenders]
    assert [row["sizes"] for row in rows] == [{"batch": n} for n in (1, 1, 8, 8)]
    for row in rows:
        assert 0 < row["median_us"] <= row["p99_us"]


@pytest.mark.parametrize(("name", "runtimes"), [("sums.onnx", 2), ("sums.pt2", 1), ("sums.pt", 1)])
def test_eager_in_the_same_run(made, name, runtimes):
    against = ["--against", f"{made}/agent.py:sums", "--batch", 2, "--length", 99]
    report = answer("bench", made / name, *against, "--threads", 2)
    assert report["threads"] == 2
    assert [row["contender"] for row in report["rows"]][runtimes:] == ["eager"]
    assert report["rows"][0]["sizes"]["time"] == (99 if name == "sums.onnx" else 8)
    assert report["rows"][-1]["times_eager"] == 1
    assert report["rows"][0]["times_eager"] > 0
    shown = run("bench", made / name, *against)
    assert "times eager" in shown.stdout


def test_inputs_are_what_the_contract_says():
    def entry(name, dtype, *shape, **more):
        return {"name": name, "dtype": dtype, "shape": list(shape), **more}

    contract = {
        "state": {"h_in": "h_out"},
        "inputs": [
            entry("ranged", "float32", "batch", 2, low=[5.0, -7.0], high=[6.0, -7.0]),
            entry("drawn", "float64", "batch", noise="normal"),
            entry("uniform", "float32", "batch", noise="uniform"),
            entry("flag", "bool", "batch", "time"),
            entry("action", "int64", "batch"),
            entry("h_in", "float32", 1, "batch"),
        ],
    }
    inputs = draw_inputs(contract, {"batch": 500, "time": 3})
    assert inputs["ranged"].shape == (500, 2)
    assert inputs["ranged"].dtype == np.float32
    assert 5 <= inputs["ranged"][:, 0].min() <= inputs["ranged"][:, 0].max() <= 6
    assert (inputs["ranged"][:, 1] == -7).all()
    assert inputs["drawn"].min() < -1
    assert inputs["drawn"].dtype == np.float64
    assert 0 <= inputs["uniform"].min() < 0.1
    assert inputs["uniform"].max() < 1
    assert set(inputs["flag"].ravel()) == {False, True}
    assert inputs["flag"].shape == (500, 3)
    assert set(inputs["action"]) == {0, 1}
    assert inputs["action"].dtype == np.int64
    assert not inputs["h_in"].any()


def test_sizes_are_within_the_bounds():
    contract = {"dynamic": ["time", "batch"], "max": {"time": 8}}
    assert sizes_of(contract, [1, 2], 16) == [{"time": 8, "batch": 1}, {"time": 8, "batch": 2}]
    assert sizes_of({"dynamic": [], "max": {}}, [1, 2], 16) == [{}]
    rows = {"dynamic": ["time"], "max": {"time": 8}}
    assert sizes_of(rows, [1, 64, 4096], 16) == [{"time": 1}, {"time": 8}]


# ---- Play ----------------------------------------------------------------------------------------


def test_playing_does_not_import_torch(made):
    code = (
        "import sys; from compiled_rl.cli import app\n"
        f"sys.argv = ['compiled-rl', 'play', {str(made / 'agent.onnx')!r}, '--env', 'CartPole-v1',"
        " '--episodes', '3', '--json']\n"
        "try: app()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mean_return"] == np.mean(report["returns"])
    assert len(report["returns"]) == 3
    assert min(report["returns"]) >= 8


def test_a_seed_is_a_game(made):
    first, again, other = (
        answer("play", made / "agent.onnx", "--env", "CartPole-v1", "--episodes", 4, "--seed", seed)
        for seed in (1, 1, 50)
    )
    assert first == again
    assert first["returns"] != other["returns"]


class Counted(gym.Env):
    """Three steps; the reward is the action."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(0, 9, ())

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), action, self.steps == 3, False, {}


def test_memory_is_carried_and_forgotten(made):
    gym.register("Counted-v0", Counted)
    assert play(made / "counting.onnx", "Counted-v0", 2) == [0 + 1 + 2] * 2


def test_an_action_of_another_shape_is_told(made):
    sentence = refused(2, "play", made / "value.onnx", "--env", "CartPole-v1")
    assert "the action must have the shape [] of CartPole-v1's, got [1]" in sentence


def test_an_unknown_environment_is_told(made):
    assert "Nope" in refused(2, "play", made / "agent.onnx", "--env", "Nope-v1")


# ---- The rest ------------------------------------------------------------------------------------


def test_help_and_version():
    assert "compiled-rl 0.1.0" in run("--version").stdout
    shown = run("--help").stdout
    assert "Exit codes" in shown
    for name in ("export", "inspect", "verify", "bench", "play", "demo"):
        assert name in shown
        assert run(name, "--help").exit_code == 0
    assert run("export", "--nonsense").exit_code == 2


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_it_says_so(missing):
    code = f"import sys; sys.modules['{missing}'] = None; from compiled_rl.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"compiled-rl: {missing} must be installed, got none; pip install 'compiled_rl[cli]'\n"
    )


def test_the_demo_has_nothing_to_go_on_from(tmp_path):
    result = run("demo", "--resume", "--out", tmp_path)
    assert result.exit_code == 2
    assert "there is no" in result.stderr


@pytest.mark.slow
def test_a_wheel_has_the_command_and_its_demo(tmp_path):
    """Built from a copy, installed nowhere, run from a folder without the sources."""
    source, wheels, home = tmp_path / "source", tmp_path / "wheels", tmp_path / "home"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("compiled_rl", "export", "examples"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    build = [sys.executable, "-m", "pip", "wheel", source, "-w", wheels, "-q"]
    subprocess.run([*build, "--no-deps", "--no-build-isolation"], check=True)
    (wheel,) = wheels.glob("*.whl")
    shutil.unpack_archive(wheel, home, "zip")
    (entries,) = home.glob("*.dist-info/entry_points.txt")
    assert "compiled-rl = compiled_rl.cli:main" in entries.read_text()
    options = ["--steps", "1024", "--no-compile", "--out", str(tmp_path / "demo")]
    done = subprocess.run(
        [sys.executable, "-m", "compiled_rl.cli", "demo", *options],
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mean return" in done.stdout
    assert "gae.onnx" in done.stdout
