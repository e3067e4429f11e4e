# mypy: allow-untyped-defs
"""The CPU loops, compiled by Numba. Importing this file imports Numba: only ``cpu`` does, late.

Each loop sees its tensors as ``[page, line, item]``, where time is either the lines or the items:

- ``across``: the items are the batch. One pass over time, vectorised over the batch.
- ``along``: the items are time. Four rows at a time, so that four chains of dependent additions
  run side by side; whatever is not such a chain is vectorised along time.

A fused estimator is a recurrence with a ``before`` (fill its operands) and an ``after`` (what
follows from its result), applied to a stretch of one line while that stretch sits in L1. The
operands live in the outputs' own memory: there is no scratch.

A tensor is ``(pointer, start, page_stride, line_stride, item_stride)``; a line is ``(pointer,
start, stride)``. Short lines that lie one behind the other in every tensor are ``joined`` for the
elementwise loops. Each of those stays below the eight pointer comparisons beyond which LLVM no
longer vectorises; it versions them for unit strides by itself.
"""

from numba import njit

# `contract` lets the chains use fused multiply-adds; it changes nothing about NaN or infinity.
_inline = njit(forceinline=True, error_model="numpy", nogil=True, fastmath={"contract"})


def recurrence_across(geometry, x, decay, y, reverse):
    """``y[t] = x[t] + decay[t] * y[t -+ 1]``, the batch innermost."""
    tensors = _recurrence_tensors(geometry, x, decay, y)
    _across(_nothing, _nothing, tensors, tensors, (), _sizes(geometry), reverse)


def recurrence_along(geometry, x, decay, y, reverse):
    """``y[t] = x[t] + decay[t] * y[t -+ 1]``, time innermost."""
    tensors = _recurrence_tensors(geometry, x, decay, y)
    _along(_nothing, _nothing, tensors, tensors, (), _sizes(geometry), reverse)


def gae_across(geometry, r, v, n, t, d, m, a, o, masked, gamma, lmbda):
    """Advantage and value target, the batch innermost."""
    tensors = _gae_tensors(geometry, r, v, n, t, d, m, a, o)
    operands = (tensors[6], tensors[7], tensors[6])
    scalars = (masked, gamma, gamma * lmbda)
    _across(_gae_before, _gae_after, tensors, operands, scalars, _sizes(geometry), True)


def gae_along(geometry, r, v, n, t, d, m, a, o, masked, gamma, lmbda):
    """Advantage and value target, time innermost."""
    tensors = _gae_tensors(geometry, r, v, n, t, d, m, a, o)
    operands = (tensors[6], tensors[7], tensors[6])
    scalars = (masked, gamma, gamma * lmbda)
    _along(_gae_before, _gae_after, tensors, operands, scalars, _sizes(geometry), True)


@_inline
def _across(before, after, tensors, operands, scalars, sizes, reverse):
    pages, lines, items, stretch, joined = sizes
    for page in range(pages):
        for item in range(0, items, stretch):
            n = min(stretch, items - item)
            for k in range(0, lines, joined):
                rows = min(joined, lines - k)
                first = (page, lines - k - rows if reverse else k, item)
                before(tensors, first, n * rows, scalars)
                for j in range(k, k + rows):
                    _step(operands, page, lines - 1 - j if reverse else j, item, n, j, reverse)
                after(tensors, first, n * rows, scalars)


@_inline
def _step(operands, page, line, item, n, started, reverse):
    x, decay, y = operands
    now = (page, line, item)
    previous = (page, line + 1 if reverse else line - 1, item)
    if started:
        _advance(n, _line(x, now), _line(decay, now), _line(y, previous), _line(y, now))
    else:
        _copy(n, _line(x, now), _line(y, now))


@_inline
def _along(before, after, tensors, operands, scalars, sizes, reverse):
    pages, lines, items, stretch, _ = sizes
    for page in range(pages):
        for line in range(0, lines, 4):
            for k in range(0, items, stretch):
                n = min(stretch, items - k)
                item = items - k - n if reverse else k
                for row in range(line, min(line + 4, lines)):
                    before(tensors, (page, row, item), n, scalars)
                _chains(operands, page, _four(line, lines), item, n, k > 0, reverse)
                for row in range(line, min(line + 4, lines)):
                    after(tensors, (page, row, item), n, scalars)


@_inline
def _chains(operands, page, rows, item, n, started, reverse):
    x, decay, y = operands
    sign = -1 if reverse else 1
    first = item + n - 1 if reverse else item
    carry = _load(y, page, rows, first - sign) if started else _load(x, page, rows, first)
    if not started:
        _store(y, page, rows, first, carry)
    for j in range(0 if started else 1, n):
        now = first + sign * j
        carry = _multiply_add(_load(decay, page, rows, now), carry, _load(x, page, rows, now))
        _store(y, page, rows, now, carry)


@_inline
def _four(line, lines):
    # Past the end the last row comes again: its chains write the same numbers twice.
    last = lines - 1
    return line, min(line + 1, last), min(line + 2, last), min(line + 3, last)


@_inline
def _load(tensor, page, rows, item):
    a, b, c, d = rows
    return (
        _at(tensor, page, a, item),
        _at(tensor, page, b, item),
        _at(tensor, page, c, item),
        _at(tensor, page, d, item),
    )


@_inline
def _store(tensor, page, rows, item, values):
    pointer, start, page_stride, line_stride, item_stride = tensor
    start += page * page_stride + item * item_stride
    pointer[start + rows[0] * line_stride] = values[0]
    pointer[start + rows[1] * line_stride] = values[1]
    pointer[start + rows[2] * line_stride] = values[2]
    pointer[start + rows[3] * line_stride] = values[3]


@_inline
def _multiply_add(a, b, c):
    return a[0] * b[0] + c[0], a[1] * b[1] + c[1], a[2] * b[2] + c[2], a[3] * b[3] + c[3]


@_inline
def _at(tensor, page, line, item):
    pointer, start, page_stride, line_stride, item_stride = tensor
    return pointer[start + page * page_stride + line * line_stride + item * item_stride]


@_inline
def _gae_before(tensors, at, n, scalars):
    reward, value, next_value, terminated, done, mask, advantage, target = tensors
    masked, gamma, decay = scalars
    delta = _line(advantage, at)
    coefficient = _line(target, at)
    ended = _line(terminated, at)
    _delta(n, _line(reward, at), _line(value, at), _line(next_value, at), ended, gamma, delta)
    _coefficient(n, ended, _line(done, at), decay, coefficient)
    if masked:
        _erase(n, _line(mask, at), delta)
        _erase(n, _line(mask, at), coefficient)


@_inline
def _gae_after(tensors, at, n, scalars):
    target = _line(tensors[7], at)
    _add(n, _line(tensors[6], at), _line(tensors[1], at), target)
    if scalars[0]:
        _erase(n, _line(tensors[5], at), target)


@_inline
def _nothing(tensors, at, n, scalars):
    pass


@_inline
def _delta(n, reward, value, next_value, terminated, gamma, out):
    for j in range(n):
        following = _get(next_value, j)
        bootstrap = type(gamma)(0) if _get(terminated, j) else following
        _put(out, j, _get(reward, j) + gamma * bootstrap - _get(value, j))


@_inline
def _coefficient(n, terminated, done, decay, out):
    for j in range(n):
        ended = _get(terminated, j) | _get(done, j)
        _put(out, j, type(decay)(0) if ended else decay)


@_inline
def _advance(n, x, decay, previous, y):
    for j in range(n):
        _put(y, j, _get(x, j) + _get(decay, j) * _get(previous, j))


@_inline
def _copy(n, x, y):
    for j in range(n):
        _put(y, j, _get(x, j))


@_inline
def _add(n, a, b, out):
    for j in range(n):
        _put(out, j, _get(a, j) + _get(b, j))


@_inline
def _erase(n, mask, out):
    for j in range(n):
        kept = _get(out, j)
        _put(out, j, kept if _get(mask, j) else type(kept)(0))


@_inline
def _get(line, j):
    return line[0][line[1] + j * line[2]]


@_inline
def _put(line, j, value):
    line[0][line[1] + j * line[2]] = value


@_inline
def _line(tensor, at):
    pointer, start, page_stride, line_stride, item_stride = tensor
    page, line, item = at
    start += page * page_stride + line * line_stride + item * item_stride
    return pointer, start, item_stride


@_inline
def _sizes(geometry):
    return geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]


@_inline
def _tensor(geometry, k, pointer):
    k = 4 * k + 5
    return pointer, geometry[k], geometry[k + 1], geometry[k + 2], geometry[k + 3]


@_inline
def _recurrence_tensors(g, x, decay, y):
    return _tensor(g, 0, x), _tensor(g, 1, decay), _tensor(g, 2, y)


@_inline
def _gae_tensors(g, r, v, n, t, d, m, a, o):
    return (
        _tensor(g, 0, r),
        _tensor(g, 1, v),
        _tensor(g, 2, n),
        _tensor(g, 3, t),
        _tensor(g, 4, d),
        _tensor(g, 5, m),
        _tensor(g, 6, a),
        _tensor(g, 7, o),
    )
