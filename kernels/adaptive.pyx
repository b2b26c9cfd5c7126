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
# adan (Xie et al. 2022):           d = g − g′, 0 at the first step;  g′ ← g
#                                   m ← β₁ · m + (1 − β₁) · g;  v ← β₂ · v + (1 − β₂) · d
#                                   n ← β₃ · n + (1 − β₃) · (g + β₂ · d)²
#                                   u = (α · m + γ · v) / (√n + ε′)
#                                   p ← (p − u) / (1 + lr · λ),  or p · (1 − lr · λ) − u without the proximal form
#
# torch.optim's forms, and for adan the authors' with its bias corrections in the scalars. One of ε₁ and ε₂ is 0: eps
# stands inside or outside the root. The clamp in the centred form keeps a difference that rounding made negative from
# becoming NaN.

from libc.math cimport pow, sqrt, sqrtf

from _optimizer cimport FIRST, FOURTH, OWN, OWN2, SECOND, THIRD, Common, set_common, specialise
from fastopt._runtime.driver cimport Rule

cdef enum:
    CENTERED = OWN
    BUFFERED = OWN2     # rmsprop with momentum
    FIRST_STEP = OWN    # adan's

cdef struct Adaptive:
    Common common
    float lr
    float keep          # of the average of squares: ρ or α
    float take          # 1 − keep
    float eps_inside
    float eps_outside
    float momentum


# adagrad

cdef inline float adagrad_element(const void* scalars, float p, float g, float* h, float* _b, float* _c, float* _d,
                                  int flags) noexcept nogil:
    cdef const Adaptive* s = <const Adaptive*> scalars
    h[0] = h[0] + g * g
    return p * s.common.keep - s.lr * g / (sqrtf(h[0] + s.eps_inside) + s.eps_outside)


cdef void adagrad_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adaptive s = (<const Adaptive*> scalars)[0]
    specialise(adagrad_element, &s, x, n, 0, FIRST, FIRST)


def adagrad(long long step, double lr, double lr_decay, double eps, bint eps_inside_sqrt, object common):
    """The rule of step `step`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adaptive* s = <Adaptive*> rule.block
    set_common(rule, lr, common)
    s.lr = lr / (1.0 + (<double> step - 1.0) * lr_decay)
    s.eps_inside, s.eps_outside = (eps, 0.0) if eps_inside_sqrt else (0.0, eps)
    rule.fn, rule.cost, rule.states = adagrad_rule, 0.4, ("h",)
    rule.uses |= FIRST
    return rule


# adadelta

cdef inline float adadelta_element(const void* scalars, float p, float g, float* v, float* u, float* _c, float* _d,
                                   int flags) noexcept nogil:
    cdef const Adaptive* s = <const Adaptive*> scalars
    cdef float d
    v[0] = s.keep * v[0] + s.take * (g * g)
    d = sqrtf(u[0] + s.eps_inside) / sqrtf(v[0] + s.eps_inside) * g
    u[0] = s.keep * u[0] + s.take * (d * d)
    return p * s.common.keep - s.lr * d


cdef void adadelta_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adaptive s = (<const Adaptive*> scalars)[0]
    specialise(adadelta_element, &s, x, n, 0, FIRST | SECOND, FIRST | SECOND)


def adadelta(long long step, double lr, double rho, double eps, object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adaptive* s = <Adaptive*> rule.block
    set_common(rule, lr, common)
    s.lr, s.keep, s.take, s.eps_inside = lr, rho, 1.0 - rho, eps
    rule.fn, rule.cost, rule.states = adadelta_rule, 0.8, ("v", "u")
    rule.uses |= FIRST | SECOND
    return rule


# rmsprop

cdef inline float rmsprop_element(const void* scalars, float p, float g, float* v, float* grad_avg, float* buf,
                                  float* _d, int flags) noexcept nogil:
    cdef const Adaptive* s = <const Adaptive*> scalars
    cdef float w, root
    v[0] = s.keep * v[0] + s.take * (g * g)
    w = v[0]
    if flags & CENTERED:
        grad_avg[0] = s.keep * grad_avg[0] + s.take * g
        w = w - grad_avg[0] * grad_avg[0]
        w = <float> 0.0 if w < 0.0 else w
    root = sqrtf(w + s.eps_inside) + s.eps_outside
    if flags & BUFFERED:
        buf[0] = s.momentum * buf[0] + g / root
        return p * s.common.keep - s.lr * buf[0]
    return p * s.common.keep - s.lr * g / root


cdef void rmsprop_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adaptive s = (<const Adaptive*> scalars)[0]
    cdef int own = s.common.flags & (CENTERED | BUFFERED)
    if own == 0:
        specialise(rmsprop_element, &s, x, n, 0, FIRST, FIRST)
    elif own == CENTERED:
        specialise(rmsprop_element, &s, x, n, CENTERED, FIRST | SECOND, FIRST | SECOND)
    elif own == BUFFERED:
        specialise(rmsprop_element, &s, x, n, BUFFERED, FIRST | THIRD, FIRST | THIRD)
    else:
        specialise(rmsprop_element, &s, x, n, CENTERED | BUFFERED, FIRST | SECOND | THIRD, FIRST | SECOND | THIRD)


def rmsprop(long long step, double lr, double alpha, double eps, bint eps_inside_sqrt, bint centered, double momentum,
            object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adaptive* s = <Adaptive*> rule.block
    set_common(rule, lr, common)
    s.lr, s.keep, s.take, s.momentum = lr, alpha, 1.0 - alpha, momentum
    s.eps_inside, s.eps_outside = (eps, 0.0) if eps_inside_sqrt else (0.0, eps)
    rule.fn, rule.cost, rule.states = rmsprop_rule, 0.5, ("v", "grad_avg", "buf")
    rule.uses |= FIRST
    if centered:
        s.common.flags |= CENTERED
        rule.uses |= SECOND
    if momentum != 0.0:
        s.common.flags |= BUFFERED
        rule.uses |= THIRD
    return rule


# adan

cdef struct Adan:
    Common common
    float beta1
    float beta2
    float beta3
    float one_minus_beta1
    float one_minus_beta2
    float one_minus_beta3
    float alpha
    float gamma
    float eps
    float after         # 1 / (1 + lr · λ) in the proximal form, otherwise 1


cdef inline float adan_element(const void* scalars, float p, float g, float* m, float* v, float* n, float* prev,
                               int flags) noexcept nogil:
    cdef const Adan* s = <const Adan*> scalars
    cdef float d = <float> 0.0 if flags & FIRST_STEP else g - prev[0]
    cdef float ahead = g + s.beta2 * d
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    v[0] = s.beta2 * v[0] + s.one_minus_beta2 * d
    n[0] = s.beta3 * n[0] + s.one_minus_beta3 * (ahead * ahead)
    prev[0] = g
    return (p * s.common.keep - (s.alpha * m[0] + s.gamma * v[0]) / (sqrtf(n[0]) + s.eps)) * s.after


cdef void adan_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adan s = (<const Adan*> scalars)[0]
    if s.common.flags & FIRST_STEP:
        specialise(adan_element, &s, x, n, FIRST_STEP, FIRST | SECOND | THIRD, FIRST | SECOND | THIRD | FOURTH)
    else:
        specialise(adan_element, &s, x, n, 0, FIRST | SECOND | THIRD | FOURTH, FIRST | SECOND | THIRD | FOURTH)


def adan(long long step, double lr, double beta1, double beta2, double beta3, double eps, double weight_decay,
         bint no_prox, object common):
    """The rule of step `step`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adan* s = <Adan*> rule.block
    cdef double t = <double> step
    cdef double root = sqrt(1.0 - pow(beta3, t))
    set_common(rule, lr, common, 1.0 - lr * weight_decay if no_prox else 1.0)
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.beta3, s.one_minus_beta3 = beta3, 1.0 - beta3
    s.alpha = lr * root / (1.0 - pow(beta1, t))
    s.gamma = lr * beta2 * root / (1.0 - pow(beta2, t))
    s.eps = eps * root
    s.after = 1.0 if no_prox else 1.0 / (1.0 + lr * weight_decay)
    if step == 1:
        s.common.flags |= FIRST_STEP
    rule.fn, rule.cost, rule.states = adan_rule, 0.7, ("m", "v", "n", "prev")
    rule.uses |= FIRST | SECOND | THIRD | FOURTH
    return rule
