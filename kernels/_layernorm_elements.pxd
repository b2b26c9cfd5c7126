# The elements of layer and RMS normalisation: y and dx from a row's constants.
#
# They are computed in float32. Their constants are computed in double and rounded once; for layer norm
#
#   y = ((x − center) · factor + shift) · γ + β             center = mean, factor = invstd,
#                                                           shift = (center − mean) · invstd
#   dx = (dy · γ) · factor + ((x − center) · slope + shift) slope = −invstd³ · Σ(g · (x − mean)) / D,
#                                                           shift = −invstd · Σg / D + (center − mean) · slope
#
# where center − mean is what rounding changed. Where the mean is large beside the deviation, x − center is exact
# (Sterbenz). So the errors do not depend on the mean: at most 5 ULP of the larger of y's terms (x − mean) · invstd · γ
# and β, and 12 · 2⁻²⁴ of dx's largest. (Roundings counted; a search for large errors found 4.5 and 6.9.) RMS norm has
# neither center nor shift, and errors of 3 ULP and 7 · 2⁻²⁴ (2.4 and 5.4 found).
#
# The exception are rows with constants that are no normal numbers of float32, or with terms that might overflow by what
# the constants say: the same in double. In such a row `center` of y, or `slope` of dx, is +inf in float32.

from libc.math cimport INFINITY, fabs, fabsf, sqrt

from _batchnorm_constants cimport least_invstd
from _batchnorm_elements cimport LARGEST_TERM, if_normal, unless_larger
from _math cimport LARGEST
from _memory cimport IN, IN64, INOUT, INOUT64

cdef enum:
    RMS = 1
    IN_PLACE = 2                # dx is dy: read through the pointer that is written
    CONSTANT = 4                # all elements of the row are equal


cdef inline void inverse_root(IN64 m2, Py_ssize_t n, double eps, int rows, INOUT64 invstd) noexcept nogil:
    cdef int r
    for r in range(rows):
        invstd[r] = 1.0 / sqrt(m2[r] / <double> n + eps)


cdef inline double if_terms_fit(double value, double center, double invstd, double least) noexcept nogil:
    """value, or inf in a row where center, invstd or (x − center) do not fit in float32."""
    value = unless_larger(if_normal(value, invstd), fabs(center), LARGEST)
    return unless_larger(value, least, invstd)


cdef inline void forward_constants(IN64 mean, IN64 invstd, Py_ssize_t n, int rows, INOUT center, INOUT factor,
                                   INOUT shift, int flags) noexcept nogil:
    cdef double least = least_invstd(<double> n), m
    cdef float c
    cdef int r
    for r in range(rows):
        m = 0.0 if flags & RMS else mean[r]
        c = <float> m
        center[r] = <float> if_terms_fit(m, c, invstd[r], least)
        factor[r] = <float> invstd[r]
        shift[r] = <float> ((c - m) * invstd[r])


cdef inline void write_forward(IN x, INOUT y, IN gamma, IN beta, Py_ssize_t n, float center, float factor, float shift,
                               int flags) noexcept nogil:
    """y; with CONSTANT (x − center is 0 or −0) that is (±0 + 0) · −|γ| + β = β, even if β is −0."""
    cdef Py_ssize_t i
    for i in range(n):
        if flags & RMS:
            y[i] = (x[i] * factor) * gamma[i]
        else:
            y[i] = ((x[i] - center) * factor + shift) * (-fabsf(gamma[i]) if flags & CONSTANT else gamma[i]) + beta[i]


cdef inline void write_forward64(IN x, INOUT y, IN gamma, IN beta, Py_ssize_t n, double center, double invstd,
                                 int flags) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if flags & RMS:
            y[i] = <float> (<double> x[i] * invstd * gamma[i])
        else:
            y[i] = <float> ((<double> x[i] - center) * invstd
                            * (-fabs(gamma[i]) if flags & CONSTANT else <double> gamma[i]) + beta[i])


cdef inline void backward_constants(IN64 sum_g, IN64 sum_g_d, IN64 mean, IN64 invstd, Py_ssize_t n, int rows,
                                    INOUT center, INOUT factor, INOUT slope, INOUT shift, int flags) noexcept nogil:
    cdef double least = least_invstd(<double> n), m, i, product, offset, value
    cdef float c
    cdef int r
    for r in range(rows):
        i = invstd[r]
        m = 0.0 if flags & RMS else mean[r]
        c = <float> m
        product = -(i * ((i * i) * (sum_g_d[r] / <double> n)))
        offset = 0.0 if flags & RMS else -(i * (sum_g[r] / <double> n)) + (c - m) * product
        value = unless_larger(if_normal(if_terms_fit(product, c, i, least), product), fabs(offset), LARGEST_TERM)
        center[r] = c
        factor[r] = <float> i
        slope[r] = <float> unless_larger(value, fabs(product) * least, i)
        shift[r] = <float> offset


cdef inline void write_backward(IN x, IN dy, INOUT dx, IN gamma, Py_ssize_t n, float center, float factor, float slope,
                                float shift, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float g
    for i in range(n):
        g = (dx[i] if flags & IN_PLACE else dy[i]) * gamma[i]
        if flags & RMS:
            dx[i] = g * factor + x[i] * slope
        else:
            dx[i] = g * factor + ((x[i] - center) * slope + shift)


cdef inline void write_backward64(IN x, IN dy, INOUT dx, IN gamma, Py_ssize_t n, double mean, double invstd,
                                  double sum_g, double sum_g_d, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g, xhat, mean_g = sum_g / <double> n, mean_g_xhat = sum_g_d * invstd / <double> n
    for i in range(n):
        g = <double> (dx[i] if flags & IN_PLACE else dy[i]) * gamma[i]
        xhat = (<double> x[i] - mean) * invstd
        dx[i] = <float> (invstd * ((g if flags & RMS else g - mean_g) - xhat * mean_g_xhat))
