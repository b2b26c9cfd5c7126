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
    Walk walk
    bint backward
    int stages
    int flags
    const float* x
    const float* dy
    float* out
    double* mean                    # of each channel, as the others here
    double* invstd
    double* scale                   # γ · invstd
    double* beta
    double* shift                   # forward: what is subtracted from x, and its factor;
    double* slope                   # backward: dβ / n, and invstd² · s / n
    double* first                   # forward: mean; backward: Σ dy
    double* second                  # forward: m2; backward: Σ dy · (x − mean)
    double* parts                   # the two of each block
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


# Loops over `rows` (a literal, 4 or 1) rows of lanes. `step` (a literal): 1 where every lane has constants of its own,
# 0 where all have the same.

cdef inline void add_forward(IN x, Py_ssize_t stride, int rows, Py_ssize_t lanes, IN_DOUBLE shift, INOUT_DOUBLE s,
                             INOUT_DOUBLE q) noexcept nogil:
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


cdef inline void write_forward(IN x, INOUT y, Py_ssize_t stride, int rows, Py_ssize_t lanes, IN_DOUBLE mean,
                               IN_DOUBLE scale, IN_DOUBLE beta, int step, int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double m, a, b
    for i in range(lanes):
        m, a, b = mean[step * i], scale[step * i], beta[step * i]
        for r in range(rows):
            y[r * stride + i] = normalised(y[r * stride + i] if flags & IN_PLACE else x[r * stride + i], m, a, b,
                                           flags)


cdef inline double masked(float dy, float x, double mean, double scale, double beta, int flags) noexcept nogil:
    """dy where y is positive or NaN; without ReLU, dy."""
    if flags & RELU:
        return 0.0 if <float> ((<double> x - mean) * scale + beta) <= 0.0 else <double> dy
    return <double> dy


cdef inline void add_backward(IN x, IN dy, Py_ssize_t stride, int rows, Py_ssize_t lanes, IN_DOUBLE mean,
                              IN_DOUBLE scale, IN_DOUBLE beta, INOUT_DOUBLE s, INOUT_DOUBLE q,
                              int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double m, a, b, sum_, product, g
    for i in range(lanes):
        m, sum_, product = mean[i], s[i], q[i]
        a = scale[i] if flags & RELU else 0.0
        b = beta[i] if flags & RELU else 0.0
        for r in range(rows):
            g = masked(dy[r * stride + i], x[r * stride + i], m, a, b, flags)
            sum_ = sum_ + g
            product = product + g * (<double> x[r * stride + i] - m)
        s[i], q[i] = sum_, product


cdef inline void write_backward(IN x, IN dy, INOUT dx, Py_ssize_t stride, int rows, Py_ssize_t lanes, IN_DOUBLE mean,
                                IN_DOUBLE scale, IN_DOUBLE beta, IN_DOUBLE average, IN_DOUBLE slope, int step,
                                int flags) noexcept nogil:
    cdef Py_ssize_t i, r, at
    cdef double m, a, b, u, v, g
    for i in range(lanes):
        m, a = mean[step * i], scale[step * i]
        b = beta[step * i] if flags & RELU else 0.0
        u = 0.0 if flags & FIXED else average[step * i]
        v = 0.0 if flags & FIXED else slope[step * i]
        for r in range(rows):
            at = r * stride + i
            g = masked(dx[at] if flags & IN_PLACE else dy[at], x[at], m, a, b, flags)
            if flags & FIXED:
                dx[at] = <float> (a * g)
            else:
                dx[at] = <float> (a * ((g - u) - (<double> x[at] - m) * v))


# One block. Constants of the channels become those of the lanes; where lanes are channels they are used as they stand.

cdef inline const double* of_lanes(const Block* b, const double* channel, Lanes* room) noexcept nogil:
    if b.lanes == b.channels:
        return channel
    spread(b, channel, room.v)
    return room.v


cdef inline void sum_forward(const Job* job, const Block* b, double* mean, double* m2) noexcept nogil:
    cdef Lanes shift, s, q
    cdef const float* x = job.x + b.start
    cdef Py_ssize_t c, i
    for c in range(b.channels):
        mean[c] = x[c * b.inner]
    spread(b, mean, shift.v)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(b.rows // 4):
        add_forward(x + 4 * i * b.stride, b.stride, 4, b.lanes, shift.v, s.v, q.v)
    for i in range(b.rows // 4 * 4, b.rows):
        add_forward(x + i * b.stride, b.stride, 1, b.lanes, shift.v, s.v, q.v)
    add_forward(x + b.rows * b.stride, b.stride, 1, b.tail, shift.v, s.v, q.v)
    fold_lanes(b, s.v, shift.v)         # shift: now Σ (x − K) of the channels
    fold_lanes(b, q.v, m2)
    for c in range(b.channels):
        mean[c] = mean[c] + shift.v[c] / b.count
        m2[c] = m2[c] - shift.v[c] * (shift.v[c] / b.count)


cdef inline void block_sums(const Job* job, const Block* b, Lanes* s, Lanes* q, int flags) noexcept nogil:
    cdef Lanes rooms[3]
    cdef const double* mean = of_lanes(b, job.mean + b.channel, &rooms[0])
    cdef const double* scale = of_lanes(b, job.scale + b.channel, &rooms[1]) if flags & RELU else NULL
    cdef const double* beta = of_lanes(b, job.beta + b.channel, &rooms[2]) if flags & RELU else NULL
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef Py_ssize_t i, at
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(b.rows // 4):
        at = 4 * i * b.stride
        add_backward(x + at, dy + at, b.stride, 4, b.lanes, mean, scale, beta, s.v, q.v, flags)
    for i in range(b.rows // 4 * 4, b.rows):
        at = i * b.stride
        add_backward(x + at, dy + at, b.stride, 1, b.lanes, mean, scale, beta, s.v, q.v, flags)
    at = b.rows * b.stride
    add_backward(x + at, dy + at, b.stride, 1, b.tail, mean, scale, beta, s.v, q.v, flags)


cdef inline void sum_backward(const Job* job, const Block* b, double* sum_dy, double* product) noexcept nogil:
    cdef Lanes s, q
    if job.flags & RELU:
        block_sums(job, b, &s, &q, RELU)
    else:
        block_sums(job, b, &s, &q, 0)
    fold_lanes(b, s.v, sum_dy)
    fold_lanes(b, q.v, product)


cdef inline void block_forward(const Job* job, const Block* b, int flags) noexcept nogil:
    cdef Lanes rooms[3]
    cdef const float* x = job.x + b.start
    cdef float* y = job.out + b.start
    cdef const double* mean = job.shift + b.channel
    cdef const double* scale = job.slope + b.channel
    cdef const double* beta = job.beta + b.channel
    cdef Py_ssize_t i, at
    if job.walk.runs:
        write_forward(x, y, 0, 1, b.rows * b.stride + b.tail, mean, scale, beta, 0, flags)
        return
    mean, scale, beta = of_lanes(b, mean, &rooms[0]), of_lanes(b, scale, &rooms[1]), of_lanes(b, beta, &rooms[2])
    for i in range(b.rows // 4):
        at = 4 * i * b.stride
        write_forward(x + at, y + at, b.stride, 4, b.lanes, mean, scale, beta, 1, flags)
    for i in range(b.rows // 4 * 4, b.rows):
        at = i * b.stride
        write_forward(x + at, y + at, b.stride, 1, b.lanes, mean, scale, beta, 1, flags)
    at = b.rows * b.stride
    write_forward(x + at, y + at, b.stride, 1, b.tail, mean, scale, beta, 1, flags)


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
    cdef const double* average = job.shift + b.channel
    cdef const double* slope = job.slope + b.channel
    cdef Py_ssize_t i, at
    if job.walk.runs:
        write_backward(x, dy, dx, 0, 1, b.rows * b.stride + b.tail, mean, scale, beta, average, slope, 0, flags)
        return
    mean, scale = of_lanes(b, mean, &rooms[0]), of_lanes(b, scale, &rooms[1])
    if flags & RELU:
        beta = of_lanes(b, beta, &rooms[2])
    if not flags & FIXED:
        average, slope = of_lanes(b, average, &rooms[3]), of_lanes(b, slope, &rooms[4])
    for i in range(b.rows // 4):
        at = 4 * i * b.stride
        write_backward(x + at, dy + at, dx + at, b.stride, 4, b.lanes, mean, scale, beta, average, slope, 1, flags)
    for i in range(b.rows // 4 * 4, b.rows):
        at = i * b.stride
        write_backward(x + at, dy + at, dx + at, b.stride, 1, b.lanes, mean, scale, beta, average, slope, 1, flags)
    at = b.rows * b.stride
    write_backward(x + at, dy + at, dx + at, b.stride, 1, b.tail, mean, scale, beta, average, slope, 1, flags)


cdef inline void write_backward_block(const Job* job, const Block* b) noexcept nogil:
    if job.flags == 0: block_backward(job, b, 0)
    elif job.flags == 1: block_backward(job, b, 1)
    elif job.flags == 2: block_backward(job, b, 2)
    elif job.flags == 3: block_backward(job, b, 3)
    elif job.flags == 4: block_backward(job, b, 4)
    elif job.flags == 5: block_backward(job, b, 5)
    elif job.flags == 6: block_backward(job, b, 6)
    else: block_backward(job, b, 7)
