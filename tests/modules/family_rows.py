"""Every family with the distribution object that it must equal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch import distributions as D
from torchrl import modules as rl

from compiled_rl.modules import families as ours

# Of float64: TorchRL computes with the bounds in their own dtype.
LOW = torch.tensor([-2.0, -1.0, 0.0], dtype=torch.float64)
HIGH = torch.tensor([1.0, 3.0, 4.0], dtype=torch.float64)
SQUASHED = {"low": LOW, "high": HIGH, "tanh_loc": True, "upscale": 3.0}
CUT = {"low": LOW, "high": HIGH, "tanh_loc": True, "upscale": torch.tensor(2.0)}
NVEC = (2, 3)


class Joint:
    """Independent distribution objects side by side, their actions joined by ``join``."""

    def __init__(self, parts: list[Any], join: Callable[..., Any], split: Callable[..., Any]):
        self.parts, self.join, self.split = parts, join, split

    def log_prob(self, action: Any) -> Tensor:
        return sum(part.log_prob(x) for part, x in zip(self.parts, self.split(action), strict=True))

    def entropy(self) -> Tensor:
        return sum(part.entropy() for part in self.parts)

    def sample(self) -> Any:
        return self.join([part.sample() for part in self.parts])

    @property
    def mode(self) -> Any:
        return self.join([mode(part) for part in self.parts])

    def kl(self, other: "Joint") -> Tensor:
        return sum(kl(p, q) for p, q in zip(self.parts, other.parts, strict=True))


def kl(p: Any, q: Any) -> Tensor:
    return p.kl(q) if isinstance(p, Joint) else D.kl_divergence(p, q)


def mode(p: Any) -> Any:
    if isinstance(p, rl.TanhNormal):
        return p.deterministic_sample
    return p.mode


def _multi(logits: Tensor) -> Joint:
    parts = [D.Categorical(logits=x) for x in logits.split(NVEC, -1)]
    return Joint(parts, lambda xs: torch.stack(xs, -1), lambda action: action.unbind(-1))


def _multi_one_hot(logits: Tensor) -> Joint:
    parts = [rl.OneHotCategorical(logits=x) for x in logits.split(NVEC, -1)]
    return Joint(parts, lambda xs: torch.cat(xs, -1), lambda action: action.split(NVEC, -1))


def _composite(loc: Tensor, scale: Tensor, logits: Tensor) -> Joint:
    parts = [rl.IndependentNormal(loc, scale), D.Categorical(logits=logits)]
    return Joint(
        parts,
        lambda xs: dict(zip(("move", "fire"), xs, strict=True)),
        lambda action: (action["move"], action["fire"]),
    )


class Row(NamedTuple):
    """A family, what its parameters are, and the object of the same parameters."""

    family: ours.Family
    kinds: tuple[str, ...]
    reference: Callable[..., Any]
    shape: tuple[int, ...] = (3,)

    def params(
        self, batch: int, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> tuple[Tensor, ...]:
        generator = Generator().manual_seed(seed)
        shape = (batch, *self.shape)
        raw = [torch.randn(shape, generator=generator, dtype=dtype) for _ in self.kinds]
        return tuple(as_kind(kind, x) for kind, x in zip(self.kinds, raw, strict=True))


def as_kind(kind: str, x: Tensor) -> Tensor:
    if kind == "positive":
        return nn.functional.softplus(x) + 0.2
    if kind == "probs":
        return x.softmax(-1)
    if kind == "chances":
        return x.sigmoid()
    return x > x.mean(-1, keepdim=True) if kind == "mask" else x


_LOCATED = ("normal", "positive")

ROWS = {
    "normal": Row(ours.Normal(), _LOCATED, rl.IndependentNormal),
    "tanh": Row(ours.TanhNormal(), _LOCATED, rl.TanhNormal),
    "tanh-bounds": Row(
        ours.TanhNormal(**SQUASHED), _LOCATED, lambda *p: rl.TanhNormal(*p, **SQUASHED)
    ),
    "truncated": Row(ours.TruncatedNormal(), _LOCATED, rl.TruncatedNormal),
    "truncated-bounds": Row(
        ours.TruncatedNormal(**CUT), _LOCATED, lambda *p: rl.TruncatedNormal(*p, **CUT)
    ),
    "deterministic": Row(ours.Deterministic(), ("normal",), rl.Delta),
    "tanh-deterministic": Row(
        ours.TanhDeterministic(LOW, HIGH), ("normal",), lambda p: rl.TanhDelta(p, LOW, HIGH)
    ),
    "categorical": Row(ours.Categorical(), ("normal",), lambda x: D.Categorical(logits=x)),
    "categorical-probs": Row(ours.Categorical("probs"), ("probs",), D.Categorical),
    "one-hot": Row(ours.OneHotCategorical(), ("normal",), rl.OneHotCategorical),
    "one-hot-probs": Row(
        ours.OneHotCategorical("probs"), ("probs",), lambda x: rl.OneHotCategorical(probs=x)
    ),
    "masked": Row(
        ours.MaskedCategorical(),
        ("normal", "mask"),
        lambda x, mask: rl.MaskedCategorical(logits=x, mask=mask),
    ),
    "masked-probs": Row(
        ours.MaskedCategorical("probs"),
        ("probs", "mask"),
        # Not by `probs`: there TorchRL's gradients are NaN.
        lambda x, mask: rl.MaskedCategorical(logits=x.log(), mask=mask),
    ),
    "masked-one-hot": Row(
        ours.MaskedOneHotCategorical(),
        ("normal", "mask"),
        lambda x, mask: rl.MaskedOneHotCategorical(logits=x, mask=mask),
    ),
    "multi": Row(ours.MultiCategorical(NVEC), ("normal",), _multi, (sum(NVEC),)),
    "multi-one-hot": Row(
        ours.MultiOneHotCategorical(NVEC), ("normal",), _multi_one_hot, (sum(NVEC),)
    ),
    "bernoulli": Row(
        ours.Bernoulli(), ("normal",), lambda x: D.Independent(D.Bernoulli(logits=x), 1)
    ),
    "bernoulli-probs": Row(
        ours.Bernoulli("probs"), ("chances",), lambda x: D.Independent(D.Bernoulli(x), 1)
    ),
    "independent": Row(
        ours.Independent(ours.Categorical()),
        ("normal",),
        lambda x: D.Independent(D.Categorical(logits=x), 1),
        (2, 3),
    ),
    "composite": Row(
        ours.Composite({"move": ours.Normal(), "fire": ours.Categorical()}),
        ("normal", "positive", "normal"),
        _composite,
    ),
    "object": Row(
        ours.FromDistribution(D.Laplace, ("loc", "scale")),
        _LOCATED,
        lambda *p: D.Independent(D.Laplace(*p), 1),
    ),
}


class Network(nn.Module):
    """From an observation ``[*B, 4]`` to a row's parameters."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.kinds, self.shape = row.kinds, row.shape
        self.layers = nn.ModuleList(
            nn.Linear(4, int(torch.Size(row.shape).numel())) for _ in row.kinds
        )

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        shape = (*observation.shape[:-1], *self.shape)
        return tuple(
            as_kind(kind, layer(observation).reshape(shape))
            for kind, layer in zip(self.kinds, self.layers, strict=True)
        )
