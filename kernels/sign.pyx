# Steps by the sign of a gradient.
#
# lion (Chen et al. 2023):          c = β₁ · m + (1 − β₁) · g
#                                   p ← p · (1 − lr · λ) − lr · sign(c)
#                                   m ← β₂ · m + (1 − β₂) · g
# rprop (Riedmiller and Braun 1993), torch.optim's form:
#                                   η ← η · η₊ where g · g′ > 0, η · η₋ where it is < 0, kept within its limits
#                                   p ← p − η · sign(g), but where g · g′ < 0 it stays
#                                   g′ ← g, but 0 where g · g′ < 0

from _memory cimport IN, INOUT
from _optimizer cimport (
    AVERAGE, GRAD, PARAM, STATE, Common, averaged, gradient, set_common, sign, specialise_shared,
)
from fastopt._runtime.driver cimport Rule

cdef struct Lion:
    Common common
    float lr
    float beta1
    float beta2
    float one_minus_beta1
    float one_minus_beta2


cdef inline void lion_elements(Lion s, INOUT param, IN grad, INOUT m, INOUT average, Py_ssize_t n,
                               int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        p = p * s.common.keep - s.lr * sign(s.beta1 * m[i] + s.one_minus_beta1 * g)
        m[i] = s.beta2 * m[i] + s.one_minus_beta2 * g
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void lion_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    lion_elements((<const Lion*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], n, flags)


cdef void lion_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(lion_loop, s, x, n, (<const Lion*> s).common.flags)


cdef tuple LION_STREAMS = ("param", "grad", "m", "average")


def lion(double lr, double beta1, double beta2, tuple common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Lion* s = <Lion*> rule.block
    set_common(&s.common, lr, common)
    s.lr = lr
    s.beta1, s.one_minus_beta1 = beta1, 1.0 - beta1
    s.beta2, s.one_minus_beta2 = beta2, 1.0 - beta2
    rule.fn, rule.cost, rule.names, rule.required = lion_rule, 0.2, LION_STREAMS, STATE + 1
    return rule


cdef struct Rprop:
    Common common
    float shrink        # η₋
    float grow          # η₊
    float least
    float most


cdef inline void rprop_elements(Rprop s, INOUT param, IN grad, INOUT prev, INOUT step_size, INOUT average,
                                Py_ssize_t n, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float p, g, turn, factor, eta
    for i in range(n):
        p = param[i]
        g = gradient(&s.common, grad[i], p, flags)
        turn = g * prev[i]
        factor = s.grow if turn > 0.0 else s.shrink if turn < 0.0 else <float> 1.0 if turn == 0.0 else turn
        eta = step_size[i] * factor
        eta = s.least if eta < s.least else eta
        eta = s.most if eta > s.most else eta
        g = <float> 0.0 if turn < 0.0 else g
        step_size[i] = eta
        prev[i] = g
        p = p * s.common.keep - eta * sign(g)
        param[i] = p
        if flags & AVERAGE:
            average[i] = averaged(&s.common, average[i], p)


cdef inline void rprop_loop(const void* s, float* const* x, Py_ssize_t n, int flags) noexcept nogil:
    rprop_elements((<const Rprop*> s)[0], x[PARAM], x[GRAD], x[STATE], x[STATE + 1], x[STATE + 2], n, flags)


cdef void rprop_rule(const void* s, float* const* x, Py_ssize_t n) noexcept nogil:
    specialise_shared(rprop_loop, s, x, n, (<const Rprop*> s).common.flags)


cdef tuple RPROP_STREAMS = ("param", "grad", "prev", "step_size", "average")


def rprop(double eta_minus, double eta_plus, double least, double most, tuple common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Rprop* s = <Rprop*> rule.block
    set_common(&s.common, 0.0, common)
    s.shrink, s.grow, s.least, s.most = eta_minus, eta_plus, least, most
    rule.fn, rule.cost, rule.names, rule.required = rprop_rule, 0.3, RPROP_STREAMS, STATE + 2
    return rule
