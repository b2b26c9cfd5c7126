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
from _math cimport LOG2E, MAGIC, as_bits, as_float, exp_near, exp_reduced, exp_scaled, expm1_near, log1p64

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
    BLOCK = 2048        # elements whose terms stay in a local buffer until they are summed

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


cdef inline void finish(Rows* s, int rows, bint logarithm, bint quotient) noexcept nogil:
    """From m and the sum to rest and what is asked for: log_sum, high and low; factor and largest.

    A row whose largest element is infinite becomes NaN.
    """
    cdef int lane
    cdef double m, x, k, inverse, rest, log_sum, largest
    cdef float high
    for lane in range(rows):
        m = s.m[lane]
        x = m - <double> s.base[lane]
        k = (MAGIC + <float> (127 + 64)) - s.magic[lane]
        inverse = exp_near(k * 0.6931471805599453 - x) * (1.0 / 18446744073709551616.0)     # 2⁻⁶⁴
        rest = (s.sum[lane] + <double> (s.count[lane] - 1) * <double> s.top[lane]) * inverse
        rest = 0.0 if rest < 1.0e-46 else rest          # less than half of the smallest subnormal, even times 2
        rest = rest if m - m == 0.0 else NAN
        s.rest[lane] = rest
        if logarithm:
            log_sum = log1p64(rest)
            high = <float> (m + log_sum)
            s.log_sum[lane] = log_sum
            s.high[lane] = high
            s.low[lane] = <float> ((m - <double> high) + log_sum)
        if quotient:
            largest = 1.0 / (1.0 + rest)
            s.largest[lane] = <float> largest
            s.factor[lane] = inverse * largest


# Rows of consecutive elements, n > NARROW.

cdef inline float row_max(IN x, Py_ssize_t n) noexcept nogil:
    """The largest element, NaN passed over; −inf if there is none."""
    cdef float m[64]
    cdef Py_ssize_t i
    cdef int lane
    if n >= 64:
        for lane in range(64):          # the last elements, most of them seen twice
            m[lane] = larger(x[n - 64 + lane], -INFINITY)
        for i in range(n // 64):
            for lane in range(64):
                m[lane] = larger(x[i * 64 + lane], m[lane])
        for lane in range(32):
            m[lane] = larger(m[lane + 32], m[lane])
    else:
        for lane in range(32):
            m[lane] = larger(x[lane], -INFINITY)
        for lane in range(32):
            m[lane] = larger(x[n - 32 + lane], m[lane])
    for lane in range(16):
        m[lane] = larger(m[lane + 16], m[lane])
    for lane in range(8):
        m[lane] = larger(m[lane + 8], m[lane])
    for lane in range(4):
        m[lane] = larger(m[lane + 4], m[lane])
    return larger(larger(m[3], m[1]), larger(m[2], m[0]))


# A term in three loops over a block that stays in the first cache, not in one: its 23 operations wait for one another,
# and a processor looks only so far ahead. With shorter chains, of which more are in flight, rows of 1000 took 0.68 ns
# an element instead of 0.75 on one core; padded rows share the second loop, so that 100 classes cost no short loops.

cdef inline void reduce_terms(IN x, INOUT r, INOUT scale, Py_ssize_t n, float base, float magic,
                              float lowest) noexcept nogil:
    """x − c as r and 2ᵏ, scaled."""
    cdef Py_ssize_t i
    cdef float t, z
    for i in range(n):
        t = larger(lowest, x[i] - base)
        z = t * LOG2E + magic
        r[i] = exp_reduced(t, z - magic)
        scale[i] = as_float(as_bits(z) << 23)


cdef inline void multiply_terms(INOUT r, IN scale, Py_ssize_t n) noexcept nogil:
    """r becomes the term."""
    cdef Py_ssize_t i
    for i in range(n):
        r[i] = (<float> 1.0 + expm1_near(r[i])) * scale[i]


cdef inline int drop_largest(INOUT e, Py_ssize_t n, float top) noexcept nogil:
    """Terms equal to the largest become 0; returns how many there are."""
    cdef Py_ssize_t i
    cdef int count = 0
    for i in range(n):
        count += e[i] == top
        e[i] = <float> 0.0 if e[i] == top else e[i]
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


cdef inline void reduce_row(const Rows* s, int row, const float* x, float* r, float* scale,
                            Py_ssize_t n) noexcept nogil:
    """reduce_terms of n ≥ SUMS elements, and terms of 0 up to the next multiple of SUMS."""
    cdef Py_ssize_t whole = n // SUMS * SUMS, last = (n + SUMS - 1) // SUMS * SUMS - whole   # SUMS, not that gcc knows
    cdef int lane
    if whole < n:
        for lane in range(SUMS):
            r[whole + lane] = 0.0
            scale[whole + lane] = 0.0
        reduce_terms(x + n - SUMS, r + n - SUMS, scale + n - SUMS, last, s.base[row], s.magic[row], s.lowest[row])
    reduce_terms(x, r, scale, whole, s.base[row], s.magic[row], s.lowest[row])


cdef inline void scan_rows(Rows* s, const float* x, float* e, Py_ssize_t n, int rows, bint keep) noexcept nogil:
    """The rows' sums; with `keep` their terms go to e, which may be x itself. Needs m and the base."""
    cdef float block[BLOCK]
    cdef float scale[BLOCK]
    cdef double acc[SUMS]
    cdef Py_ssize_t padded = (n + SUMS - 1) // SUMS * SUMS, length, start, at
    cdef int row = 0, group, i, lane
    while row < rows and padded <= BLOCK:
        group = <int> min(rows - row, BLOCK // padded)
        for i in range(group):
            reduce_row(s, row + i, x + (row + i) * n, block + i * padded, scale + i * padded, n)
        multiply_terms(block, scale, group * padded)
        for i in range(group):
            if keep:
                memcpy(e + (row + i) * n, block + i * padded, n * sizeof(float))
            for lane in range(SUMS):
                acc[lane] = 0.0
            s.count[row + i] = drop_largest(block + i * padded, padded, s.top[row + i])
            add_lanes(acc, block + i * padded, padded)
            s.sum[row + i] = lane_sum(acc)
        row += group
    while row < rows:
        for lane in range(SUMS):
            acc[lane] = 0.0
        start, s.count[row] = 0, 0
        while start < n:
            length = min(BLOCK, n - start)
            if 0 < n - start - length < SUMS:       # the last block must not be shorter than a vector
                length = BLOCK // 2
            at = row * n + start
            padded = (length + SUMS - 1) // SUMS * SUMS
            reduce_row(s, row, x + at, block, scale, length)
            multiply_terms(block, scale, padded)
            if keep:
                memcpy(e + at, block, length * sizeof(float))
            s.count[row] += drop_largest(block, padded, s.top[row])
            add_lanes(acc, block, padded)
            start += length
        s.sum[row] = lane_sum(acc)
        row += 1


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
