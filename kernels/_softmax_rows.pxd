# The method of _softmax.pxd for rows of more than NARROW consecutive elements.
#
# Element i of a row belongs to lane i mod ROW_LANES; each lane has its own maximum and sum. The lanes are then reduced
# pairwise, for a group of rows at once, with the same bits at every level. Terms are kept in a local block until they
# are summed and softmax is written from them; the block starts at a cache line, since vectors that straddle two cost
# twice as much. A row longer than BLOCK is processed block by block, and its terms are stored in the result meanwhile.
#
# The largest element's term is excluded by subtracting it from the sum of its block, in double, if at least 2⁻¹² of the
# term remains: with at most BLOCK terms the relative error of the remainder is then below 2⁻³². Otherwise, on confident
# rows, the block is summed again without it.
#
# The loops are bound by arithmetic throughput, two vector operations a cycle. At v4, 16 elements take 1 cycle for the
# maximum, 12 for the terms, 4 for the sums and 2 for the results of a log-softmax.

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from _memory cimport IN, IN64, INOUT, INOUT64, prefetch, prefetch_for_writing, unknown
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


cdef inline void max_four(IN w, IN x, IN y, IN z, INOUT m) noexcept nogil:
    """m[lane] = max(w[lane], x[lane], y[lane], z[lane], m[lane])"""
    cdef int lane
    cdef float a, b
    for lane in range(ROW_LANES):
        a = max_or_second(w[lane], x[lane])
        b = max_or_second(y[lane], z[lane])
        m[lane] = max_or_second(max_or_second(a, b), m[lane])


cdef inline void max_64(const float* x, INOUT m) noexcept nogil:
    max_four(x, x + ROW_LANES, x + 2 * ROW_LANES, x + 3 * ROW_LANES, m)


cdef inline void max_lanes(const float* x, INOUT m, Py_ssize_t n) noexcept nogil:
    """Largest element of each lane, n ≥ ROW_LANES; −inf if a lane has none. NaN is ignored. Vectors may overlap."""
    cdef Py_ssize_t i
    cdef int lane, lanes = unknown(ROW_LANES)
    for lane in range(lanes):
        m[lane] = -INFINITY
    if n < 64:
        max_four(x, x + min(ROW_LANES, n - ROW_LANES), x + max(0, n - 2 * ROW_LANES), x + n - ROW_LANES, m)
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


cdef inline Py_ssize_t blocks_of(Py_ssize_t n) noexcept nogil:
    """Blocks of a row of n elements."""
    return (n + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t block_start(Py_ssize_t n, Py_ssize_t index) noexcept nogil:
    """First element of a block; n for the index behind the last, which is not shorter than ROW_LANES."""
    cdef Py_ssize_t start = index * BLOCK
    if n - ROW_LANES < start < n:
        return start - BLOCK // 2
    return min(start, n)


cdef inline Py_ssize_t padded_length(Py_ssize_t n) noexcept nogil:
    """n padded to whole vectors."""
    return (n + ROW_LANES - 1) // ROW_LANES * ROW_LANES


cdef inline int padded_group(int rows) noexcept nogil:
    """`rows` padded to whole vectors, for the work per row."""
    return unknown(1 if rows == 1 else (rows + 7) // 8 * 8)


cdef inline float max_block(const float* x, Py_ssize_t n, Py_ssize_t index) noexcept nogil:
    """Largest element of a block of the row x."""
    cdef Maxima a, b
    cdef Py_ssize_t start = block_start(n, index)
    max_lanes(x + start, a.v, block_start(n, index + 1) - start)
    max_pairs(a.v, b.v, 8)
    max_pairs(b.v, a.v, 4)
    max_pairs(a.v, b.v, 2)
    return max_or_second(b.v[0], b.v[1])


cdef inline void begin_max(Rows* s, int row) noexcept nogil:
    s.m[row], s.top_block[row] = -INFINITY, 0


cdef inline void merge_max(Rows* s, int row, float m, Py_ssize_t index) noexcept nogil:
    """Take the largest element of the next block into account."""
    if m > s.m[row]:
        s.m[row], s.top_block[row] = m, index


cdef inline void max_rows(Rows* s, const float* x, Py_ssize_t n, int rows) noexcept nogil:
    """Compute m of a group; for a row longer than BLOCK also top_block."""
    cdef Maxima a, b
    cdef int up = padded_group(rows), row
    cdef Py_ssize_t index
    if n <= BLOCK:
        if rows < up:
            memset(a.v + rows * ROW_LANES, 0, (up - rows) * ROW_LANES * sizeof(float))
        for row in range(rows):
            max_lanes(x + row * n, a.v + row * ROW_LANES, n)
        max_pairs(a.v, b.v, 8 * up)
        max_pairs(b.v, a.v, 4 * up)
        max_pairs(a.v, b.v, 2 * up)
        max_pairs(b.v, s.m, up)
        return
    begin_max(s, 0)
    for index in range(blocks_of(n)):
        merge_max(s, 0, max_block(x, n, index), index)


# Terms are computed in two loops over a stage: some rows, or a part of a longer one. In one loop exp is a dependency
# chain of 40 cycles, of which the processor's schedulers hold two or three vectors: with half the chain they hold twice
# as many.

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


cdef inline void reduce_row(const Rows* s, int row, const float* x, float* r, float* power,
                            Py_ssize_t n) noexcept nogil:
    """The first half of the terms of n ≥ ROW_LANES elements, padded to whole vectors with terms that will be 0."""
    cdef Py_ssize_t whole = n // ROW_LANES * ROW_LANES
    # ROW_LANES or 0, which the compiler cannot tell.
    cdef Py_ssize_t last = padded_length(n) - whole
    if whole < n:
        memset(r + whole, 0, ROW_LANES * sizeof(float))
        memset(power + whole, 0, ROW_LANES * sizeof(float))
        reduce_loop(x + n - ROW_LANES, r + n - ROW_LANES, power + n - ROW_LANES, last, s.base[row], s.magic[row],
                    s.lowest[row])
    reduce_loop(x, r, power, whole, s.base[row], s.magic[row], s.lowest[row])


# While terms are computed, memory is idle: lines that are used next are prefetched, those of the results (`later`, or
# NULL if none are stored) and the next group's x. (Zen 4, one thread: softmax of (2650, 2427), 51 MB, takes 0.84 of the
# time. Rows longer than a block gain nothing by prefetching x.)

cdef inline void short_terms(const Rows* s, const float* x, float* e, Py_ssize_t n, int rows,
                             const float* later) noexcept nogil:
    """Terms of rows of n elements, n < STAGE, each padded with 0 to whole vectors."""
    cdef Stage r, power
    cdef Py_ssize_t padded = padded_length(n)
    cdef int first = 0, count, k
    while first < rows:
        count = <int> min(STAGE // padded, <Py_ssize_t> rows - first)
        for k in range(count):
            reduce_row(s, first + k, x + (first + k) * n, r.v + k * padded, power.v + k * padded, n)
        if later != NULL:
            prefetch_for_writing(later + first * n, count * n)
        prefetch(x + (rows + first) * n, count * n)
        power_loop(r.v, power.v, e + first * padded, count * padded)
        first += count


cdef inline void row_terms(const Rows* s, int row, const float* x, float* e, Py_ssize_t n, const float* later,
                           const float* ahead) noexcept nogil:
    """Terms of n ≥ ROW_LANES elements of a row, padded with 0 to whole vectors. ahead: the next group's, or NULL."""
    cdef Stage r, power
    cdef Py_ssize_t start = 0, length
    while start < n:
        length = n - start if n - start < STAGE // 2 + ROW_LANES else STAGE // 2
        reduce_row(s, row, x + start, r.v, power.v, length)
        if later != NULL:
            prefetch_for_writing(later + start, length)
        if ahead != NULL:
            prefetch(ahead + start, length)
        power_loop(r.v, power.v, e + start, padded_length(length))
        start += length


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


cdef inline void copy_unequal(IN x, INOUT y, Py_ssize_t n, float value) noexcept nogil:
    """Copy x, with 0 for elements that equal `value`."""
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = <float> 0.0 if x[i] == value else x[i]


cdef inline double lane_sum(double* acc) noexcept nogil:
    cdef int lane
    for lane in range(4):
        acc[lane] = acc[2 * lane] + acc[2 * lane + 1]
    return (acc[0] + acc[1]) + (acc[2] + acc[3])


cdef inline double without_largest(double total, const float* e, Py_ssize_t padded, float top) noexcept nogil:
    """The sum `total` of the block with the row's largest element, without that element."""
    cdef Terms block
    cdef Sums acc
    cdef double others = total - <double> top
    if others < <double> top * (1.0 / 4096.0):          # then only one element is the largest
        copy_unequal(e, block.v, padded, top)
        add_terms(block.v, acc.v, padded)
        others = lane_sum(acc.v)
    return others


cdef inline double sum_block(const Rows* s, int row, const float* x, float* e, Py_ssize_t n, Py_ssize_t index,
                             bint keep) noexcept nogil:
    """Sum of a block of the row x, n > BLOCK. e: NULL, or where to store the terms with `keep`; it may be x."""
    cdef Terms block
    cdef Sums acc
    cdef Py_ssize_t start = block_start(n, index), length = block_start(n, index + 1) - start
    cdef Py_ssize_t padded = padded_length(length)
    cdef double total
    row_terms(s, row, x + start, block.v, length, NULL if e == NULL else e + start, NULL)
    if keep:
        memcpy(e + start, block.v, length * sizeof(float))
    add_terms(block.v, acc.v, padded)
    total = lane_sum(acc.v)
    return without_largest(total, block.v, padded, s.top[row]) if index == s.top_block[row] else total


cdef inline void sum_rows(Rows* s, const float* x, float* block, Py_ssize_t n, int rows,
                          const float* later) noexcept nogil:
    """Compute the sums of a group from m and the base, n ≤ BLOCK.

    The terms of each row are left in `block`, padded with 0 to whole vectors. `later`: where results will be, or NULL.
    """
    cdef Sums a, b
    cdef Py_ssize_t padded = padded_length(n)
    cdef int row, up = padded_group(rows)
    if n < STAGE:
        short_terms(s, x, block, n, rows, later)
    else:
        for row in range(rows):
            row_terms(s, row, x + row * n, block + row * padded, n, later + row * n if later != NULL else NULL,
                      x + (rows + row) * n)
    if rows < up:
        memset(a.v + rows * (ROW_LANES // 2), 0, (up - rows) * (ROW_LANES // 2) * sizeof(double))
    for row in range(rows):
        add_terms(block + row * padded, a.v + row * (ROW_LANES // 2), padded)
    add_pairs(a.v, b.v, 4 * up)
    add_pairs(b.v, a.v, 2 * up)
    add_pairs(a.v, s.sum, up)
    for row in range(rows):
        s.sum[row] = without_largest(s.sum[row], block + row * padded, padded, s.top[row])


cdef inline void sum_long_row(Rows* s, const float* x, float* e, Py_ssize_t n, bint keep) noexcept nogil:
    """Compute the sum of a row, n > BLOCK; e and `keep` as in sum_block."""
    cdef Py_ssize_t index
    s.sum[0] = 0.0
    for index in range(blocks_of(n)):
        s.sum[0] += sum_block(s, 0, x, e, n, index, keep)


cdef inline int group_of(Py_ssize_t n) noexcept nogil:
    """Rows in a group, n > NARROW: their terms fit in one block."""
    cdef int rows = <int> max(min(LONG_ROWS, BLOCK // padded_length(n)), 1)
    return rows // 8 * 8 if rows > 8 else rows


cdef inline Py_ssize_t rows_per_task(Py_ssize_t n) noexcept nogil:
    """Rows of n elements in a task: whole groups of about TASK_ELEMENTS elements."""
    cdef Py_ssize_t group = MAX_ROWS if n <= NARROW else group_of(n)
    return max(TASK_ELEMENTS // (n * group), 1) * group


cdef inline double row_cost(Py_ssize_t n) noexcept nogil:
    """Nanoseconds that log-softmax of a row takes on one core, about (Zen 4, v4)."""
    return 6.0 + (0.85 * <double> n if n <= NARROW else 0.47 * <double> padded_length(n))


# In both, the largest element's term is replaced by `largest`, which is more accurate.

cdef inline void scale_row(INOUT e, Py_ssize_t n, float top, Factor factor, float largest) noexcept nogil:
    """Multiply terms by `factor`."""
    cdef Py_ssize_t j
    cdef float v
    for j in range(n):
        v = <float> (e[j] * factor)
        e[j] = largest if e[j] == top else v


cdef inline void write_scaled(IN e, INOUT out, Py_ssize_t n, float top, Factor factor, float largest) noexcept nogil:
    """Write terms multiplied by `factor`."""
    cdef Py_ssize_t j
    cdef float v
    for j in range(n):
        v = <float> (e[j] * factor)
        out[j] = largest if e[j] == top else v
