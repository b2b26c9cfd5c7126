# The method of log-softmax, softmax and cross-entropy: for each row its largest element m, the sum of exp(x − m) over
# the other elements, and the logarithm.
#
# log softmax(x)ⱼ = (xⱼ − m) − log1p(rest), where rest = Σ exp(xⱼ − m) over all elements but one of the largest, whose
# term is exactly 1. Both parts are ≤ 0, so there is no cancellation. On a confident row, rest is tiny and keeps its
# full precision; in 1 + rest it would be rounded away. exp is float32, sums are double, results are rounded once.
#
# x − m rounded to float32 has an error of up to 2⁻¹⁸ near −80, hence exp(x − m) a relative error of 2⁻¹⁸. So we
# subtract a base c instead:
#     |m| < 512: c = 0; exp's argument reduction is accurate.  Otherwise: c = m; x − m is exact (Sterbenz) for every x
#     close enough to m to contribute.
# A term is e = exp(x − c) · 2^(64 − k(m)), k as in _math.pxd: the scale keeps terms that contribute from overflow and
# underflow. Once per row it is divided out, in double. Terms below exp(m − 125) are raised to that value: 262 144 of
# them sum to less than half of the smallest subnormal.
#
# The position of the largest element is not needed to exclude it from the sum: the bits of its term are known.
#
# Rows are processed in groups, so that the work per row (exp, log1p, a division, in double) is vectorised over the
# rows. Rows of more than NARROW elements are vectorised along the row (_softmax_rows.pxd). Narrower ones are transposed
# into a local block, one row per lane, which is how rows along any axis but the last are stored anyway
# (_softmax_lanes.pxd); a few of them, which would leave most lanes empty, are not (_softmax_few.pxd).

from libc.math cimport NAN

from _memory cimport IN, IN64, INOUT, INOUT64
from _math cimport LOG2E, MAGIC, exp_near, exp_scaled, log1p64

cdef extern from "_softmax.h":
    enum:
        NARROW "FASTOPT_NARROW"             # elements of a narrow row, at most
        MAX_ROWS "FASTOPT_MAX_ROWS"         # rows in a group, at most

cdef enum:                  # functions of softmax.pyx, as literals
    LOG_SOFTMAX = 0
    SOFTMAX = 1
    HARDMAX = 2
    LOG_SOFTMAX_BACKWARD = 3
    SOFTMAX_BACKWARD = 4

cdef enum:
    TASK_ELEMENTS = 4096    # elements of a task, about, unless one row has more: small enough to balance the threads

# softmax rounds a row's factor to float32: for mantissas a of the term and b of the factor, a · b < 2, the error is at
# most b from exp, a / 2 from the factor and 1/2 from the product, together 3 ULP. The factor, 2⁻⁶⁴ / (1 + rest) or near
# it, is never subnormal. That of cross-entropy, with a class weight and the divisor of the mean, may be: then it stays
# double.
ctypedef fused Factor:
    float
    double

ctypedef fused Factors:
    IN
    IN64

# A group of rows.
cdef struct Rows:
    float m[MAX_ROWS]           # largest element; −inf if the row has no number
    float base[MAX_ROWS]        # c
    float magic[MAX_ROWS]       # for exp_scaled: the scale 2^(64 − k(m))
    float lowest[MAX_ROWS]      # lower bound of x − c
    float top[MAX_ROWS]         # the largest element's term
    double sum[MAX_ROWS]        # sum of the other terms
    double rest[MAX_ROWS]       # Σ exp(x − m) over all elements but one of the largest
    double log_sum[MAX_ROWS]    # log1p(rest)
    double factor[MAX_ROWS]     # softmax(x)ⱼ = eⱼ · factor
    float high[MAX_ROWS]        # m + log1p(rest) as the sum of two floats: log softmax(x)ⱼ = (xⱼ − high) − low
    float low[MAX_ROWS]
    float largest[MAX_ROWS]     # softmax of the largest element, 1 / (1 + rest)
    Py_ssize_t top_block[MAX_ROWS]      # for rows of several blocks: index of the first one with the largest element


cdef inline float max_or_second(float a, float b) noexcept nogil:
    """a if a > b, else b: the larger one, and b if either is NaN."""
    return a if a > b else b


cdef inline float term(float x, float base, float magic, float lowest) noexcept nogil:
    """exp(x − c) · 2^(64 − k(m)); NaN if x is NaN."""
    return exp_scaled(max_or_second(lowest, x - base), magic)


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


# finish() is three loops, because one loop would be a dependency chain of a hundred operations, longer than the window
# of out-of-order execution.

cdef inline void rest_loop(IN maximum, IN base, IN magic, IN64 others, INOUT64 rest, INOUT64 inverse,
                           int rows) noexcept nogil:
    cdef int lane
    cdef double m, k, scale, r
    for lane in range(rows):
        m = maximum[lane]
        k = (MAGIC + <float> (127 + 64)) - magic[lane]
        scale = exp_near(k * 0.6931471805599453 - (m - <double> base[lane])) * (1.0 / 18446744073709551616.0)   # 2⁻⁶⁴
        r = others[lane] * scale
        r = 0.0 if r < 1.0e-46 else r                   # below half of the smallest subnormal, even times 2
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
    """`factor` is the `inverse` of rest_loop on entry."""
    cdef int lane
    cdef double y
    for lane in range(rows):
        y = 1.0 / (1.0 + rest[lane])
        largest[lane] = <float> y
        factor[lane] = factor[lane] * y


cdef inline void finish(Rows* s, int rows, bint logarithm, bint quotient) noexcept nogil:
    """Compute rest from m and sum; with `logarithm` log_sum, high and low; with `quotient` factor and largest.

    All are NaN for a row whose largest element is infinite.
    """
    rest_loop(s.m, s.base, s.magic, s.sum, s.rest, s.factor, rows)
    if logarithm:
        log_loop(s.m, s.rest, s.log_sum, s.high, s.low, rows)
    if quotient:
        quotient_loop(s.rest, s.factor, s.largest, rows)
