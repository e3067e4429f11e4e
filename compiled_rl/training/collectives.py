"""A graph's sums over processes that do not wait for each other, made one."""

import operator
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.pattern_matcher import stable_topological_sort

_ALL_REDUCE = torch.ops._c10d_functional.all_reduce.default
_WAIT = torch.ops._c10d_functional.wait_tensor.default
_ATEN = torch.ops.aten


class OneOfAKind(CustomGraphPass):
    """Has all sums that can be taken at one time travel together.

    An update has some thirty sums, most of them of one number, each of which is waited for. Each is
    as deep as the longest row of sums that its input waits for; those of one depth, operation and
    dtype become one.

    All processes must take the same sums in the same order, whatever the sizes of their parts. So
    this is run before anything else looks at the graph: what simplifies a graph of an empty part
    must not leave out a sum, or find two of them equal.
    """

    def __call__(self, graph: fx.Graph) -> None:
        """Change the graph in place."""
        for together in _by_depth(graph):
            _make_one(graph, together)
        stable_topological_sort(graph)  # what needed the first of them stands too early now

    def uuid(self) -> Any:
        """By which Inductor finds what it compiled before."""
        return get_hash_for_files((__file__,))


def _by_depth(graph: fx.Graph) -> list[list[fx.Node]]:
    depth: dict[fx.Node, int] = {}
    found: dict[Any, list[fx.Node]] = {}
    for node in graph.nodes:
        before = max((depth[x] for x in node.all_input_nodes), default=0)
        if node.target is _ALL_REDUCE:
            x = node.meta["val"]
            found.setdefault((before, node.args[1:], x.dtype, x.device), []).append(node)
        depth[node] = before + (node.target is _ALL_REDUCE)
    return list(found.values())


def _make_one(graph: fx.Graph, together: list[fx.Node]) -> None:
    how = together[0].args[1:]
    with graph.inserting_before(together[-1]):  # the inputs of all stand before it
        flat = [_call(graph, _ATEN.reshape.default, node.args[0], [-1]) for node in together]
        one = _call(graph, _ALL_REDUCE, _call(graph, _ATEN.cat.default, flat), *how)
        whole = _call(graph, _WAIT, one)
        start: Any = 0
        for node, x in zip(together, flat, strict=True):
            end = _sum_of(graph, start, *_sizes(graph, x))
            own = _call(graph, _ATEN.slice.Tensor, whole, 0, start, end)
            shaped = _call(graph, _ATEN.reshape.default, own, _sizes(graph, node.args[0]))
            start = end
            for wait in list(node.users):
                wait.replace_all_uses_with(shaped)
                graph.erase_node(wait)
            graph.erase_node(node)


def _sizes(graph: fx.Graph, x: Any) -> list[Any]:
    """Of each dimension, a number or, as of agents that may be more or fewer, a node."""
    sizes = enumerate(x.meta["val"].shape)
    return [n if isinstance(n, int) else _call(graph, _ATEN.sym_size.int, x, k) for k, n in sizes]


def _sum_of(graph: fx.Graph, a: Any, b: Any) -> Any:
    known = isinstance(a, int) and isinstance(b, int)
    return a + b if known else _call(graph, operator.add, a, b)


def _call(graph: fx.Graph, target: Any, *arguments: Any) -> fx.Node:
    node = graph.call_function(target, arguments)
    node.meta["val"] = target(*fx.map_arg(arguments, lambda x: x.meta["val"]))
    return node
