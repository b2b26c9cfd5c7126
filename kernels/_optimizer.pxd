# What every optimizer's kernel shares: the gradient as it reaches the formula, the way a parameter is written, and the
# expansion of flags into literals.
#
# A family's loop is written once, over elements, with a `flags` argument that decides which terms exist. `specialise`
# calls it with each value as a literal, so that the compiler makes one loop per combination with no test inside.

from libc.math cimport copysignf, fabsf

from _memory cimport IN

# Bits of `flags`. A family may have one of its own, OWN.
cdef enum:
    L2 = 1          # weight decay added to the gradient
    L1 = 2          # l1 · sign(param) added to the gradient
    AVERAGE = 4     # exponential moving average of the parameter
    OWN = 8

cdef enum:
    LANES = 16

# Streams of every rule, before its own state.
cdef enum:
    PARAM = 0
    GRAD = 1
    STATE = 2

cdef struct Common:
    float scale         # grad_scale, negative to maximise
    float clip          # largest magnitude a gradient element may have; inf: any
    float l2
    float l1
    float keep          # what decoupled decay leaves of a parameter: 1 − lr · λ
    float average_keep  # average_decay
    float average_take  # 1 − average_decay
    int flags

ctypedef void (*loop_fn)(const void* scalars, float* const* x, Py_ssize_t n, int flags) noexcept nogil


cdef inline int set_common(Common* c, double lr, tuple values, double shrink=1.0) except -1:
    """Fill `c` from what fastopt._common.check_common returns; every scalar is rounded once.

    `shrink`: what an optimizer's own decay leaves of a parameter.
    """
    cdef double grad_scale, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay
    cdef bint maximize, average
    (grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay, average) = values
    c.scale = -grad_scale if maximize else grad_scale
    c.clip = clip_value
    c.l2, c.l1 = weight_decay, l1
    c.keep = (1.0 - lr * decoupled_weight_decay) * shrink
    c.average_keep, c.average_take = average_decay, 1.0 - average_decay
    c.flags = (L2 if weight_decay != 0.0 else 0) | (L1 if l1 != 0.0 else 0) | (AVERAGE if average else 0)
    return 0


cdef inline float sign(float x) noexcept nogil:
    return copysignf(1.0, x) if fabsf(x) > 0 else x - x     # 0 for both zeros, NaN for NaN


cdef inline float gradient(const Common* c, float grad, float param, int flags) noexcept nogil:
    """Scaled, clipped by value, regularised. Multiplying by 1 and clipping at inf change nothing; adding 0 · param
    would (−0, inf, NaN), so L1 and L2 are flags."""
    cdef float g = c.scale * grad
    g = -c.clip if g < -c.clip else g
    g = c.clip if g > c.clip else g
    if flags & L2:
        g = g + c.l2 * param
    if flags & L1:
        g = g + c.l1 * sign(param)
    return g


cdef inline float averaged(const Common* c, float average, float param) noexcept nogil:
    return c.average_keep * average + c.average_take * param


cdef inline float greater(float a, float b) noexcept nogil:
    """The greater of two, NaN if one is; a where they are equal (−0 and 0)."""
    return a if (a >= b) | (a != a) else b


# Sums over a tensor: lane l adds the elements i with i mod 16 = l, in double and in order; then the lanes in order.

cdef inline double add_lanes(const double* lane) noexcept nogil:
    cdef double total = lane[0]
    cdef int l
    for l in range(1, LANES):
        total += lane[l]
    return total


cdef inline double sum_of_squares(IN x, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t b, i
    cdef int l
    for l in range(LANES):
        lane[l] = 0.0
    for b in range(n // LANES):
        for l in range(LANES):
            lane[l] += <double> x[LANES * b + l] * <double> x[LANES * b + l]
    i = n // LANES * LANES
    for l in range(<int> (n - i)):
        lane[l] += <double> x[i + l] * <double> x[i + l]
    return add_lanes(lane)


cdef inline void specialise_shared(loop_fn loop, const void* scalars, float* const* x, Py_ssize_t n,
                                   int flags) noexcept nogil:
    """loop(scalars, x, n, flags) with `flags` below 8 as a literal: for families without a flag of their own."""
    if flags == 0: loop(scalars, x, n, 0)
    elif flags == 1: loop(scalars, x, n, 1)
    elif flags == 2: loop(scalars, x, n, 2)
    elif flags == 3: loop(scalars, x, n, 3)
    elif flags == 4: loop(scalars, x, n, 4)
    elif flags == 5: loop(scalars, x, n, 5)
    elif flags == 6: loop(scalars, x, n, 6)
    else: loop(scalars, x, n, 7)


cdef inline void specialise(loop_fn loop, const void* scalars, float* const* x, Py_ssize_t n,
                            int flags) noexcept nogil:
    """loop(scalars, x, n, flags) with `flags` below 16 as a literal."""
    if flags < OWN: specialise_shared(loop, scalars, x, n, flags)
    elif flags == 8: loop(scalars, x, n, 8)
    elif flags == 9: loop(scalars, x, n, 9)
    elif flags == 10: loop(scalars, x, n, 10)
    elif flags == 11: loop(scalars, x, n, 11)
    elif flags == 12: loop(scalars, x, n, 12)
    elif flags == 13: loop(scalars, x, n, 13)
    elif flags == 14: loop(scalars, x, n, 14)
    else: loop(scalars, x, n, 15)
