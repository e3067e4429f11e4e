"""Every example in a docstring runs."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import compiled_rl
from compiled_rl import export, functional, modules, testing

ROOT = Path(__file__).parents[1]
MARK = ".. code-block:: python\n"
MARKED = re.compile(r"^( *)\.\. code-block:: python\n\n((?:\1 {4,}.*\n?|\n)+)", re.MULTILINE)
INDENTED = re.compile(r"(?:^|\n\n)((?: {4,}.*(?:\n|$))+)")


class Example(NamedTuple):
    """A piece of code, and whose docstring it is in."""

    owner: str
    code: str


# What an example takes for granted. Every public name is there already.
BEFORE = {
    "functional.schedules": "fraction, other = torch.rand(1), 0.1",
    "modules.reads.Reads": "network = nn.Linear(4, 2)",
    "modules.concatenated.Concatenated": "network = nn.Linear(4, 2)",
    "modules.named.NamedModule": """
        module = RecurrentPolicy(nn.GRUCell(4, 3), nn.Linear(3, 2))
        observation, h_in = torch.randn(1, 4), torch.zeros(1, 3)
        is_init = torch.ones(1, dtype=torch.bool)
    """,
    "modules.recurrent_policy.RecurrentPolicy": """
        memory, encoder = nn.GRUCell(4, 3), nn.Linear(5, 4)
        head = nn.Sequential(nn.Linear(3, 2), StateIndependentScale(2))
        observation = torch.randn(1, 5)
    """,
    "adapters.hold_out.hold_out_net": """
        class Critic(nn.Linear):
            def forward(self, observation, action):
                return super().forward(observation + action)
        critic, actor, observation = Critic(4, 1), nn.Linear(4, 4), torch.randn(3, 4)
    """,
    "adapters.deploy.to_policy": """
        from tensordict.nn import (
            ProbabilisticTensorDictModule,
            ProbabilisticTensorDictSequential,
            TensorDictModule,
        )
        actor = ProbabilisticTensorDictSequential(
            TensorDictModule(nn.Linear(4, 3), ["observation"], ["logits"]),
            ProbabilisticTensorDictModule(
                ["logits"], ["action"], distribution_class=torch.distributions.Categorical
            ),
        )
    """,
    "testing.count_graphs": "function, batches = torch.sin, [torch.randn(2), torch.randn(3)]",
    "testing.assert_compiles_once": """
        loss = ClipPPOLoss(Policy(nn.Linear(4, 3), Categorical), ValueHead(4))
        def make_batch(size):
            x = torch.randn(size)
            batch = dict(action_log_prob=x, advantage=x, value_target=x)
            return dict(batch, observation=torch.randn(size, 4), action=torch.randint(3, (size,)))
    """,
    "export.pt2.to_pt2": """
        path, tensors = "linear.pt2", {"input": torch.randn(3, 4)}
        to_pt2(nn.Linear(4, 2), tensors, path)
    """,
    "export.torchscript.to_torchscript": """
        path, tensors = "linear.pt", {"input": torch.randn(3, 4)}
        to_torchscript(nn.Linear(4, 2), tensors, path)
    """,
    "export.aotinductor.to_aotinductor": """
        path, tensors = "linear.pt2", {"input": torch.randn(3, 4)}
        to_aotinductor(nn.Linear(4, 2), tensors, path)
    """,
    "export.runtime.OnnxPolicy": """
        import numpy as np
        to_onnx(Policy(nn.Linear(4, 3), Categorical), torch.randn(1, 4), "policy.onnx")
        observation, terminated, truncated = np.zeros((2, 4), np.float32), *np.eye(2, dtype=bool)
    """,
    "export.trainer.OnnxTrainer": """
        actor, x = Policy(nn.Linear(4, 3), Categorical), torch.randn(4)
        loss = ClipPPOLoss(actor, ValueHead(4))
        step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1), mode="eager")
        tensors = dict(action_log_prob=x, advantage=x, value_target=x)
        tensors |= dict(observation=torch.randn(4, 4), action=torch.randint(3, (4,)))
        batch = {name: y.numpy() for name, y in tensors.items()}
        to_onnx(step, tensors, "update.onnx")
        held = {"observation": torch.randn(1, 4)}
        to_onnx(actor, held, "policy.onnx", parameters=loss)
        policy = OnnxPolicy("policy.onnx")
    """,
}
# Seconds each; in every run, test_readme.py makes such files and test_testing.py compiles.
SLOW = (
    "export.aotinductor.to_aotinductor",
    "export.runtime.OnnxPolicy",
    "export.trainer.OnnxTrainer",
    "testing.assert_compiles_once",
)
NOT_HERE = {
    "export.tensorrt.to_tensorrt": "it needs a GPU and torch-tensorrt",
    "functional.processes.SplitBatch": "it needs processes: tests/distributed",
}


def sources() -> Iterator[tuple[str, str]]:
    """Each module's name below the package, and its text."""
    found = {path.resolve() for path in ROOT.glob("compiled_rl/**/*.py")}
    found |= set(ROOT.resolve().glob("export/*.py"))
    for path in sorted(found):
        parts = path.relative_to(ROOT.resolve()).with_suffix("").parts
        name = ".".join(parts).removeprefix("compiled_rl.").removesuffix(".__init__")
        if not name.startswith("examples"):
            yield name, path.read_text()


def docstrings() -> Iterator[tuple[str, str]]:
    for name, text in sources():
        yield from _within(name, ast.parse(text))


def _within(owner: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield owner, ast.get_docstring(node) or ""
    for inner in ast.iter_child_nodes(node):
        name = getattr(inner, "name", None)
        yield from _within(f"{owner}.{name}" if name else owner, inner)


DOCSTRINGS = list(docstrings())
EXAMPLES = [
    Example(owner, textwrap.dedent(code))
    for owner, text in DOCSTRINGS
    for _, code in MARKED.findall(text)
]


def row(example: Example) -> Any:
    marks = [pytest.mark.slow] if example.owner in SLOW else []
    return pytest.param(example, id=example.owner, marks=marks)


@pytest.mark.parametrize("example", [row(example) for example in EXAMPLES])
def test_an_example_runs(example, tmp_path, monkeypatch):
    if example.owner in NOT_HERE:
        pytest.skip(NOT_HERE[example.owner])
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    public = (export, testing, functional, modules, compiled_rl)
    names = {name: getattr(place, name) for place in public for name in dir(place)}
    names |= {"torch": torch, "nn": nn}
    exec(textwrap.dedent(BEFORE.get(example.owner, "")), names)
    exec(example.code, names)


def test_none_is_left_out():
    """As many as are marked in the sources, in whatever way examples are written."""
    texts = [text for _, text in sources()]
    marked = sum(text.count(MARK) for text in texts)
    print(f"{len(EXAMPLES)} examples in docstrings")
    assert len(EXAMPLES) == marked
    assert not [name for name, text in sources() if ">>> " in text or "```" in text]
    assert {*BEFORE, *SLOW, *NOT_HERE} <= {example.owner for example in EXAMPLES}


def is_code(block: str) -> bool:
    """Whether it is Python that nobody would take for a formula."""
    try:
        tree = ast.parse(textwrap.dedent(block))
    except SyntaxError:
        return False
    telling = (ast.With, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.keyword)
    return "#" in block or any(isinstance(node, telling) for node in ast.walk(tree))


def test_code_is_marked_as_code():
    for owner, text in DOCSTRINGS:
        unmarked = [block for block in INDENTED.findall(MARKED.sub("", text)) if is_code(block)]
        assert not unmarked, (owner, unmarked)


def test_code_is_told_from_formulas():
    assert is_code("    loss(observation)   # by position")
    assert is_code("    with hold_out_net(critic):\n        actor()")
    assert not is_code("    loss = -log_prob * distance(value, value_target)")
    assert not is_code("    sum over k of  softmax(logits over k)[k]")
