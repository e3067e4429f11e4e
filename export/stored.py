"""What a file says of itself, without running it: its contract, and what its graph holds."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

from pydantic import ValidationError

from compiled_rl.export.errors import CorruptedError, InstallationError, said
from compiled_rl.export.names import CONTRACT_KEY, check_growth
from compiled_rl.export.schema import Contract, first_of
from compiled_rl.export.vouched import check_same, contract_beside, parsed
from compiled_rl.files import existing


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


def read_contract(owner: str, path: str | Path) -> dict[str, Any]:
    """The contract inside a file, once the file is known to be whole; ``owner`` asks for it.

    It is held to the SHA-256 in the contract beside it, if there is one, and an archive to the
    checksum of each record, which torch does not look at.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or has no contract.
    """
    path = existing(owner, path)
    beside = contract_beside(path)
    read = _of_onnx if path.suffix == ".onnx" else _of_archive
    try:
        contract = checked_contract(read(path))
    except (CorruptedError, InstallationError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise CorruptedError(f"{path} is not a file that can be run: {said(error)}") from None
    check_same(path, contract, beside)
    return contract


def checked_contract(text: str | bytes) -> dict[str, Any]:
    """A contract, as it is written.

    Raises:
        ValueError: the text is none, or has a bound of an axis that there is not.
    """
    contract = parsed(text)
    try:
        known = Contract.model_validate(contract, strict=True)
    except ValidationError as error:
        raise ValueError(f"it is no contract {first_of(error)}") from None
    axes = {axis for entry in known.inputs for axis in entry.shape if isinstance(axis, str)}
    if not axes.issuperset(known.max):
        raise ValueError(f"`max` must be of the axes {sorted(axes)}, got {known.max}")
    return contract


def _of_onnx(path: Path) -> str:
    from compiled_rl.export.runtime import OnnxModel

    return json.dumps(OnnxModel(path).contract)


def _of_archive(path: Path) -> bytes:
    """Of torch's forms, each a zip archive with a folder of texts."""
    with ZipFile(path) as archive:
        check_growth(archive)
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its record {damaged} is damaged")
        texts = [name for name in archive.namelist() if name.endswith(f"extra/{CONTRACT_KEY}")]
        if len(texts) != 1:
            raise ValueError(f"it must hold one contract of compiled_rl, got {len(texts)}")
        return archive.read(texts[0])


def read_graph(path: Path, form: str) -> Graph:
    """The operators and weights of a file of this form, as its contract names it.

    Raises:
        CorruptedError: it is of another form, or damaged.
    """
    try:
        return _onnx_graph(path) if form == "onnx" else _archive_graph(path, form)
    except (CorruptedError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise CorruptedError(f"{path} must be a file of the form {form}: {said(error)}") from None


def _archive_graph(path: Path, form: str) -> Graph:
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
    from compiled_rl.export.torchscript import load_torchscript

    def kinds(block: Any) -> Iterator[str]:
        for node in block.nodes():
            yield node.kind()
            for inner in node.blocks():
                yield from kinds(inner)

    graph: Any = load_torchscript(path).program
    return [kind for kind in kinds(graph.inlined_graph) if not kind.startswith("prim::")]


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
