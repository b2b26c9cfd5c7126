# BatchNorm's loops over elements.
#
# A loop is written once, with `flags` that decide which terms exist and that are literals wherever it is called.

from libc.math cimport INFINITY

from _batchnorm_walk cimport IN_DOUBLE, INOUT_DOUBLE
from _memory cimport IN, INOUT

# Variants of the element loops: literals in each.
cdef enum:
    RELU = 1
    IN_PLACE = 2        # dx is dy, or with given statistics y is x: read through the same pointer
    FIXED = 4           # backward: mean and variance did not depend on x

# Memory is asked for before it is needed: the hardware's own prefetchers lose a stream at the end of every row of a
# tile, and two streams of the same address in their pages.

cdef extern from *:
    """
    #ifdef __GNUC__
        #define fastopt_fetch(address) __builtin_prefetch(address)
    #else
        #define fastopt_fetch(address) ((void) (address))
    #endif
    """
    void fetch "fastopt_fetch"(const float* address) noexcept nogil

cdef enum:
    PIECE = 16          # elements between two requests, each of a line
    RUN = 96            # so many adjacent elements of a channel are written with its constants in registers
    NEAR = 1024         # elements from a request to its use, about


cdef inline Py_ssize_t ahead_of(Py_ssize_t length) noexcept nogil:
    """At least NEAR, in whole lengths."""
    return (NEAR + length - 1) // length * length


cdef inline Py_ssize_t turn_of(Py_ssize_t groups, Py_ssize_t length) noexcept nogil:
    """From this group of rows of so many elements on, what is `ahead_of` is not this block's."""
    return max(groups - (NEAR + length - 1) // length, 0)


# The formulas, on `lanes` elements (PIECE, or what is left) of `rows` rows (a literal, 4 or 1). `step` (a literal): 1
# where every lane has constants of its own, 0 where all have the same.

cdef inline void add_forward_piece(IN x, Py_ssize_t stride, int rows, Py_ssize_t lanes, IN_DOUBLE shift,
                                   INOUT_DOUBLE s, INOUT_DOUBLE q) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double k, sum_, square, d
    for i in range(lanes):
        k, sum_, square = shift[i], s[i], q[i]
        for r in range(rows):
            d = <double> x[r * stride + i] - k
            sum_ = sum_ + d
            square = square + d * d
        s[i], q[i] = sum_, square


cdef inline float normalised(float x, double mean, double scale, double beta, int flags) noexcept nogil:
    cdef float y = <float> ((<double> x - mean) * scale + beta)
    if flags & RELU:
        y = 0.0 if y < 0.0 else y
    return y


cdef inline void write_forward_piece(IN x, INOUT y, Py_ssize_t n, IN_DOUBLE mean, IN_DOUBLE scale, IN_DOUBLE beta,
                                     int step, int flags) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = normalised(x[i], mean[step * i], scale[step * i], beta[step * i], flags)


cdef extern from *:
    """
    #define FASTOPT_LARGEST 3.4028234663852886e38   /* float32 */
    """
    double LARGEST "FASTOPT_LARGEST"


cdef inline float as_scale(double scale) noexcept nogil:
    """Rounded; what is too large for a float32 becomes its largest, so that 0 times it is 0."""
    scale = LARGEST if LARGEST < scale and scale < INFINITY else scale
    scale = -LARGEST if -INFINITY < scale and scale < -LARGEST else scale
    return <float> scale


cdef inline double masked(float dy, float x, double mean, double scale, double beta, int flags) noexcept nogil:
    """dy where y, computed as forward does, is positive or NaN; without ReLU, dy."""
    if flags & RELU and flags & FIXED:
        return 0.0 if (x - <float> mean) * as_scale(scale) + <float> beta <= <float> 0.0 else <double> dy
    if flags & RELU:                    # what is at most 2⁻¹⁵⁰ is 0 as a float32
        return 0.0 if (<double> x - mean) * scale + beta <= 7.006492321624085e-46 else <double> dy
    return <double> dy


cdef inline void add_backward_piece(IN x, IN dy, Py_ssize_t stride, int rows, Py_ssize_t lanes, IN_DOUBLE mean,
                                    IN_DOUBLE scale, IN_DOUBLE beta, INOUT_DOUBLE s, INOUT_DOUBLE q,
                                    int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double m, a, b, sum_, product, g, d
    for i in range(lanes):
        m, sum_, product = mean[i], s[i], q[i]
        a = scale[i] if flags & RELU else 0.0
        b = beta[i] if flags & RELU else 0.0
        for r in range(rows):
            d = <double> x[r * stride + i] - m
            g = masked(dy[r * stride + i], x[r * stride + i], m, a, b, flags)
            sum_ = sum_ + g
            product = product + g * d
        s[i], q[i] = sum_, product


cdef inline void write_backward_piece(IN x, IN dy, INOUT dx, Py_ssize_t n, IN_DOUBLE mean, IN_DOUBLE scale,
                                      IN_DOUBLE beta, IN_DOUBLE shift, IN_DOUBLE slope, int step,
                                      int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g
    for i in range(n):
        g = masked(dx[i] if flags & IN_PLACE else dy[i], x[i], mean[step * i] if flags & RELU else 0.0,
                   scale[step * i], beta[step * i] if flags & RELU else 0.0, flags)
        if flags & FIXED:
            dx[i] = <float> (scale[step * i] * g)
        else:
            dx[i] = <float> ((<double> x[i] * slope[step * i] + shift[step * i]) + scale[step * i] * g)


# The same over whole rows, piece by piece; `ahead`: from an element to the one that is asked for.

cdef inline void add_forward(const float* x, Py_ssize_t stride, int rows, Py_ssize_t lanes, const double* shift,
                             double* s, double* q, Py_ssize_t ahead) noexcept nogil:
    cdef Py_ssize_t j, r, at
    for j in range(lanes // PIECE):
        at = j * PIECE
        for r in range(rows):
            fetch(x + r * stride + at + ahead)
        add_forward_piece(x + at, stride, rows, PIECE, shift + at, s + at, q + at)
    at = lanes // PIECE * PIECE
    if at < lanes:
        for r in range(rows):
            fetch(x + r * stride + at + ahead)
        add_forward_piece(x + at, stride, rows, lanes - at, shift + at, s + at, q + at)


cdef inline void write_forward(const float* x, float* y, Py_ssize_t n, const double* mean, const double* scale,
                               const double* beta, int step, int flags, Py_ssize_t ahead) noexcept nogil:
    """The last piece begins earlier if need be: what is written twice is the same."""
    cdef Py_ssize_t j, at, c
    for j in range(n // PIECE):
        at, c = j * PIECE, step * j * PIECE
        fetch(x + at + ahead)
        fetch(y + at + ahead)
        write_forward_piece(x + at, y + at, PIECE, mean + c, scale + c, beta + c, step, flags)
    at = n // PIECE * PIECE
    if at < n:
        fetch(x + at + ahead)
        fetch(y + at + ahead)
        if at == 0:
            c = step * at
            write_forward_piece(x + at, y + at, n - at, mean + c, scale + c, beta + c, step, flags)
        else:
            at = n - PIECE
            c = step * at
            write_forward_piece(x + at, y + at, PIECE, mean + c, scale + c, beta + c, step, flags)


cdef inline void add_backward(const float* x, const float* dy, Py_ssize_t stride, int rows, Py_ssize_t lanes,
                              const double* mean, const double* scale, const double* beta, double* s, double* q,
                              int flags, Py_ssize_t ahead) noexcept nogil:
    cdef Py_ssize_t j, r, at
    for j in range(lanes // PIECE):
        at = j * PIECE
        for r in range(rows):
            fetch(x + r * stride + at + ahead)
            fetch(dy + r * stride + at + ahead)
        add_backward_piece(x + at, dy + at, stride, rows, PIECE, mean + at, scale + at, beta + at, s + at, q + at,
                           flags)
    at = lanes // PIECE * PIECE
    if at < lanes:
        for r in range(rows):
            fetch(x + r * stride + at + ahead)
            fetch(dy + r * stride + at + ahead)
        add_backward_piece(x + at, dy + at, stride, rows, lanes - at, mean + at, scale + at, beta + at, s + at, q + at,
                           flags)


cdef inline void write_backward(const float* x, const float* dy, float* dx, Py_ssize_t n, const double* mean,
                                const double* scale, const double* beta, const double* shift, const double* slope,
                                int step, int flags, Py_ssize_t ahead) noexcept nogil:
    cdef Py_ssize_t j, at, c
    for j in range(n // PIECE):
        at, c = j * PIECE, step * j * PIECE
        fetch(x + at + ahead)
        fetch(dy + at + ahead)
        fetch(dx + at + ahead)
        write_backward_piece(x + at, dy + at, dx + at, PIECE, mean + c, scale + c, beta + c, shift + c, slope + c, step,
                             flags)
    at = n // PIECE * PIECE
    if at < n:
        fetch(x + at + ahead)
        fetch(dy + at + ahead)
        fetch(dx + at + ahead)
        if flags & IN_PLACE or at == 0:
            c = step * at
            write_backward_piece(x + at, dy + at, dx + at, n - at, mean + c, scale + c, beta + c, shift + c, slope + c,
                                 step, flags)
        else:
            at = n - PIECE
            c = step * at
            write_backward_piece(x + at, dy + at, dx + at, PIECE, mean + c, scale + c, beta + c, shift + c, slope + c,
                                 step, flags)
