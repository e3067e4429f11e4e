# mypy: allow-untyped-defs
"""What each estimator adds to the recurrence, and the functions that Numba compiles.

A function ``<name>_across`` or ``<name>_along`` takes addresses: of the geometry, of the tensors of
bytes (flags, then the mask), of the tensors of reals (inputs, then outputs), of the scalars, and a
switch: whether there is a mask, or, for the recurrence, whether time runs backwards.

``link`` is what of the following step reaches a step: zero where that is nothing, which is where
the step is cut or masked, the last of its row, or followed by a masked one.
"""

from compiled_rl.kernels.exponential import exp
from compiled_rl.kernels.loops import across, along, copy, get, inline, line_at, put, sizes, tensor

# ---- the recurrence ------------------------------------------------------------------------------


def recurrence_across(geometry, flags, reals, scalars, reverse):
    """``y[t] = x[t] + decay[t] * y[t -+ 1]``, the batch innermost."""
    tensors = _recurrence_tensors(geometry, reals)
    across(_recurrence_before, _nothing, tensors, (), sizes(geometry), reverse)


def recurrence_along(geometry, flags, reals, scalars, reverse):
    """``y[t] = x[t] + decay[t] * y[t -+ 1]``, time innermost."""
    tensors = _recurrence_tensors(geometry, reals)
    along(_recurrence_before, _nothing, tensors, (), sizes(geometry), reverse)


@inline
def _recurrence_tensors(g, reals):
    return tensor(g, 2, reals[2]), tensor(g, 0, reals[0]), tensor(g, 1, reals[1])


@inline
def _recurrence_before(tensors, room, offset, block, scalars):
    y, x, decay = tensors
    at, _, n, _, _ = block
    copy(n, line_at(x, at), line_at(y, at))
    copy(n, line_at(decay, at), (room[0], offset, 1))


@inline
def _nothing(tensors, room, offset, block, scalars):
    pass


# ---- generalised advantage estimation ------------------------------------------------------------


def gae_across(geometry, flags, reals, scalars, masked):
    """Advantage and value target, the batch innermost."""
    tensors = _gae_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    across(_gae_before, _gae_after, tensors, coefficients, sizes(geometry), True)


def gae_along(geometry, flags, reals, scalars, masked):
    """Advantage and value target, time innermost."""
    tensors = _gae_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    along(_gae_before, _gae_after, tensors, coefficients, sizes(geometry), True)


@inline
def _gae_tensors(g, flags, reals):
    return (
        tensor(g, 6, reals[3]),
        tensor(g, 7, reals[4]),
        tensor(g, 3, reals[0]),
        tensor(g, 4, reals[1]),
        tensor(g, 5, reals[2]),
        _flags(g, flags),
    )


@inline
def _gae_before(tensors, room, offset, block, scalars):
    advantage, _, reward, value, next_value, flags = tensors
    masked, gamma, lmbda = scalars
    at, _, n, _, _ = block
    delta, ended = line_at(advantage, at), line_at(flags[0], at)
    critic, following = line_at(value, at), line_at(next_value, at)
    _delta(n, line_at(reward, at), critic, following, ended, gamma, delta)
    _link(flags, block, masked, gamma * lmbda, (room[0], offset, 1))
    if masked:
        _erase(n, line_at(flags[2], at), delta)


@inline
def _gae_after(tensors, room, offset, block, scalars):
    advantage, target, _, value, _, flags = tensors
    at, _, n, _, _ = block
    total = line_at(target, at)
    _add(n, line_at(advantage, at), line_at(value, at), total)
    if scalars[0]:
        _erase(n, line_at(flags[2], at), total)


@inline
def _delta(n, reward, value, next_value, terminated, gamma, out):
    for j in range(n):
        bootstrap = _bootstrap(next_value, terminated, j)
        put(out, j, get(reward, j) + gamma * bootstrap - get(value, j))


@inline
def _add(n, a, b, out):
    for j in range(n):
        put(out, j, get(a, j) + get(b, j))


# ---- the lambda return ---------------------------------------------------------------------------


def td_lambda_return_across(geometry, flags, reals, scalars, masked):
    """The lambda return, the batch innermost."""
    tensors = _td_lambda_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    across(_td_lambda_before, _nothing, tensors, coefficients, sizes(geometry), True)


def td_lambda_return_along(geometry, flags, reals, scalars, masked):
    """The lambda return, time innermost."""
    tensors = _td_lambda_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    along(_td_lambda_before, _nothing, tensors, coefficients, sizes(geometry), True)


@inline
def _td_lambda_tensors(g, flags, reals):
    return (
        tensor(g, 5, reals[2]),
        tensor(g, 3, reals[0]),
        tensor(g, 4, reals[1]),
        _flags(g, flags),
    )


@inline
def _td_lambda_before(tensors, room, offset, block, scalars):
    result, reward, next_value, flags = tensors
    masked, gamma, lmbda = scalars
    at, _, n, _, _ = block
    link, out = (room[0], offset, 1), line_at(result, at)
    following, ended = line_at(next_value, at), line_at(flags[0], at)
    _link(flags, block, masked, gamma * lmbda, link)
    _blend(n, line_at(reward, at), following, ended, link, gamma, lmbda, out)
    if masked:
        _erase(n, line_at(flags[2], at), out)


@inline
def _blend(n, reward, next_value, terminated, link, gamma, lmbda, out):
    # Where nothing follows, the whole of the return is the bootstrap.
    part = gamma * (type(lmbda)(1) - lmbda)
    for j in range(n):
        share = part if get(link, j) != 0 else gamma
        put(out, j, get(reward, j) + share * _bootstrap(next_value, terminated, j))


# ---- V-trace -------------------------------------------------------------------------------------


def vtrace_across(geometry, flags, reals, scalars, masked):
    """Advantage and value target, the batch innermost."""
    tensors = _vtrace_tensors(geometry, flags, reals)
    coefficients = _thresholds(reals, scalars, masked)
    across(_vtrace_before, _vtrace_after, tensors, coefficients, sizes(geometry), True)


def vtrace_along(geometry, flags, reals, scalars, masked):
    """Advantage and value target, time innermost."""
    tensors = _vtrace_tensors(geometry, flags, reals)
    coefficients = _thresholds(reals, scalars, masked)
    along(_vtrace_before, _vtrace_after, tensors, coefficients, sizes(geometry), True)


@inline
def _vtrace_tensors(g, flags, reals):
    return (
        tensor(g, 9, reals[6]),
        tensor(g, 8, reals[5]),
        tensor(g, 3, reals[0]),
        tensor(g, 4, reals[1]),
        tensor(g, 5, reals[2]),
        tensor(g, 6, reals[3]),
        tensor(g, 7, reals[4]),
        _flags(g, flags),
    )


@inline
def _vtrace_before(tensors, room, offset, block, scalars):
    target, advantage, reward, value, next_value, log_prob, behavior, flags = tensors
    masked, gamma, lmbda, rho, c = scalars
    at, _, n, _, _ = block
    decay, link, weight = (room[0], offset, 1), (room[1], offset, 1), (room[2], offset, 1)
    following, ended = line_at(next_value, at), line_at(flags[0], at)
    own, delta = line_at(advantage, at), line_at(target, at)
    _link(flags, block, masked, gamma, link)
    log_probs = (line_at(log_prob, at), line_at(behavior, at))
    _weights(n, log_probs[0], log_probs[1], lmbda, rho, c, link, weight, decay)
    _own(n, line_at(reward, at), line_at(value, at), following, ended, gamma, link, weight, own)
    if masked:
        _erase(n, line_at(flags[2], at), own)
    _with_linked(n, link, following, own, delta)


@inline
def _vtrace_after(tensors, room, offset, block, scalars):
    target, advantage, value, flags = tensors[0], tensors[1], tensors[3], tensors[7]
    at, later, n, inner, _ = block
    total = line_at(target, at)
    _add_to(n, line_at(value, at), total)
    if scalars[0]:
        _erase(n, line_at(flags[2], at), total)
    _add_linked(inner, (room[1], offset, 1), line_at(target, later), line_at(advantage, at))


@inline
def _weights(n, log_prob, behavior_log_prob, lmbda, rho, c, link, weight, decay):
    """rho, what of the following value reaches the advantage, and what of its error the target."""
    for j in range(n):
        ratio = exp(get(log_prob, j) - get(behavior_log_prob, j))
        bounded, kept = _at_most(ratio, rho), get(link, j)
        put(weight, j, bounded)
        # Selects: under the mask the ratio may be NaN.
        put(decay, j, kept * (lmbda * _at_most(ratio, c)) if kept != 0 else kept)
        put(link, j, kept * bounded if kept != 0 else kept)


@inline
def _own(n, reward, value, next_value, terminated, gamma, link, weight, out):
    """The advantage but for what is linked: the bootstrap of a step that nothing follows is in."""
    for j in range(n):
        bootstrap = _bootstrap(next_value, terminated, j)
        ending = bootstrap if get(link, j) == 0 else type(bootstrap)(0)
        put(out, j, get(weight, j) * (get(reward, j) + gamma * ending - get(value, j)))


@inline
def _with_linked(n, link, following, own, out):
    for j in range(n):
        kept, alone, linked = get(link, j), get(own, j), get(following, j)
        put(out, j, alone + kept * linked if kept != 0 else alone)


@inline
def _add_linked(n, link, following, out):
    for j in range(n):
        kept, alone, linked = get(link, j), get(out, j), get(following, j)
        put(out, j, alone + kept * linked if kept != 0 else alone)


@inline
def _add_to(n, x, out):
    for j in range(n):
        put(out, j, get(out, j) + get(x, j))


# ---- what they share -----------------------------------------------------------------------------


@inline
def _flags(g, flags):
    return tensor(g, 0, flags[0]), tensor(g, 1, flags[1]), tensor(g, 2, flags[2])


@inline
def _discounts(reals, scalars, masked):
    real = type(reals[0][0])
    return masked, real(scalars[0]), real(scalars[1])


@inline
def _thresholds(reals, scalars, masked):
    real = type(reals[0][0])
    gamma, lmbda, rho, c = scalars[0], scalars[1], scalars[2], scalars[3]
    return masked, real(gamma), real(lmbda), real(rho), real(c)


@inline
def _at_most(x, bound):
    # Not `min`: a NaN stays.
    return bound if x > bound else x


@inline
def _bootstrap(next_value, terminated, j):
    following = get(next_value, j)
    return type(following)(0) if get(terminated, j) else following


@inline
def _link(flags, block, masked, level, out):
    """``level`` where the following step reaches a step, and zero elsewhere."""
    terminated, done, mask = flags
    at, later, n, inner, (first, step, lasts) = block
    _uncut(n, line_at(terminated, at), line_at(done, at), level, out)
    if masked:
        _erase(n, line_at(mask, at), out)
        _erase(inner, line_at(mask, later), out)
    for j in range(lasts):
        put(out, first + j * step, type(level)(0))


@inline
def _uncut(n, terminated, done, level, out):
    for j in range(n):
        cut = get(terminated, j) | get(done, j)
        put(out, j, type(level)(0) if cut else level)


@inline
def _erase(n, mask, out):
    # In place, and so written, here and above: LLVM must see that it is the same memory.
    for j in range(n):
        kept = get(out, j)
        put(out, j, kept if get(mask, j) else type(kept)(0))
