# Gradient descent with and without momentum.
#
# sgd, torch.optim's form:                  b ← g at the first step, then b ← μ · b + (1 − dampening) · g
#                                           d = g without momentum; b with it; g + μ · b for Nesterov
#                                           p ← p · (1 − lr · λ) − lr · d
# momentum, whose velocity carries lr       v ← μ · v − lr · g
# (Keras, scikit-learn, textbooks):         p ← p · (1 − lr · λ) + v, or + (μ · v − lr · g) for Nesterov
# sgdm, an exponential average:             m ← β · m + (1 − β) · g
#                                           p ← p · (1 − lr · λ) − lr · m
# asgd (Polyak and Juditsky 1992),          p ← p · (1 − lr · λ) · (1 − λ′ · η) − η · g
# torch.optim's form:                       a ← p at first, then a + μ · (p − a)

from libc.math cimport pow

from _optimizer cimport FIRST, OWN, OWN2, OWN3, Common, set_common, specialise
from fastopt._runtime.driver cimport Rule

cdef enum:
    NESTEROV = OWN
    BUFFERED = OWN2     # sgd with momentum
    INITIAL = OWN3      # sgd's first step with momentum: the buffer becomes the gradient
    COPIES = OWN        # asgd: the average becomes the parameter

cdef struct Sgd:
    Common common
    float lr
    float momentum      # or sgdm's β, or asgd's μ
    float take          # 1 − dampening, or 1 − β


cdef inline float sgd_element(const void* scalars, float p, float g, float* b, float* _b, float* _c, float* _d,
                              int flags) noexcept nogil:
    cdef const Sgd* s = <const Sgd*> scalars
    cdef float d = g
    if flags & BUFFERED:
        b[0] = g if flags & INITIAL else s.momentum * b[0] + s.take * g
        d = g + s.momentum * b[0] if flags & NESTEROV else b[0]
    return p * s.common.keep - s.lr * d


cdef void sgd_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Sgd s = (<const Sgd*> scalars)[0]
    cdef int own = s.common.flags & (BUFFERED | NESTEROV | INITIAL)
    if not own & BUFFERED:
        specialise(sgd_element, &s, x, n, 0, 0, 0)
    elif own == BUFFERED:
        specialise(sgd_element, &s, x, n, BUFFERED, FIRST, FIRST)
    elif own == BUFFERED | NESTEROV:
        specialise(sgd_element, &s, x, n, BUFFERED | NESTEROV, FIRST, FIRST)
    elif own == BUFFERED | INITIAL:
        specialise(sgd_element, &s, x, n, BUFFERED | INITIAL, 0, FIRST)
    else:
        specialise(sgd_element, &s, x, n, BUFFERED | NESTEROV | INITIAL, 0, FIRST)


def sgd(long long step, double lr, double momentum, double dampening, bint nesterov, object common):
    """The rule of step `step`; without momentum the buffer is not touched."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    set_common(rule, lr, common)
    s.lr, s.momentum, s.take = lr, momentum, 1.0 - dampening
    rule.fn, rule.cost, rule.states = sgd_rule, 0.2, ("buf",)
    if momentum != 0.0:
        s.common.flags |= BUFFERED | (NESTEROV if nesterov else 0) | (INITIAL if step == 1 else 0)
        rule.uses |= FIRST
    return rule


# momentum

cdef inline float momentum_element(const void* scalars, float p, float g, float* v, float* _b, float* _c, float* _d,
                                   int flags) noexcept nogil:
    cdef const Sgd* s = <const Sgd*> scalars
    cdef float d = s.lr * g
    v[0] = s.momentum * v[0] - d
    return p * s.common.keep + (s.momentum * v[0] - d if flags & NESTEROV else v[0])


cdef void momentum_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Sgd s = (<const Sgd*> scalars)[0]
    if s.common.flags & NESTEROV:
        specialise(momentum_element, &s, x, n, NESTEROV, FIRST, FIRST)
    else:
        specialise(momentum_element, &s, x, n, 0, FIRST, FIRST)


def momentum(long long step, double lr, double momentum, bint nesterov, object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    set_common(rule, lr, common)
    s.lr, s.momentum = lr, momentum
    if nesterov:
        s.common.flags |= NESTEROV
    rule.fn, rule.cost, rule.states = momentum_rule, 0.2, ("v",)
    rule.uses |= FIRST
    return rule


# sgdm

cdef inline float sgdm_element(const void* scalars, float p, float g, float* m, float* _b, float* _c, float* _d,
                               int flags) noexcept nogil:
    cdef const Sgd* s = <const Sgd*> scalars
    m[0] = s.momentum * m[0] + s.take * g
    return p * s.common.keep - s.lr * m[0]


cdef void sgdm_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Sgd s = (<const Sgd*> scalars)[0]
    specialise(sgdm_element, &s, x, n, 0, FIRST, FIRST)


def sgdm(long long step, double lr, double beta, object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    set_common(rule, lr, common)
    s.lr, s.momentum, s.take = lr, beta, 1.0 - beta
    rule.fn, rule.cost, rule.states = sgdm_rule, 0.2, ("m",)
    rule.uses |= FIRST
    return rule


# asgd

cdef inline float asgd_element(const void* scalars, float p, float g, float* ax, float* _b, float* _c, float* _d,
                               int flags) noexcept nogil:
    cdef const Sgd* s = <const Sgd*> scalars
    p = p * s.common.keep - s.lr * g
    ax[0] = p if flags & COPIES else ax[0] + s.momentum * (p - ax[0])
    return p


cdef void asgd_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Sgd s = (<const Sgd*> scalars)[0]
    if s.common.flags & COPIES:
        specialise(asgd_element, &s, x, n, COPIES, 0, FIRST)
    else:
        specialise(asgd_element, &s, x, n, 0, FIRST, FIRST)


def asgd(long long step, double lr, double lambd, double alpha, double t0, object common):
    """The rule of step `step`: η = lr / (1 + λ′ · lr · (t − 1))^α, μ = 1 / max(1, t − 1 − t₀)."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    cdef double before = <double> step - 1.0
    cdef double eta = lr / pow(1.0 + lambd * lr * before, alpha)
    cdef double mu = 1.0 / max(1.0, before - t0)
    set_common(rule, lr, common, 1.0 - lambd * eta)
    s.lr, s.momentum = eta, mu
    if mu == 1.0:
        s.common.flags |= COPIES
    rule.fn, rule.cost, rule.states = asgd_rule, 0.2, ("ax",)
    rule.uses |= FIRST
    return rule
