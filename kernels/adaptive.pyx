# Steps divided by a root of the gradients' squares.
#
# adagrad (Duchi et al. 2011):      h ← h + g²
#                                   p ← p · (1 − lr · λ) − lr / (1 + (t − 1) · lr_decay) · g / (√(h + ε₁) + ε₂)
# adadelta (Zeiler 2012):           v ← ρ · v + (1 − ρ) · g²;  d = √(u + ε) / √(v + ε) · g;  u ← ρ · u + (1 − ρ) · d²
#                                   p ← p · (1 − lr · λ) − lr · d
# rmsprop (Hinton 2012):            v ← α · v + (1 − α) · g²
#   centred (Graves 2013):          ḡ ← α · ḡ + (1 − α) · g;  w = max(v − ḡ², 0), otherwise w = v
#                                   d = 1 / (√(w + ε₁) + ε₂)
#                                   p ← p · (1 − lr · λ) − lr · g · d
#   with momentum:                  b ← μ · b + g · d;  p ← p · (1 − lr · λ) − lr · b
#
# torch.optim's forms. One of ε₁ and ε₂ is 0: eps stands inside or outside the root. The clamp in the centred form
# keeps a difference that rounding made negative from becoming NaN.

from libc.math cimport sqrtf

from _memory cimport IN, INOUT
from _optimizer cimport (
    AVERAGE, GRAD, OWN, PARAM, STATE, Common, averaged, gradient, set_common, specialise, specialise_shared,
)
from fastopt._runtime.driver cimport Rule

cdef enum:
    CENTERED = OWN

cdef struct Adaptive:
    Common common
    float lr
    float keep          # of the average of squares: ρ or α
    float take          # 1 − keep
    float eps_inside
    float eps_outside
    float momentum


# adagrad

cdef inline void adagrad_elements(Adaptive s, INOUT param, IN grad, INOUT h, INOUT average, Py_ssize_t n,
                                  int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        h[i] = h[i] + g * g
        p = p * s.common.keep - s.lr * g / (sqrtf(h[i] + s.eps_inside) + s.eps_outside)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void adagrad_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    adagrad_elements((<const Adaptive*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags)


cdef void adagrad_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(adagrad_loop, s, x, n, (<const Adaptive*> s).common.flags)


cdef tuple ADAGRAD_STREAMS = ("param", "grad", "h", "average")


def adagrad(long long step, double lr, double lr_decay, double eps, bint eps_inside_sqrt, tuple common):
    """The rule of step `step`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adaptive* s = <Adaptive*> rule.block
    set_common(&s.common, lr, common)
    s.lr = lr / (1.0 + (<double> step - 1.0) * lr_decay)
    s.eps_inside, s.eps_outside = (eps, 0.0) if eps_inside_sqrt else (0.0, eps)
    rule.fn, rule.cost, rule.names, rule.required = adagrad_rule, 0.4, ADAGRAD_STREAMS, STATE + 1
    return rule


# adadelta

cdef inline void adadelta_elements(Adaptive s, INOUT param, IN grad, INOUT v, INOUT u, INOUT average, Py_ssize_t n,
                                   int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, d
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        v[i] = s.keep * v[i] + s.take * (g * g)
        d = sqrtf(u[i] + s.eps_inside) / sqrtf(v[i] + s.eps_inside) * g
        u[i] = s.keep * u[i] + s.take * (d * d)
        p = p * s.common.keep - s.lr * d
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void adadelta_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    adadelta_elements((<const Adaptive*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], n, flags)


cdef void adadelta_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(adadelta_loop, s, x, n, (<const Adaptive*> s).common.flags)


cdef tuple ADADELTA_STREAMS = ("param", "grad", "v", "u", "average")


def adadelta(double lr, double rho, double eps, tuple common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adaptive* s = <Adaptive*> rule.block
    set_common(&s.common, lr, common)
    s.lr, s.keep, s.take, s.eps_inside = lr, rho, 1.0 - rho, eps
    rule.fn, rule.cost, rule.names, rule.required = adadelta_rule, 0.8, ADADELTA_STREAMS, STATE + 2
    return rule


# rmsprop

cdef inline void rmsprop_elements(Adaptive s, INOUT param, IN grad, INOUT v, INOUT grad_avg, INOUT buf, INOUT average,
                                  Py_ssize_t n, int flags, bint buffered) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, w, root
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        v[i] = s.keep * v[i] + s.take * (g * g)
        w = v[i]
        if flags & CENTERED:
            grad_avg[i] = s.keep * grad_avg[i] + s.take * g
            w = w - grad_avg[i] * grad_avg[i]
            w = <float> 0.0 if w < 0.0 else w
        root = sqrtf(w + s.eps_inside) + s.eps_outside
        if buffered:
            buf[i] = s.momentum * buf[i] + g / root
            p = p * s.common.keep - s.lr * buf[i]
        else:
            p = p * s.common.keep - s.lr * g / root
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void rmsprop_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    rmsprop_elements((<const Adaptive*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], x[STATE + 3],
                     n, flags, False)


cdef inline void rmsprop_buffered_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    rmsprop_elements((<const Adaptive*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], x[STATE + 3],
                     n, flags, True)


cdef void rmsprop_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(rmsprop_loop, s, x, n, (<const Adaptive*> s).common.flags)


cdef void rmsprop_buffered_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(rmsprop_buffered_loop, s, x, n, (<const Adaptive*> s).common.flags)


cdef tuple RMSPROP_STREAMS = ("param", "grad", "v", "grad_avg", "buf", "average")


def rmsprop(double lr, double alpha, double eps, bint eps_inside_sqrt, bint centered, double momentum, tuple common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adaptive* s = <Adaptive*> rule.block
    set_common(&s.common, lr, common)
    if centered:
        s.common.flags |= CENTERED
    s.lr, s.keep, s.take, s.momentum = lr, alpha, 1.0 - alpha, momentum
    s.eps_inside, s.eps_outside = (eps, 0.0) if eps_inside_sqrt else (0.0, eps)
    rule.fn = rmsprop_rule if momentum == 0.0 else rmsprop_buffered_rule
    rule.cost, rule.names, rule.required = 0.5, RMSPROP_STREAMS, STATE + 1
    rule.uses = centered << STATE + 1 | (momentum != 0.0) << STATE + 2
    return rule
