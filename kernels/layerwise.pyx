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
    AVERAGED, FIRST, L1, LANES, OWN, SECOND, Common, add_lanes, each, gradient, set_common, specialise, sum_of_squares,
)
from fastopt._runtime.driver cimport GRAD, OUTCOME, PARAM, STATE, Rule

cdef enum:
    DECAYS = OWN        # lamb: λ is not 0


# The norm of all gradients, which is only measured.

cdef void squares_measure(const void* s, float* const* x, Py_ssize_t n, double* sums) noexcept nogil:
    sums[0] = sum_of_squares(x[GRAD], n)


def squares():
    """A rule that only measures: the sum of the squared gradients in double, not finite if an element is not."""
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
    float rate          # lr · r, of one tensor


cdef inline double squares_of_gradient(Common c, IN grad, Py_ssize_t n) noexcept nogil:
    """The sum of the squares of the gradient after scaling and clipping, before regularisation."""
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


cdef inline float lars_element(const void* scalars, float p, float g, float* v, float* _b, float* _c, float* _d,
                               int flags) noexcept nogil:
    cdef const Lars* s = <const Lars*> scalars
    v[0] = s.momentum * v[0] + s.rate * g
    return p * s.common.keep - v[0]


cdef void lars_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Lars s = (<const Lars*> scalars)[0]
    s.rate = x[OUTCOME][0]
    specialise(lars_element, &s, x, n, 0, FIRST, FIRST)


def lars(long long step, double lr, double momentum, double trust_coefficient, double eps, double weight_decay,
         object common):
    """The rule of any step; `weight_decay` is the one in `common`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Lars* s = <Lars*> rule.block
    set_common(rule, lr, common)
    s.lr, s.momentum, s.trust_coefficient, s.eps, s.weight_decay = lr, momentum, trust_coefficient, eps, weight_decay
    rule.measure, rule.settle, rule.fn = lars_measure, lars_settle, lars_rule
    rule.cost, rule.states = 0.3, ("v",)
    rule.uses |= FIRST
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
    float rate          # lr · r, of one tensor


cdef inline float direction(const Lamb* s, float param, float m, float v, int flags) noexcept nogil:
    cdef float d = s.alpha * m / (sqrtf(v) + s.eps)
    if flags & DECAYS:
        d = d + s.weight_decay * param
    return d


cdef inline double moments(const Lamb* s, float param, float grad, float* m, float* v, int flags) noexcept nogil:
    """Update one element's moments and return its squared direction."""
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


# lamb_measure has updated the moments; here they are only read.
cdef inline float lamb_element(const void* scalars, float p, float g, float* m, float* v, float* _c, float* _d,
                               int flags) noexcept nogil:
    cdef const Lamb* s = <const Lamb*> scalars
    return p - s.rate * direction(s, p, m[0], v[0], flags)


cdef void lamb_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Lamb s = (<const Lamb*> scalars)[0]
    cdef int flags = s.common.flags & (DECAYS | AVERAGED)
    s.rate = x[OUTCOME][0]
    if flags == DECAYS | AVERAGED: each(lamb_element, &s, x, n, DECAYS | AVERAGED, FIRST | SECOND, 0)
    elif flags == DECAYS: each(lamb_element, &s, x, n, DECAYS, FIRST | SECOND, 0)
    elif flags == AVERAGED: each(lamb_element, &s, x, n, AVERAGED, FIRST | SECOND, 0)
    else: each(lamb_element, &s, x, n, 0, FIRST | SECOND, 0)


def lamb(long long step, double lr, double beta1, double beta2, double eps, double weight_decay, object common):
    """The rule of step `step`; `common` holds no weight decay."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Lamb* s = <Lamb*> rule.block
    cdef double root = sqrt(1.0 - pow(beta2, <double> step))
    set_common(rule, lr, common)
    if weight_decay != 0.0:
        s.common.flags |= DECAYS
    s.lr, s.weight_decay = lr, weight_decay
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.alpha = root / (1.0 - pow(beta1, <double> step))
    s.eps = eps * root
    rule.measure, rule.settle, rule.fn = lamb_measure, lamb_settle, lamb_rule
    rule.cost, rule.states = 0.9, ("m", "v")
    rule.uses |= FIRST | SECOND
    return rule
