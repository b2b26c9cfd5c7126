# What is done to one block of BatchNorm: the loops over its elements, and a block's sums and results.
#
# A loop is written once, with `flags` that decide which terms exist and that are literals wherever it is called.

from _batchnorm_walk cimport IN_DOUBLE, INOUT_DOUBLE, Block, Lanes, Walk, fold_lanes, spread
from _common cimport IN, INOUT

# Variants of the element loops: literals in each.
cdef enum:
    RELU = 1
    IN_PLACE = 2        # out is the array read (x forward, dy backward): read through the same pointer
    FIXED = 4           # backward: mean and variance did not depend on x

cdef struct Job:
    Walk walk                       # of the sums, and of the elements where they are written tile by tile
    Walk wide                       # of the elements where they are written in a stage of their own
    bint backward
    int stages
    int flags
    const float* x
    const float* dy
    float* out
    void* memory                    # of the arrays of doubles
    Py_ssize_t room                 # from one to the next
    double* mean                    # of each channel, as the others here
    double* invstd
    double* scale                   # γ · invstd
    double* beta
    double* shift                   # forward: what is subtracted from x, and its factor;
    double* slope                   # backward: what is added to γ · invstd · dy, beside x times this factor
    double* first                   # forward: mean; backward: Σ dy
    double* second                  # forward: m2; backward: Σ dy · (x − mean)
    double* parts                   # the two of each block but the first
    double count
    double eps
    double momentum
    bint unbiased
    bint running_given              # mean and variance are running_mean and running_var, which stay as they are
    const float* gamma
    const float* beta_in
    float* running_mean
    float* running_var
    float* dgamma
    float* dbeta


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
        y[i] = normalised(y[i] if flags & IN_PLACE else x[i], mean[step * i], scale[step * i], beta[step * i], flags)


cdef inline double masked(float dy, double distance, double scale, double beta, int flags) noexcept nogil:
    """dy where y is positive or NaN; without ReLU, dy. What is at most 2⁻¹⁵⁰ is 0 as a float32."""
    if flags & RELU:
        return 0.0 if distance * scale + beta <= 7.006492321624085e-46 else <double> dy
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
            g = masked(dy[r * stride + i], d, a, b, flags)
            sum_ = sum_ + g
            product = product + g * d
        s[i], q[i] = sum_, product


cdef inline void write_backward_piece(IN x, IN dy, INOUT dx, Py_ssize_t n, IN_DOUBLE mean, IN_DOUBLE scale,
                                      IN_DOUBLE beta, IN_DOUBLE shift, IN_DOUBLE slope, int step,
                                      int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g
    for i in range(n):
        g = masked(dx[i] if flags & IN_PLACE else dy[i], <double> x[i] - mean[step * i] if flags & RELU else 0.0,
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
    """The last piece begins earlier if need be: what is written twice is the same, unless it was read from y."""
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
        if flags & IN_PLACE or at == 0:
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


# One block. Constants of the channels become those of the lanes; where lanes are channels they are used as they stand.

cdef inline const double* of_lanes(const Block* b, const double* channel, Lanes* room) noexcept nogil:
    if b.lanes == b.channels:
        return channel
    spread(b, channel, room.v)
    return room.v


cdef inline void finish_block(INOUT_DOUBLE mean, INOUT_DOUBLE m2, IN_DOUBLE s, IN_DOUBLE q, double inverse,
                              Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        mean[c] = mean[c] + s[c] * inverse
        m2[c] = q[c] - s[c] * (s[c] * inverse)


cdef inline void copy(INOUT_DOUBLE to, IN_DOUBLE values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = values[i]


cdef inline void sum_forward(const Job* job, const Block* b, double* mean, double* m2) noexcept nogil:
    cdef Lanes shift, s, q
    cdef const float* x = job.x + b.start
    cdef double inverse = 1.0 / b.count
    cdef const double* k
    cdef const double* sums
    cdef const double* squares
    cdef Py_ssize_t c, i, groups = b.rows // 4
    cdef Py_ssize_t ahead = ahead_of(4 * b.stride), turn = turn_of(groups, 4 * b.stride)
    for c in range(b.channels):
        mean[c] = x[c * b.inner]
    k = of_lanes(b, mean, &shift)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(groups):
        if i == turn:
            ahead += b.jump
        add_forward(x + 4 * i * b.stride, b.stride, 4, b.lanes, k, s.v, q.v, ahead)
    for i in range(4 * groups, b.rows):
        add_forward(x + i * b.stride, b.stride, 1, b.lanes, k, s.v, q.v, ahead)
    add_forward(x + b.rows * b.stride, b.stride, 1, b.tail, k, s.v, q.v, ahead)
    sums = fold_lanes(b, s.v)
    squares = fold_lanes(b, q.v)
    finish_block(mean, m2, sums, squares, inverse, b.channels)


cdef inline void block_sums(const Job* job, const Block* b, Lanes* s, Lanes* q, int flags) noexcept nogil:
    cdef Lanes rooms[3]
    cdef const double* mean = of_lanes(b, job.mean + b.channel, &rooms[0])
    cdef const double* scale = of_lanes(b, job.scale + b.channel, &rooms[1]) if flags & RELU else mean
    cdef const double* beta = of_lanes(b, job.beta + b.channel, &rooms[2]) if flags & RELU else mean
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef Py_ssize_t i, at, groups = b.rows // 4
    cdef Py_ssize_t ahead = ahead_of(4 * b.stride), turn = turn_of(groups, 4 * b.stride)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(groups):
        if i == turn:
            ahead += b.jump
        at = 4 * i * b.stride
        add_backward(x + at, dy + at, b.stride, 4, b.lanes, mean, scale, beta, s.v, q.v, flags, ahead)
    for i in range(4 * groups, b.rows):
        at = i * b.stride
        add_backward(x + at, dy + at, b.stride, 1, b.lanes, mean, scale, beta, s.v, q.v, flags, ahead)
    at = b.rows * b.stride
    add_backward(x + at, dy + at, b.stride, 1, b.tail, mean, scale, beta, s.v, q.v, flags, ahead)


cdef inline void sum_backward(const Job* job, const Block* b, double* sum_dy, double* product) noexcept nogil:
    cdef Lanes s, q
    if job.flags & RELU:
        block_sums(job, b, &s, &q, RELU)
    else:
        block_sums(job, b, &s, &q, 0)
    copy(sum_dy, fold_lanes(b, s.v), b.channels)
    copy(product, fold_lanes(b, q.v), b.channels)


cdef inline void block_forward(const Job* job, const Block* b, int flags) noexcept nogil:
    cdef Lanes rooms[3]
    cdef const float* x = job.x + b.start
    cdef float* y = job.out + b.start
    cdef const double* mean = job.shift + b.channel
    cdef const double* scale = job.slope + b.channel
    cdef const double* beta = job.beta + b.channel
    cdef Py_ssize_t i, c, at, length = b.rows * b.stride + b.tail
    cdef Py_ssize_t ahead = ahead_of(b.stride), turn = turn_of(b.rows, b.stride)
    if job.walk.runs:
        at = min(turn * b.stride, length)
        write_forward(x, y, at, mean, scale, beta, 0, flags, ahead)
        write_forward(x + at, y + at, length - at, mean, scale, beta, 0, flags, ahead + b.jump)
        return
    if b.inner >= RUN:
        turn, ahead = turn_of(b.images, b.image), ahead_of(b.image)
        for i in range(b.images):
            if i == turn:
                ahead += b.jump
            for c in range(b.channels):
                at = i * b.image + c * b.inner
                write_forward(x + at, y + at, b.inner, mean + c, scale + c, beta + c, 0, flags, ahead)
        return
    mean, scale, beta = of_lanes(b, mean, &rooms[0]), of_lanes(b, scale, &rooms[1]), of_lanes(b, beta, &rooms[2])
    for i in range(b.rows):
        if i == turn:
            ahead += b.jump
        at = i * b.stride
        write_forward(x + at, y + at, b.lanes, mean, scale, beta, 1, flags, ahead)
    at = b.rows * b.stride
    write_forward(x + at, y + at, b.tail, mean, scale, beta, 1, flags, ahead)


cdef inline void write_forward_block(const Job* job, const Block* b) noexcept nogil:
    if job.flags == 0: block_forward(job, b, 0)
    elif job.flags == RELU: block_forward(job, b, RELU)
    elif job.flags == IN_PLACE: block_forward(job, b, IN_PLACE)
    else: block_forward(job, b, RELU | IN_PLACE)


cdef inline void block_backward(const Job* job, const Block* b, int flags) noexcept nogil:
    cdef Lanes rooms[5]
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef float* dx = job.out + b.start
    cdef const double* mean = job.mean + b.channel
    cdef const double* scale = job.scale + b.channel
    cdef const double* beta = job.beta + b.channel
    cdef const double* shift = job.shift + b.channel
    cdef const double* slope = job.slope + b.channel
    cdef Py_ssize_t i, c, at, length = b.rows * b.stride + b.tail
    cdef Py_ssize_t ahead = ahead_of(b.stride), turn = turn_of(b.rows, b.stride)
    if job.walk.runs:
        at = min(turn * b.stride, length)
        write_backward(x, dy, dx, at, mean, scale, beta, shift, slope, 0, flags, ahead)
        write_backward(x + at, dy + at, dx + at, length - at, mean, scale, beta, shift, slope, 0, flags,
                       ahead + b.jump)
        return
    if b.inner >= RUN:
        turn, ahead = turn_of(b.images, b.image), ahead_of(b.image)
        for i in range(b.images):
            if i == turn:
                ahead += b.jump
            for c in range(b.channels):
                at = i * b.image + c * b.inner
                write_backward(x + at, dy + at, dx + at, b.inner, mean + c, scale + c, beta + c, shift + c, slope + c,
                               0, flags, ahead)
        return
    scale = of_lanes(b, scale, &rooms[1])
    mean = of_lanes(b, mean, &rooms[0]) if flags & RELU else scale
    beta = of_lanes(b, beta, &rooms[2]) if flags & RELU else scale
    shift = scale if flags & FIXED else of_lanes(b, shift, &rooms[3])
    slope = scale if flags & FIXED else of_lanes(b, slope, &rooms[4])
    for i in range(b.rows):
        if i == turn:
            ahead += b.jump
        at = i * b.stride
        write_backward(x + at, dy + at, dx + at, b.lanes, mean, scale, beta, shift, slope, 1, flags, ahead)
    at = b.rows * b.stride
    write_backward(x + at, dy + at, dx + at, b.tail, mean, scale, beta, shift, slope, 1, flags, ahead)


cdef inline void write_backward_block(const Job* job, const Block* b) noexcept nogil:
    if job.flags == 0: block_backward(job, b, 0)
    elif job.flags == 1: block_backward(job, b, 1)
    elif job.flags == 2: block_backward(job, b, 2)
    elif job.flags == 3: block_backward(job, b, 3)
    elif job.flags == 4: block_backward(job, b, 4)
    elif job.flags == 5: block_backward(job, b, 5)
    elif job.flags == 6: block_backward(job, b, 6)
    else: block_backward(job, b, 7)
