# BatchNorm's constants of a channel, from its statistics and its sums of gradients: computed in double, rounded once.
# _batchnorm_elements.pxd has the formulas that use them, and says which channels are computed in double altogether.

from libc.math cimport fabs, sqrt

from _batchnorm_elements cimport LARGEST_TERM, if_normal, shift_of, slope_of, unless_larger
from _math cimport LARGEST
from _memory cimport IN, IN64, INOUT, INOUT64


cdef inline double y_center(double mean) noexcept nogil:
    """The mean, with −0 for 0: then x − center is +0 whether x is 0 or −0."""
    return -0.0 if mean == 0.0 else mean


cdef inline void constants(IN64 mean, IN64 m2, IN gamma, IN beta, double count, double eps, INOUT64 invstd,
                           INOUT64 scale, INOUT64 center, INOUT64 factor, INOUT64 shift,
                           Py_ssize_t channels) noexcept nogil:
    """y = (x − center) · factor + shift. In a constant channel that is 0 · −0 + β = β, even if β is −0."""
    cdef Py_ssize_t c
    cdef double inverse, a
    for c in range(channels):
        inverse = 1.0 / sqrt(m2[c] / count + eps)
        a = <double> gamma[c] * inverse
        invstd[c] = inverse
        scale[c] = a
        center[c] = y_center(mean[c])
        factor[c] = -0.0 * fabs(a) if m2[c] == 0.0 else a
        shift[c] = beta[c]


cdef inline double least_invstd(double count) noexcept nogil:
    """|x − mean| is at most √count / invstd, |x − center| at most twice that: up to 2¹²⁶ if invstd is not smaller."""
    return 2.0 * sqrt(count) / LARGEST_TERM


cdef inline double y_shift(double mean, double scale, double beta, float center) noexcept nogil:
    return beta if center == mean else beta + (center - mean) * scale


cdef inline double if_y_fits(double value, float center, double invstd, double scale, double shift,
                             double least) noexcept nogil:
    """value, or +inf in a channel where y's constants or terms do not fit in float32."""
    value = unless_larger(if_normal(value, scale), fabs(shift), LARGEST_TERM)
    value = unless_larger(value, fabs(center), LARGEST)
    return unless_larger(unless_larger(value, least, invstd), fabs(scale) * least, invstd)


cdef inline void constants32(IN64 mean, IN64 invstd, IN64 scale, IN64 beta, IN64 factor, double count, INOUT center32,
                             INOUT factor32, INOUT shift32, Py_ssize_t channels) noexcept nogil:
    """The constants of y in float32. Where they do not fit, the center is infinite."""
    cdef Py_ssize_t c
    cdef double least = least_invstd(count), m, shift
    for c in range(channels):
        m = y_center(mean[c])
        shift = y_shift(m, scale[c], beta[c], <float> m)
        center32[c] = <float> if_y_fits(m, <float> m, invstd[c], scale[c], shift, least)
        factor32[c] = <float> factor[c]
        shift32[c] = <float> shift


cdef inline void gradients(IN64 sum_dy, IN64 sum_dy_d, IN64 mean, IN64 invstd, IN64 scale, IN64 beta, double count,
                           INOUT dbeta, INOUT dgamma, INOUT center, INOUT factor, INOUT slope, INOUT shift,
                           Py_ssize_t channels, bint begun) noexcept nogil:
    """dx = scale · dy + ((x − center) · slope + shift). `begun` (a literal): center and factor are there already.

    Where they do not fit in float32, those of y included, the slope is infinite.
    """
    cdef Py_ssize_t c
    cdef double least = least_invstd(count), k, m, product, offset, value
    for c in range(channels):
        dbeta[c] = <float> sum_dy[c]
        dgamma[c] = <float> (sum_dy_d[c] * invstd[c])
        product = slope_of(scale[c], invstd[c], sum_dy_d[c], count)
        value = product
        if not begun:
            m = y_center(mean[c])
            center[c] = <float> m
            factor[c] = <float> scale[c]
            value = if_y_fits(value, center[c], invstd[c], scale[c], y_shift(m, scale[c], beta[c], center[c]),
                              least)
        k = center[c]
        offset = shift_of(scale[c], sum_dy[c], count) + (k - mean[c]) * product
        value = unless_larger(if_normal(value, product), fabs(offset), LARGEST_TERM)
        value = unless_larger(value, fabs(product) * least, invstd[c])
        slope[c] = <float> unless_larger(value, k, LARGEST)
        shift[c] = <float> offset
