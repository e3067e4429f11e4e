"""For users' tests: how many graphs a compiled function made, and whether it computes the same."""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch._dynamo import config
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.exc import RecompileError, TorchDynamoException


class GraphCounter:
    """Counts the graphs that were compiled with its ``backend``."""

    def __init__(self) -> None:
        self.count = 0

    def backend(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """A backend for ``torch.compile`` that counts and runs the graph eagerly."""
        compiled: Callable[..., Any] = aot_eager(module, inputs)
        self.count += 1  # not before: TorchDynamo gives up some graphs here and starts anew
        return compiled


@contextmanager
def count_graphs() -> Iterator[GraphCounter]:
    """Count the graphs of what is compiled inside with the counter's backend.

    .. code-block:: python

        with count_graphs() as graphs:
            run = torch.compile(function, fullgraph=True, backend=graphs.backend)
            for batch in batches:
                run(batch)
        assert graphs.count <= 2
    """
    torch._dynamo.reset()
    yield GraphCounter()


def assert_compiles_once(
    fn: Callable[..., Any],
    batches: Iterable[Any],
    *,
    coefficients: Optional[Mapping[str, Sequence[float]]] = None,
    max_graphs: int = 2,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    seed: int = 0,
) -> None:
    """Assert that ``fn`` compiles without a break, seldom, and to what it computes eagerly.

    .. code-block:: python

        batches = [make_batch(size) for size in (2, 3, 5, 8)]
        assert_compiles_once(loss, batches, coefficients={"clip_epsilon": [0.1, 0.2, 0.3, 0.4]})

    Every batch is run, and then every value of every coefficient with one of the batches, each
    eagerly and compiled. Equal must be: every output; every gradient, of a weighted sum of the
    outputs that have one by all that it depends on; and the buffers, if ``fn`` is a module. Both
    runs start from the same buffers and the same seed, so ``fn`` may draw noise.

    The graphs are run by ``aot_eager``: what TorchDynamo and AOTAutograd make of ``fn`` is
    checked, the code that Inductor would generate is not. Whatever the process had compiled before
    is forgotten.

    Args:
        fn: a function, a module or a loss; it must not write to its batch.
        batches: for each call a dict of keyword arguments, a tuple of positional arguments, or
            anything else (a TensorDict, a tensor) as the only argument. The first graph is made
            for fixed sizes and the second for any, so let the sizes differ and be above 1.
        coefficients: values for attributes of ``fn``, by name; the attributes are set back.
        max_graphs: how many graphs all calls together may make.
        rtol: relative tolerance of compiled against eager.
        atol: absolute tolerance of the same.
        seed: of the random numbers of every call.

    Raises:
        AssertionError: a graph broke, too many graphs were made, or a value differs.
        ValueError: there is no batch.
    """
    if isinstance(batches, str) or not isinstance(batches, Iterable):
        raise TypeError(
            "assert_compiles_once: `batches` must be several batches, "
            f"got a {type(batches).__name__}"
        )
    batches = list(batches)
    if not batches:
        raise ValueError("assert_compiles_once: `batches` must hold a batch, got none")
    name = getattr(fn, "__name__", type(fn).__name__)
    with (
        count_graphs() as graphs,
        torch.random.fork_rng(),
        closing(_calls(fn, batches, coefficients or {})) as calls,
    ):
        compiled = torch.compile(fn, fullgraph=True, backend=graphs.backend)
        for batch, where in calls:
            about = f"assert_compiles_once: `{name}` on {where}"
            before = {buffer: buffer.clone() for buffer in _buffers(fn).values()}
            outputs = _outputs(fn, batch, seed)
            leaves = _leaves(_total(outputs))
            expected = _values(fn, outputs, leaves)
            for buffer, value in before.items():
                buffer.copy_(value)
            with _explained(about, graphs.count, max_graphs):
                outputs = _outputs(compiled, batch, seed)
            _check_equal(about, _values(fn, outputs, leaves), expected, rtol, atol)


def _calls(
    fn: Any, batches: list[Any], coefficients: Mapping[str, Sequence[float]]
) -> Generator[tuple[Any, str]]:
    """Every batch, then one for every value, set while it is used; and words for each."""
    for k, batch in enumerate(batches):
        yield batch, f"batch {k}"
    for name, values in coefficients.items():
        found = getattr(fn, name)
        before = found.item() if isinstance(found, Tensor) else found
        try:
            for k, value in enumerate(values):
                setattr(fn, name, value)
                yield batches[k % len(batches)], f"batch {k % len(batches)} at {name}={value:g}"
        finally:
            setattr(fn, name, before)


def _buffers(fn: Any) -> dict[str, Tensor]:
    return dict(fn.named_buffers()) if isinstance(fn, nn.Module) else {}


def _outputs(fn: Callable[..., Any], batch: Any, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    if isinstance(batch, dict):
        return _named("output", fn(**batch))
    return _named("output", fn(*batch) if isinstance(batch, tuple) else fn(batch))


def _named(name: str, x: Any) -> dict[str, Tensor]:
    """Every tensor of tuples and mappings by a name that says where it was."""
    if isinstance(x, Tensor):
        return {name: x}
    x = x._asdict() if hasattr(x, "_asdict") else x
    items: Iterable[Any] = (
        enumerate(x) if isinstance(x, tuple | list) else getattr(x, "items", dict)()
    )
    return {n: t for key, value in items for n, t in _named(f"{name}[{key!r}]", value).items()}


def _total(outputs: dict[str, Tensor]) -> Tensor:
    """A sum of what has a gradient, weighted, so that a sum known beforehand hides nothing."""
    total = torch.zeros([])
    for x in outputs.values():
        if x.requires_grad:
            weight = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device)
            total = total + (x * weight.view_as(x)).sum().to(total.device)
    return total


def _leaves(total: Tensor) -> list[Tensor]:
    """The tensors at the ends of the graph of ``total``: parameters, and inputs with gradients."""
    leaves, seen, ahead = [], set(), [total.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        ahead += [function for function, _ in node.next_functions]
    return leaves


def _values(fn: Any, outputs: dict[str, Tensor], leaves: list[Tensor]) -> dict[str, Any]:
    """All that two runs must agree on, by name."""
    values: dict[str, Any] = {}
    for name, x in outputs.items():
        values[name] = x.detach()
        values[f"{name}.requires_grad"] = x.requires_grad
    parameters = fn.named_parameters() if isinstance(fn, nn.Module) else ()
    names: dict[Tensor, str] = {p: name for name, p in parameters}
    for k, (leaf, gradient) in enumerate(zip(leaves, _gradients(outputs, leaves), strict=True)):
        name = names.get(leaf, f"leaf {k} of shape {list(leaf.shape)}")
        values[f"gradient of {name}"] = gradient
    return values | {f"buffer {name}": x.clone() for name, x in _buffers(fn).items()}


def _gradients(outputs: dict[str, Tensor], leaves: list[Tensor]) -> Sequence[Optional[Tensor]]:
    total = _total(outputs)
    if not total.requires_grad:
        return [None] * len(leaves)
    return torch.autograd.grad(total, leaves, allow_unused=True)


def _check_equal(
    about: str, got: dict[str, Any], expected: dict[str, Any], rtol: float, atol: float
) -> None:
    if got.keys() != expected.keys():
        raise AssertionError(f"{about} must return {list(expected)}, compiled got {list(got)}")
    for name, value in expected.items():
        try:
            torch.testing.assert_close(got[name], value, rtol=rtol, atol=atol, equal_nan=True)
        except AssertionError as error:
            words = " ".join(str(error).split())
            raise AssertionError(
                f"{about} must compile to what it is eagerly, got another {name}: {words}"
            ) from error


@contextmanager
def _explained(about: str, count: int, max_graphs: int) -> Iterator[None]:
    """Turn TorchDynamo's refusals, and a graph too many, into one sentence."""
    try:
        with config.patch(error_on_recompile=count >= max_graphs):
            yield
    except RecompileError as error:
        guards = re.findall(r"- \d+/\d+: (.*?) *(?:#.*)?$", str(error), re.MULTILINE)
        raise AssertionError(
            f"{about} must make no graph beyond {max_graphs}, "
            f"got the failed guard {' and '.join(dict.fromkeys(guards))}"
        ) from error
    except TorchDynamoException as error:
        stack = getattr(error, "real_stack", None)
        place = f" at {stack[-1].filename}:{stack[-1].lineno}" if stack else ""
        raise AssertionError(
            f"{about} must compile to one graph, got a break{place}: {str(error).splitlines()[0]}"
        ) from error
