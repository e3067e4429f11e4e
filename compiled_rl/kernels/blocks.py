# mypy: allow-untyped-defs, allow-incomplete-defs
"""The CUDA kernel, in Triton. Importing this file imports Triton: only ``cuda`` does, late.

There is one kernel, ``walk``. A program owns a block of neighbouring rows of the batch, lanes, and
walks over time a tile of ``[lanes, steps]`` at a time. The tile's shape follows the memory: many
lanes where the batch is innermost, many steps where time is, so that its loads are coalesced
either way; all of them are in flight at once. Within a tile the recurrence is a parallel scan over
the pairs ``(x, decay)``; from tile to tile goes one carry a lane.

An estimator is a ``before`` (load, make the pairs) and an ``after`` (what follows from the
recurrence's result). Whatever a flag or a mask rules out is selected away, never multiplied by
zero. All arithmetic is in ``real``: double for doubles, else single.

A tensor is ``(pointer, stride of time, strides of the batch)``, an absent mask is None. A place,
``at``, is ``(lane, step, extent)`` with the extent ``(lanes in all, steps in all, sizes)``, where
the sizes are those of the batch axes, innermost first, without the outermost.
"""

import triton
import triton.language as tl


@triton.jit
def walk(
    before: tl.constexpr,
    chain: tl.constexpr,
    after: tl.constexpr,
    inputs,
    outputs,
    scalars,
    extent,
    real: tl.constexpr,
    reverse: tl.constexpr,
    lanes: tl.constexpr,
    steps: tl.constexpr,
):
    """A whole estimator for some rows of the batch."""
    # 64 bits: a place in memory may lie further than 32 can count.
    lane = tl.program_id(0).to(tl.int64) * lanes + tl.arange(0, lanes)[:, None]
    values = [tl.load(scalar).to(real) for scalar in scalars]
    carry = tl.zeros([lanes, 1], real)
    blocks = tl.cdiv(extent[1], steps)
    for k in range(blocks):
        block = blocks - 1 - k if reverse else k
        step = block * steps + tl.arange(0, steps)[None, :]
        at = (lane, step.to(tl.int64), extent)
        x, decay, kept = before(inputs, values, at, real)
        chained = chain(x, decay, carry, reverse)
        results = after(chained, values, kept)
        for j in tl.static_range(len(outputs)):
            _store(outputs[j], at, results[j])
        carry = _column(chained[0], 0 if reverse else steps - 1)


# ---- the recurrence within a tile ----------------------------------------------------------------


@triton.jit
def recur(x, decay, carry, reverse: tl.constexpr):
    """``y = x + decay * (y of the step before)``, where ``carry`` comes before the tile."""
    decay, x = tl.associative_scan((decay, x), 1, _compose, reverse)
    return (_apply(decay, x, carry),)


@triton.jit
def recur_and_keep(x, decay, carry, reverse: tl.constexpr):
    """``y``, and at each step the ``y`` that came in."""
    # Nothing has yet happened to what comes in to a tile's first step.
    start = (decay, x, tl.full(x.shape, 1, x.dtype), tl.zeros_like(x))
    decay, x, decay_in, x_in = tl.associative_scan(start, 1, _compose_and_keep, reverse)
    return _apply(decay, x, carry), _apply(decay_in, x_in, carry)


@triton.jit
def _compose(decay, x, next_decay, next_x):
    """The pair that does to ``y`` what first the one and then the next would do."""
    return _apply(next_decay, 0, decay), _apply(next_decay, next_x, x)


@triton.jit
def _compose_and_keep(decay, x, decay_in, x_in, next_decay, next_x, next_decay_in, next_x_in):
    whole = _compose(decay, x, next_decay, next_x)
    return whole + _compose(decay, x, next_decay_in, next_x_in)


@triton.jit
def _apply(decay, x, y):
    """``x + decay * y``, where zero times anything is nothing.

    Before a cut there may be NaN. A product of decays may overflow before anything is carried. And
    the decay at which the recurrence starts is not to be used.
    """
    return tl.where((decay == 0) | (y == 0), x, x + decay * y)


@triton.jit
def _column(y, k: tl.constexpr):
    here = tl.arange(0, y.shape[1])[None, :] == k
    return tl.sum(tl.where(here, y, 0), 1, keep_dims=True)


# ---- memory --------------------------------------------------------------------------------------


@triton.jit
def _exists(at):
    lane, step, extent = at
    return (lane < extent[0]) & (step < extent[1])


@triton.jit
def _next(at):
    lane, step, extent = at
    return lane, step + 1, extent


@triton.jit
def _address(tensor, at):
    pointer, time_stride, strides = tensor
    lane, step, extent = at
    sizes = extent[2]
    for k in tl.static_range(len(sizes)):
        pointer += lane % sizes[k] * strides[k]
        lane = lane // sizes[k]
    return pointer + lane * strides[len(sizes)] + step * time_stride


@triton.jit
def _load(tensor, at, real: tl.constexpr):
    return tl.load(_address(tensor, at), mask=_exists(at), other=0).to(real)


@triton.jit
def _flag(tensor, at):
    return tl.load(_address(tensor, at), mask=_exists(at), other=0).to(tl.int1)


@triton.jit
def _valid(mask, at):
    """Whether there is a step, and no mask hides it."""
    if mask is None:
        return _exists(at)
    else:
        return _flag(mask, at)


@triton.jit
def _store(tensor, at, value):
    tl.store(_address(tensor, at), value.to(tensor[0].dtype.element_ty), mask=_exists(at))


# ---- the estimators ------------------------------------------------------------------------------


@triton.jit
def recurrence_before(inputs, scalars, at, real: tl.constexpr):
    """The operands as they are."""
    x, decay = inputs
    return _load(x, at, real), _load(decay, at, real), ()


@triton.jit
def recurrence_after(chained, scalars, kept):
    """Nothing follows."""
    return chained


@triton.jit
def gae_before(inputs, scalars, at, real: tl.constexpr):
    """``delta``, and what of the next advantage reaches a step."""
    reward, value, next_value, terminated, done, mask = inputs
    gamma, lmbda = scalars
    ended, valid = _flag(terminated, at), _valid(mask, at)
    critic = _load(value, at, real)
    bootstrap = tl.where(ended, 0, _load(next_value, at, real))
    delta = tl.where(valid, _load(reward, at, real) + gamma * bootstrap - critic, 0)
    decay = tl.where(valid & ~(ended | _flag(done, at)), gamma * lmbda, 0)
    return delta, decay, (critic, valid)


@triton.jit
def gae_after(chained, scalars, kept):
    """Advantage and value target."""
    critic, valid = kept
    advantage = chained[0]
    return advantage, tl.where(valid, advantage + critic, 0)


@triton.jit
def td_lambda_before(inputs, scalars, at, real: tl.constexpr):
    """One step's own part of the return, with all of the bootstrap where nothing follows it."""
    reward, next_value, terminated, done, mask = inputs
    gamma, lmbda = scalars
    ended, valid = _flag(terminated, at), _valid(mask, at)
    follows = valid & ~(ended | _flag(done, at)) & _valid(mask, _next(at))
    bootstrap = tl.where(ended, 0, _load(next_value, at, real))
    weight = tl.where(follows, 1 - lmbda, 1)
    own = _load(reward, at, real) + gamma * weight * bootstrap
    return tl.where(valid, own, 0), tl.where(follows, gamma * lmbda, 0), ()


@triton.jit
def vtrace_before(inputs, scalars, at, real: tl.constexpr):
    """The weighted ``delta``; the recurrence is that of ``vs - value``."""
    reward, value, next_value, terminated, done, log_prob, behavior_log_prob, mask = inputs
    gamma, lmbda, rho_thresh, c_thresh = scalars
    ended, valid = _flag(terminated, at), _valid(mask, at)
    follows = valid & ~(ended | _flag(done, at)) & _valid(mask, _next(at))
    ratio = _ratio(_load(log_prob, at, real) - _load(behavior_log_prob, at, real), real)
    rho = _at_most(ratio, rho_thresh)
    critic, gained = _load(value, at, real), _load(reward, at, real)
    bootstrap = tl.where(ended, 0, _load(next_value, at, real))
    delta = tl.where(valid, rho * (gained + gamma * bootstrap - critic), 0)
    decay = tl.where(follows, gamma * lmbda * _at_most(ratio, c_thresh), 0)
    next_critic = _load(value, _next(at), real)
    return delta, decay, (rho, gained, critic, bootstrap, next_critic, follows, valid)


@triton.jit
def vtrace_after(chained, scalars, kept):
    """The policy-gradient advantage, and ``vs``."""
    y, y_next = chained
    rho, gained, critic, bootstrap, next_critic, follows, valid = kept
    following = tl.where(follows, next_critic + y_next, bootstrap)
    advantage = rho * (gained + scalars[0] * following - critic)
    return tl.where(valid, advantage, 0), tl.where(valid, critic + y, 0)


@triton.jit
def _ratio(log_ratio, real: tl.constexpr):
    # Below where exp overflows: an infinite ratio times zero would be NaN.
    bound: tl.constexpr = 709.0 if real == tl.float64 else 88.0
    return tl.exp(_at_most(log_ratio, bound))


@triton.jit
def _at_most(x, bound):
    """``min``, but NaN stays NaN."""
    return tl.where(x > bound, bound, x)


# An estimator by its name.
ESTIMATORS = {
    "recurrence": (recurrence_before, recur, recurrence_after),
    "gae": (gae_before, recur, gae_after),
    "td_lambda_return": (td_lambda_before, recur, recurrence_after),
    "vtrace": (vtrace_before, recur_and_keep, vtrace_after),
}
