"""A TensorDict module as it is deployed; imported only when a user hands one over."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compiled_rl.adapters.dispatch import Data
from compiled_rl.adapters.fields import Key, in_next, is_next, keyword, unique
from compiled_rl.adapters.one_step import Calls, acting_step, bounds_of
from compiled_rl.adapters.policy import Head, PlainActor, deterministic_actor
from compiled_rl.modules import Family, NamedModule, TruncatedNormal
from compiled_rl.modules.families import Params
from compiled_rl.modules.named import Named


class ByKeys(NamedModule):
    """A TensorDict module, one step of it, over named tensors.

    Args:
        module: whose parameters it shares.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        form = deterministic_actor(module, "")
        steps = [acting_step(step) for step in form.steps]
        following = [key for step in steps for key in step.out_keys if is_next(key)]
        self.heads = form.heads if isinstance(form, PlainActor) else ()
        self.families = nn.ModuleList(head.family for head in self.heads)
        self.results = _results(module, self.heads, following)
        actions = [head.action_key for head in self.heads]
        self.bounds = {key: x for key, x in bounds_of(module).items() if key in actions}
        params = [key for head in self.heads for key in head.param_keys]
        self.found = unique([*params, *(key for key in self.results if key not in actions)])
        self.calls = Calls(steps, form.in_keys, self.found)
        self.input_names = tuple(keyword(key) for key in form.in_keys)
        remembered = [key for key in form.in_keys if in_next(key) in self.results]
        self.state_names = {keyword(key): keyword(in_next(key)) for key in remembered}

    def computed(self, data: Named) -> Named:
        """The outputs by name."""
        computed = self.calls(*[data[name] for name in self.input_names])
        found: Data = dict(zip(self.found, computed, strict=True))
        for head in self.heads:
            found[head.action_key] = deterministic(head.family, head.params(found))
        for key, (low, high) in self.bounds.items():
            found[key] = torch.clamp(found[key], low, high)
        return {keyword(key): found[key] for key in self.results}


def _results(module: Any, heads: Sequence[Head], following: Sequence[Key]) -> tuple[Key, ...]:
    """The keys of the outputs: of a policy its actions, and what it remembers."""
    if not heads:
        return tuple(module.out_keys)
    return unique([*[head.action_key for head in heads], *following])


def deterministic(family: Family, params: Params) -> Any:
    """The action that TorchRL's ``ExplorationType.DETERMINISTIC`` gives, most often the mode.

    Of a truncated normal it is the mean, loc + scale * (phi(a) - phi(b)) / Z, with a and b the
    bounds in standard deviations from ``loc``.

    Reference: Burkardt 2014, The Truncated Normal Distribution, sec. 3.
    """
    if not isinstance(family, TruncatedNormal):
        return family.mode(params)
    loc, scale = family._loc(params), params[1]
    a, b = [(bound - loc) / scale for bound in family._bounds(loc)]
    densities = torch.exp(-a.square() / 2) - torch.exp(-b.square() / 2)
    below, above = [_within((1 + torch.erf(x / math.sqrt(2))) / 2) for x in (a, b)]
    return loc + scale * densities / (math.sqrt(2 * math.pi) * _within(above - below))


def _within(probability: Tensor) -> Tensor:
    """Off zero and one, as far as TorchRL's."""
    return probability.clamp(1e-6, 1 - 1e-6)
