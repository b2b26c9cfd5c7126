# The method of _softmax.pxd for a few narrow rows, which would leave most lanes of _softmax_lanes.pxd empty.
#
# Each row is padded to whole vectors in a local block and vectorised along the row. Its terms are added one by one, in
# the order in which a lane of _softmax_lanes.pxd adds them: the same bits.

from libc.math cimport INFINITY
from libc.string cimport memcpy

from _memory cimport IN, INOUT, unknown
from _softmax cimport Rows, choose_base, max_or_second
from _softmax_lanes cimport NarrowBlock
from _softmax_rows cimport ROW_LANES, padded_length, power_loop, reduce_loop

cdef enum:
    FEW_ROWS = 8            # rows in a group, at most


cdef inline bint are_few(int rows, Py_ssize_t n) noexcept nogil:
    """Whether rows of n elements are faster along the row than with one row per lane; measured."""
    return rows <= (FEW_ROWS if n >= 8 else FEW_ROWS - 2)


cdef inline int few_lanes(int rows) noexcept nogil:
    """`rows` padded to whole vectors of doubles, for the work per row."""
    return unknown(1 if rows == 1 else (rows + 3) // 4 * 4)


cdef inline void pad_row(const float* x, float* block, Py_ssize_t n) noexcept nogil:
    """Copy n elements and pad them to whole vectors with −inf, whose terms are tiny."""
    cdef Py_ssize_t last = padded_length(n) - ROW_LANES
    cdef int lane
    for lane in range(ROW_LANES):
        block[last + lane] = -INFINITY
    memcpy(block, x, n * sizeof(float))


cdef inline void max_halves(IN x, INOUT m, int half) noexcept nogil:
    cdef int i
    for i in range(half):
        m[i] = max_or_second(x[half + i], x[i])


cdef inline float max_padded(const float* x, Py_ssize_t padded) noexcept nogil:
    """Largest element of a padded row; NaN is ignored."""
    cdef float a[16]
    cdef float b[16]
    if padded > ROW_LANES:
        max_halves(x, b, 16)
        x = b
    max_halves(x, a, 8)
    max_halves(a, b, 4)
    max_halves(b, a, 2)
    return max_or_second(a[1], a[0])


cdef inline int exclude(IN e, INOUT others, Py_ssize_t n, float top) noexcept nogil:
    """Copy terms, with 0 for those that equal the largest; return how many do."""
    cdef Py_ssize_t i
    cdef int count = 0
    for i in range(n):
        count += e[i] == top
        others[i] = <float> 0.0 if e[i] == top else e[i]
    return count


cdef inline double sum_in_order(const float* x, Py_ssize_t n) noexcept nogil:
    cdef double total = 0.0
    cdef Py_ssize_t i
    for i in range(n):
        total += x[i]
    return total


cdef inline void sum_few(Rows* s, const float* x, float* e, Py_ssize_t n, int rows) noexcept nogil:
    """sum_lanes of _softmax_lanes.pxd for rows of n elements that pad_row has padded; e is padded likewise."""
    cdef NarrowBlock r, power, others
    cdef Py_ssize_t padded = padded_length(n)
    cdef int row, count, lanes = few_lanes(rows)
    for row in range(rows):
        s.m[row] = max_padded(x + row * padded, padded)
    for row in range(rows, lanes):
        s.m[row], s.sum[row] = 0.0, 0.0
    choose_base(s, lanes)
    for row in range(rows):
        reduce_loop(x + row * padded, r.v + row * padded, power.v + row * padded, padded, s.base[row], s.magic[row],
                    s.lowest[row])
    power_loop(r.v, power.v, e, rows * padded)
    for row in range(rows):
        count = exclude(e + row * padded, others.v, padded, s.top[row])
        s.sum[row] = sum_in_order(others.v, n) + <double> (count - 1) * <double> s.top[row]
