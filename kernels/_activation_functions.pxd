# Activation functions and their derivatives in branch-free float32 arithmetic, so that gcc vectorises the loops that
# use them: no call of libm, no table, no fused multiply-add, and the same bits at every level. exp is _math.pxd's, and
# the coefficients of the polynomials and rational functions are minimax fits with float32 coefficients.
#
# The largest error of a normal result in ULP (that of a subnormal one is at most 1.2 units of 2⁻¹⁴⁹):
#     sigmoid32           2.00        sigmoid_slope_of    1.5
#     tanh32              1.32        tanh_slope_of       1.5
#     silu32              2.00        silu_slope32        2.6
#     gelu32              2.2         gelu_slope32        2.3
#     gelu_tanh32         2.1         gelu_tanh_slope32   2.8
# A derivative of silu or gelu crosses 0; near that zero its ULP is 2⁻²⁶, that of the terms of which it is the sum.
#
# Every limit is the mathematical one, also where a formula would give inf · 0: silu(−inf) and gelu(−inf) are −0, the
# derivatives are 0 (or −0) at −inf and 1 at inf. A zero keeps its sign in tanh, silu and gelu. NaN gives NaN.

from _math cimport LN2_HI, LN2_LO, LOG2E, MAGIC, TWO64, TWO_64, as_bits, as_float, exp_curve, exp_scaled


cdef inline float magnitude(float x) noexcept nogil:
    """|x|."""
    return as_float(as_bits(x) & 0x7FFFFFFF)


cdef inline float with_sign(float a, float x) noexcept nogil:
    """a ≥ 0 with the sign of x."""
    return as_float(as_bits(a) | (as_bits(x) & 0x80000000U))


cdef inline float leading(float x) noexcept nogil:
    """The leading 12 bits of x's significand. x − leading(x) has 12 bits too; a product of two such parts is exact."""
    return as_float(as_bits(x) & 0xFFFFF000U)


cdef inline float at_most(float a, float bound) noexcept nogil:
    """min(a, bound); NaN if a is NaN."""
    return bound if a > bound else a


cdef inline float at_least(float a, float bound) noexcept nogil:
    """max(a, bound); NaN if a is NaN."""
    return bound if a < bound else a


cdef inline float expm1_parts(float x, float low, float* rest) noexcept nogil:
    """exp(x + low) − 1 as result + rest, for |x + low| ≤ 0.3475 and |low| much smaller than 1."""
    cdef float curve = exp_curve(x + low) + low
    cdef float m = x + curve
    rest[0] = (x - m) + curve
    return m


cdef inline void exp_factors(float x, float low, float magic, float* m, float* rest, float* power) noexcept nogil:
    """exp(x + low) = power · (1 + m + rest) / 2ᵉ with magic = MAGIC + 127 + e, power a power of 2, |m| < 0.42.

    low is the part of the exponent that x has no bits for. power must be in [2⁻¹²⁶, 2¹²⁷]. NaN gives NaN.
    """
    cdef float z = (x + low) * LOG2E + magic
    cdef float k = z - magic
    m[0] = expm1_parts(x - k * LN2_HI, low - k * LN2_LO, rest)
    power[0] = as_float(as_bits(z) << 23)


cdef inline float logistic(float x, float v, float low, bint far) noexcept nogil:
    """x / (1 + exp(v + low)). If far, exp(v + low) > 2⁸⁶: both sides of the fraction are scaled by 2⁻⁶⁰ then."""
    cdef float m, rest, power
    cdef float magic = MAGIC + <float> 67.0 if far else MAGIC + <float> 127.0
    cdef float scale = <float> 8.673617379884035e-19 if far else <float> 1.0
    exp_factors(v, low, magic, &m, &rest, &power)
    return (x * scale) / (power + (power * m + <float> 1.0))    # 1 is negligible if far


cdef inline float sigmoid32(float x) noexcept nogil:
    """σ(x) = 1 / (1 + exp(−x))."""
    cdef float m, rest, power
    cdef float t = at_most(at_least(x, <float> -104.0), <float> 40.0)
    exp_factors(-t, <float> 0.0, MAGIC + <float> 63.0, &m, &rest, &power)
    return TWO_64 / (power + (power * m + TWO_64))


cdef inline float silu32(float x) noexcept nogil:
    """x · σ(x)."""
    cdef float t = at_least(x, <float> -110.0)
    return logistic(t, -at_most(t, <float> 40.0), <float> 0.0, x < <float> -64.0)


cdef inline float tanh32(float x) noexcept nogil:
    """tanh(x): x + x³ · p(x²) for |x| < 0.625, else 1 − 2 / (exp(2 |x|) + 1) with the sign of x."""
    cdef float a = at_most(magnitude(x), <float> 10.0)      # tanh(10) rounds to 1
    cdef float s = a * a, q = s * s
    cdef float e = exp_scaled(a + a, MAGIC + <float> 127.0)
    cdef float far = <float> 1.0 - <float> 2.0 / (e + <float> 1.0)
    cdef float low = <float> -0.3333328366279602 + <float> 0.133314847946167 * s
    cdef float high = <float> -0.05374300479888916 + <float> 0.020649103447794914 * s
    cdef float near = low + q * (high + <float> -0.005715498700737953 * q)
    near = a + a * (s * near)
    return with_sign(near if a < <float> 0.625 else far, x)


cdef inline float gate_slope(float x, float w, float w_low, float v, float v_low) noexcept nogil:
    """The derivative of x · σ(v(x)), v odd, from v + v_low = −|v(x)| and w + w_low = |x| · v'(x).

    For x < 0 it is e · (1 + e − w) / (1 + e)² with e = exp(−|v|), and the derivatives at x and −x add up to 1. t is
    1 + e − w, and low and lost are the rounding errors of t and of d = (1 + e)².
    """
    cdef float m, rest, power, e, q, d, lost, s, t, low
    exp_factors(v, v_low, MAGIC + <float> 191.0, &m, &rest, &power)
    e = (<float> 1.0 + m) * (power * TWO_64)
    q = (e + e) + e * e
    d = <float> 1.0 + q
    lost = (q - (d - <float> 1.0)) * (<float> 1.0 - <float> 0.75 * e)
    s = <float> 1.0 - w
    e = e - w_low
    t = s + e
    low = ((s - t) + e) + (<float> 1.0 - (s + w))
    t = (power * (t + (t * m + (t * (rest - lost) + low)))) / (d * TWO64)
    return <float> 1.0 - t if x >= <float> 0.0 else t


cdef inline float silu_slope32(float x) noexcept nogil:
    """The derivative of silu: σ(x) · (1 + x · (1 − σ(x)))."""
    cdef float a = at_most(magnitude(x), <float> 110.0)
    return gate_slope(x, a, <float> 0.0, -a, <float> 0.0)


cdef inline void density(float a, float s, float* m, float* power) noexcept nogil:
    """2⁶⁴ · exp(−a² / 2) / √(2π) = power · (1 + m) for 0 ≤ a < 15, s = a² rounded.

    a² / 2 is taken in two parts, since an exponent rounded to float32 would cost up to 100 ULP.
    """
    cdef float high = leading(a)
    cdef float low = ((a + high) * (a - high)) * <float> 0.5
    cdef float magic = MAGIC + <float> 191.0
    cdef float z = (s * (<float> -0.5 * LOG2E) - <float> 1.3257480647361592) + magic
    cdef float k = z - magic, rest
    # 0.9189453125 − 6.7792953e-6 = ln √(2π)
    m[0] = expm1_parts(high * high * <float> -0.5 - (k * LN2_HI + <float> 0.9189453125),
                       <float> 6.779295327330459e-06 - (k * LN2_LO + low), &rest)
    power[0] = as_float(as_bits(z) << 23)


cdef inline float gelu32(float x) noexcept nogil:
    """x · Φ(x), Φ the normal distribution function.

    |x| < 1.125: Φ(x) = ½ + x · p(x²), the leading term of p exact. Else max(x, 0) − |x| · Φ(−|x|), where
    a · Φ(−a) = φ(a) · (1 − d), d = n(a) / (a · r(a) + n(a)): Mills' ratio Φ(−a) / φ(a) as a rational function.
    """
    cdef float a = at_most(magnitude(x), <float> 14.5)      # the result rounds to −0 below −14.5
    cdef float s = a * a, q = s * s
    cdef float m, power, p, n, d, h, t, near, far
    density(a, s, &m, &power)
    p = <float> 1.2535395622253418 + <float> 1.2959953546524048 * a
    p = p + s * ((<float> 0.6272519826889038 + <float> 0.16444818675518036 * a) + <float> 0.022454267367720604 * s)
    n = <float> 1.0 + <float> 0.5793384313583374 * a
    n = n + s * (<float> 0.1646023988723755 + <float> 0.022450923919677734 * a)
    d = n / (a * p + n)
    far = (power * (<float> 1.0 + (m - d * (<float> 1.0 + m)))) * TWO_64
    far = (x if x >= <float> 0.0 else <float> -0.0) - far
    p = <float> 0.05519226938486099 + <float> -0.06649017333984375 * s
    p = p + q * (<float> 0.009972373023629189 + <float> -0.0011843172833323479 * s)
    p = p + (q * q) * (<float> 0.00011160223220940679 + <float> -7.008331067481777e-06 * s)
    h = leading(x) * <float> 0.34375                  # exact
    t = <float> 0.5 + h
    near = x * (t + (((<float> 0.5 - t) + h) + ((x - leading(x)) * <float> 0.34375 + x * p)))
    return near if a < <float> 1.125 else far


cdef inline float gelu_slope32(float x) noexcept nogil:
    """The derivative of gelu: Φ(x) + x · φ(x).

    |x| < 0.5625: ½ + x · p(x²), the leading term of p exact. Else, for x < 0, −φ(a) · (a − a₀) · (1 + n(a) / r(a)) with
    a = −x and −a₀ the zero; the derivatives at x and −x add up to 1.
    """
    cdef float a = at_most(magnitude(x), <float> 14.75)
    cdef float s = a * a, q = s * s
    cdef float m, power, p, n, d, b, low, near, far
    density(a, s, &m, &power)
    n = <float> 0.6670907735824585 + <float> 0.5424352288246155 * a
    n = n + s * (<float> 0.1867627203464508 + <float> 0.02737569436430931 * a)
    d = <float> 1.0 + <float> 1.4767661094665527 * a
    d = d + s * (<float> 0.893979549407959 + <float> 0.26944220066070557 * a) + <float> 0.03641490638256073 * q
    d = n / d
    d = m + d * (<float> 1.0 + m)
    b = a - <float> 0.7517915368080139
    low = ((a - b) - <float> 0.7517915368080139) + <float> 1.211444988769017e-08
    far = (power * (b + (b * d + low))) * TWO_64
    far = <float> 1.0 + far if x >= <float> 0.0 else -far
    p = <float> 0.04788455739617348 + <float> -0.26596128940582275 * s
    p = p + q * ((<float> 0.05983718857169151 + <float> -0.009468523785471916 * s) + <float> 0.0010588016593828797 * q)
    near = (<float> 0.5 + leading(x) * <float> 0.75) + ((x - leading(x)) * <float> 0.75 + x * p)
    return near if a < <float> 0.5625 else far


cdef inline float cubic(float x, float head, float tail, float* low) noexcept nogil:
    """√(8 / π) · x + (head + tail) · x³ as result + low for |x| ≤ 11.25, exact to 1e-7 or 2⁻²⁵ of it; head has 8 bits.

    c is x rounded to a multiple of 1/32, so that the leading parts of the terms are exact.
    """
    cdef float c = (x + <float> 393216.0) - <float> 393216.0
    cdef float rest = x - c, s = c * c
    cdef float p = head * s + <float> 1.595768928527832
    cdef float p_high = as_float(as_bits(p) & 0xFFFFFE00U)
    low[0] = (rest * p + c * (p - p_high)) + x * (
        (head + tail) * (rest * (x + c)) + (tail * s + <float> 1.9307789878020287e-07))
    return c * p_high


cdef inline float gelu_tanh32(float x) noexcept nogil:
    """x / 2 · (1 + tanh(v / 2)) = x · σ(v), v = √(8 / π) · (x + 0.044715 x³)."""
    cdef float low
    cdef float t = at_least(x, <float> -11.25)              # the result rounds to −0 below −11.25
    cdef float v = cubic(at_most(t, <float> 7.0), <float> 0.0712890625, <float> 6.57537726002494e-05, &low)
    return logistic(t, -v, -low, x < <float> -9.0)


cdef inline float gelu_tanh_slope32(float x) noexcept nogil:
    """The derivative of gelu_tanh: σ(v) · (1 + x · v' · (1 − σ(v)))."""
    cdef float v_low, w_low
    cdef float a = at_most(magnitude(x), <float> 11.25)
    cdef float v = cubic(a, <float> 0.0712890625, <float> 6.57537726002494e-05, &v_low)
    cdef float w = cubic(a, <float> 0.2138671875, <float> 0.0001972613178007482, &w_low)
    return gate_slope(x, w, w_low, -v, -v_low)


cdef inline float sigmoid_slope_of(float y) noexcept nogil:
    """σ'(x) from y = σ(x)."""
    return y * (<float> 1.0 - y)


cdef inline float tanh_slope_of(float y) noexcept nogil:
    """1 − tanh(x)² from y = tanh(x)."""
    return (<float> 1.0 - y) * (<float> 1.0 + y)
