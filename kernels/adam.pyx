# Adam: Kingma and Ba 2014 (arXiv:1412.6980), algorithm 1, with the bias corrections folded into two scalars (the
# paper's section 2, last paragraph), so that an element costs one division and one square root:
#
#   m ← β₁ · m + (1 − β₁) · g
#   v ← β₂ · v + (1 − β₂) · g²
#   u = max(u, v)                               amsgrad (Reddi et al. 2018); otherwise v stands for u
#   p ← p · (1 − lr · λ) − α · m / (√u + ε′)    α = lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ),  ε′ = ε · √(1 − β₂ᵗ)
#
# which is torch.optim's form. eps_hat puts ε on √v itself: ε′ = ε. Without bias correction √(1 − β₂ᵗ) and 1 − β₁ᵗ are
# 1 in both scalars. λ is AdamW's decoupled weight decay.
#
# With the same m and v:
#   adamax (the paper's section 7)     u ← max(β₂ · u, |g| + ε);  p ← p · (1 − lr · λ) − lr / (1 − β₁ᵗ) · m / u
#   nadam (Dozat 2016)                 p ← p · (1 − lr · λ) − (γ · g + α · m) / (√v + ε′)
#   radam (Liu et al. 2019)            p ← p · (1 − lr · λ) − α · m / (√v + ε), or − α · m as long as ρ ≤ 5

from libc.math cimport fabsf, pow, sqrt, sqrtf

from _optimizer cimport FIRST, OWN, SECOND, THIRD, Common, greater, set_common, specialise
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


cdef inline float adam_element(const void* scalars, float p, float g, float* m, float* v, float* vmax, float* _d,
                               int flags) noexcept nogil:
    cdef const Adam* s = <const Adam*> scalars
    cdef float u
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    v[0] = s.beta2 * v[0] + s.one_minus_beta2 * (g * g)
    u = v[0]
    if flags & AMSGRAD:
        u = greater(vmax[0], u)
        vmax[0] = u
    return p * s.common.keep - s.alpha * m[0] / (sqrtf(u) + s.eps)


cdef void adam_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adam s = (<const Adam*> scalars)[0]
    if s.common.flags & AMSGRAD:
        specialise(adam_element, &s, x, n, AMSGRAD, FIRST | SECOND | THIRD, FIRST | SECOND | THIRD)
    else:
        specialise(adam_element, &s, x, n, 0, FIRST | SECOND, FIRST | SECOND)


def adam(long long step, double lr, double beta1, double beta2, double eps, bint amsgrad, bint eps_hat,
         bint bias_correction, object common):
    """The rule of step `step`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    cdef double first = 1.0 - pow(beta1, <double> step) if bias_correction else 1.0
    cdef double root = sqrt(1.0 - pow(beta2, <double> step)) if bias_correction else 1.0
    set_common(rule, lr, common)
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.alpha = lr * root / first
    s.eps = eps if eps_hat else eps * root
    rule.fn, rule.cost, rule.states = adam_rule, 0.5, ("m", "v", "vmax")
    rule.uses |= FIRST | SECOND
    if amsgrad:
        s.common.flags |= AMSGRAD
        rule.uses |= THIRD
    return rule


# adamax

cdef inline float adamax_element(const void* scalars, float p, float g, float* m, float* u, float* _c, float* _d,
                                 int flags) noexcept nogil:
    cdef const Adam* s = <const Adam*> scalars
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    u[0] = greater(s.beta2 * u[0], fabsf(g) + s.eps)
    return p * s.common.keep - s.alpha * m[0] / u[0]


cdef void adamax_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adam s = (<const Adam*> scalars)[0]
    specialise(adamax_element, &s, x, n, 0, FIRST | SECOND, FIRST | SECOND)


def adamax(long long step, double lr, double beta1, double beta2, double eps, object common):
    """The rule of step `step`."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    set_common(rule, lr, common)
    s.beta1, s.one_minus_beta1, s.beta2 = beta1, 1.0 - beta1, beta2
    s.alpha = lr / (1.0 - pow(beta1, <double> step))
    s.eps = eps
    rule.fn, rule.cost, rule.states = adamax_rule, 0.4, ("m", "u")
    rule.uses |= FIRST | SECOND
    return rule


# nadam

cdef inline float nadam_element(const void* scalars, float p, float g, float* m, float* v, float* _c, float* _d,
                                int flags) noexcept nogil:
    cdef const Adam* s = <const Adam*> scalars
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    v[0] = s.beta2 * v[0] + s.one_minus_beta2 * (g * g)
    return p * s.common.keep - (s.gamma * g + s.alpha * m[0]) / (sqrtf(v[0]) + s.eps)


cdef void nadam_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adam s = (<const Adam*> scalars)[0]
    specialise(nadam_element, &s, x, n, 0, FIRST | SECOND, FIRST | SECOND)


def nadam(long long step, double lr, double beta1, double beta2, double eps, double mu, double mu_next,
          double mu_product, object common):
    """The rule of step `step`, with μₜ, μₜ₊₁ and μ₁ · … · μₜ."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    cdef double root = sqrt(1.0 - pow(beta2, <double> step))
    set_common(rule, lr, common)
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.gamma = lr * (1.0 - mu) / (1.0 - mu_product) * root
    s.alpha = lr * mu_next / (1.0 - mu_product * mu_next) * root
    s.eps = eps * root
    rule.fn, rule.cost, rule.states = nadam_rule, 0.5, ("m", "v")
    rule.uses |= FIRST | SECOND
    return rule


# radam

cdef inline float radam_element(const void* scalars, float p, float g, float* m, float* v, float* _c, float* _d,
                                int flags) noexcept nogil:
    cdef const Adam* s = <const Adam*> scalars
    cdef float d
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    v[0] = s.beta2 * v[0] + s.one_minus_beta2 * (g * g)
    d = s.alpha * m[0]
    if flags & RECTIFIED:
        d = d / (sqrtf(v[0]) + s.eps)
    return p * s.common.keep - d


cdef void radam_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Adam s = (<const Adam*> scalars)[0]
    if s.common.flags & RECTIFIED:
        specialise(radam_element, &s, x, n, RECTIFIED, FIRST | SECOND, FIRST | SECOND)
    else:
        specialise(radam_element, &s, x, n, 0, FIRST | SECOND, FIRST | SECOND)


def radam(long long step, double lr, double beta1, double beta2, double eps, object common):
    """The rule of step `step`: rectified once the variance of the adaptive rate is finite (ρₜ > 5)."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Adam* s = <Adam*> rule.block
    cdef double t = <double> step
    cdef double power = pow(beta2, t)
    cdef double rho_inf = 2.0 / (1.0 - beta2) - 1.0
    cdef double rho = rho_inf - 2.0 * t * power / (1.0 - power)
    set_common(rule, lr, common)
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    s.eps = eps
    if rho > 5.0:
        s.alpha = (lr * sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
                   * sqrt(1.0 - power) / (1.0 - pow(beta1, t)))
        s.common.flags |= RECTIFIED
    else:
        s.alpha = lr / (1.0 - pow(beta1, t))
    rule.fn, rule.cost, rule.states = radam_rule, 0.5, ("m", "v")
    rule.uses |= FIRST | SECOND
    return rule
