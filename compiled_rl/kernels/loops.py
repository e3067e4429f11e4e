# mypy: ignore-errors
"""The CPU loops over time, compiled by Numba: only ``cpu`` imports this file, and late.

Each loop sees its tensors as ``[page, line, item]``, where time is either the lines or the items:

- ``across``: the items are the batch. One pass over time, vectorised over the batch.
- ``along``: the items are time. Four rows at a time, so that four chains of dependent additions
  run side by side; a row that is alone is cut into four chunks, which are joined afterwards.
  Whatever is not such a chain is vectorised along time.

A fused estimator (see ``formulas``) is a recurrence with a ``before`` (fill its operands), an
``operands`` (name them) and an ``after`` (what follows from its result), applied to a block of
elements while it sits in L1. What no output has room for lives on the stack.

A tensor is ``(pointer, start, page_stride, line_stride, item_stride)``; a line is ``(pointer,
start, stride)``. Short lines that lie one behind the other in every tensor are ``joined``: a block
is then several lines, and one line to the elementwise loops. Each of those stays below the eight
pointer comparisons beyond which LLVM no longer vectorises; it versions them for unit strides by
itself, and needs no comparison for the stack.
"""

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# What a stack array holds: a block of this many elements (``layout`` knows it too).
BLOCK = 1024

# `contract` lets the chains use fused multiply-adds; it changes nothing about NaN or infinity.
inline = njit(forceinline=True, error_model="numpy", nogil=True, fastmath={"contract"})


@intrinsic
def stack(context, like):
    """Room for a block of the reals that the pointer ``like`` points to."""

    def code(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, context.get_data_type(like.dtype), size=BLOCK)

    return types.CPointer(like.dtype)(like), code


@inline
def across(before, operands, after, tensors, scalars, sizes, reverse):
    """The lines are time: advance all items of a line at once."""
    pages, lines, items, width, joined = sizes
    carry = (stack(tensors[0][0]), 0, 1)
    room = (stack(tensors[0][0]), stack(tensors[0][0]), stack(tensors[0][0]))
    for page in range(pages):
        for item in range(0, items, width):
            n = min(width, items - item)
            for k in range(0, lines, joined):
                rows = min(joined, lines - k)
                line = lines - k - rows if reverse else k
                last = n if line + rows == lines else 0
                at, later = (page, line, item), (page, line + 1, item)
                block = (at, later, n * rows, n * rows - last, (n * rows - n, 1, last))
                before(tensors, room, 0, block, scalars)
                chained = operands(tensors, _window(room[0], line, item, n))
                for j in range(rows):
                    now = (page, line + rows - 1 - j if reverse else line + j, item)
                    _step(chained, now, n, k + j > 0, carry)
                after(tensors, room, 0, block, scalars)


@inline
def _step(operands, now, n, started, carry):
    x, decay, y = operands
    if started:
        _advance(n, line_at(x, now), line_at(decay, now), carry, line_at(y, now))
    else:
        _start(n, line_at(x, now), carry, line_at(y, now))


@inline
def _start(n, x, carry, y):
    for j in range(n):
        moved = get(x, j)
        put(carry, j, moved)
        put(y, j, moved)


@inline
def _advance(n, x, decay, carry, y):
    # By eights: a short line would otherwise be no whole turn of the vectorised loop.
    whole = n - n % 8
    for j in range(0, whole, 8):
        for i in range(8):
            _advance_one(j + i, x, decay, carry, y)
    for j in range(whole, n):
        _advance_one(j, x, decay, carry, y)


@inline
def _advance_one(j, x, decay, carry, y):
    moved = get(x, j) + get(decay, j) * get(carry, j)
    put(carry, j, moved)
    put(y, j, moved)


@inline
def along(before, operands, after, tensors, scalars, sizes, reverse):
    """The items are time: four rows side by side, and those that are left over each by itself."""
    pages, lines, items, width, joined = sizes
    carry, products = stack(tensors[0][0]), stack(tensors[0][0])
    room = (stack(tensors[0][0]), stack(tensors[0][0]), stack(tensors[0][0]))
    for page in range(pages):
        line = 0
        while line < lines:
            rows = _rows_at_once(lines - line, joined)
            merged = rows if joined > 1 else 1
            stretch = width if rows > 1 else 4 * width
            for k in range(0, items, stretch):
                n = min(stretch, items - k)
                item = items - k - n if reverse else k
                for row in range(0, rows, merged):
                    block = _block_along((page, line + row, item), merged, n, items)
                    before(tensors, room, row * n, block, scalars)
                chained = operands(tensors, _window(room[0], line, item, n))
                if rows > 1:
                    for row in range(0, rows, 4):
                        first = (page, line + row, item + n - 1 if reverse else item)
                        _four_rows(chained, (carry, row), first, n, k > 0, reverse)
                else:
                    first = (page, line, item + n - 1 if reverse else item)
                    window = _window(products, line, item, n)
                    _one_row(chained, window, carry, first, n, k > 0, reverse)
                for row in range(0, rows, merged):
                    block = _block_along((page, line + row, item), merged, n, items)
                    after(tensors, room, row * n, block, scalars)
            line += rows


@inline
def _rows_at_once(left, joined):
    rows = min(max(joined, 4), left)
    return rows - rows % 4 if rows >= 4 else 1


@inline
def _block_along(at, rows, n, items):
    page, line, item = at
    last = rows if item + n == items else 0
    return at, (page, line, item + 1), rows * n, rows * n - min(last, 1), (n - 1, n, last)


@inline
def _four_rows(operands, carried, first, n, started, reverse):
    page, line, item = first
    sign = -1 if reverse else 1
    rows = (line, line + 1, line + 2, line + 3)
    x, decay, y = _lanes_of(operands, page, rows, (item, item, item, item))
    store = (carried[0], (carried[1], carried[1] + 1, carried[1] + 2, carried[1] + 3), 0)
    carry = _load(x, 0)
    if started:
        carry = _multiply_add(_load(decay, 0), _load(store, 0), carry)
    _store(y, 0, carry)
    for j in range(1, n):
        carry = _multiply_add(_load(decay, sign * j), carry, _load(x, sign * j))
        _store(y, sign * j, carry)
    _store(store, 0, carry)


@inline
def _one_row(operands, products, carried, first, n, started, reverse):
    """A head that leaves four equal chunks, each from zero, and then what reaches each of them."""
    page, line, item = first
    sign = -1 if reverse else 1
    head = n % 4 if started else 1 + (n - 1) % 4
    carry = _head(operands, carried[0], first, head, started, sign)
    m = (n - head) // 4
    if m > 0:
        near = item + sign * head
        items = (near, near + sign * m, near + 2 * sign * m, near + 3 * sign * m)
        _chunks(operands, products, page, (line, line, line, line), items, m, sign)
        for k in range(4):
            start = near + sign * k * m - (m - 1 if reverse else 0)
            at = (page, line, start)
            _add_product(m, line_at(products, at), carry, line_at(operands[2], at))
            carry = get(line_at(operands[2], at), 0 if reverse else m - 1)
    carried[0] = carry


@inline
def _head(operands, carry, first, n, started, sign):
    page, line, item = first
    for j in range(n):
        at = (page, line, item + sign * j)
        x, decay, y = operands
        if j == 0 and not started:
            carry = get(line_at(x, at), 0)
        else:
            carry = get(line_at(x, at), 0) + get(line_at(decay, at), 0) * carry
        put(line_at(y, at), 0, carry)
    return carry


@inline
def _chunks(operands, products, page, rows, items, m, sign):
    x, decay, y = _lanes_of(operands, page, rows, items)
    product = _lanes(products, page, rows, items)
    carry, total = _load(x, 0), _load(decay, 0)
    _store(y, 0, carry)
    _store(product, 0, total)
    for j in range(1, m):
        factor = _load(decay, sign * j)
        carry = _multiply_add(factor, carry, _load(x, sign * j))
        total = _multiply(factor, total)
        _store(y, sign * j, carry)
        _store(product, sign * j, total)


@inline
def _add_product(n, x, carry, y):
    for j in range(n):
        put(y, j, get(y, j) + get(x, j) * carry)


@inline
def _lanes_of(operands, page, rows, items):
    x, decay, y = operands
    return (
        _lanes(x, page, rows, items),
        _lanes(decay, page, rows, items),
        _lanes(y, page, rows, items),
    )


@inline
def _lanes(tensor, page, rows, items):
    """Four places in a tensor, and the stride at which to move on from all of them."""
    starts = (
        line_at(tensor, (page, rows[0], items[0]))[1],
        line_at(tensor, (page, rows[1], items[1]))[1],
        line_at(tensor, (page, rows[2], items[2]))[1],
        line_at(tensor, (page, rows[3], items[3]))[1],
    )
    return tensor[0], starts, tensor[4]


@inline
def _load(lanes, j):
    pointer, (a, b, c, d), stride = lanes
    j *= stride
    return pointer[a + j], pointer[b + j], pointer[c + j], pointer[d + j]


@inline
def _store(lanes, j, values):
    pointer, (a, b, c, d), stride = lanes
    j *= stride
    pointer[a + j], pointer[b + j] = values[0], values[1]
    pointer[c + j], pointer[d + j] = values[2], values[3]


@inline
def _multiply_add(a, b, c):
    return a[0] * b[0] + c[0], a[1] * b[1] + c[1], a[2] * b[2] + c[2], a[3] * b[3] + c[3]


@inline
def _multiply(a, b):
    return a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]


@inline
def _window(pointer, line, item, n):
    """A stack array as a tensor whose block starts at a line and an item."""
    return pointer, -line * n - item, 0, n, 1


@inline
def line_at(tensor, at):
    """The line of a tensor that starts at ``(page, line, item)``."""
    pointer, start, page_stride, line_stride, item_stride = tensor
    page, line, item = at
    start += page * page_stride + line * line_stride + item * item_stride
    return pointer, start, item_stride


@inline
def get(line, j):
    """Element ``j`` of a line."""
    return line[0][line[1] + j * line[2]]


@inline
def put(line, j, value):
    """Set element ``j`` of a line."""
    line[0][line[1] + j * line[2]] = value


@inline
def sizes(geometry):
    """Pages, lines, items, the width of a block, and how many lines are joined."""
    return geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]


@inline
def tensor(geometry, k, pointer):
    """Tensor ``k`` of a geometry."""
    k = 4 * k + 5
    return pointer, geometry[k], geometry[k + 1], geometry[k + 2], geometry[k + 3]
