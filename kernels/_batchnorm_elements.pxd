# BatchNorm's elements: what passes know, and the formulas of one element. For the words see _batchnorm_order.pxd.
#
# They are computed in float32. Their constants are computed in double and rounded once:
#
#   y = (x − center) · factor + shift                       center = mean, factor = γ · invstd,
#                                                           shift = β + (center − mean) · factor
#   dx = factor · dy + ((x − center) · slope + shift)       slope = −factor · invstd² · Σ(dy · (x − mean)) / n,
#                                                           shift = −factor · Σdy / n + (center − mean) · slope
#
# where center − mean is what rounding changed. Where the mean is large beside the deviation, x − center is exact
# (Sterbenz). So the errors do not depend on the mean: at most 4 ULP of y's larger term and 11 · 2⁻²⁴ of dx's largest.
# (Products of 5 rounded factors and sums; a search for large errors found 3.5 and 7.8. In double 0.51 and 2.7, for up
# to twice the time.)
#
# The exception are channels with constants that are no normal numbers of float32, or with terms that might overflow by
# what the constants say (factor · dy may still overflow, for a single dy): the same formulas in double. A channel's own
# constants decide, so that a tile's other channels do not change a bit. In such a channel `center` of y, or `slope` of
# dx, is +inf in float32.

from libc.math cimport INFINITY, fabs

from _batchnorm_order cimport Number, Tiling
from _math cimport LARGEST, SMALLEST, as_bits, as_float, uint32_t

cdef enum:
    RELU = 1
    IN_PLACE = 2        # dx is dy, or y is x: read through the pointer that is written
    INFERENCE = 4       # mean and variance do not depend on x
    FROM_ZERO = 8       # sums begin here

cdef struct Constants:              # one number for each channel
    float* center
    float* factor
    float* shift

cdef struct Forward:                # arrays of doubles have one number for each channel
    Tiling tiling
    const float* x
    float* y
    const float* gamma
    const float* beta
    float* running_mean             # NULL: none
    float* running_var
    double momentum
    double eps
    double count                    # values of each channel
    bint unbiased
    int flags
    double* sums                    # mean and m2 of each block; those of the first become the channels'
    double* center                  # of y, in double
    double* factor
    double* shift
    Constants y32                   # in float32
    double* saved                   # mean, invstd, γ · invstd and β, one after the other: what backward needs

cdef struct Backward:
    Tiling tiling
    const float* x
    const float* dy
    float* dx
    float* dgamma
    float* dbeta
    double count
    int flags
    const double* mean              # as forward saved them
    const double* invstd
    const double* scale
    const double* beta
    double* sums                    # Σ dy and Σ dy · (x − mean), as in Forward
    Constants y32                   # as forward's, for RELU
    float* slope                    # of dx, in float32
    float* shift


cdef extern from *:
    """
    #define FASTOPT_LARGEST_TERM 8.507059173023462e37   /* 2^126 */
    """
    double LARGEST_TERM "FASTOPT_LARGEST_TERM"


cdef inline float as_scale(double scale) noexcept nogil:
    """Rounded to float32; finite values beyond its range become the largest, for which 0 · scale is 0."""
    scale = LARGEST if LARGEST < scale and scale < INFINITY else scale
    scale = -LARGEST if -INFINITY < scale and scale < -LARGEST else scale
    return <float> scale


cdef inline double unless_larger(double value, double a, double b) noexcept nogil:
    """value, or inf if a > b."""
    return INFINITY if a > b else value


cdef inline double if_normal(double value, double constant) noexcept nogil:
    """value, or inf if |constant| is larger than 2¹²⁶, or smaller than 2⁻¹²⁶ but not 0."""
    value = unless_larger(value, fabs(constant), LARGEST_TERM)
    return unless_larger(value, SMALLEST if constant != 0.0 else 0.0, fabs(constant))


cdef inline bint all_finite(const float* marks, Py_ssize_t n) noexcept nogil:
    """None is infinite."""
    cdef Py_ssize_t i
    cdef bint finite = True
    for i in range(n):
        finite &= marks[i] != <float> INFINITY
    return finite


cdef inline float normalised(float x, Number center, Number factor, Number shift) noexcept nogil:
    return <float> ((x - center) * factor + shift)


cdef inline float kept(float value, bint keep) noexcept nogil:
    """`value` or 0. (Written with `if`, gcc unrolls a strip before it looks for vectors and leaves branches.)"""
    return as_float(as_bits(value) & -<uint32_t> keep)


cdef inline float masked(float dy, float x, Number center, Number factor, Number shift, int flags) noexcept nogil:
    """With RELU: dy where y, computed as forward computes it, is positive or NaN, else 0."""
    if flags & RELU:
        return kept(dy, not normalised(x, center, factor, shift) <= <float> 0.0)
    return dy


cdef inline float gradient(float dy, float x, Number center, Number factor, Number slope, Number shift,
                           int flags) noexcept nogil:
    if flags & INFERENCE:
        return <float> (factor * dy)
    return <float> (factor * dy + ((x - center) * slope + shift))


cdef inline double slope_of(double scale, double invstd, double sum_dy_d, double count) noexcept nogil:
    return -(scale * ((invstd * invstd) * (sum_dy_d / count)))


cdef inline double shift_of(double scale, double sum_dy, double count) noexcept nogil:
    return -(scale * (sum_dy / count))


cdef inline float masked_by(const Backward* g, Py_ssize_t c, float dy, float x) noexcept nogil:
    """`masked` of channel c, in float32 or in double."""
    if g.flags & INFERENCE or g.y32.center[c] != <float> INFINITY:
        return masked(dy, x, g.y32.center[c], g.y32.factor[c], g.y32.shift[c], g.flags)
    return masked(dy, x, g.mean[c], g.scale[c], g.beta[c], g.flags)
