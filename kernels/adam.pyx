# Adam: Kingma and Ba 2014 (arXiv:1412.6980), algorithm 1, with the bias corrections drawn into two scalars (the
# paper's section 2, last paragraph), so that an element costs one division and one square root:
#
#   m ← β₁ · m + (1 − β₁) · g
#   v ← β₂ · v + (1 − β₂) · g²
#   u = max(u, v)                               amsgrad (Reddi et al. 2018); otherwise v stands for u
#   p ← p · (1 − lr · λ) − α · m / (√u + ε′)    α = lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ),  ε′ = ε · √(1 − β₂ᵗ)
#
# which is torch.optim's form. eps_hat puts ε on √v itself: ε′ = ε. λ is AdamW's decoupled weight decay.

from libc.math cimport pow, sqrt, sqrtf

from _common cimport AVERAGE, GRAD, IN, INOUT, OWN, PARAM, STATE, Common, averaged, gradient, set_common, specialise
from fastopt._runtime.driver cimport Rule

cdef enum:
    AMSGRAD = OWN

cdef struct Adam:
    Common common
    float beta1
    float beta2
    float one_minus_beta1
    float one_minus_beta2
    float alpha
    float eps


cdef inline void adam_elements(Adam s, INOUT param, IN grad, INOUT m, INOUT v, INOUT vmax, INOUT average,
                               Py_ssize_t n, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, u, old
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        m[i] = s.beta1 * m[i] + s.one_minus_beta1 * g
        v[i] = s.beta2 * v[i] + s.one_minus_beta2 * (g * g)
        u = v[i]
        if flags & AMSGRAD:
            old = vmax[i]
            u = old if (old >= u) | (old != old) else u     # NaN stays, as in numpy.maximum
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
