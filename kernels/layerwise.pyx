# Steps scaled by each tensor's own norms (sums in double, in a fixed order), and the norm of all gradients.
#
# lars (You et al. 2017):           r = c · ‖p‖ / (‖g‖ + λ · ‖p‖ + ε)
#                                   v ← μ · v + lr · r · (g + λ · p);  p ← p · (1 − lr · λ₂) − v
# lamb (You et al. 2019):           m, v as Adam's
#                                   d = m̂ / (√v̂ + ε) + λ · p;  r = ‖p‖ / ‖d‖;  p ← p − lr · r · d
#
# r = 1 where one of the norms is 0. λ₂ is decoupled weight decay.

from libc.math cimport pow, sqrt, sqrtf

from _memory cimport IN, INOUT
from _optimizer cimport (
    AVERAGE, GRAD, L1, LANES, OWN, PARAM, STATE, Common, add_lanes, averaged, gradient, set_common, specialise,
    specialise_shared, sum_of_squares,
)
from fastopt._runtime.driver cimport OUTCOME, Rule

cdef enum:
    DECAYS = OWN        # lamb: λ is not 0


# The norm of all gradients: measured alone.

cdef void squares_measure(const void* s, float* const* x, Py_ssize_t n, double* sums) noexcept nogil:
    sums[0] = sum_of_squares(x[GRAD], n)


def squares():
    """A rule that only measures: the sum of the gradients' squares, in double. Not finite if one of them is not."""
    cdef Rule rule = Rule.__new__(Rule)
    rule.measure, rule.cost = squares_measure, 0.1
    return rule


# lars

cdef struct Lars:
    Common common
    double lr
    double trust_coefficient
    double weight_decay
    double eps
    float momentum


cdef inline double squares_of_gradient(Common c, IN grad, Py_ssize_t n) noexcept nogil:
    """Of the gradient as it reaches the formula, but without regularisation."""
    cdef double lane[LANES]
    cdef double g
    cdef Py_ssize_t b, i
    cdef int l
    for l in range(LANES):
        lane[l] = 0.0
    for b in range(n // LANES):
        for l in range(LANES):
            g = gradient(&c, grad[LANES * b + l], 0.0, 0)
            lane[l] += g * g
    i = n // LANES * LANES
    for l in range(<int> (n - i)):
        g = gradient(&c, grad[i + l], 0.0, 0)
        lane[l] += g * g
    return add_lanes(lane)


cdef void lars_measure(const void* s, float* const* x, Py_ssize_t n, double* sums) noexcept nogil:
    sums[0] = sum_of_squares(x[PARAM], n)
    sums[1] = squares_of_gradient((<const Lars*> s).common, x[GRAD], n)


cdef float lars_settle(const void* scalars, const double* sums) noexcept nogil:
    cdef const Lars* s = <const Lars*> scalars
    cdef double p = sqrt(sums[0]), g = sqrt(sums[1]), ratio = 1.0
    if p != 0.0 and g != 0.0:
        ratio = s.trust_coefficient * p / (g + s.weight_decay * p + s.eps)
    return <float> (s.lr * ratio)


cdef inline void lars_elements(Lars s, float rate, INOUT param, IN grad, INOUT v, INOUT average, Py_ssize_t n,
                               int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p
    for i in range(n):
        p = param[i]
        v[i] = s.momentum * v[i] + rate * gradient(&s.common, grad[i], p, flags)
        p = p * s.common.keep - v[i]
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void lars_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    lars_elements((<const Lars*> s)[0], x[OUTCOME][0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags)


cdef void lars_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(lars_loop, s, x, n, (<const Lars*> s).common.flags)


cdef tuple LARS_STREAMS = ("param", "grad", "v", "average")


def lars(double lr, double momentum, double trust_coefficient, double eps, double weight_decay, tuple common):
    """The rule of any step; `weight_decay` is the one in `common`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Lars* s = <Lars*> rule.block
    set_common(&s.common, lr, common)
    s.lr, s.momentum, s.trust_coefficient, s.eps, s.weight_decay = lr, momentum, trust_coefficient, eps, weight_decay
    rule.measure, rule.settle, rule.fn = lars_measure, lars_settle, lars_rule
    rule.cost, rule.names, rule.required = 0.3, LARS_STREAMS, STATE + 1
    return rule


# lamb

cdef struct Lamb:
    Common common
    double lr
    float beta1
    float beta2
    float one_minus_beta1
    float one_minus_beta2
    float alpha
    float eps
    float weight_decay


cdef inline float direction(const Lamb* s, float param, float m, float v, int flags) noexcept nogil:
    cdef float d = s.alpha * m / (sqrtf(v) + s.eps)
    if flags & DECAYS:
        d = d + s.weight_decay * param
    return d


cdef inline double moments(const Lamb* s, float param, float grad, float* m, float* v, int flags) noexcept nogil:
    """Update one element's moments and return the square of its direction."""
    cdef float g = gradient(&s.common, grad, param, flags)
    cdef double d
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    v[0] = s.beta2 * v[0] + s.one_minus_beta2 * (g * g)
    d = direction(s, param, m[0], v[0], flags)
    return d * d


cdef inline double lamb_moments(Lamb s, IN param, IN grad, INOUT m, INOUT v, Py_ssize_t n, int flags) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t b, i
    cdef int l
    for l in range(LANES):
        lane[l] = 0.0
    for b in range(n // LANES):
        for l in range(LANES):
            i = LANES * b + l
            lane[l] += moments(&s, param[i], grad[i], &m[i], &v[i], flags)
    i = n // LANES * LANES
    for l in range(<int> (n - i)):
        lane[l] += moments(&s, param[i + l], grad[i + l], &m[i + l], &v[i + l], flags)
    return add_lanes(lane)


cdef void lamb_measure(const void* scalars, float* const* x, Py_ssize_t n, double* sums) noexcept nogil:
    cdef Lamb s = (<const Lamb*> scalars)[0]
    cdef int flags = s.common.flags & (DECAYS | L1)
    sums[0] = sum_of_squares(x[PARAM], n)
    if flags == DECAYS | L1: sums[1] = lamb_moments(s, x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, DECAYS | L1)
    elif flags == DECAYS: sums[1] = lamb_moments(s, x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, DECAYS)
    elif flags == L1: sums[1] = lamb_moments(s, x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, L1)
    else: sums[1] = lamb_moments(s, x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, 0)


cdef float lamb_settle(const void* scalars, const double* sums) noexcept nogil:
    cdef double p = sqrt(sums[0]), d = sqrt(sums[1]), ratio = 1.0
    if p != 0.0 and d != 0.0:
        ratio = p / d
    return <float> ((<const Lamb*> scalars).lr * ratio)


cdef inline void lamb_elements(Lamb s, float rate, INOUT param, IN m, IN v, INOUT average, Py_ssize_t n,
                               int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p
    for i in range(n):
        p = param[i]
        p = p - rate * direction(&s, p, m[i], v[i], flags)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void lamb_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    lamb_elements((<const Lamb*> s)[0], x[OUTCOME][0], x[PARAM], x[STATE], x[STATE + 1], x[STATE + 2], n, flags)


cdef void lamb_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(lamb_loop, s, x, n, (<const Lamb*> s).common.flags & (DECAYS | AVERAGE))


cdef tuple LAMB_STREAMS = ("param", "grad", "m", "v", "average")


def lamb(long long step, double lr, double beta1, double beta2, double eps, double weight_decay, tuple common):
    """The rule of step `step`; `common` holds no weight decay."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Lamb* s = <Lamb*> rule.block
    cdef double root = sqrt(1.0 - pow(beta2, <double> step))
    set_common(&s.common, lr, common)
    if weight_decay != 0.0:
        s.common.flags |= DECAYS
    s.lr, s.weight_decay = lr, weight_decay
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.alpha = root / (1.0 - pow(beta1, <double> step))
    s.eps = eps * root
    rule.measure, rule.settle, rule.fn = lamb_measure, lamb_settle, lamb_rule
    rule.cost, rule.names, rule.required = 0.9, LAMB_STREAMS, STATE + 2
    return rule
