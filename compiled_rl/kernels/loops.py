# mypy: ignore-errors
"""The CPU loops over time, compiled by Numba: slow to import, so that ``cpu`` does it late.

Each loop sees its tensors as ``[page, line, item]``, where time is either the lines or the items:

- ``across``: the items are the batch. One pass over time, vectorised over the batch.
- ``along``: the items are time. Four rows at a time, so that four chains of dependent additions
  run side by side; a row that is alone is cut into four chunks, which are joined afterwards.
  Whatever is not such a chain is vectorised along time.

A fused estimator (see ``formulas``) is a recurrence ``y[t] = y[t] + link[t] * y[t + 1]`` in place,
with a ``before`` (fill ``y`` and ``link``) and an ``after`` (what follows from ``y``), applied to a
block of elements while it sits in L1. The first tensor is ``y``. The links, and whatever else no
output has room for, live on the stack: ``room[0]`` holds the links.

A tensor is ``(pointer, start, page_stride, line_stride, item_stride)``; a line is ``(pointer,
start, stride)``. Short lines that lie one behind the other in every tensor are ``joined``: a block
is then several lines, and one line to the elementwise loops. Each of those stays below the eight
pointer comparisons beyond which LLVM no longer vectorises; it versions them for unit strides by
itself, and needs no comparison for the stack.
"""

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from compiled_rl.kernels.layout import BLOCK

# `contract` lets the chains use fused multiply-adds; it changes nothing about NaN or infinity.
inline = njit(forceinline=True, error_model="numpy", nogil=True, fastmath={"contract"})


@intrinsic
def stack(context, like):
    """Room for a block of the reals that the pointer ``like`` points to."""

    def code(context, builder, signature, arguments):
        array = cgutils.alloca_once(builder, context.get_data_type(like.dtype), size=BLOCK)
        # A vector that straddles two cache lines is slow to be read after it was written.
        array.align = 64
        return array

    return types.CPointer(like.dtype)(like), code


@inline
def across(before, after, tensors, scalars, sizes, reverse):
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
                for j in range(rows):
                    now = (page, line + rows - 1 - j if reverse else line + j, item)
                    link = (room[0], (rows - 1 - j if reverse else j) * n, 1)
                    _step(line_at(tensors[0], now), link, n, k + j > 0, carry)
                after(tensors, room, 0, block, scalars)


@inline
def _step(y, link, n, started, carry):
    if started:
        _advance(n, link, carry, y)
    else:
        copy(n, y, carry)


@inline
def _advance(n, link, carry, y):
    for j in range(n):
        moved = get(y, j) + get(link, j) * get(carry, j)
        put(carry, j, moved)
        put(y, j, moved)


@inline
def along(before, after, tensors, scalars, sizes, reverse):
    """The items are time: four rows side by side, and those that are left over each by itself."""
    pages, lines, items, width, joined = sizes
    carry = stack(tensors[0][0])
    work = (stack(tensors[0][0]), stack(tensors[0][0]), carry)
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
                link = _window(room[0], line, item, n)
                first = item + n - 1 if reverse else item
                if rows > 1:
                    for row in range(0, rows, 4):
                        at = (page, line + row, first)
                        _four_rows(tensors[0], link, carry, at, n, k > 0, reverse)
                else:
                    _one_row(
                        line_at(tensors[0], (page, line, item)), room[0], work, n, k > 0, reverse
                    )
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
def _four_rows(y, link, carried, first, n, started, reverse):
    page, line, item = first
    sign = -1 if reverse else 1
    rows = (line, line + 1, line + 2, line + 3)
    items = (item, item, item, item)
    y, link = _lanes(y, page, rows, items), _lanes(link, page, rows, items)
    # Rows that go on in another block come by fours.
    kept = (carried, (0, 1, 2, 3), 0)
    carry = _load(y, 0)
    if started:
        carry = _multiply_add(_load(link, 0), _load(kept, 0), carry)
    _store(y, 0, carry)
    for j in range(1, n):
        carry = _multiply_add(_load(link, sign * j), carry, _load(y, sign * j))
        _store(y, sign * j, carry)
    _store(kept, 0, carry)


@inline
def _one_row(y, link, work, n, started, reverse):
    """A head that leaves four equal chunks: the first goes on from it, and the others from zero.

    What reaches those is added afterwards, times the product of the links that it has passed.
    """
    chain, product, carried = work
    sign = -1 if reverse else 1
    head = n % 8 if started else 1 + (n - 1) % 8
    m = (n - head) // 4
    near = n - 1 - head if reverse else head
    copy(n, y, (chain, 0, 1))
    carry = _head(chain, link, carried[0], head, n - 1 if reverse else 0, started, sign)
    carry = _chunks(chain, link, product, carry, near, m, sign)
    low = n - head - m if reverse else 0
    copy(head + m, (chain, low, 1), _moved(y, low))
    for k in range(1, 4 if m > 0 else 1):
        low = near + sign * k * m - (m - 1 if reverse else 0)
        _join(m, (chain, low, 1), (product, low, 1), carry, _moved(y, low))
        carry = get(y, low if reverse else low + m - 1)
    carried[0] = carry


@inline
def _head(chain, link, carry, n, first, started, sign):
    for j in range(n):
        at = first + sign * j
        carry = chain[at] + link[at] * carry if j > 0 or started else chain[at]
        chain[at] = carry
    return carry


@inline
def _chunks(chain, link, product, head, near, m, sign):
    starts = (near, near + sign * m, near + 2 * sign * m, near + 3 * sign * m)
    zero, one = type(head)(0), type(head)(1)
    carry, total = (head, zero, zero, zero), (one, one, one, one)
    for j in range(0, sign * m, 2 * sign):
        factor, follows = _load((link, starts, 1), j), _load((link, starts, 1), j + sign)
        near = _multiply_add(factor, carry, _load((chain, starts, 1), j))
        carry = _multiply_add(follows, near, _load((chain, starts, 1), j + sign))
        passed = _multiply(factor, total)
        total = _multiply(follows, passed)
        _store_pairs((chain, starts, 1), j, near, sign, carry)
        _store_pairs((product, starts, 1), j, passed, sign, total)
    return carry[0]


@inline
def _join(m, chain, product, carry, y):
    for j in range(m):
        put(y, j, get(chain, j) + get(product, j) * carry)


@inline
def _moved(line, j):
    return line[0], line[1] + j * line[2], line[2]


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
def _store_pairs(lanes, j, values, step, others):
    # Of neighbours: a processor stores twice in a cycle only to one and the same cache line.
    pointer, (a, b, c, d), _ = lanes
    pointer[a + j], pointer[a + j + step] = values[0], others[0]
    pointer[b + j], pointer[b + j + step] = values[1], others[1]
    pointer[c + j], pointer[c + j + step] = values[2], others[2]
    pointer[d + j], pointer[d + j + step] = values[3], others[3]


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
def copy(n, x, y):
    """``y = x``."""
    for j in range(n):
        put(y, j, get(x, j))


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
