# Steps by the sign of a gradient, or by a ratio clipped at ±1.
#
# lion (Chen et al. 2023):          c = β₁ · m + (1 − β₁) · g
#                                   p ← p · (1 − lr · λ) − lr · sign(c)
#                                   m ← β₂ · m + (1 − β₂) · g
# rprop (Riedmiller and Braun 1993), torch.optim's form:
#                                   η ← η · η₊ where g · g′ > 0, η · η₋ where it is < 0, kept within its limits
#                                   p ← p − η · sign(g), but where g · g′ < 0 it stays
#                                   g′ ← g, but 0 where g · g′ < 0
# sophia (Liu et al. 2023), G:      m ← β₁ · m + (1 − β₁) · g
#                                   h ← β₂ · h + (1 − β₂) · ĥ   where there is an estimate ĥ of the Hessian's diagonal
#                                   p ← p · (1 − lr · λ) − lr · clip(m / max(ρ · h, ε), ±1)

from _memory cimport IN, INOUT
from _optimizer cimport FIRST, OWN, SECOND, THIRD, Common, greater, set_common, sign, specialise
from fastopt._runtime.driver cimport GRAD, STATE, Rule

cdef enum:
    ESTIMATED = OWN     # sophia: there is an estimate of the Hessian

cdef struct Lion:
    Common common
    float lr
    float beta1
    float beta2
    float one_minus_beta1
    float one_minus_beta2


cdef inline float lion_element(const void* scalars, float p, float g, float* m, float* _b, float* _c, float* _d,
                               int flags) noexcept nogil:
    cdef const Lion* s = <const Lion*> scalars
    p = p * s.common.keep - s.lr * sign(s.beta1 * m[0] + s.one_minus_beta1 * g)
    m[0] = s.beta2 * m[0] + s.one_minus_beta2 * g
    return p


cdef void lion_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Lion s = (<const Lion*> scalars)[0]
    specialise(lion_element, &s, x, n, 0, FIRST, FIRST)


def lion(long long step, double lr, double beta1, double beta2, object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Lion* s = <Lion*> rule.block
    set_common(rule, lr, common)
    s.lr = lr
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    rule.fn, rule.cost, rule.states = lion_rule, 0.2, ("m",)
    rule.uses |= FIRST
    return rule


# rprop

cdef struct Rprop:
    Common common
    float shrink        # η₋
    float grow          # η₊
    float least
    float most


cdef inline float rprop_element(const void* scalars, float p, float g, float* prev, float* step_size, float* _c,
                                float* _d, int flags) noexcept nogil:
    cdef const Rprop* s = <const Rprop*> scalars
    cdef float turn = g * prev[0]
    cdef float factor = <float> 1.0 if turn == 0.0 else turn
    cdef float eta
    factor = s.grow if turn > 0.0 else factor
    factor = s.shrink if turn < 0.0 else factor
    eta = step_size[0] * factor
    eta = s.least if eta < s.least else eta
    eta = s.most if eta > s.most else eta
    g = <float> 0.0 if turn < 0.0 else g
    step_size[0] = eta
    prev[0] = g
    return p * s.common.keep - eta * sign(g)


cdef void rprop_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Rprop s = (<const Rprop*> scalars)[0]
    specialise(rprop_element, &s, x, n, 0, FIRST | SECOND, FIRST | SECOND)


def rprop(long long step, double lr, double eta_minus, double eta_plus, double least, double most, object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Rprop* s = <Rprop*> rule.block
    set_common(rule, 0.0, common)
    s.shrink, s.grow, s.least, s.most = eta_minus, eta_plus, least, most
    rule.fn, rule.cost, rule.states = rprop_rule, 0.3, ("prev", "step_size")
    rule.uses |= FIRST | SECOND
    return rule


# sophia

cdef struct Sophia:
    Common common
    float lr
    float beta1
    float beta2
    float one_minus_beta1
    float one_minus_beta2
    float rho
    float eps


cdef inline float sophia_element(const void* scalars, float p, float g, float* m, float* h, float* hessian, float* _d,
                                 int flags) noexcept nogil:
    cdef const Sophia* s = <const Sophia*> scalars
    cdef float ratio
    m[0] = s.beta1 * m[0] + s.one_minus_beta1 * g
    if flags & ESTIMATED:
        h[0] = s.beta2 * h[0] + s.one_minus_beta2 * hessian[0]
    ratio = m[0] / greater(s.rho * h[0], s.eps)
    ratio = <float> -1.0 if ratio < <float> -1.0 else ratio
    ratio = <float> 1.0 if ratio > <float> 1.0 else ratio
    return p * s.common.keep - s.lr * ratio


cdef void sophia_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef Sophia s = (<const Sophia*> scalars)[0]
    if s.common.flags & ESTIMATED:
        specialise(sophia_element, &s, x, n, ESTIMATED, FIRST | SECOND | THIRD, FIRST | SECOND)
    else:
        specialise(sophia_element, &s, x, n, 0, FIRST | SECOND, FIRST)


def sophia(long long step, double lr, double beta1, double beta2, double rho, double eps, bint estimated,
           object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sophia* s = <Sophia*> rule.block
    set_common(rule, lr, common)
    s.lr, s.rho, s.eps = lr, rho, eps
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    rule.fn, rule.cost, rule.states = sophia_rule, 0.4, ("m", "h", "hessian")
    rule.uses |= FIRST | SECOND
    rule.reads |= THIRD
    if estimated:
        s.common.flags |= ESTIMATED
        rule.uses |= THIRD
    return rule


# The average of the Hessian's diagonal alone: the rule's gradient is the estimate.

cdef inline void average_estimates(INOUT h, IN estimate, Py_ssize_t n, float keep, float take) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        h[i] = keep * h[i] + take * estimate[i]


cdef void sophia_hessian_rule(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil:
    cdef const Sophia* s = <const Sophia*> scalars
    average_estimates(x[STATE + 1], x[GRAD], n, s.beta2, s.one_minus_beta2)


def sophia_hessian(double beta2):
    """A rule that updates h and nothing else."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Sophia* s = <Sophia*> rule.block
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    rule.fn, rule.cost, rule.states = sophia_hessian_rule, 0.2, ("m", "h")
    rule.uses = SECOND
    return rule
