# BatchNorm's loops over the elements of a block; the words used here are defined in _batchnorm_order.pxd.
#
# A loop is written once. Its `flags` decide which terms exist and are literals where it is called, so that the compiler
# makes a loop of its own for each combination.

from libc.math cimport INFINITY

from _batchnorm_order cimport Block, Lanes, Tiling, ahead, block_of, fold_lanes, spread
from _memory cimport IN, IN64, INOUT, INOUT64

cdef enum:
    RELU = 1
    IN_PLACE = 2        # dx is dy, or y is x: read through the pointer that is written
    INFERENCE = 4       # mean and variance do not depend on x

cdef enum:
    STRIP = 16          # elements of a strip; the last strip of a row has up to twice as many
    LONG_RUN = 96       # from this length on, runs are written one by one, with the channel's constants in registers

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
    double* center                  # y = (x − center) · factor + shift
    double* factor
    double* shift
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
    double* slope                   # dx = (x · slope + shift) + scale · dy
    double* shift


# Prefetching, in arrays beyond the caches. A tile's rows are short pieces of memory far from each other, and the
# processor's own prefetchers start anew with each. Measured on Zen 4 with one thread, time without prefetching relative
# to that with it: (64, 256, 14, 14) forward 1.33 to 1.39, backward 1.15 to 1.21; (32, 64, 56, 56) forward 1.20 to 1.38,
# backward 0.99 to 1.03. In the caches it costs time: (256, 1024) backward 0.70, (8, 512, 7, 7) backward 0.91.

cdef extern from *:
    """
    #ifdef __GNUC__
        #define fastopt_prefetch(address) __builtin_prefetch(address)
    #else
        #define fastopt_prefetch(address) ((void) (address))
    #endif
    """
    void prefetch_line "fastopt_prefetch"(const float* address) noexcept nogil


cdef inline void prefetch(const float* address, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range((n + 15) // 16):
        prefetch_line(address + 16 * i)


# Formulas of one element.

cdef extern from *:
    """
    #define FASTOPT_LARGEST 3.4028234663852886e38   /* float32 */
    """
    double LARGEST "FASTOPT_LARGEST"


cdef inline float as_scale(double scale) noexcept nogil:
    """Rounded to float32; finite values beyond its range become the largest, for which 0 · scale is 0."""
    scale = LARGEST if LARGEST < scale and scale < INFINITY else scale
    scale = -LARGEST if -INFINITY < scale and scale < -LARGEST else scale
    return <float> scale


cdef inline double masked(float dy, float x, double mean, double scale, double beta, int flags) noexcept nogil:
    """With RELU: dy where y, computed as forward computes it, is positive or NaN, else 0."""
    if flags & RELU and flags & INFERENCE:
        return 0.0 if (x - <float> mean) * as_scale(scale) + <float> beta <= <float> 0.0 else <double> dy
    if flags & RELU:                    # up to 2⁻¹⁵⁰ rounds to 0 in float32
        return 0.0 if (<double> x - mean) * scale + beta <= 7.006492321624085e-46 else <double> dy
    return <double> dy


# Loops over the `n` elements of a strip. `rows` (a literal, 4 or 1) are summed at once. `step` (a literal) is 1 where
# every lane has constants of its own, 0 where all elements share one channel's.

cdef inline void add_forward_strip(IN x, Py_ssize_t stride, int rows, Py_ssize_t n, IN64 first, INOUT64 s,
                                   INOUT64 q) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double k, sum_, square, d
    for i in range(n):
        k, sum_, square = first[i], s[i], q[i]
        for r in range(rows):
            d = <double> x[r * stride + i] - k
            sum_ = sum_ + d
            square = square + d * d
        s[i], q[i] = sum_, square


cdef inline void write_forward_strip(IN x, INOUT y, Py_ssize_t n, IN64 center, IN64 factor, IN64 shift, int step,
                                     int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float v
    for i in range(n):
        v = <float> ((<double> x[i] - center[step * i]) * factor[step * i] + shift[step * i])
        if flags & RELU:
            v = 0.0 if v < 0.0 else v
        y[i] = v


cdef inline void add_backward_strip(IN x, IN dy, Py_ssize_t stride, int rows, Py_ssize_t n, IN64 mean, IN64 scale,
                                    IN64 beta, INOUT64 s, INOUT64 q, int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double m, a, b, sum_, product, g, d
    for i in range(n):
        m, sum_, product = mean[i], s[i], q[i]
        a = scale[i] if flags & RELU else 0.0
        b = beta[i] if flags & RELU else 0.0
        for r in range(rows):
            d = <double> x[r * stride + i] - m
            g = masked(dy[r * stride + i], x[r * stride + i], m, a, b, flags)
            sum_ = sum_ + g
            product = product + g * d
        s[i], q[i] = sum_, product


cdef inline void write_backward_strip(IN x, IN dy, INOUT dx, Py_ssize_t n, IN64 mean, IN64 scale, IN64 beta,
                                      IN64 slope, IN64 shift, int step, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g
    for i in range(n):
        g = masked(dx[i] if flags & IN_PLACE else dy[i], x[i], mean[step * i] if flags & RELU else 0.0,
                   scale[step * i], beta[step * i] if flags & RELU else 0.0, flags)
        if flags & INFERENCE:
            dx[i] = <float> (scale[step * i] * g)
        else:
            dx[i] = <float> ((<double> x[i] * slope[step * i] + shift[step * i]) + scale[step * i] * g)


# The same for any `n` adjacent elements: strips of STRIP elements (a literal as well) and the remainder. What is
# prefetched is `distance` elements further.

cdef inline void add_forward(const float* x, Py_ssize_t stride, int rows, Py_ssize_t n, const double* first, double* s,
                             double* q, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at
    cdef int r
    for strip in range(n // STRIP):
        at = strip * STRIP
        for r in range(rows):
            prefetch(x + r * stride + at + distance, STRIP)
        add_forward_strip(x + at, stride, rows, STRIP, first + at, s + at, q + at)
    at = n // STRIP * STRIP
    if at < n:
        for r in range(rows):
            prefetch(x + r * stride + at + distance, n - at)
        add_forward_strip(x + at, stride, rows, n - at, first + at, s + at, q + at)


cdef inline void write_forward(const float* x, float* y, Py_ssize_t n, const double* center, const double* factor,
                               const double* shift, int step, int flags, Py_ssize_t distance) noexcept nogil:
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
                              const double* mean, const double* scale, const double* beta, double* s, double* q,
                              int flags, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at
    cdef int r
    for strip in range(n // STRIP):
        at = strip * STRIP
        for r in range(rows):
            prefetch(x + r * stride + at + distance, STRIP)
            prefetch(dy + r * stride + at + distance, STRIP)
        add_backward_strip(x + at, dy + at, stride, rows, STRIP, mean + at, scale + at, beta + at, s + at, q + at,
                           flags)
    at = n // STRIP * STRIP
    if at < n:
        for r in range(rows):
            prefetch(x + r * stride + at + distance, n - at)
            prefetch(dy + r * stride + at + distance, n - at)
        add_backward_strip(x + at, dy + at, stride, rows, n - at, mean + at, scale + at, beta + at, s + at, q + at,
                           flags)


cdef inline void write_backward(const float* x, const float* dy, float* dx, Py_ssize_t n, const double* mean,
                                const double* scale, const double* beta, const double* slope, const double* shift,
                                int step, int flags, Py_ssize_t distance) noexcept nogil:
    cdef Py_ssize_t strip, at, c
    for strip in range(n // STRIP):
        at, c = strip * STRIP, step * strip * STRIP
        prefetch(x + at + distance, STRIP)
        prefetch(dy + at + distance, STRIP)
        prefetch(dx + at + distance, STRIP)
        write_backward_strip(x + at, dy + at, dx + at, STRIP, mean + c, scale + c, beta + c, slope + c, shift + c, step,
                             flags)
    at = n // STRIP * STRIP
    if n > STRIP and n % STRIP and not flags & IN_PLACE:
        at = n - STRIP                  # overlaps the previous strip: the same values are written again
        c = step * at
        write_backward_strip(x + at, dy + at, dx + at, STRIP, mean + c, scale + c, beta + c, slope + c, shift + c, step,
                             flags)
    elif n % STRIP:
        c = step * at
        prefetch(x + at + distance, n - at)
        prefetch(dy + at + distance, n - at)
        prefetch(dx + at + distance, n - at)
        write_backward_strip(x + at, dy + at, dx + at, n - at, mean + c, scale + c, beta + c, slope + c, shift + c,
                             step, flags)


# One block.

cdef inline void sum_forward(const Forward* f, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    """Mean and m2 of each channel's values in a block. They are shifted by the first one."""
    cdef Lanes first, s, q
    cdef Block b = block_of(&f.tiling, tile, index, 4)
    cdef INOUT64 mean = f.sums + b.sums
    cdef INOUT64 m2 = f.sums + f.tiling.padded + b.sums
    cdef const float* x = f.x + b.start
    cdef const double* shifts
    cdef const double* sums
    cdef const double* squares
    cdef double inverse = 1.0 / b.count
    cdef Py_ssize_t c, i, at, fours = b.rows // 4
    for c in range(b.channels):
        mean[c] = x[c * b.channel_lanes]
    shifts = spread(&b, mean, &first)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(fours):
        at = 4 * i * b.stride
        add_forward(x + at, b.stride, 4, b.lanes, shifts, s.v, q.v, ahead(&b, at))
    for i in range(4 * fours, b.rows + 1):
        at = i * b.stride
        add_forward(x + at, b.stride, 1, b.lanes if i < b.rows else b.tail, shifts, s.v, q.v, ahead(&b, at))
    sums, squares = fold_lanes(&b, s.v), fold_lanes(&b, q.v)
    for c in range(b.channels):
        mean[c] = mean[c] + sums[c] * inverse
        m2[c] = squares[c] - sums[c] * (sums[c] * inverse)


cdef inline void add_backward_rows(const Backward* g, const Block* b, Lanes* s, Lanes* q, int flags) noexcept nogil:
    cdef Lanes lanes[3]
    cdef const double* mean = spread(b, g.mean + b.channel, &lanes[0])
    cdef const double* scale = spread(b, g.scale + b.channel, &lanes[1]) if flags & RELU else mean
    cdef const double* beta = spread(b, g.beta + b.channel, &lanes[2]) if flags & RELU else mean
    cdef const float* x = g.x + b.start
    cdef const float* dy = g.dy + b.start
    cdef Py_ssize_t i, at, fours = b.rows // 4
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(fours):
        at = 4 * i * b.stride
        add_backward(x + at, dy + at, b.stride, 4, b.lanes, mean, scale, beta, s.v, q.v, flags, ahead(b, at))
    for i in range(4 * fours, b.rows + 1):
        at = i * b.stride
        add_backward(x + at, dy + at, b.stride, 1, b.lanes if i < b.rows else b.tail, mean, scale, beta, s.v, q.v,
                     flags, ahead(b, at))


cdef inline void sum_backward(const Backward* g, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    """Σ dy and Σ dy · (x − mean) of each channel's values in a block."""
    cdef Lanes s, q
    cdef Block b = block_of(&g.tiling, tile, index, 4)
    cdef const double* sums
    cdef const double* products
    cdef Py_ssize_t c
    if g.flags & RELU and g.flags & INFERENCE:
        add_backward_rows(g, &b, &s, &q, RELU | INFERENCE)
    elif g.flags & RELU:
        add_backward_rows(g, &b, &s, &q, RELU)
    else:
        add_backward_rows(g, &b, &s, &q, 0)
    sums, products = fold_lanes(&b, s.v), fold_lanes(&b, q.v)
    for c in range(b.channels):
        g.sums[b.sums + c], g.sums[g.tiling.padded + b.sums + c] = sums[c], products[c]


cdef inline void write_forward_block(const Forward* f, Py_ssize_t tile, Py_ssize_t index, int flags) noexcept nogil:
    cdef Lanes lanes[3]
    cdef Block b = block_of(&f.tiling, tile, index, 1)
    cdef const float* x = f.x + b.start
    cdef float* y = f.y + b.start
    cdef const double* center = f.center + b.channel
    cdef const double* factor = f.factor + b.channel
    cdef const double* shift = f.shift + b.channel
    cdef Py_ssize_t i, c, at, run
    if b.run >= LONG_RUN:
        for i in range(b.outer):
            run = b.run if i > 0 else b.first_run
            for c in range(b.channels):
                at = i * b.outer_stride + c * run
                write_forward(x + at, y + at, run, center + c, factor + c, shift + c, 0, flags, ahead(&b, at))
        return
    center, factor = spread(&b, center, &lanes[0]), spread(&b, factor, &lanes[1])
    shift = spread(&b, shift, &lanes[2])
    for i in range(b.rows + 1):
        at = i * b.stride
        write_forward(x + at, y + at, b.lanes if i < b.rows else b.tail, center, factor, shift, 1, flags, ahead(&b, at))


cdef inline void write_backward_block(const Backward* g, Py_ssize_t tile, Py_ssize_t index, int flags) noexcept nogil:
    cdef Lanes lanes[5]
    cdef Block b = block_of(&g.tiling, tile, index, 1)
    cdef const float* x = g.x + b.start
    cdef const float* dy = g.dy + b.start
    cdef float* dx = g.dx + b.start
    cdef const double* mean = g.mean + b.channel
    cdef const double* scale = g.scale + b.channel
    cdef const double* beta = g.beta + b.channel
    cdef const double* slope = g.slope + b.channel
    cdef const double* shift = g.shift + b.channel
    cdef Py_ssize_t i, c, at, run
    if b.run >= LONG_RUN:
        for i in range(b.outer):
            run = b.run if i > 0 else b.first_run
            for c in range(b.channels):
                at = i * b.outer_stride + c * run
                write_backward(x + at, dy + at, dx + at, run, mean + c, scale + c, beta + c, slope + c, shift + c, 0,
                               flags, ahead(&b, at))
        return
    scale = spread(&b, scale, &lanes[0])
    mean = spread(&b, mean, &lanes[1]) if flags & RELU else scale
    beta = spread(&b, beta, &lanes[2]) if flags & RELU else scale
    slope = scale if flags & INFERENCE else spread(&b, slope, &lanes[3])
    shift = scale if flags & INFERENCE else spread(&b, shift, &lanes[4])
    for i in range(b.rows):             # a call of its own for the tail: with one for both, gcc spills pointers at v3
        at = i * b.stride
        write_backward(x + at, dy + at, dx + at, b.lanes, mean, scale, beta, slope, shift, 1, flags, ahead(&b, at))
    at = b.rows * b.stride
    write_backward(x + at, dy + at, dx + at, b.tail, mean, scale, beta, slope, shift, 1, flags, ahead(&b, at))


cdef inline void write_backward_by_flags(const Backward* g, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    if g.flags == 0: write_backward_block(g, tile, index, 0)
    elif g.flags == RELU: write_backward_block(g, tile, index, RELU)
    elif g.flags == IN_PLACE: write_backward_block(g, tile, index, IN_PLACE)
    elif g.flags == (RELU | IN_PLACE): write_backward_block(g, tile, index, RELU | IN_PLACE)
    elif g.flags == INFERENCE: write_backward_block(g, tile, index, INFERENCE)
    elif g.flags == (RELU | INFERENCE): write_backward_block(g, tile, index, RELU | INFERENCE)
    elif g.flags == (IN_PLACE | INFERENCE): write_backward_block(g, tile, index, IN_PLACE | INFERENCE)
    else: write_backward_block(g, tile, index, RELU | IN_PLACE | INFERENCE)
