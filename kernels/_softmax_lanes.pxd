# The method of _softmax.pxd with one row per lane: element j of row `lane` is x[j · stride + lane]. Every inner loop
# runs over the lanes.

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from _math cimport exp_begin, exp_end
from _memory cimport IN, IN64, INOUT, INOUT64, INOUT_INT
from _softmax cimport MAX_ROWS, NARROW, Factors, Rows, choose_base, max_or_second

cdef extern from "_softmax.h":
    ctypedef struct NarrowBlock "fastopt_narrow_block":     # a group of narrow rows
        float v[NARROW * MAX_ROWS]


cdef inline void max_loop(INOUT m, IN x, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        m[lane] = max_or_second(x[lane], m[lane])


# The terms of one element of each row are computed and added in three loops; _softmax_rows.pxd says why.

cdef inline void reduce_lanes(IN x, INOUT r, INOUT power, IN base, IN magic, IN lowest, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        exp_begin(max_or_second(lowest[lane], x[lane] - base[lane]), magic[lane], &r[lane], &power[lane])


cdef inline void power_lanes(IN r, IN power, INOUT e, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        e[lane] = exp_end(r[lane], power[lane])


cdef inline void add_lanes(IN e, INOUT64 acc, INOUT_INT count, IN top, int lanes) noexcept nogil:
    """Add the terms to acc, but count those equal to the largest instead."""
    cdef int lane
    for lane in range(lanes):
        count[lane] += e[lane] == top[lane]
        acc[lane] += <float> 0.0 if e[lane] == top[lane] else e[lane]


cdef inline void others_loop(INOUT64 sums, IN top, INOUT_INT count, int lanes) noexcept nogil:
    """Add the largest terms but one of each row."""
    cdef int lane
    for lane in range(lanes):
        sums[lane] += <double> (count[lane] - 1) * <double> top[lane]


cdef inline void sum_lanes(Rows* s, const float* x, float* e, Py_ssize_t stride, Py_ssize_t n, int lanes,
                           bint keep) noexcept nogil:
    """Compute m, the base and the sum of each row. With `keep`, store the terms in e, which may be x."""
    cdef int count[MAX_ROWS]
    cdef float r[MAX_ROWS]
    cdef float power[MAX_ROWS]
    cdef float kept[MAX_ROWS]
    cdef float* term
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(lanes):
        s.m[lane], s.sum[lane], count[lane] = -INFINITY, 0.0, 0
    for j in range(n):
        max_loop(s.m, x + j * stride, lanes)
    choose_base(s, lanes)
    for j in range(n):
        reduce_lanes(x + j * stride, r, power, s.base, s.magic, s.lowest, lanes)
        term = e + j * stride if keep else kept
        power_lanes(r, power, term, lanes)
        add_lanes(term, s.sum, count, s.top, lanes)
    others_loop(s.sum, s.top, count, lanes)


cdef inline void scale_lanes(INOUT e, IN top, Factors factor, IN largest, int lanes) noexcept nogil:
    """scale_row of _softmax_rows.pxd for one element of each row."""
    cdef int lane
    cdef float v
    for lane in range(lanes):
        v = <float> (e[lane] * factor[lane])
        e[lane] = largest[lane] if e[lane] == top[lane] else v


# A group of 16 or 64 narrow rows is transposed by two or three perfect 4-way shuffles: a shuffle interleaves the four
# quarters of a block, which rotates the bits of an element's index by two. Each one is a single vectorised loop.

cdef inline void shuffle(IN x, INOUT y, Py_ssize_t quarter) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(quarter):
        y[4 * i] = x[i]
        y[4 * i + 1] = x[quarter + i]
        y[4 * i + 2] = x[2 * quarter + i]
        y[4 * i + 3] = x[3 * quarter + i]


cdef inline void unshuffle(IN x, INOUT y, Py_ssize_t quarter) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(quarter):
        y[i] = x[4 * i]
        y[quarter + i] = x[4 * i + 1]
        y[2 * quarter + i] = x[4 * i + 2]
        y[3 * quarter + i] = x[4 * i + 3]


cdef inline int narrow_group(Py_ssize_t rows) noexcept nogil:
    """How many of the remaining rows form the next group."""
    return <int> min(rows, MAX_ROWS if rows > MAX_ROWS // 2 else MAX_ROWS // 4)


cdef inline int lanes_for(int rows) noexcept nogil:
    """Lanes of a group of narrow rows, padding included."""
    return MAX_ROWS if rows > MAX_ROWS // 4 else MAX_ROWS // 4


cdef inline void transpose_in(float* block, float* scratch, const float* x, Py_ssize_t n, int rows) noexcept nogil:
    """block[j · lanes_for(rows) + row] = x[row · n + j]; lanes without a row are 0. `scratch` is as large as block."""
    cdef int lanes = lanes_for(rows)
    cdef bint three = lanes == MAX_ROWS
    cdef Py_ssize_t quarter = lanes // 4 * n
    cdef const float* source = x
    cdef float* padded = scratch if three else block
    if rows < lanes:
        memcpy(padded, x, rows * n * sizeof(float))
        memset(padded + rows * n, 0, (lanes - rows) * n * sizeof(float))
        source = padded
    if three:
        shuffle(source, block, quarter)
        source = block
    shuffle(source, scratch, quarter)
    shuffle(scratch, block, quarter)


cdef inline void transpose_out(float* y, float* block, float* scratch, Py_ssize_t n, int rows) noexcept nogil:
    """The inverse of transpose_in; overwrites block."""
    cdef int lanes = lanes_for(rows)
    cdef Py_ssize_t quarter = lanes // 4 * n
    cdef float* source = scratch
    cdef float* free = block
    unshuffle(block, scratch, quarter)
    if lanes == MAX_ROWS:
        unshuffle(scratch, block, quarter)
        source, free = block, scratch
    if rows == lanes:
        unshuffle(source, y, quarter)
    else:
        unshuffle(source, free, quarter)
        memcpy(y, free, rows * n * sizeof(float))
