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
# The largest element is left out without knowing where it is: its term is known, bit for bit.
#
# Rows are worked on in groups, so that what is done once a row (exp, log1p, a division, in double) is done with vectors
# too. Rows of more than NARROW elements are read along the row (_softmax_rows.pxd); narrower ones are transposed into a
# local block, one lane a row, which is how the rows of any other axis lie already (_softmax_lanes.pxd).

from libc.math cimport NAN

from _memory cimport IN, INOUT
from _math cimport LOG2E, MAGIC, exp_near, exp_scaled, log1p64
from _memory cimport IN64, INOUT64

cdef enum:
    LANES = 64          # rows in a group, at most
    NARROW = 32

# A group of rows: what is known of each.
cdef struct Rows:
    float m[LANES]              # largest element; −inf where there is no number
    float base[LANES]           # c
    float magic[LANES]          # for exp_scaled: 2^(64 − k(m))
    float lowest[LANES]         # x − c at which terms are cut
    float top[LANES]            # the largest element's term
    double sum[LANES]           # Σ of the others
    double rest[LANES]          # Σ exp(x − m) over all but one of the largest
    double log_sum[LANES]       # log1p(rest)
    double factor[LANES]        # softmax(x)ⱼ = eⱼ · factor
    float high[LANES]           # m + log1p(rest) in two parts: log softmax(x)ⱼ = (xⱼ − high) − low
    float low[LANES]
    float largest[LANES]        # softmax of the largest element, 1 / (1 + rest)
    Py_ssize_t top_block        # of a row of several blocks: the start of the one with the largest element


cdef inline float larger(float a, float b) noexcept nogil:
    """The larger one; b if one is NaN."""
    return a if a > b else b


cdef inline float term(float x, float base, float magic, float lowest) noexcept nogil:
    """exp(x − c) · 2^(64 − k(m)); NaN stays."""
    return exp_scaled(larger(lowest, x - base), magic)


cdef inline void base_loop(IN maximum, INOUT base, int rows) noexcept nogil:
    cdef int lane
    cdef float m, size
    for lane in range(rows):
        m = maximum[lane]
        size = -m if m < <float> 0.0 else m
        base[lane] = <float> 0.0 if size < <float> 512.0 else m


cdef inline void scale_loop(IN maximum, IN base, INOUT magic, INOUT lowest, INOUT top, int rows) noexcept nogil:
    cdef int lane
    cdef float x
    for lane in range(rows):
        x = maximum[lane] - base[lane]
        magic[lane] = (MAGIC + <float> (127 + 64)) - ((x * LOG2E + MAGIC) - MAGIC)
        lowest[lane] = x - <float> 125.0
        top[lane] = term(maximum[lane], base[lane], magic[lane], lowest[lane])


cdef inline void choose_base(Rows* s, int rows) noexcept nogil:
    base_loop(s.m, s.base, rows)
    scale_loop(s.m, s.base, s.magic, s.lowest, s.top, rows)


# finish() is three loops: one alone is a chain of a hundred operations, longer than a processor looks ahead.

cdef inline void rest_loop(IN maximum, IN base, IN magic, IN64 others, INOUT64 rest, INOUT64 inverse,
                           int rows) noexcept nogil:
    cdef int lane
    cdef double m, k, scale, r
    for lane in range(rows):
        m = maximum[lane]
        k = (MAGIC + <float> (127 + 64)) - magic[lane]
        scale = exp_near(k * 0.6931471805599453 - (m - <double> base[lane])) * (1.0 / 18446744073709551616.0)   # 2⁻⁶⁴
        r = others[lane] * scale
        r = 0.0 if r < 1.0e-46 else r                   # less than half of the smallest subnormal, even times 2
        rest[lane] = r if m - m == 0.0 else NAN
        inverse[lane] = scale


cdef inline void log_loop(IN maximum, IN64 rest, INOUT64 log_sum, INOUT high, INOUT low, int rows) noexcept nogil:
    cdef int lane
    cdef double m, y
    cdef float h
    for lane in range(rows):
        m, y = maximum[lane], log1p64(rest[lane])
        h = <float> (m + y)
        log_sum[lane], high[lane], low[lane] = y, h, <float> ((m - <double> h) + y)


cdef inline void quotient_loop(IN64 rest, INOUT64 factor, INOUT largest, int rows) noexcept nogil:
    """factor: what was `inverse`."""
    cdef int lane
    cdef double y
    for lane in range(rows):
        y = 1.0 / (1.0 + rest[lane])
        largest[lane] = <float> y
        factor[lane] = factor[lane] * y


cdef inline void finish(Rows* s, int rows, bint logarithm, bint quotient) noexcept nogil:
    """From m and the sum to rest and what is asked for: log_sum, high and low; factor and largest.

    A row whose largest element is infinite becomes NaN.
    """
    rest_loop(s.m, s.base, s.magic, s.sum, s.rest, s.factor, rows)
    if logarithm:
        log_loop(s.m, s.rest, s.log_sum, s.high, s.low, rows)
    if quotient:
        quotient_loop(s.rest, s.factor, s.largest, rows)
