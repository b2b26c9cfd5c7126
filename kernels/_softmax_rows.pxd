# The method of _softmax.pxd for rows of more than NARROW consecutive elements.
#
# Element i of a row belongs to lane i mod ROW_LANES; each lane has its own maximum and sum. The lanes are then reduced
# pairwise, for a group of rows at once, with the same bits at every level. Terms are kept in a local block until they
# are summed; the block starts at a cache line, since vectors that straddle two cost twice as much. A row longer than
# BLOCK is a group of its own and is processed block by block.
#
# The largest element's term is excluded by subtracting it from the sum of its block, in double, if at least 2⁻¹² of the
# term remains: with at most BLOCK terms the relative error of the remainder is then below 2⁻³². Otherwise, on confident
# rows, the block is summed again without it.
#
# The loops are bound by arithmetic throughput, two vector operations a cycle. At v4, 16 elements take 1 cycle for the
# maximum, 12 for the terms, 4 for the sums and 2 for the results of a log-softmax.

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from _memory cimport IN, IN64, INOUT, INOUT64, prefetch_for_writing, unknown
from _math cimport exp_begin, exp_end
from _softmax cimport MAX_ROWS, NARROW, TASK_ELEMENTS, Factor, Rows, max_or_second

cdef extern from "_softmax.h":
    enum:
        LONG_ROWS "FASTOPT_LONG_ROWS"       # rows in a group, at most
        ROW_LANES "FASTOPT_ROW_LANES"       # lanes over the elements of a row
        BLOCK "FASTOPT_BLOCK"               # elements in a block, at most
        STAGE "FASTOPT_STAGE"               # elements whose terms are computed, and output lines prefetched, at a time
    ctypedef struct Terms "fastopt_terms":          # of a block
        float v[BLOCK]
    ctypedef struct Stage "fastopt_stage":
        float v[STAGE]
    ctypedef struct Maxima "fastopt_maxima":        # lanes of a group
        float v[LONG_ROWS * ROW_LANES]
    ctypedef struct Sums "fastopt_sums":            # lanes of a group, added in pairs
        double v[LONG_ROWS * ROW_LANES // 2]


cdef inline void max_64(IN x, INOUT m) noexcept nogil:
    cdef int lane
    cdef float a, b
    for lane in range(ROW_LANES):
        a = max_or_second(x[lane], x[ROW_LANES + lane])
        b = max_or_second(x[2 * ROW_LANES + lane], x[3 * ROW_LANES + lane])
        m[lane] = max_or_second(max_or_second(a, b), m[lane])


cdef inline void max_lanes(IN x, INOUT m, Py_ssize_t n) noexcept nogil:
    """Largest element of each lane, n ≥ ROW_LANES; −inf if a lane has none. NaN is ignored."""
    cdef Py_ssize_t i
    cdef int lane, lanes = unknown(ROW_LANES)
    for lane in range(lanes):
        m[lane] = -INFINITY
    if n < 64:
        for i in range(n // ROW_LANES):
            for lane in range(lanes):
                m[lane] = max_or_second(x[i * ROW_LANES + lane], m[lane])
        for lane in range(lanes):           # may overlap the vector before it
            m[lane] = max_or_second(x[n - ROW_LANES + lane], m[lane])
        return
    for i in range(n // 64):
        max_64(x + i * 64, m)
    max_64(x + n - 64, m)


cdef inline void max_pairs(IN x, INOUT y, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        y[i] = max_or_second(x[2 * i + 1], x[2 * i])


cdef inline void add_pairs(IN64 x, INOUT64 y, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        y[i] = x[2 * i] + x[2 * i + 1]


cdef inline Py_ssize_t block_length(Py_ssize_t n, Py_ssize_t start) noexcept nogil:
    """Length of the block at `start`, chosen so that the last one is not shorter than ROW_LANES."""
    if 0 < n - start - BLOCK < ROW_LANES:
        return BLOCK // 2
    return min(BLOCK, n - start)


cdef inline int padded_group(int rows) noexcept nogil:
    """`rows` padded to whole vectors, for the work per row."""
    return unknown(1 if rows == 1 else 8 if rows <= 8 else LONG_ROWS)


cdef inline void max_rows(Rows* s, const float* x, Py_ssize_t n, int rows) noexcept nogil:
    """Compute m of a group; for a row longer than BLOCK also top_block."""
    cdef Maxima a, b
    cdef int up = padded_group(rows), row
    cdef Py_ssize_t start = 0, length
    cdef float m = -INFINITY
    if n <= BLOCK:
        if rows < up:
            memset(a.v, 0, sizeof(a.v))
        for row in range(rows):
            max_lanes(x + row * n, a.v + row * ROW_LANES, n)
        max_pairs(a.v, b.v, 8 * up)
        max_pairs(b.v, a.v, 4 * up)
        max_pairs(a.v, b.v, 2 * up)
        max_pairs(b.v, s.m, up)
        return
    s.top_block = 0
    while start < n:
        length = block_length(n, start)
        max_lanes(x + start, a.v, length)
        max_pairs(a.v, b.v, 8)
        max_pairs(b.v, a.v, 4)
        max_pairs(a.v, b.v, 2)
        if max_or_second(b.v[0], b.v[1]) > m:
            m = max_or_second(b.v[0], b.v[1])
            s.top_block = start
        start += length
    s.m[0] = m


# Terms are computed in two loops over a stage of elements. In one loop exp is a dependency chain of 40 cycles, of which
# the processor's schedulers hold two or three vectors: with half the chain they hold twice as many.

cdef inline void reduce_loop(IN x, INOUT r, INOUT power, Py_ssize_t n, float base, float magic,
                             float lowest) noexcept nogil:
    cdef Py_ssize_t i
    if base == <float> 0.0:
        for i in range(n):
            exp_begin(max_or_second(lowest, x[i]), magic, &r[i], &power[i])
    else:
        for i in range(n):
            exp_begin(max_or_second(lowest, x[i] - base), magic, &r[i], &power[i])


cdef inline void power_loop(IN r, IN power, INOUT e, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        e[i] = exp_end(r[i], power[i])


cdef inline void terms_loop(IN x, INOUT e, Py_ssize_t n, float base, float magic, float lowest) noexcept nogil:
    """Terms of n ≤ STAGE elements."""
    cdef Stage r, power
    reduce_loop(x, r.v, power.v, n, base, magic, lowest)
    power_loop(r.v, power.v, e, n)


cdef inline void terms_of(const Rows* s, int row, const float* x, float* e, Py_ssize_t n,
                          const float* later) noexcept nogil:
    """Terms of n ≥ ROW_LANES elements, padded with 0 to a multiple of ROW_LANES.

    The lines at `later` (unless it is NULL) are prefetched: they are written next.
    """
    cdef Py_ssize_t whole = n // ROW_LANES * ROW_LANES, i, length
    # ROW_LANES or 0, which the compiler cannot tell.
    cdef Py_ssize_t last = (n + ROW_LANES - 1) // ROW_LANES * ROW_LANES - whole
    cdef int lane
    if whole < n:
        for lane in range(ROW_LANES):
            e[whole + lane] = 0.0
        terms_loop(x + n - ROW_LANES, e + n - ROW_LANES, last, s.base[row], s.magic[row], s.lowest[row])
    for i in range((whole + STAGE - 1) // STAGE):
        length = min(STAGE, whole - i * STAGE)
        if later != NULL:
            for lane in range(<int> ((length + 15) // 16)):
                prefetch_for_writing(later + i * STAGE + lane * 16)
        terms_loop(x + i * STAGE, e + i * STAGE, length, s.base[row], s.magic[row], s.lowest[row])


cdef inline void add_terms(IN e, INOUT64 sums, Py_ssize_t n) noexcept nogil:
    """Σ e in ROW_LANES / 2 lanes. Adding pairs of vectors first halves the dependency chain."""
    cdef double acc[ROW_LANES]
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(ROW_LANES):
        acc[lane] = 0.0
    for i in range(n // (2 * ROW_LANES)):
        for lane in range(ROW_LANES):
            acc[lane] += <double> e[i * 2 * ROW_LANES + lane] + <double> e[i * 2 * ROW_LANES + ROW_LANES + lane]
    if n // ROW_LANES % 2:
        for lane in range(ROW_LANES):
            acc[lane] += e[n - ROW_LANES + lane]
    for lane in range(ROW_LANES // 2):
        sums[lane] = acc[lane] + acc[lane + ROW_LANES // 2]


cdef inline void clear_equal(INOUT e, Py_ssize_t n, float value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        e[i] = <float> 0.0 if e[i] == value else e[i]


cdef inline double lane_sum(double* acc) noexcept nogil:
    cdef int lane
    for lane in range(4):
        acc[lane] = acc[2 * lane] + acc[2 * lane + 1]
    return (acc[0] + acc[1]) + (acc[2] + acc[3])


cdef inline double without_largest(double total, float* e, Py_ssize_t padded, float top) noexcept nogil:
    """The sum `total` of the block with the row's largest element, without that element."""
    cdef Sums acc
    cdef double others = total - <double> top
    if others < <double> top * (1.0 / 4096.0):          # then only one element is the largest
        clear_equal(e, padded, top)
        add_terms(e, acc.v, padded)
        others = lane_sum(acc.v)
    return others


cdef inline void sum_rows(Rows* s, const float* x, float* e, Py_ssize_t n, int rows, bint keep) noexcept nogil:
    """Compute the sums of a group from m and the base. With `keep`, store the terms in e, which may be x."""
    cdef Terms block
    cdef Sums a, b
    cdef Py_ssize_t padded = (n + ROW_LANES - 1) // ROW_LANES * ROW_LANES, start = 0, length
    cdef int row, up = padded_group(rows)
    cdef double total
    if n <= BLOCK:
        for row in range(rows):
            terms_of(s, row, x + row * n, block.v + row * padded, n, NULL if e == NULL else e + row * n)
        if rows < up:
            memset(a.v, 0, sizeof(a.v))
        for row in range(rows):
            if keep:
                memcpy(e + row * n, block.v + row * padded, n * sizeof(float))
            add_terms(block.v + row * padded, a.v + row * (ROW_LANES // 2), padded)
        add_pairs(a.v, b.v, 4 * up)
        add_pairs(b.v, a.v, 2 * up)
        add_pairs(a.v, s.sum, up)
        for row in range(rows):
            s.sum[row] = without_largest(s.sum[row], block.v + row * padded, padded, s.top[row])
        return
    s.sum[0] = 0.0
    while start < n:
        length = block_length(n, start)
        padded = (length + ROW_LANES - 1) // ROW_LANES * ROW_LANES
        terms_of(s, 0, x + start, block.v, length, NULL if e == NULL else e + start)
        if keep:
            memcpy(e + start, block.v, length * sizeof(float))
        add_terms(block.v, a.v, padded)
        total = lane_sum(a.v)
        s.sum[0] += without_largest(total, block.v, padded, s.top[0]) if start == s.top_block else total
        start += length


cdef inline int group_of(Py_ssize_t n) noexcept nogil:
    """Rows in a group, n > NARROW: their terms fit in one block."""
    return <int> max(min(LONG_ROWS, BLOCK // ((n + ROW_LANES - 1) // ROW_LANES * ROW_LANES)), 1)


cdef inline Py_ssize_t rows_per_task(Py_ssize_t n) noexcept nogil:
    """Rows of n elements in a task: whole groups of about TASK_ELEMENTS elements."""
    cdef Py_ssize_t group = MAX_ROWS if n <= NARROW else group_of(n)
    return max(TASK_ELEMENTS // (n * group), 1) * group


cdef inline void scale_row(INOUT e, Py_ssize_t n, float top, Factor factor, float largest) noexcept nogil:
    """Replace the terms by e · factor, and the largest element's by `largest`, which is more accurate."""
    cdef Py_ssize_t j
    cdef float v
    for j in range(n):
        v = <float> (e[j] * factor)
        e[j] = largest if e[j] == top else v
