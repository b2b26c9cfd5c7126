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

from _memory cimport IN, INOUT
from _optimizer cimport (
    AVERAGE, GRAD, OWN, PARAM, STATE, Common, averaged, gradient, set_common, specialise, specialise_shared,
)
from fastopt._runtime.driver cimport Rule

cdef enum:
    NESTEROV = OWN
    COPIES = OWN        # asgd: the average is the parameter

cdef struct Sgd:
    Common common
    float lr
    float momentum      # or sgdm's β, or asgd's μ
    float take          # 1 − dampening, or 1 − β


# sgd without momentum: no buffer.

cdef inline void plain_elements(Sgd s, INOUT param, IN grad, INOUT average, Py_ssize_t n, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p
    for i in range(n):
        p = param[i]
        p = p * s.common.keep - s.lr * gradient(&s.common, grad[i], p, flags)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void plain_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    plain_elements((<const Sgd*> s)[0], x[PARAM], x[GRAD], x[STATE + 1], n, flags)


cdef void plain_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(plain_loop, s, x, n, (<const Sgd*> s).common.flags)


# sgd with momentum; `first` is the step on which the buffer becomes the gradient.

cdef inline void sgd_elements(Sgd s, INOUT param, IN grad, INOUT buf, INOUT average, Py_ssize_t n, int flags,
                              bint first) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, b
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        b = g if first else s.momentum * buf[i] + s.take * g
        buf[i] = b
        p = p * s.common.keep - s.lr * (g + s.momentum * b if flags & NESTEROV else b)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void sgd_first_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    sgd_elements((<const Sgd*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags, True)


cdef inline void sgd_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    sgd_elements((<const Sgd*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags, False)


cdef void sgd_first_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(sgd_first_loop, s, x, n, (<const Sgd*> s).common.flags)


cdef void sgd_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(sgd_loop, s, x, n, (<const Sgd*> s).common.flags)


cdef tuple SGD_STREAMS = ("param", "grad", "buf", "average")


def sgd(long long step, double lr, double momentum, double dampening, bint nesterov, tuple common):
    """The rule of step `step`; without momentum the buffer is not touched."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    set_common(&s.common, lr, common)
    s.lr, s.momentum, s.take = lr, momentum, 1.0 - dampening
    rule.cost, rule.names, rule.required = 0.2, SGD_STREAMS, STATE
    if momentum == 0.0:
        rule.fn = plain_rule
        return rule
    rule.required += 1
    if nesterov:
        s.common.flags |= NESTEROV
    rule.fn = sgd_first_rule if step == 1 else sgd_rule
    return rule


# momentum

cdef inline void momentum_elements(Sgd s, INOUT param, IN grad, INOUT v, INOUT average, Py_ssize_t n,
                                   int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, d, w
    for i in range(n):
        p = param[i]
        d = s.lr * gradient(&s.common, grad[i], p, flags)
        w = s.momentum * v[i] - d
        v[i] = w
        p = p * s.common.keep + (s.momentum * w - d if flags & NESTEROV else w)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void momentum_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    momentum_elements((<const Sgd*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags)


cdef void momentum_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(momentum_loop, s, x, n, (<const Sgd*> s).common.flags)


cdef tuple MOMENTUM_STREAMS = ("param", "grad", "v", "average")


def momentum(double lr, double momentum, bint nesterov, tuple common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    set_common(&s.common, lr, common)
    s.lr, s.momentum = lr, momentum
    if nesterov:
        s.common.flags |= NESTEROV
    rule.fn, rule.cost, rule.names, rule.required = momentum_rule, 0.2, MOMENTUM_STREAMS, STATE + 1
    return rule


# sgdm

cdef inline void sgdm_elements(Sgd s, INOUT param, IN grad, INOUT m, INOUT average, Py_ssize_t n,
                               int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p
    for i in range(n):
        p = param[i]
        m[i] = s.momentum * m[i] + s.take * gradient(&s.common, grad[i], p, flags)
        p = p * s.common.keep - s.lr * m[i]
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void sgdm_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    sgdm_elements((<const Sgd*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags)


cdef void sgdm_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(sgdm_loop, s, x, n, (<const Sgd*> s).common.flags)


cdef tuple SGDM_STREAMS = ("param", "grad", "m", "average")


def sgdm(double lr, double beta, tuple common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    set_common(&s.common, lr, common)
    s.lr, s.momentum, s.take = lr, beta, 1.0 - beta
    rule.fn, rule.cost, rule.names, rule.required = sgdm_rule, 0.2, SGDM_STREAMS, STATE + 1
    return rule


# asgd

cdef inline void asgd_elements(Sgd s, INOUT param, IN grad, INOUT ax, INOUT average, Py_ssize_t n,
                               int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p
    for i in range(n):
        p = param[i]
        p = p * s.common.keep - s.lr * gradient(&s.common, grad[i], p, flags)
        param[i] = p
        ax[i] = p if flags & COPIES else ax[i] + s.momentum * (p - ax[i])
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void asgd_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    asgd_elements((<const Sgd*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags)


cdef void asgd_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(asgd_loop, s, x, n, (<const Sgd*> s).common.flags)


cdef tuple ASGD_STREAMS = ("param", "grad", "ax", "average")


def asgd(long long step, double lr, double lambd, double alpha, double t0, tuple common):
    """The rule of step `step`: η = lr / (1 + λ′ · lr · (t − 1))^α, μ = 1 / max(1, t − 1 − t₀)."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sgd* s = <Sgd*> rule.block
    cdef double before = <double> step - 1.0
    cdef double eta = lr / pow(1.0 + lambd * lr * before, alpha)
    cdef double mu = 1.0 / max(1.0, before - t0)
    set_common(&s.common, lr, common, 1.0 - lambd * eta)
    s.lr, s.momentum = eta, mu
    if mu == 1.0:
        s.common.flags |= COPIES
    rule.fn, rule.cost, rule.names, rule.required = asgd_rule, 0.2, ASGD_STREAMS, STATE + 1
    return rule
