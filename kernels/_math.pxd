# exp and log1p in branch-free arithmetic, so that gcc vectorises the loops that use them: no call of libm, no table, no
# fused multiply-add, and the same bits at every level. scripts/elementary_table.py measures them over all 2³² inputs.
#
# exp, after Cody and Waite (Software Manual for the Elementary Functions, 1980):
#     k = round(x / ln 2),  r = x − k · ln 2 with ln 2 in two parts,  exp(x) = 2ᵏ · (1 + r + r² · q(r))
# q is a minimax polynomial; the relative error is 3.2e-9 for |r| ≤ 0.3475. Adding 2²³ + 2²² to x / ln 2 rounds it to k
# and leaves k in the low bits of the sum; shifted left by 23 they are the exponent of 2ᵏ.
#
# log1p: 1 + x = 2ᵏ · (1 + f) with 1 + f in [√½, √2), and log(1 + f) = 2 artanh(f / (2 + f)) by its series, in double.
# For k = 0, f is x itself, exactly, so that a tiny x keeps its precision.

from libc.math cimport INFINITY, NAN

cdef extern from "_math.h":
    ctypedef unsigned int uint32_t
    ctypedef unsigned long long uint64_t
    float as_float "fastopt_float"(uint32_t bits) noexcept nogil
    uint32_t as_bits "fastopt_bits"(float x) noexcept nogil
    double as_double "fastopt_double"(uint64_t bits) noexcept nogil
    uint64_t as_bits64 "fastopt_bits64"(double x) noexcept nogil
    double LARGEST "FASTOPT_LARGEST"
    double SMALLEST "FASTOPT_SMALLEST"
    float MAGIC "FASTOPT_MAGIC"
    float LOG2E "FASTOPT_LOG2E"
    float LN2_HI "FASTOPT_LN2_HI"
    float LN2_LO "FASTOPT_LN2_LO"
    float TWO64 "FASTOPT_TWO64"
    float TWO_64 "FASTOPT_TWO_64"
    uint64_t ROOT_HALF "FASTOPT_ROOT_HALF"
    uint64_t TWO52 "FASTOPT_TWO52"


cdef inline float exp_reduced(float x, float k) noexcept nogil:
    """r = x − k · ln 2 for the integer k nearest x / ln 2, |k| < 2¹⁰."""
    return (x - k * LN2_HI) - k * LN2_LO


cdef inline float exp_curve(float r) noexcept nogil:
    """exp(r) − 1 − r = r² · q(r) for |r| ≤ 0.3475, by Estrin's scheme, which shortens the dependency chain."""
    cdef float s = r * r
    cdef float low = <float> 0.4999999403953552 + <float> 0.1666652113199234 * r
    cdef float high = <float> 0.04166829213500023 + <float> 0.008368715643882751 * r
    high = high + <float> 0.0013818698935210705 * s
    return s * (low + s * high)


cdef inline float expm1_near(float r) noexcept nogil:
    """exp(r) − 1 for |r| ≤ 0.3475."""
    return r + exp_curve(r)


cdef inline float expm1_part(float x, float k) noexcept nogil:
    """exp(x − k · ln 2) − 1."""
    return expm1_near(exp_reduced(x, k))


cdef inline float exp_part(float x, float k) noexcept nogil:
    """exp(x − k · ln 2)."""
    return <float> 1.0 + expm1_part(x, k)


cdef inline void exp_begin(float x, float magic, float* r, float* power) noexcept nogil:
    """The first half of exp_scaled: the reduced argument and 2ᵏ⁺ᵉ."""
    cdef float z = x * LOG2E + magic
    r[0] = exp_reduced(x, z - magic)
    power[0] = as_float(as_bits(z) << 23)


cdef inline float exp_end(float r, float power) noexcept nogil:
    """The second half of exp_scaled."""
    return (<float> 1.0 + expm1_near(r)) * power


cdef inline float exp_scaled(float x, float magic) noexcept nogil:
    """2ᵉ · exp(x), where magic = MAGIC + 127 + e. |x| < 700, and the result must be in [2⁻¹²⁶, 2¹²⁷]; NaN gives NaN."""
    cdef float r, power
    exp_begin(x, magic, &r, &power)
    return exp_end(r, power)


cdef inline float exp32(float x) noexcept nogil:
    """exp(x) for every float32, with subnormal results, underflow to 0, overflow to inf, and NaN."""
    cdef float t = x, z
    cdef uint32_t n, half
    t = <float> -104.0 if t < <float> -104.0 else t         # exp(−104) rounds to 0
    t = <float> 89.0 if t > <float> 89.0 else t             # exp(89) rounds to inf
    z = t * LOG2E + (MAGIC + <float> 256.0)
    n = as_bits(z) & 511                                    # k + 256; two factors: 2ᵏ may be subnormal or overflow
    half = n >> 1
    return (exp_part(t, z - (MAGIC + <float> 256.0)) * as_float((half - 1) << 23)) * as_float((n - half - 1) << 23)


cdef inline double exp_split(float x, double* whole) noexcept nogil:
    """exp(x) − whole as a double with float32's relative precision; whole is 1 if x is near 0, else 0."""
    cdef float t = x, z, k
    cdef double two_k
    t = <float> -700.0 if t < <float> -700.0 else t         # so that 2ᵏ is a normal double
    t = <float> 700.0 if t > <float> 700.0 else t
    z = t * LOG2E + MAGIC
    k = z - MAGIC
    two_k = as_double((<uint64_t> ((as_bits(z) + 1023) & 2047)) << 52)
    whole[0] = 1.0 if k == <float> 0.0 else 0.0
    return two_k * <double> expm1_part(t, k) + (two_k - whole[0])


cdef inline float expm1_32(float x) noexcept nogil:
    """exp(x) − 1 for every float32."""
    cdef double whole
    cdef double y = exp_split(x, &whole)
    return <float> (y - (1.0 - whole))


cdef inline double log1p64(double x) noexcept nogil:
    """log(1 + x) for x > −1 with a relative error below 1e-11; inf and NaN are returned as they are."""
    cdef double u = 1.0 + x
    cdef uint64_t octaves = (as_bits64(u) - ROOT_HALF) >> 52        # k, modulo 2¹²
    cdef double k = as_double(((octaves + 2048) & 4095) | TWO52) - (4503599627370496.0 + 2048.0)
    cdef double f = as_double(as_bits64(u) - (octaves << 52)) - 1.0
    cdef double w, s, q, p
    f = x if k == 0.0 else f
    w = f / (2.0 + f)
    s = w * w
    q = s * s
    p = (1.0 / 11.0 + 1.0 / 13.0 * s) + 1.0 / 15.0 * q
    p = ((1.0 / 3.0 + 1.0 / 5.0 * s) + (1.0 / 7.0 + 1.0 / 9.0 * s) * q) + p * (q * q)
    p = k * 0.6931471805599453 + (2.0 * w + 2.0 * w * s * p)
    return x if x - x != 0.0 else p


cdef inline float log1p32(float x) noexcept nogil:
    """log(1 + x) for every float32: −inf at −1, NaN below −1, inf at inf, NaN at NaN."""
    cdef double y = log1p64(<double> x)
    y = -INFINITY if x == <float> -1.0 else y
    return <float> (NAN if x < <float> -1.0 else y)


cdef inline double exp_near(double x) noexcept nogil:
    """exp(x) for |x| < 0.4 with a relative error below 1e-11: the Taylor series in double."""
    cdef double s = x * x, q = s * s
    cdef double low = (1.0 + x) + (0.5 + 1.0 / 6.0 * x) * s
    cdef double middle = (1.0 / 24.0 + 1.0 / 120.0 * x) + (1.0 / 720.0 + 1.0 / 5040.0 * x) * s
    cdef double high = (1.0 / 40320.0 + 1.0 / 362880.0 * x) + 1.0 / 3628800.0 * s
    return low + (middle + high * q) * q
