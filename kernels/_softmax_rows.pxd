# Rows of consecutive elements, more than NARROW of them, for the method of _softmax.pxd.
#
# A row has SUMS lanes, each with a maximum and a sum of its own; those of a group of rows are folded together, pair by
# pair, with vectors: the same bits at every level. Terms stay in a local block, which starts at a cache line (vectors
# that straddle two cost twice), until they are summed; a row longer than that is a group of its own, block by block.
#
# The largest element's term is subtracted from the sum of its block, in double, where that leaves at least 2⁻¹² of it:
# with at most BLOCK terms it costs no more than 2⁻³² of what is left. Elsewhere, on confident rows, the block is added
# again without it.
#
# A loop of vectors takes as long as its operations do, two in a cycle: at v4, in cycles for 16 elements, maximum 1,
# terms 12, sums 4, and 2 for a logarithm's result.

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from _memory cimport IN, INOUT
from _math cimport exp_scaled
from _memory cimport IN64, INOUT64, prefetch_for_writing, unknown
from _softmax cimport Rows, larger, term

cdef extern from *:
    """
    typedef FASTOPT_LINE struct { float v[3072]; } fastopt_terms;
    typedef FASTOPT_LINE struct { float v[256]; } fastopt_fold;
    typedef FASTOPT_LINE struct { double v[128]; } fastopt_fold64;
    """
    ctypedef struct Terms "fastopt_terms":          # BLOCK
        float v[3072]
    ctypedef struct Fold "fastopt_fold":            # GROUP · SUMS
        float v[256]
    ctypedef struct Fold64 "fastopt_fold64":        # GROUP · SUMS / 2
        double v[128]

cdef enum:
    GROUP = 16          # rows in a group, at most
    SUMS = 16           # lanes of a row
    BLOCK = 3072
    STEP = 256          # elements between two times that lines to be written are asked for


cdef inline void max_64(IN x, INOUT m) noexcept nogil:
    cdef int lane
    cdef float a, b
    for lane in range(SUMS):
        a = larger(x[lane], x[SUMS + lane])
        b = larger(x[2 * SUMS + lane], x[3 * SUMS + lane])
        m[lane] = larger(larger(a, b), m[lane])


cdef inline void max_lanes(IN x, INOUT m, Py_ssize_t n) noexcept nogil:
    """The largest element of each of SUMS lanes of n ≥ SUMS elements; −inf if there is none. Among NaN, any number."""
    cdef Py_ssize_t i
    cdef int lane, lanes = unknown(SUMS)
    for lane in range(lanes):
        m[lane] = -INFINITY
    if n < 64:
        for i in range(n // SUMS):
            for lane in range(lanes):
                m[lane] = larger(x[i * SUMS + lane], m[lane])
        for lane in range(lanes):           # the last elements, some of them seen twice
            m[lane] = larger(x[n - SUMS + lane], m[lane])
        return
    for i in range(n // 64):
        max_64(x + i * 64, m)
    max_64(x + n - 64, m)


cdef inline void max_pairs(IN x, INOUT y, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        y[i] = larger(x[2 * i + 1], x[2 * i])


cdef inline void add_pairs(IN64 x, INOUT64 y, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        y[i] = x[2 * i] + x[2 * i + 1]


cdef inline Py_ssize_t block_length(Py_ssize_t n, Py_ssize_t start) noexcept nogil:
    """Of the block of a row that starts here; the last one must not be shorter than a vector."""
    if 0 < n - start - BLOCK < SUMS:
        return BLOCK // 2
    return min(BLOCK, n - start)


cdef inline int padded_group(int rows) noexcept nogil:
    """What is done once a row is done for whole vectors of rows."""
    return unknown(1 if rows == 1 else 8 if rows <= 8 else GROUP)


cdef inline void max_rows(Rows* s, const float* x, Py_ssize_t n, int rows) noexcept nogil:
    """m of a group; of a row longer than BLOCK, which is a group, the block where it is first."""
    cdef Fold a, b
    cdef int up = padded_group(rows), row
    cdef Py_ssize_t start = 0, length
    cdef float m = -INFINITY
    if n <= BLOCK:
        if rows < up:
            memset(a.v, 0, sizeof(a.v))
        for row in range(rows):
            max_lanes(x + row * n, a.v + row * SUMS, n)
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
        if larger(b.v[0], b.v[1]) > m:
            m = larger(b.v[0], b.v[1])
            s.top_block = start
        start += length
    s.m[0] = m


cdef inline void terms_loop(IN x, INOUT e, Py_ssize_t n, float base, float magic, float lowest) noexcept nogil:
    cdef Py_ssize_t i
    if base == <float> 0.0:
        for i in range(n):
            e[i] = exp_scaled(larger(lowest, x[i]), magic)
    else:
        for i in range(n):
            e[i] = term(x[i], base, magic, lowest)


cdef inline void terms_of(const Rows* s, int row, const float* x, float* e, Py_ssize_t n,
                          const float* later) noexcept nogil:
    """Terms of n ≥ SUMS elements, and terms of 0 up to the next multiple of SUMS. `later`, or NULL: written soon."""
    cdef Py_ssize_t whole = n // SUMS * SUMS, i, length
    cdef Py_ssize_t last = (n + SUMS - 1) // SUMS * SUMS - whole        # SUMS or 0, not that the compiler knows
    cdef int lane
    if whole < n:
        for lane in range(SUMS):
            e[whole + lane] = 0.0
        terms_loop(x + n - SUMS, e + n - SUMS, last, s.base[row], s.magic[row], s.lowest[row])
    for i in range((whole + STEP - 1) // STEP):
        length = min(STEP, whole - i * STEP)
        if later != NULL:
            for lane in range(<int> ((length + 15) // 16)):
                prefetch_for_writing(later + i * STEP + lane * 16)
        terms_loop(x + i * STEP, e + i * STEP, length, s.base[row], s.magic[row], s.lowest[row])


cdef inline void add_terms(IN e, INOUT64 sums, Py_ssize_t n) noexcept nogil:
    """Σ e in SUMS / 2 lanes. Pairs first: half the additions wait for one another."""
    cdef double acc[SUMS]
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(SUMS):
        acc[lane] = 0.0
    for i in range(n // (2 * SUMS)):
        for lane in range(SUMS):
            acc[lane] += <double> e[i * 2 * SUMS + lane] + <double> e[i * 2 * SUMS + SUMS + lane]
    if n // SUMS % 2:
        for lane in range(SUMS):
            acc[lane] += e[n - SUMS + lane]
    for lane in range(SUMS // 2):
        sums[lane] = acc[lane] + acc[lane + SUMS // 2]


cdef inline void drop(INOUT e, Py_ssize_t n, float value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        e[i] = <float> 0.0 if e[i] == value else e[i]


cdef inline double lane_sum(double* acc) noexcept nogil:
    cdef int lane
    for lane in range(4):
        acc[lane] = acc[2 * lane] + acc[2 * lane + 1]
    return (acc[0] + acc[1]) + (acc[2] + acc[3])


cdef inline double without_largest(double total, float* e, Py_ssize_t padded, float top) noexcept nogil:
    """The sum of a block that has the row's largest element, without that one."""
    cdef Fold64 acc
    cdef double others = total - <double> top
    if others < <double> top * (1.0 / 4096.0):          # then there is one of them: two would leave a whole top
        drop(e, padded, top)
        add_terms(e, acc.v, padded)
        others = lane_sum(acc.v)
    return others


cdef inline void sum_rows(Rows* s, const float* x, float* e, Py_ssize_t n, int rows, bint keep) noexcept nogil:
    """The sums of a group; with `keep` their terms go to e, which may be x itself. Needs m and the base."""
    cdef Terms block
    cdef Fold64 a, b
    cdef Py_ssize_t padded = (n + SUMS - 1) // SUMS * SUMS, start = 0, length
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
            add_terms(block.v + row * padded, a.v + row * (SUMS // 2), padded)
        add_pairs(a.v, b.v, 4 * up)
        add_pairs(b.v, a.v, 2 * up)
        add_pairs(a.v, s.sum, up)
        for row in range(rows):
            s.sum[row] = without_largest(s.sum[row], block.v + row * padded, padded, s.top[row])
        return
    s.sum[0] = 0.0
    while start < n:
        length = block_length(n, start)
        padded = (length + SUMS - 1) // SUMS * SUMS
        terms_of(s, 0, x + start, block.v, length, NULL if e == NULL else e + start)
        if keep:
            memcpy(e + start, block.v, length * sizeof(float))
        add_terms(block.v, a.v, padded)
        total = lane_sum(a.v)
        s.sum[0] += without_largest(total, block.v, padded, s.top[0]) if start == s.top_block else total
        start += length


cdef inline int group_of(Py_ssize_t n) noexcept nogil:
    """Rows in a group of rows of n > NARROW elements: their terms fit a block."""
    return <int> max(min(GROUP, BLOCK // ((n + SUMS - 1) // SUMS * SUMS)), 1)


cdef inline void scale_row(INOUT e, Py_ssize_t n, float top, double factor, float largest) noexcept nogil:
    """Terms to softmax, times what is in factor; the largest element's is known better: largest."""
    cdef Py_ssize_t j
    cdef float v
    for j in range(n):
        v = <float> (<double> e[j] * factor)
        e[j] = largest if e[j] == top else v
