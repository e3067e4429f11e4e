"""What a file says of itself, without running it: its contract, and what its graph holds."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

from compiled_rl.export.errors import CorruptedError
from compiled_rl.export.names import CONTRACT_KEY, contract_of


class Graph(NamedTuple):
    """What is inside a file.

    Attributes:
        operators: how often each is called, the most frequent first; empty where all is compiled.
        weights_bytes: of what was trained, and of other constants.
        code_bytes: of a compiled library, weights included.
    """

    operators: dict[str, int]
    weights_bytes: int = 0
    code_bytes: int = 0

    @property
    def nodes(self) -> int:
        """Calls of operators."""
        return sum(self.operators.values())


def read_contract(path: str | Path) -> dict[str, Any]:
    """The contract inside a file, once the file is known to be whole.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file's SHA-256 is not that of the contract beside it.
        ValueError: the file has no contract.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the artefact must be a file, got {path}")
    is_vouched_for(path)
    contract = _of_onnx(path) if path.suffix == ".onnx" else _of_archive(path)
    if not contract:
        raise ValueError(f"the artefact must hold a contract of compiled_rl, got none in {path}")
    return contract


def is_vouched_for(path: Path) -> bool:
    """Whether a contract beside the file has its SHA-256; False where there is no contract.

    Raises:
        CorruptedError: it has another.
    """
    beside = contract_of(path)
    if not beside.is_file():
        return False
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        expected = json.loads(beside.read_text())["sha256"]
    except (ValueError, KeyError, TypeError):
        raise CorruptedError(f"{beside} is corrupted: it is no contract") from None
    if digest != expected:
        raise CorruptedError(
            f"{path} is corrupted: its SHA-256 must be {str(expected)[:12]}…, as "
            f"{beside.name} has it, got {digest[:12]}…"
        )
    return True


def _of_onnx(path: Path) -> dict[str, Any]:
    from compiled_rl.export.runtime import OnnxModel

    return OnnxModel(path).contract


def _of_archive(path: Path) -> dict[str, Any]:
    """Of torch's forms, each a zip archive with a folder of texts."""
    try:
        with ZipFile(path) as archive:
            texts = [name for name in archive.namelist() if name.endswith(f"extra/{CONTRACT_KEY}")]
            contract: dict[str, Any] = json.loads(archive.read(texts[0])) if texts else {}
            return contract
    except BadZipFile:
        raise ValueError(f"{path} is not a file that can be run: it is no archive") from None


def read_graph(path: Path, form: str) -> Graph:
    """The operators and weights of a file of this form, as its contract names it."""
    if form == "onnx":
        return _onnx_graph(path)
    with ZipFile(path) as archive:
        code = sum(x.file_size for x in archive.infolist() if x.filename.endswith(".so"))
        weights = sum(x.file_size for x in archive.infolist() if _is_weight(x.filename))
        programs = [name for name in archive.namelist() if name.endswith("models/model.json")]
        nodes = json.loads(archive.read(programs[0]))["graph_module"] if programs else {}
    operators = _torchscript_operators(path) if form == "torchscript" else _pt2_operators(nodes)
    return Graph(_counted(operators), weights, code)


def _is_weight(name: str) -> bool:
    folders, _, file = name.partition("/data/")[2].rpartition("/")
    return folders in ("", "weights", "constants") and bool(file) and not file.endswith(".json")


def _pt2_operators(module: dict[str, Any]) -> list[str]:
    nodes = module["graph"]["nodes"] if module else []
    return [node["target"].removeprefix("torch.ops.") for node in nodes]


def _torchscript_operators(path: Path) -> list[str]:
    import torch

    def kinds(block: Any) -> Iterator[str]:
        for node in block.nodes():
            yield node.kind()
            for inner in node.blocks():
                yield from kinds(inner)

    graph = torch.jit.load(str(path)).inlined_graph
    return [kind for kind in kinds(graph) if not kind.startswith("prim::")]


def _onnx_graph(path: Path) -> Graph:
    import onnx

    model = onnx.load(path)
    graphs = [part for top in (model.graph, *model.functions) for part in _with_inner(top)]
    tensors = [x for graph in graphs for x in getattr(graph, "initializer", ())]
    size = onnx.helper.tensor_dtype_to_np_dtype
    weights = sum(prod(x.dims) * size(x.data_type).itemsize for x in tensors)
    return Graph(_counted(node.op_type for graph in graphs for node in graph.node), weights)


def _with_inner(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its loops and branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _with_inner(inner)


def _counted(operators: Iterable[str]) -> dict[str, int]:
    return dict(Counter(sorted(operators)).most_common())
