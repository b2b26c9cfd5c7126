# Adam: Kingma and Ba 2014 (arXiv:1412.6980), algorithm 1, with the bias corrections drawn into two scalars (the
# paper's section 2, last paragraph), so that an element costs one division and one square root:
#
#   m ← β₁ · m + (1 − β₁) · g
#   v ← β₂ · v + (1 − β₂) · g²
#   u = max(u, v)                               amsgrad (Reddi et al. 2018); otherwise v stands for u
#   p ← p · (1 − lr · λ) − α · m / (√u + ε′)    α = lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ),  ε′ = ε · √(1 − β₂ᵗ)
#
# which is torch.optim's form. eps_hat puts ε on √v itself: ε′ = ε. λ is AdamW's decoupled weight decay.
#
# With the same m and v:
#   adamax (the paper's section 7)     u ← max(β₂ · u, |g| + ε);  p ← p · (1 − lr · λ) − lr / (1 − β₁ᵗ) · m / u
#   nadam (Dozat 2016)                 p ← p · (1 − lr · λ) − (γ · g + α · m) / (√v + ε′)
#   radam (Liu et al. 2019)            p ← p · (1 − lr · λ) − α · m / (√v + ε), or − α · m while v is too young

from libc.math cimport fabsf, pow, sqrt, sqrtf

from _memory cimport IN, INOUT
from _optimizer cimport (
    AVERAGE, GRAD, OWN, PARAM, STATE, Common, averaged, gradient, greater, set_common, specialise, specialise_shared,
)
from fastopt._runtime.driver cimport Rule

cdef enum:
    AMSGRAD = OWN
    RECTIFIED = OWN

cdef struct Adam:
    Common common
    float beta1
    float beta2
    float one_minus_beta1
    float one_minus_beta2
    float alpha
    float gamma         # nadam's weight of the gradient itself
    float eps


cdef inline void adam_elements(Adam s, INOUT param, IN grad, INOUT m, INOUT v, INOUT vmax, INOUT average,
                               Py_ssize_t n, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, u
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        m[i] = s.beta1 * m[i] + s.one_minus_beta1 * g
        v[i] = s.beta2 * v[i] + s.one_minus_beta2 * (g * g)
        u = v[i]
        if flags & AMSGRAD:
            u = greater(vmax[i], u)
            vmax[i] = u
        p = p * s.common.keep - s.alpha * m[i] / (sqrtf(u) + s.eps)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void adam_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    adam_elements((<const Adam*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], x[STATE + 3],
                  n, flags)


cdef void adam_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(adam_loop, s, x, n, (<const Adam*> s).common.flags)


cdef tuple ADAM_STREAMS = ("param", "grad", "m", "v", "vmax", "average")


def adam(long long step, double lr, double beta1, double beta2, double eps, bint amsgrad, bint eps_hat,
         tuple common):
    """The rule of step `step`; every scalar is computed in double and rounded once."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    cdef double root = sqrt(1.0 - pow(beta2, <double> step))
    set_common(&s.common, lr, common)
    if amsgrad:
        s.common.flags |= AMSGRAD
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.alpha = lr * root / (1.0 - pow(beta1, <double> step))
    s.eps = eps if eps_hat else eps * root
    rule.fn, rule.cost, rule.names, rule.required = adam_rule, 0.5, ADAM_STREAMS, STATE + 2 + amsgrad
    return rule


# adamax

cdef inline void adamax_elements(Adam s, INOUT param, IN grad, INOUT m, INOUT u, INOUT average, Py_ssize_t n,
                                 int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        m[i] = s.beta1 * m[i] + s.one_minus_beta1 * g
        u[i] = greater(s.beta2 * u[i], fabsf(g) + s.eps)
        p = p * s.common.keep - s.alpha * m[i] / u[i]
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void adamax_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    adamax_elements((<const Adam*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], n, flags)


cdef void adamax_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(adamax_loop, s, x, n, (<const Adam*> s).common.flags)


cdef tuple ADAMAX_STREAMS = ("param", "grad", "m", "u", "average")


def adamax(long long step, double lr, double beta1, double beta2, double eps, tuple common):
    """The rule of step `step`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    set_common(&s.common, lr, common)
    s.beta1, s.one_minus_beta1, s.beta2 = beta1, 1.0 - beta1, beta2
    s.alpha = lr / (1.0 - pow(beta1, <double> step))
    s.eps = eps
    rule.fn, rule.cost, rule.names, rule.required = adamax_rule, 0.4, ADAMAX_STREAMS, STATE + 2
    return rule


# nadam

cdef inline void nadam_elements(Adam s, INOUT param, IN grad, INOUT m, INOUT v, INOUT average, Py_ssize_t n,
                                int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        m[i] = s.beta1 * m[i] + s.one_minus_beta1 * g
        v[i] = s.beta2 * v[i] + s.one_minus_beta2 * (g * g)
        p = p * s.common.keep - (s.gamma * g + s.alpha * m[i]) / (sqrtf(v[i]) + s.eps)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void nadam_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    nadam_elements((<const Adam*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], n, flags)


cdef void nadam_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(nadam_loop, s, x, n, (<const Adam*> s).common.flags)


cdef tuple MOMENTS_STREAMS = ("param", "grad", "m", "v", "average")


def nadam(long long step, double lr, double beta1, double beta2, double eps, double mu, double mu_next,
          double mu_product, tuple common):
    """The rule of step `step`, with μₜ, μₜ₊₁ and μ₁ · … · μₜ."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    cdef double root = sqrt(1.0 - pow(beta2, <double> step))
    set_common(&s.common, lr, common)
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.gamma = lr * (1.0 - mu) / (1.0 - mu_product) * root
    s.alpha = lr * mu_next / (1.0 - mu_product * mu_next) * root
    s.eps = eps * root
    rule.fn, rule.cost, rule.names, rule.required = nadam_rule, 0.5, MOMENTS_STREAMS, STATE + 2
    return rule


# radam

cdef inline void radam_elements(Adam s, INOUT param, IN grad, INOUT m, INOUT v, INOUT average, Py_ssize_t n,
                                int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, d
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        m[i] = s.beta1 * m[i] + s.one_minus_beta1 * g
        v[i] = s.beta2 * v[i] + s.one_minus_beta2 * (g * g)
        d = s.alpha * m[i]
        if flags & RECTIFIED:
            d = d / (sqrtf(v[i]) + s.eps)
        p = p * s.common.keep - d
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void radam_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    radam_elements((<const Adam*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], n, flags)


cdef void radam_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise(radam_loop, s, x, n, (<const Adam*> s).common.flags)


def radam(long long step, double lr, double beta1, double beta2, double eps, tuple common):
    """The rule of step `step`: rectified once the variance of the adaptive rate is finite (ρₜ > 5)."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    cdef double t = <double> step
    cdef double power = pow(beta2, t)
    cdef double rho_inf = 2.0 / (1.0 - beta2) - 1.0
    cdef double rho = rho_inf - 2.0 * t * power / (1.0 - power)
    set_common(&s.common, lr, common)
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.eps = eps
    if rho > 5.0:
        s.alpha = (lr * sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
                   * sqrt(1.0 - power) / (1.0 - pow(beta1, t)))
        s.common.flags |= RECTIFIED
    else:
        s.alpha = lr / (1.0 - pow(beta1, t))
    rule.fn, rule.cost, rule.names, rule.required = radam_rule, 0.5, MOMENTS_STREAMS, STATE + 2
    return rule
