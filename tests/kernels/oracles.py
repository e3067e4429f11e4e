"""Scalar loops over lists of floats, in float64: other algorithms than the code's."""

import math

import torch
from torch import Tensor


def rows(x: Tensor, time_dim: int) -> list[list[float]]:
    moved = x.detach().movedim(time_dim, -1)
    if x.dtype != torch.bool:
        moved = moved.double()
    return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1]).tolist()


def tensor(values: list[list[float]], like: Tensor, time_dim: int) -> Tensor:
    shape = like.movedim(time_dim, -1).shape
    return torch.tensor(values, dtype=torch.float64).reshape(shape).movedim(-1, time_dim)


def recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    result = []
    for xs, ds in zip(rows(x, time_dim), rows(decay, time_dim), strict=True):
        order = range(len(xs))[::-1] if reverse else range(len(xs))
        ys, carried = [0.0] * len(xs), 0.0
        for t in order:
            ys[t] = carried = xs[t] + ds[t] * carried
        result.append(ys)
    return tensor(result, x, time_dim)


def _by_row(row, inputs, mask, time_dim) -> tuple[Tensor, ...]:
    """Apply ``row(*lists, segment_end, valid)`` to each row and collect its outputs."""
    mask = torch.ones(inputs[0].shape, dtype=torch.bool) if mask is None else mask
    results = [
        row(*lists[:-1], valid=lists[-1])
        for lists in zip(*[rows(x, time_dim) for x in (*inputs, mask)], strict=True)
    ]
    columns = list(zip(*results, strict=True)) if results else [[]] * 2
    return tuple(tensor(list(column), inputs[0], time_dim) for column in columns)


def _segment(t, terminated, done, valid) -> int:
    """The last step that a sum from ``t`` on reaches."""
    while not (terminated[t] or done[t]) and t + 1 < len(valid) and valid[t + 1]:
        t += 1
    return t


def gae(inputs, gamma, lmbda, mask, time_dim) -> tuple[Tensor, ...]:
    """Every advantage as its own sum of later deltas: no recurrence."""

    def row(reward, value, next_value, terminated, done, valid):
        advantage, target = [0.0] * len(valid), [0.0] * len(valid)
        for t in range(len(valid)):
            if not valid[t]:
                continue
            weight = 1.0
            for k in range(t, _segment(t, terminated, done, valid) + 1):
                bootstrap = 0.0 if terminated[k] else gamma * next_value[k]
                advantage[t] += weight * (reward[k] + bootstrap - value[k])
                weight *= gamma * lmbda
            target[t] = advantage[t] + value[t]
        return advantage, target

    return _by_row(row, inputs, mask, time_dim)


def td_lambda_return(inputs, gamma, lmbda, mask, time_dim) -> tuple[Tensor, ...]:
    """The definition: the lambda-weighted mean of the n-step returns."""

    def row(reward, next_value, terminated, done, valid):
        result = [0.0] * len(valid)
        for t in range(len(valid)):
            if not valid[t]:
                continue
            last = _segment(t, terminated, done, valid)
            total, weight = 0.0, 1.0
            for n, k in enumerate(range(t, last + 1), start=1):
                total += gamma ** (n - 1) * reward[k]
                n_step = total + (0.0 if terminated[k] else gamma**n * next_value[k])
                result[t] += weight * ((1 - lmbda) if k < last else 1.0) * n_step
                weight *= lmbda
        return (result,)

    return _by_row(row, inputs, mask, time_dim)


def vtrace(inputs, gamma, lmbda, rho_thresh, c_thresh, mask, time_dim) -> tuple[Tensor, ...]:
    """Equation 1 of the paper: every target as its own sum of weighted deltas."""

    def row(reward, value, next_value, terminated, done, log_prob, behavior, valid):
        length = range(len(valid))
        advantage, target = [0.0] * len(valid), [0.0] * len(valid)
        rho, c = [0.0] * len(valid), [0.0] * len(valid)
        for t in length:
            if valid[t]:
                ratio = math.exp(min(log_prob[t] - behavior[t], 700.0))
                rho[t], c[t] = min(ratio, rho_thresh), lmbda * min(ratio, c_thresh)
        for t in length:
            if not valid[t]:
                continue
            weight, target[t] = 1.0, value[t]
            for k in range(t, _segment(t, terminated, done, valid) + 1):
                bootstrap = 0.0 if terminated[k] else gamma * next_value[k]
                target[t] += weight * rho[k] * (reward[k] + bootstrap - value[k])
                weight *= gamma * c[k]
        for t in length:
            if valid[t]:
                following = (
                    next_value[t] if _segment(t, terminated, done, valid) == t else target[t + 1]
                )
                bootstrap = 0.0 if terminated[t] else gamma * following
                advantage[t] = rho[t] * (reward[t] + bootstrap - value[t])
        return advantage, target

    return _by_row(row, inputs, mask, time_dim)
