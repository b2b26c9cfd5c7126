# BatchNorm's loops over adjacent elements, of which _batchnorm_blocks.pxd makes the passes over a block. The words used
# here are defined in _batchnorm_order.pxd.
#
# A loop is written once. Its `flags` decide which terms exist and are literals where it is called, so that the compiler
# makes a loop of its own for each combination.

from _batchnorm_elements cimport FROM_ZERO, IN_PLACE, INFERENCE, RELU, gradient, kept, masked, normalised
from _batchnorm_order cimport Number
from _memory cimport IN, IN64, INOUT, INOUT64, prefetch

cdef enum:
    STRIP = 16          # elements of a strip; the last strip of a row has up to twice as many


# Prefetching, in arrays beyond the second-level cache and into it, line after line: loops that sum four rows at once
# read eight streams, which the processor's own prefetchers do not follow. Zen 4, one thread, time of forward and
# backward relative to fetching a line of each of the four rows at a time, into the first-level cache: (4096, 1024) 0.60
# and 0.62, (32, 64, 56, 56) 0.70 and 0.67, (64, 256, 14, 14) 0.83 and 0.83. Distances of 2048 to 8192 are alike.

cdef inline Py_ssize_t next_line(Py_ssize_t at, Py_ssize_t* row_end, Py_ssize_t stride, Py_ssize_t n) noexcept nogil:
    """`at`, or where it passes the end of a row of n elements, the place in the next row."""
    if at >= row_end[0]:
        at += stride - n
        row_end[0] += stride
    return at


# Loops over the `n` elements of a strip. `rows` (a literal: 4, 2 or 1) are summed at once. `step` (a literal)
# is 1 where every lane has constants of its own, 0 where all elements share one channel's.

cdef inline void add_forward_strip(IN x, Py_ssize_t stride, int rows, Py_ssize_t n, IN64 first, INOUT64 s, INOUT64 q,
                                   int step, int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double k, sum_, square, d
    for i in range(n):
        k = first[step * i]
        sum_ = 0.0 if flags & FROM_ZERO else s[i]
        square = 0.0 if flags & FROM_ZERO else q[i]
        for r in range(rows):
            d = <double> x[r * stride + i] - k
            sum_ = sum_ + d
            square = square + d * d
        s[i], q[i] = sum_, square


cdef inline void write_forward_strip(IN x, INOUT y, Py_ssize_t n, const Number* center, const Number* factor,
                                     const Number* shift, int step, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float v
    for i in range(n):
        v = normalised(x[i], center[step * i], factor[step * i], shift[step * i])
        y[i] = kept(v, not v < <float> 0.0) if flags & RELU else v


cdef inline void add_backward_strip(IN x, IN dy, Py_ssize_t stride, int rows, Py_ssize_t n, IN64 mean, IN center,
                                    IN factor, IN offset, INOUT64 s, INOUT64 q, int step, int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double m, sum_, product, g
    cdef float k, a, b
    for i in range(n):
        m = mean[step * i]
        sum_ = 0.0 if flags & FROM_ZERO else s[i]
        product = 0.0 if flags & FROM_ZERO else q[i]
        k = center[step * i] if flags & RELU else 0.0
        a = factor[step * i] if flags & RELU else 0.0
        b = offset[step * i] if flags & RELU else 0.0
        for r in range(rows):
            g = masked(dy[r * stride + i], x[r * stride + i], k, a, b, flags)
            sum_ = sum_ + g
            product = product + g * (<double> x[r * stride + i] - m)
        s[i], q[i] = sum_, product


cdef inline void write_backward_strip(IN x, IN dy, INOUT dx, Py_ssize_t n, IN center, IN factor, IN offset, IN slope,
                                      IN shift, int step, int flags) noexcept nogil:
    cdef Py_ssize_t i, c
    cdef float g
    for i in range(n):
        c = step * i
        g = masked(dx[i] if flags & IN_PLACE else dy[i], x[i], center[c], factor[c], offset[c], flags)
        dx[i] = gradient(g, x[i], center[c], factor[c], slope[c], shift[c], flags)


# The same for any `n` adjacent elements: strips of STRIP elements (a literal as well) and the remainder. What is
# prefetched is `distance` elements further.

cdef inline void add_forward(const float* x, Py_ssize_t stride, int rows, Py_ssize_t n, const double* first, double* s,
                             double* q, int flags, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at, row_end = distance + n
    for strip in range(n // STRIP):
        at = strip * STRIP
        prefetch(x + distance, rows * STRIP)
        distance = next_line(distance + rows * STRIP, &row_end, stride, n)
        add_forward_strip(x + at, stride, rows, STRIP, first + at, s + at, q + at, 1, flags)
    at = n // STRIP * STRIP
    if at < n:
        prefetch(x + distance, rows * (n - at))
        add_forward_strip(x + at, stride, rows, n - at, first + at, s + at, q + at, 1, flags)


# The same for a channel's run of n >= STRIP lanes in a few rows, from 0: its sums stay in registers, or near, until all
# rows are added.

cdef inline void add_forward_column(const float* x, Py_ssize_t stride, Py_ssize_t rows, int n, const double* first,
                                    double* s, double* q) noexcept nogil:
    cdef Py_ssize_t i
    if rows >= 4:
        add_forward_strip(x, stride, 4, n, first, s, q, 0, FROM_ZERO)
    else:
        add_forward_strip(x, stride, 2, n, first, s, q, 0, FROM_ZERO)
    if rows == 8:
        add_forward_strip(x + 4 * stride, stride, 4, n, first, s, q, 0, 0)
    else:
        for i in range(4 if rows >= 4 else 2, rows):
            add_forward_strip(x + i * stride, stride, 1, n, first, s, q, 0, 0)


cdef inline void add_forward_run(const float* x, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n, const double* first,
                                 double* s, double* q) noexcept nogil:
    cdef Py_ssize_t strip, at
    if rows == 1:
        add_forward_strip(x, stride, 1, n, first, s, q, 0, FROM_ZERO)
        return
    for strip in range((n + STRIP // 2 - 1) // STRIP):
        at = min(strip * STRIP, n - STRIP)      # overlaps the previous strip: the same sums are computed again
        add_forward_column(x + at, stride, rows, STRIP, first, s + at, q + at)
    if 0 < n % STRIP <= STRIP // 2:
        at = n - STRIP // 2
        add_forward_column(x + at, stride, rows, STRIP // 2, first, s + at, q + at)


cdef inline void add_backward_column(const float* x, const float* dy, Py_ssize_t stride, Py_ssize_t rows, int n,
                                     const double* mean, const float* center, const float* factor,
                                     const float* offset, double* s, double* q, int flags) noexcept nogil:
    if rows == 4:
        add_backward_strip(x, dy, stride, 4, n, mean, center, factor, offset, s, q, 0, flags | FROM_ZERO)
    else:
        add_backward_strip(x, dy, stride, 2, n, mean, center, factor, offset, s, q, 0, flags | FROM_ZERO)
    if rows == 3:
        add_backward_strip(x + 2 * stride, dy + 2 * stride, stride, 1, n, mean, center, factor, offset, s, q, 0, flags)


cdef inline void add_backward_run(const float* x, const float* dy, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n,
                                  const double* mean, const float* center, const float* factor, const float* offset,
                                  double* s, double* q, int flags) noexcept nogil:
    cdef Py_ssize_t strip, at
    if rows == 1:
        add_backward_strip(x, dy, stride, 1, n, mean, center, factor, offset, s, q, 0, flags | FROM_ZERO)
        return
    for strip in range((n + STRIP // 2 - 1) // STRIP):
        at = min(strip * STRIP, n - STRIP)
        add_backward_column(x + at, dy + at, stride, rows, STRIP, mean, center, factor, offset, s + at, q + at, flags)
    if 0 < n % STRIP <= STRIP // 2:
        at = n - STRIP // 2
        add_backward_column(x + at, dy + at, stride, rows, STRIP // 2, mean, center, factor, offset, s + at, q + at,
                            flags)


cdef inline void write_forward(const float* x, float* y, Py_ssize_t n, const Number* center, const Number* factor,
                               const Number* shift, int step, int flags, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at, c
    for strip in range(n // STRIP):
        at, c = strip * STRIP, step * strip * STRIP
        prefetch(x + at + distance, STRIP)
        prefetch(y + at + distance, STRIP)
        write_forward_strip(x + at, y + at, STRIP, center + c, factor + c, shift + c, step, flags)
    if n < STRIP:
        prefetch(x + distance, n)
        prefetch(y + distance, n)
        write_forward_strip(x, y, n, center, factor, shift, step, flags)
    elif n % STRIP:                     # overlaps the previous strip: the same values are written again
        at, c = n - STRIP, step * (n - STRIP)
        write_forward_strip(x + at, y + at, STRIP, center + c, factor + c, shift + c, step, flags)


cdef inline void add_backward(const float* x, const float* dy, Py_ssize_t stride, int rows, Py_ssize_t n,
                              const double* mean, const float* center, const float* factor, const float* offset,
                              double* s, double* q, int flags, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at, row_end = distance + n
    for strip in range(n // STRIP):
        at = strip * STRIP
        prefetch(x + distance, rows * STRIP)
        prefetch(dy + distance, rows * STRIP)
        distance = next_line(distance + rows * STRIP, &row_end, stride, n)
        add_backward_strip(x + at, dy + at, stride, rows, STRIP, mean + at, center + at, factor + at, offset + at,
                           s + at, q + at, 1, flags)
    at = n // STRIP * STRIP
    if at < n:
        prefetch(x + distance, rows * (n - at))
        prefetch(dy + distance, rows * (n - at))
        add_backward_strip(x + at, dy + at, stride, rows, n - at, mean + at, center + at, factor + at, offset + at,
                           s + at, q + at, 1, flags)


cdef inline void write_backward(const float* x, const float* dy, float* dx, Py_ssize_t n, const float* center,
                                const float* factor, const float* offset, const float* slope, const float* shift,
                                int step, int flags, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at, c
    for strip in range(n // STRIP):
        at, c = strip * STRIP, step * strip * STRIP
        prefetch(x + at + distance, STRIP)
        prefetch(dy + at + distance, STRIP)
        prefetch(dx + at + distance, STRIP)
        write_backward_strip(x + at, dy + at, dx + at, STRIP, center + c, factor + c, offset + c, slope + c, shift + c,
                             step, flags)
    at = n // STRIP * STRIP
    if n > STRIP and n % STRIP and not flags & IN_PLACE:
        at = n - STRIP                  # overlaps the previous strip: the same values are written again
        c = step * at
        write_backward_strip(x + at, dy + at, dx + at, STRIP, center + c, factor + c, offset + c, slope + c, shift + c,
                             step, flags)
    elif n % STRIP:
        c = step * at
        prefetch(x + at + distance, n - at)
        prefetch(dy + at + distance, n - at)
        prefetch(dx + at + distance, n - at)
        write_backward_strip(x + at, dy + at, dx + at, n - at, center + c, factor + c, offset + c, slope + c, shift + c,
                             step, flags)
