# mypy: allow-untyped-defs
"""What each estimator adds to the recurrence, and the functions that Numba compiles.

A function ``<name>_across`` or ``<name>_along`` takes addresses: of the geometry, of the tensors of
bytes (flags, then the mask), of the tensors of reals (inputs, then outputs), of the scalars, and a
switch: whether there is a mask, or, for the recurrence, whether time runs backwards.

``link`` is what of the following step reaches a step: zero where that is nothing, which is where
the step is cut or masked, the last of its row, or followed by a masked one.
"""

from compiled_rl.kernels.exponential import exp
from compiled_rl.kernels.loops import across, along, get, inline, line_at, put, sizes, tensor

# ---- the recurrence ------------------------------------------------------------------------------


def recurrence_across(geometry, flags, reals, scalars, reverse):
    """``y[t] = x[t] + decay[t] * y[t -+ 1]``, the batch innermost."""
    tensors = _recurrence_tensors(geometry, reals)
    across(_nothing, _itself, _nothing, tensors, (), sizes(geometry), reverse)


def recurrence_along(geometry, flags, reals, scalars, reverse):
    """``y[t] = x[t] + decay[t] * y[t -+ 1]``, time innermost."""
    tensors = _recurrence_tensors(geometry, reals)
    along(_nothing, _itself, _nothing, tensors, (), sizes(geometry), reverse)


@inline
def _recurrence_tensors(g, reals):
    return tensor(g, 0, reals[0]), tensor(g, 1, reals[1]), tensor(g, 2, reals[2])


@inline
def _itself(tensors, link):
    return tensors


@inline
def _nothing(tensors, room, offset, block, scalars):
    pass


# ---- generalised advantage estimation ------------------------------------------------------------


def gae_across(geometry, flags, reals, scalars, masked):
    """Advantage and value target, the batch innermost."""
    tensors = _gae_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    across(_gae_before, _gae_operands, _gae_after, tensors, coefficients, sizes(geometry), True)


def gae_along(geometry, flags, reals, scalars, masked):
    """Advantage and value target, time innermost."""
    tensors = _gae_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    along(_gae_before, _gae_operands, _gae_after, tensors, coefficients, sizes(geometry), True)


@inline
def _gae_tensors(g, flags, reals):
    return (
        tensor(g, 3, reals[0]),
        tensor(g, 4, reals[1]),
        tensor(g, 5, reals[2]),
        tensor(g, 6, reals[3]),
        tensor(g, 7, reals[4]),
        _flags(g, flags),
    )


@inline
def _gae_before(tensors, room, offset, block, scalars):
    reward, value, next_value, advantage, _, flags = tensors
    masked, gamma, lmbda = scalars
    at, _, n, _, _ = block
    delta = line_at(advantage, at)
    ended = line_at(flags[0], at)
    critic = (line_at(value, at), line_at(next_value, at))
    _delta(n, line_at(reward, at), critic[0], critic[1], ended, gamma, delta)
    _link(flags, block, masked, gamma * lmbda, (room[0], offset, 1))
    if masked:
        _erase(n, line_at(flags[2], at), delta)


@inline
def _gae_operands(tensors, link):
    return tensors[3], link, tensors[3]


@inline
def _gae_after(tensors, room, offset, block, scalars):
    _, value, _, advantage, target, flags = tensors
    at, _, n, _, _ = block
    total = line_at(target, at)
    _add(n, line_at(advantage, at), line_at(value, at), total)
    if scalars[0]:
        _erase(n, line_at(flags[2], at), total)


# ---- the lambda return ---------------------------------------------------------------------------


def td_lambda_return_across(geometry, flags, reals, scalars, masked):
    """The lambda return, the batch innermost."""
    tensors = _td_lambda_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    operands = _td_lambda_operands
    across(_td_lambda_before, operands, _nothing, tensors, coefficients, sizes(geometry), True)


def td_lambda_return_along(geometry, flags, reals, scalars, masked):
    """The lambda return, time innermost."""
    tensors = _td_lambda_tensors(geometry, flags, reals)
    coefficients = _discounts(reals, scalars, masked)
    operands = _td_lambda_operands
    along(_td_lambda_before, operands, _nothing, tensors, coefficients, sizes(geometry), True)


@inline
def _td_lambda_tensors(g, flags, reals):
    reward, next_value, result = (
        tensor(g, 3, reals[0]),
        tensor(g, 4, reals[1]),
        tensor(g, 5, reals[2]),
    )
    return reward, next_value, result, _flags(g, flags)


@inline
def _td_lambda_before(tensors, room, offset, block, scalars):
    reward, next_value, result, flags = tensors
    masked, gamma, lmbda = scalars
    at, _, n, _, _ = block
    link = (room[0], offset, 1)
    out = line_at(result, at)
    _link(flags, block, masked, gamma * lmbda, link)
    bootstrap = (line_at(next_value, at), line_at(flags[0], at))
    _blend(n, line_at(reward, at), bootstrap[0], bootstrap[1], link, gamma, lmbda, out)
    if masked:
        _erase(n, line_at(flags[2], at), out)


@inline
def _td_lambda_operands(tensors, link):
    return tensors[2], link, tensors[2]


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
    operands = _vtrace_operands
    across(_vtrace_before, operands, _vtrace_after, tensors, coefficients, sizes(geometry), True)


def vtrace_along(geometry, flags, reals, scalars, masked):
    """Advantage and value target, time innermost."""
    tensors = _vtrace_tensors(geometry, flags, reals)
    coefficients = _thresholds(reals, scalars, masked)
    operands = _vtrace_operands
    along(_vtrace_before, operands, _vtrace_after, tensors, coefficients, sizes(geometry), True)


@inline
def _vtrace_tensors(g, flags, reals):
    return (
        tensor(g, 3, reals[0]),
        tensor(g, 4, reals[1]),
        tensor(g, 5, reals[2]),
        tensor(g, 6, reals[3]),
        tensor(g, 7, reals[4]),
        tensor(g, 8, reals[5]),
        tensor(g, 9, reals[6]),
        _flags(g, flags),
    )


@inline
def _vtrace_before(tensors, room, offset, block, scalars):
    reward, value, next_value, log_prob, behavior, advantage, target, flags = tensors
    masked, gamma, lmbda, rho, c = scalars
    at, _, n, _, _ = block
    decay, link, ratio = (room[0], offset, 1), (room[1], offset, 1), (room[2], offset, 1)
    steps = (
        line_at(reward, at),
        line_at(value, at),
        line_at(next_value, at),
        line_at(flags[0], at),
    )
    delta, fixed = line_at(target, at), line_at(advantage, at)
    _ratio(n, line_at(log_prob, at), line_at(behavior, at), ratio)
    _link(flags, block, masked, gamma, link)
    _delta(n, steps[0], steps[1], steps[2], steps[3], gamma, delta)
    _weigh(n, ratio, rho, delta)
    _unlinked(n, steps[0], steps[1], steps[2], steps[3], link, gamma, fixed)
    _weigh(n, ratio, rho, fixed)
    _weighted_links(n, ratio, rho, c, lmbda, link, decay)
    if masked:
        _erase(n, line_at(flags[2], at), delta)
        _erase(n, line_at(flags[2], at), fixed)


@inline
def _vtrace_operands(tensors, decay):
    return tensors[6], decay, tensors[6]


@inline
def _vtrace_after(tensors, room, offset, block, scalars):
    value, advantage, target, flags = tensors[1], tensors[5], tensors[6], tensors[7]
    at, later, n, inner, _ = block
    total = line_at(target, at)
    _add(n, total, line_at(value, at), total)
    if scalars[0]:
        _erase(n, line_at(flags[2], at), total)
    _add_linked(inner, (room[1], offset, 1), line_at(target, later), line_at(advantage, at))


@inline
def _ratio(n, log_prob, behavior_log_prob, out):
    for j in range(n):
        put(out, j, exp(get(log_prob, j) - get(behavior_log_prob, j)))


@inline
def _weigh(n, ratio, rho, out):
    for j in range(n):
        put(out, j, _at_most(get(ratio, j), rho) * get(out, j))


@inline
def _unlinked(n, reward, value, next_value, terminated, link, gamma, out):
    """The advantage but for what follows."""
    for j in range(n):
        bootstrap = _bootstrap(next_value, terminated, j)
        own = bootstrap if get(link, j) == 0 else type(bootstrap)(0)
        put(out, j, get(reward, j) + gamma * own - get(value, j))


@inline
def _weighted_links(n, ratio, rho, c, lmbda, link, decay):
    for j in range(n):
        kept, weight = get(link, j), get(ratio, j)
        # Selects: under the mask the ratio may be NaN.
        put(decay, j, kept * (lmbda * _at_most(weight, c)) if kept != 0 else kept)
        put(link, j, kept * _at_most(weight, rho) if kept != 0 else kept)


@inline
def _add_linked(n, link, following, out):
    for j in range(n):
        kept, own = get(link, j), get(out, j)
        put(out, j, own + kept * get(following, j) if kept != 0 else own)


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
def _delta(n, reward, value, next_value, terminated, gamma, out):
    for j in range(n):
        bootstrap = _bootstrap(next_value, terminated, j)
        put(out, j, get(reward, j) + gamma * bootstrap - get(value, j))


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
def _add(n, a, b, out):
    for j in range(n):
        put(out, j, get(a, j) + get(b, j))


@inline
def _erase(n, mask, out):
    for j in range(n):
        kept = get(out, j)
        put(out, j, kept if get(mask, j) else type(kept)(0))
