# What log-softmax, softmax and cross-entropy share: the largest element m of each row, the sum over the others of
# exp(x − m), and its logarithm.
#
# Method
# ------
# log softmax(x)ⱼ = (xⱼ − m) − log1p(rest), rest = Σ exp(xⱼ − m) over all but one of the largest elements, whose term
# is exactly 1. Both parts are ≤ 0, so nothing cancels, and on a confident row, where rest is tiny, nothing is lost: a
# sum with the 1 in it would round rest away. exp is float32, the sum double, and a result is rounded at its end.
#
# A float32 xⱼ − m can be off by 2⁻¹⁸ at −80, a relative error of 2⁻¹⁸ in its exp. So the base is not m but c:
#     |m| < 512: c = 0, and exp's own reduction by k · ln 2 is exact;   otherwise: c = m, and x − m is exact (Sterbenz)
# for every x near enough to m to matter. Terms are kept as e = exp(x − c) · 2^(64 − k(m)), so that they neither
# overflow nor become subnormal where they matter, and divided by the largest one's exact value, in double, once a row.
# Terms below m − 125 count as exp(−125): 262 144 of them are less than half of the smallest subnormal.
#
# The largest element is left out without knowing where it is: terms equal to its own, bit for bit, are counted instead
# of added, and all but one of them are added at the end.
#
# Rows are worked on in groups, so that a row's own scalars (exp, log1p, a division, in double) are vectors too. Rows of
# at most NARROW elements are transposed into a local block: one wide is one row. Any other axis is already laid out
# so. Sums have 16 fixed lanes along a row, or one along a lane: the same bits at every level. Loops over lanes have a
# bound unknown to the compiler, which unrolls them otherwise, and then finds no vectors in what it has unrolled.

from libc.math cimport INFINITY, NAN
from libc.string cimport memcpy

from _common cimport IN, INOUT
from _math cimport LOG2E, MAGIC, exp_near, exp_scaled, log1p64

cdef extern from *:
    """
    typedef double* __restrict fastopt_inout64;
    typedef const double* __restrict fastopt_in64;
    typedef int* __restrict fastopt_inout_int;
    """
    ctypedef double* INOUT64 "fastopt_inout64"
    ctypedef const double* IN64 "fastopt_in64"
    ctypedef int* INOUT_INT "fastopt_inout_int"

cdef enum:
    LANES = 64          # rows in a group, at most
    NARROW = 48
    SUMS = 16           # lanes of a sum along a row
    BLOCK = 1024        # elements whose terms stay in a local buffer until they are summed

# A group of rows: what is known of each.
cdef struct Rows:
    float m[LANES]              # largest element; −inf where there is no number
    float base[LANES]           # c
    float magic[LANES]          # for exp_scaled: 2^(64 − k(m))
    float lowest[LANES]         # x − c at which terms are cut
    float top[LANES]            # the largest element's term
    int count[LANES]            # terms equal to it
    double sum[LANES]           # Σ of the others
    double rest[LANES]          # Σ exp(x − m) over all but one of the largest
    double log_sum[LANES]       # log1p(rest)
    double factor[LANES]        # softmax(x)ⱼ = eⱼ · factor
    float high[LANES]           # m + log1p(rest) in two parts: log softmax(x)ⱼ = (xⱼ − high) − low
    float low[LANES]
    float largest[LANES]        # softmax of the largest element, 1 / (1 + rest)


cdef inline float larger(float a, float b) noexcept nogil:
    """The larger one; b if one is NaN."""
    return a if a > b else b


cdef inline float term(float x, float base, float magic, float lowest) noexcept nogil:
    """exp(x − c) · 2^(64 − k(m)); NaN stays."""
    return exp_scaled(larger(lowest, x - base), magic)


cdef inline void base_loop(IN maximum, INOUT base, INOUT magic, INOUT lowest, INOUT top, int rows) noexcept nogil:
    cdef int lane
    cdef float m, size, x
    for lane in range(rows):
        m = maximum[lane]
        size = -m if m < <float> 0.0 else m
        base[lane] = <float> 0.0 if size < <float> 512.0 else m
        x = m - base[lane]
        magic[lane] = (MAGIC + <float> (127 + 64)) - ((x * LOG2E + MAGIC) - MAGIC)
        lowest[lane] = x - <float> 125.0
        top[lane] = term(m, base[lane], magic[lane], lowest[lane])


cdef inline void choose_base(Rows* s, int rows) noexcept nogil:
    base_loop(s.m, s.base, s.magic, s.lowest, s.top, rows)


cdef inline void finish(Rows* s, int rows) noexcept nogil:
    """From m and the sum to the row's scalars. A row whose largest element is infinite becomes NaN."""
    cdef int lane
    cdef double m, x, k, inverse, rest, log_sum
    cdef float high
    for lane in range(rows):
        m = s.m[lane]
        x = m - <double> s.base[lane]
        k = (MAGIC + <float> (127 + 64)) - s.magic[lane]
        inverse = exp_near(k * 0.6931471805599453 - x) * (1.0 / 18446744073709551616.0)     # 2⁻⁶⁴
        rest = (s.sum[lane] + <double> (s.count[lane] - 1) * <double> s.top[lane]) * inverse
        rest = 0.0 if rest < 1.0e-46 else rest          # less than half of the smallest subnormal, even times 2
        rest = rest if m - m == 0.0 else NAN
        log_sum = log1p64(rest)
        high = <float> (m + log_sum)
        s.rest[lane] = rest
        s.log_sum[lane] = log_sum
        s.factor[lane] = inverse / (1.0 + rest)
        s.largest[lane] = <float> (1.0 / (1.0 + rest))
        s.high[lane] = high
        s.low[lane] = <float> ((m - <double> high) + log_sum)


# One row of consecutive elements, n ≥ SUMS.

cdef inline float row_max(IN x, Py_ssize_t n) noexcept nogil:
    """The largest element, NaN passed over; −inf if there is none."""
    cdef float wide[4 * SUMS]
    cdef float last[SUMS]
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(SUMS):               # the last elements, most of them seen twice
        last[lane] = larger(x[n - SUMS + lane], -INFINITY)
    if n >= 4 * SUMS:
        for lane in range(4 * SUMS):
            wide[lane] = larger(x[lane], -INFINITY)
        for i in range(1, n // (4 * SUMS)):
            for lane in range(4 * SUMS):
                wide[lane] = larger(x[i * 4 * SUMS + lane], wide[lane])
        for lane in range(2 * SUMS):
            wide[lane] = larger(wide[lane + 2 * SUMS], wide[lane])
        for lane in range(SUMS):
            last[lane] = larger(larger(wide[lane + SUMS], wide[lane]), last[lane])
    for i in range(n // (4 * SUMS) * 4, n // SUMS):
        for lane in range(SUMS):
            last[lane] = larger(x[i * SUMS + lane], last[lane])
    for lane in range(8):
        last[lane] = larger(last[lane + 8], last[lane])
    for lane in range(4):
        last[lane] = larger(last[lane + 4], last[lane])
    return larger(larger(last[3], last[1]), larger(last[2], last[0]))


cdef inline int terms(IN x, INOUT others, INOUT e, Py_ssize_t n, float base, float magic, float lowest, float top,
                      bint keep) noexcept nogil:
    """The terms of all elements but the largest, which are counted. With `keep` all of them go to e."""
    cdef Py_ssize_t i
    cdef int count = 0
    cdef float v
    for i in range(n):
        v = term(x[i], base, magic, lowest)
        if keep:
            e[i] = v
        count += v == top
        others[i] = <float> 0.0 if v == top else v
    return count


cdef inline void add_lanes(INOUT64 acc, IN e, Py_ssize_t n) noexcept nogil:
    """Pairs first: half the additions wait for one another."""
    cdef Py_ssize_t i
    cdef int lane
    for i in range(n // (2 * SUMS)):
        for lane in range(SUMS):
            acc[lane] += <double> e[i * 2 * SUMS + lane] + <double> e[i * 2 * SUMS + SUMS + lane]
    if n // SUMS % 2:
        for lane in range(SUMS):
            acc[lane] += e[n - SUMS + lane]


cdef inline double lane_sum(double* acc) noexcept nogil:
    cdef int lane
    for lane in range(8):
        acc[lane] = acc[lane] + acc[lane + 8]
    for lane in range(4):
        acc[lane] = acc[lane] + acc[lane + 4]
    return (acc[0] + acc[2]) + (acc[1] + acc[3])


cdef inline void scan_row(Rows* s, int row, const float* x, float* e, Py_ssize_t n, bint keep) noexcept nogil:
    """The row's sum; with `keep` its terms go to e, which may be x itself. Needs m and the base."""
    cdef float block[BLOCK]
    cdef float kept[BLOCK]
    cdef float tail[SUMS]
    cdef double acc[SUMS]
    cdef float base = s.base[row], magic = s.magic[row], lowest = s.lowest[row], top = s.top[row]
    cdef Py_ssize_t start = 0, length, left = n % SUMS
    cdef int lane, count = 0
    for lane in range(SUMS):
        acc[lane] = 0.0
        tail[lane] = x[n - SUMS + lane]
    while start + SUMS <= n:
        length = min(BLOCK, n - start) // SUMS * SUMS
        count += terms(x + start, block, kept, length, base, magic, lowest, top, keep)
        if keep:
            memcpy(e + start, kept, length * sizeof(float))
        add_lanes(acc, block, length)
        start += length
    if left:        # the last SUMS elements, of which only the last `left` are new
        if keep:
            terms(tail, block, kept, SUMS, base, magic, lowest, top, True)
            memcpy(e + n - SUMS, kept, SUMS * sizeof(float))
        for lane in range(SUMS):
            tail[lane] = tail[lane] if lane >= SUMS - left else -INFINITY
        count += terms(tail, block, kept, SUMS, base, magic, lowest, top, False)
        add_lanes(acc, block, SUMS)
    s.sum[row] = lane_sum(acc)
    s.count[row] = count


cdef inline void scale_row(INOUT e, Py_ssize_t n, float top, double factor, float largest) noexcept nogil:
    """Terms to softmax, times what is in factor; the largest element's is known better: largest."""
    cdef Py_ssize_t j
    cdef float v
    for j in range(n):
        v = <float> (<double> e[j] * factor)
        e[j] = largest if e[j] == top else v


# Up to LANES rows side by side: element j of row lane is x[j · stride + lane].

cdef inline void max_loop(INOUT m, IN x, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        m[lane] = larger(x[lane], m[lane])


cdef inline void terms_loop(IN x, INOUT e, INOUT64 acc, INOUT_INT count, IN base, IN magic, IN lowest, IN top,
                            int lanes) noexcept nogil:
    cdef int lane
    cdef float v
    for lane in range(lanes):
        v = term(x[lane], base[lane], magic[lane], lowest[lane])
        e[lane] = v
        count[lane] += v == top[lane]
        acc[lane] += <float> 0.0 if v == top[lane] else v


cdef inline void scan_lanes(Rows* s, const float* x, float* e, Py_ssize_t stride, Py_ssize_t n, int lanes,
                            bint keep) noexcept nogil:
    """m, base and sum of all lanes. With `keep` the terms go to e, which may be x itself."""
    cdef float v[LANES]
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(lanes):
        s.m[lane], s.sum[lane], s.count[lane] = -INFINITY, 0.0, 0
    for j in range(n):
        max_loop(s.m, x + j * stride, lanes)
    choose_base(s, lanes)
    for j in range(n):
        terms_loop(x + j * stride, v, s.sum, s.count, s.base, s.magic, s.lowest, s.top, lanes)
        if keep:
            memcpy(e + j * stride, v, lanes * sizeof(float))


cdef inline void scale_lanes(INOUT e, IN top, IN64 factor, IN largest, int lanes) noexcept nogil:
    """As scale_row, for all lanes."""
    cdef int lane
    cdef float v
    for lane in range(lanes):
        v = <float> (<double> e[lane] * factor[lane])
        e[lane] = largest[lane] if e[lane] == top[lane] else v


cdef inline void transpose_in(float* block, const float* x, Py_ssize_t n, int rows) noexcept nogil:
    """block[j · LANES + lane] = x[lane · n + j]"""
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(rows):
        for j in range(n):
            block[j * LANES + lane] = x[lane * n + j]


cdef inline void transpose_out(float* y, const float* block, Py_ssize_t n, int rows) noexcept nogil:
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(rows):
        for j in range(n):
            y[lane * n + j] = block[j * LANES + lane]
