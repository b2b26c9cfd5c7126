# What the optimizers' kernels share: the gradient as it reaches the formula, the one loop over elements, and the
# expansion of run-time flags into compile-time constants.
#
# An optimizer is a function of one element (element_fn): it gets the parameter, the gradient after scaling, clipping
# and regularisation, and pointers to its state; it updates the state and returns the new parameter. `each_element` is
# the loop around it, and `specialise` compiles that loop once for every combination of flags, so that no loop tests a
# flag. The functions are inlined (through constant function pointers) and gcc vectorises the loops that result.

from libc.math cimport copysignf, fabsf

from _memory cimport IN, INOUT
from fastopt._runtime.driver cimport AVERAGE, GRAD, PARAM, STATE, Rule

# Bits of `flags`. Those from OWN on are an optimizer's own.
cdef enum:
    L2 = 1              # weight decay added to the gradient
    L1 = 2              # l1 · sign(param) added to the gradient
    AVERAGED = 4        # keep the exponential moving average of the parameter
    SHARED = L2 | L1 | AVERAGED
    OWN = 8
    OWN2 = 16
    OWN3 = 32

# The state streams as bits of a mask, in the order of element_fn's pointers.
cdef enum:
    FIRST = 1 << STATE
    SECOND = 1 << STATE + 1
    THIRD = 1 << STATE + 2
    FOURTH = 1 << STATE + 3

cdef enum:
    LANES = 16

cdef struct Common:     # the first member of every optimizer's struct of scalars
    float scale         # grad_scale, negative to maximise
    float clip          # largest magnitude a gradient element may have; inf: any
    float l2
    float l1
    float keep          # the factor of decoupled weight decay: 1 − lr · λ
    float average_keep  # average_decay
    float average_take  # 1 − average_decay
    int flags

ctypedef float (*element_fn)(const void* scalars, float param, float grad, float* first, float* second, float* third,
                             float* fourth, int flags) noexcept nogil


cdef inline int set_common(Rule rule, double lr, object values, double shrink=1.0) except -1:
    """Set what all optimizers share from what fastopt._options.check_options returns.

    Every scalar is computed in double and rounded once. `shrink` is a further factor of the parameter, from an
    optimizer's own decay.
    """
    cdef Common* c = <Common*> rule.block
    cdef double grad_scale, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay
    cdef bint maximize, average
    (grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay, average) = tuple(values)
    c.scale = -grad_scale if maximize else grad_scale
    c.clip = clip_value
    c.l2, c.l1 = weight_decay, l1
    c.keep = (1.0 - lr * decoupled_weight_decay) * shrink
    c.average_keep, c.average_take = average_decay, 1.0 - average_decay
    c.flags = (L2 if weight_decay != 0.0 else 0) | (L1 if l1 != 0.0 else 0) | (AVERAGED if average else 0)
    rule.uses = 1 << AVERAGE if average else 0
    return 0


cdef inline float sign(float x) noexcept nogil:
    return copysignf(1.0, x) if fabsf(x) > 0 else x - x     # 0 for both zeros, NaN for NaN


cdef inline float gradient(const Common* c, float grad, float param, int flags) noexcept nogil:
    """Scaled, clipped by value, regularised. Multiplying by 1 and clipping at inf change no value; adding 0 · param
    would (−0, inf, NaN), so L1 and L2 are flags."""
    cdef float g = c.scale * grad
    g = -c.clip if g < -c.clip else g
    g = c.clip if g > c.clip else g
    if flags & L2:
        g = g + c.l2 * param
    if flags & L1:
        g = g + c.l1 * sign(param)
    return g


cdef inline float greater(float a, float b) noexcept nogil:
    """The greater of the two, NaN if either is; a where they are equal (−0 and 0)."""
    return a if (a >= b) | (a != a) else b


# The loop. Every access to memory is in this one function, through its __restrict parameters, and the element function
# sees local variables only: gcc then knows that no two streams overlap. (In an inlined function __restrict holds for
# that function's own accesses alone; the pairs left over would exceed the ten run-time alias checks that gcc makes.)

cdef inline void each_element(element_fn update, const void* scalars, INOUT param, IN grad, INOUT average,
                              INOUT first, INOUT second, INOUT third, INOUT fourth, Py_ssize_t n, int flags,
                              unsigned loaded, unsigned stored) noexcept nogil:
    cdef const Common* c = <const Common*> scalars
    cdef Py_ssize_t i
    cdef float p, s1 = 0.0, s2 = 0.0, s3 = 0.0, s4 = 0.0
    for i in range(n):
        p = param[i]
        if loaded & FIRST: s1 = first[i]
        if loaded & SECOND: s2 = second[i]
        if loaded & THIRD: s3 = third[i]
        if loaded & FOURTH: s4 = fourth[i]
        p = update(scalars, p, gradient(c, grad[i], p, flags), &s1, &s2, &s3, &s4, flags)
        if stored & FIRST: first[i] = s1
        if stored & SECOND: second[i] = s2
        if stored & THIRD: third[i] = s3
        if stored & FOURTH: fourth[i] = s4
        param[i] = p
        if flags & AVERAGED:
            average[i] = c.average_keep * average[i] + c.average_take * p


cdef inline void each(element_fn update, const void* scalars, float* const* x, Py_ssize_t n, int flags,
                      unsigned loaded, unsigned stored) noexcept nogil:
    each_element(update, scalars, x[PARAM], x[GRAD], x[AVERAGE], x[STATE], x[STATE + 1], x[STATE + 2], x[STATE + 3],
                 n, flags, loaded, stored)


cdef inline void specialise(element_fn update, const void* scalars, float* const* x, Py_ssize_t n, int own,
                            unsigned loaded, unsigned stored) noexcept nogil:
    """Update n elements by a loop compiled for the shared flags in `scalars` and for `own`, a constant.

    `loaded` and `stored`, constants too, are masks of the states that `update` reads and of those that it sets.
    `scalars` points to a local variable of the caller, which no store to a stream can change.
    """
    cdef int shared = (<const Common*> scalars).flags & SHARED
    if shared == 0: each(update, scalars, x, n, own | 0, loaded, stored)
    elif shared == 1: each(update, scalars, x, n, own | 1, loaded, stored)
    elif shared == 2: each(update, scalars, x, n, own | 2, loaded, stored)
    elif shared == 3: each(update, scalars, x, n, own | 3, loaded, stored)
    elif shared == 4: each(update, scalars, x, n, own | 4, loaded, stored)
    elif shared == 5: each(update, scalars, x, n, own | 5, loaded, stored)
    elif shared == 6: each(update, scalars, x, n, own | 6, loaded, stored)
    else: each(update, scalars, x, n, own | 7, loaded, stored)


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
