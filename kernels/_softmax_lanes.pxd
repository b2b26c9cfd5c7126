# Rows side by side, for the method of _softmax.pxd: element j of row `lane` is x[j · stride + lane]. Every loop runs
# over the lanes.

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from _memory cimport IN, IN64, INOUT, INOUT64, INOUT_INT
from _softmax cimport LANES, Rows, choose_base, larger, term

cdef extern from *:
    """
    typedef FASTOPT_LINE struct { float v[2048]; } fastopt_narrow;
    """
    ctypedef struct Narrow "fastopt_narrow":        # a group of narrow rows: NARROW · LANES
        float v[2048]


cdef inline void max_loop(INOUT m, IN x, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        m[lane] = larger(x[lane], m[lane])


cdef inline void lanes_loop(IN x, INOUT e, INOUT64 acc, INOUT_INT count, IN base, IN magic, IN lowest, IN top,
                            int lanes, bint in_place, bint keep) noexcept nogil:
    """Add the terms; those equal to the largest are counted instead."""
    cdef int lane
    cdef float v
    for lane in range(lanes):
        v = term(e[lane] if in_place else x[lane], base[lane], magic[lane], lowest[lane])
        if keep:
            e[lane] = v
        count[lane] += v == top[lane]
        acc[lane] += <float> 0.0 if v == top[lane] else v


cdef inline void others_loop(INOUT64 sums, IN top, INOUT_INT count, int lanes) noexcept nogil:
    """All but one of the largest are others."""
    cdef int lane
    for lane in range(lanes):
        sums[lane] += <double> (count[lane] - 1) * <double> top[lane]


cdef inline void sum_lanes(Rows* s, const float* x, float* e, Py_ssize_t stride, Py_ssize_t n, int lanes,
                           bint keep) noexcept nogil:
    """m, base and sum of all lanes. With `keep` the terms go to e, which may be x itself."""
    cdef int count[LANES]
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(lanes):
        s.m[lane], s.sum[lane], count[lane] = -INFINITY, 0.0, 0
    for j in range(n):
        max_loop(s.m, x + j * stride, lanes)
    choose_base(s, lanes)
    for j in range(n):
        if keep and x == e:
            lanes_loop(NULL, e + j * stride, s.sum, count, s.base, s.magic, s.lowest, s.top, lanes, True, True)
        else:
            lanes_loop(x + j * stride, e + j * stride, s.sum, count, s.base, s.magic, s.lowest, s.top, lanes, False,
                       keep)
    others_loop(s.sum, s.top, count, lanes)


cdef inline void scale_lanes(INOUT e, IN top, IN64 factor, IN largest, int lanes) noexcept nogil:
    """As scale_row, for all lanes."""
    cdef int lane
    cdef float v
    for lane in range(lanes):
        v = <float> (<double> e[lane] * factor[lane])
        e[lane] = largest[lane] if e[lane] == top[lane] else v


# Narrow rows, 16 or 64 of them, are transposed by two or three shuffles: the quarters of a block are dealt out in turn,
# which makes the two highest bits of an index its lowest ones. Each is one loop of vectors.

cdef inline void deal(IN x, INOUT y, Py_ssize_t quarter) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(quarter):
        y[4 * i] = x[i]
        y[4 * i + 1] = x[quarter + i]
        y[4 * i + 2] = x[2 * quarter + i]
        y[4 * i + 3] = x[3 * quarter + i]


cdef inline void collect(IN x, INOUT y, Py_ssize_t quarter) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(quarter):
        y[i] = x[4 * i]
        y[quarter + i] = x[4 * i + 1]
        y[2 * quarter + i] = x[4 * i + 2]
        y[3 * quarter + i] = x[4 * i + 3]


cdef inline int narrow_group(Py_ssize_t rows) noexcept nogil:
    """Of so many rows left: how many make the next group."""
    return <int> min(rows, LANES if rows > LANES // 2 else LANES // 4)


cdef inline int lanes_for(int rows) noexcept nogil:
    return LANES if rows > LANES // 4 else LANES // 4


cdef inline void transpose_in(float* block, float* room, const float* x, Py_ssize_t n, int rows) noexcept nogil:
    """block[j · lanes_for(rows) + row] = x[row · n + j]; lanes without a row are 0. `room` is as large."""
    cdef int lanes = lanes_for(rows)
    cdef bint three = lanes == LANES
    cdef Py_ssize_t quarter = lanes // 4 * n
    cdef const float* source = x
    cdef float* padded = room if three else block
    if rows < lanes:
        memcpy(padded, x, rows * n * sizeof(float))
        memset(padded + rows * n, 0, (lanes - rows) * n * sizeof(float))
        source = padded
    if three:
        deal(source, block, quarter)
        source = block
    deal(source, room, quarter)
    deal(room, block, quarter)


cdef inline void transpose_out(float* y, float* block, float* room, Py_ssize_t n, int rows) noexcept nogil:
    """The inverse; block is used up."""
    cdef int lanes = lanes_for(rows)
    cdef Py_ssize_t quarter = lanes // 4 * n
    cdef float* source = room
    cdef float* free = block
    collect(block, room, quarter)
    if lanes == LANES:
        collect(room, block, quarter)
        source, free = block, room
    if rows == lanes:
        collect(source, y, quarter)
    else:
        collect(source, free, quarter)
        memcpy(y, free, rows * n * sizeof(float))
