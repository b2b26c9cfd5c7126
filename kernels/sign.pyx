# Steps by the sign of a gradient.
#
# lion (Chen et al. 2023):          c = β₁ · m + (1 − β₁) · g
#                                   p ← p · (1 − lr · λ) − lr · sign(c)
#                                   m ← β₂ · m + (1 − β₂) · g
# rprop (Riedmiller and Braun 1993), torch.optim's form:
#                                   η ← η · η₊ where g · g′ > 0, η · η₋ where it is < 0, kept within its limits
#                                   p ← p − η · sign(g), but where g · g′ < 0 it stays
#                                   g′ ← g, but 0 where g · g′ < 0

from _optimizer cimport FIRST, SECOND, Common, set_common, sign, specialise
from fastopt._runtime.driver cimport Rule

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


def lion(double lr, double beta1, double beta2, object common):
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


def rprop(double eta_minus, double eta_plus, double least, double most, object common):
    """The rule of any step."""
    cdef Rule rule = Rule.__new__(Rule)
    cdef Rprop* s = <Rprop*> rule.block
    set_common(rule, 0.0, common)
    s.shrink, s.grow, s.least, s.most = eta_minus, eta_plus, least, most
    rule.fn, rule.cost, rule.states = rprop_rule, 0.3, ("prev", "step_size")
    rule.uses |= FIRST | SECOND
    return rule
