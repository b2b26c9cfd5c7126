# Batch normalisation: Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1 and the gradients of its section 3.
#
#   mean = Σ x / n                          over the n values of a channel
#   m2 = Σ (x − mean)²                      variance: m2 / n
#   invstd = 1 / √(m2 / n + ε)
#   y = (x − mean) · (γ · invstd) + β       and optionally ReLU: y ← 0 if y < 0
#
#   dy ← 0 if y ≤ 0                         with ReLU
#   dβ = Σ dy,  s = Σ dy · (x − mean),  dγ = s · invstd
#   dx = (γ · invstd) · ((dy − dβ / n) − (x − mean) · (invstd² · s / n))
#   dx = (γ · invstd) · dy                  where mean and variance were given
#
# Statistics come from one pass. A block shifts its values by its first value of the channel, K (Chan, Golub and LeVeque
# 1983, "Algorithms for computing the sample variance"): with s = Σ (x − K) and q = Σ (x − K)²,
#
#   mean = K + s / n,  m2 = q − s² / n      (K − mean)² ≤ m2, so that of 53 bits at most log2(n + 1) cancel
#
# and blocks are merged in order by the same paper's formula. Everything is computed in double and rounded once, where
# it is stored as float32. In what order sums run: _batchnorm.pxd.

from libc.math cimport fabs, sqrt
from libc.stdlib cimport free, malloc

from _batchnorm cimport IN_DOUBLE, INOUT_DOUBLE, Block, Lanes, Walk, block_of, fold_lanes, spread, walk
from _common cimport IN, INOUT
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.channels cimport Layout
from fastopt._runtime.parallel cimport parallel_for, threads_for

# What a job does, in this order. A tile's tasks are independent of every other tile's.
cdef enum:
    SUM = 1             # the two sums of every block, merged to the channel's
    FINISH = 2          # what the elements need of a channel, and what the user gets of it
    WRITE = 4           # the elements

# Variants of the element loops: literals in each.
cdef enum:
    RELU = 1
    IN_PLACE = 2        # out is the array read (x forward, dy backward): read through the same pointer
    FIXED = 4           # backward: mean and variance did not depend on x

cdef enum:
    FEW_TILES = 8

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


# Loops over `rows` (a literal, 4 or 1) rows of lanes. `step` (a literal): 1 where every lane has constants of its own, 0
# where all have the same.

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


cdef void sum_forward(const Job* job, const Block* b, double* mean, double* m2) noexcept nogil:
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


cdef void sum_backward(const Job* job, const Block* b, double* sum_dy, double* product) noexcept nogil:
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


cdef void write_forward_block(const Job* job, const Block* b) noexcept nogil:
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


cdef void write_backward_block(const Job* job, const Block* b) noexcept nogil:
    if job.flags == 0: block_backward(job, b, 0)
    elif job.flags == 1: block_backward(job, b, 1)
    elif job.flags == 2: block_backward(job, b, 2)
    elif job.flags == 3: block_backward(job, b, 3)
    elif job.flags == 4: block_backward(job, b, 4)
    elif job.flags == 5: block_backward(job, b, 5)
    elif job.flags == 6: block_backward(job, b, 6)
    else: block_backward(job, b, 7)


# One tile: the stages, block by block.

cdef inline double* block_sum(const Job* job, Py_ssize_t index, const Block* b) noexcept nogil:
    return job.parts + index * 2 * job.walk.channels + b.channel


cdef void sum_block(const Job* job, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    cdef Block b = block_of(&job.walk, tile, index)
    cdef double* first = block_sum(job, index, &b)
    if job.backward:
        sum_backward(job, &b, first, first + job.walk.channels)
    else:
        sum_forward(job, &b, first, first + job.walk.channels)


cdef void write_block(const Job* job, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    cdef Block b = block_of(&job.walk, tile, index)
    if job.backward:
        write_backward_block(job, &b)
    else:
        write_forward_block(job, &b)


cdef inline void merge_statistics(INOUT_DOUBLE mean, INOUT_DOUBLE m2, IN_DOUBLE mean_b, IN_DOUBLE m2_b,
                                  double n, double n_b, Py_ssize_t channels) noexcept nogil:
    cdef double share = n_b / (n + n_b), weight = n * share, delta
    cdef Py_ssize_t c
    for c in range(channels):
        delta = mean_b[c] - mean[c]
        mean[c] = mean[c] + delta * share
        m2[c] = (m2[c] + m2_b[c]) + delta * delta * weight


cdef inline void merge_sums(INOUT_DOUBLE s, INOUT_DOUBLE q, IN_DOUBLE s_b, IN_DOUBLE q_b,
                            Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        s[c] = s[c] + s_b[c]
        q[c] = q[c] + q_b[c]


cdef void merge_tile(const Job* job, Py_ssize_t tile) noexcept nogil:
    cdef Block b = block_of(&job.walk, tile, 0)
    cdef Py_ssize_t all_channels = job.walk.channels, c, index
    cdef double* first = job.first + b.channel
    cdef double* second = job.second + b.channel
    cdef double* part = block_sum(job, 0, &b)
    cdef double n = b.count
    for c in range(b.channels):
        first[c] = part[c]
        second[c] = part[all_channels + c]
    for index in range(1, job.walk.blocks):
        b = block_of(&job.walk, tile, index)
        part = block_sum(job, index, &b)
        if job.backward:
            merge_sums(first, second, part, part + all_channels, b.channels)
        else:
            merge_statistics(first, second, part, part + all_channels, n, b.count, b.channels)
        n += b.count


cdef inline void invert(INOUT_DOUBLE invstd, IN_DOUBLE m2, double count, double eps,
                        Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        invstd[c] = 1.0 / sqrt(m2[c] / count + eps)


cdef inline void run_on(INOUT running, IN_DOUBLE new, double take, double divisor, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        running[c] = <float> ((1.0 - take) * <double> running[c] + take * (new[c] / divisor))


cdef inline void constants(IN gamma, IN_DOUBLE invstd, IN_DOUBLE mean, IN_DOUBLE m2, INOUT_DOUBLE scale,
                           INOUT_DOUBLE shift, INOUT_DOUBLE slope, Py_ssize_t channels) noexcept nogil:
    """Of a constant channel: +0 · −0 = −0, which changes no β, not even −0."""
    cdef Py_ssize_t c
    cdef double a
    for c in range(channels):
        a = <double> gamma[c] * invstd[c]
        scale[c] = a
        shift[c] = -0.0 if mean[c] == 0.0 else mean[c]
        slope[c] = -0.0 * fabs(a) if m2[c] == 0.0 else a


cdef void finish_forward(const Job* job, Py_ssize_t at, Py_ssize_t channels) noexcept nogil:
    """What the elements of the channels from `at` on need, and their running statistics."""
    cdef double* mean = job.mean + at
    cdef double* invstd = job.invstd + at
    cdef Py_ssize_t c
    if job.running_given:
        for c in range(channels):
            mean[c] = job.running_mean[at + c]
            job.shift[at + c] = mean[c]
            invstd[c] = 1.0 / sqrt(<double> job.running_var[at + c] + job.eps)
            job.scale[at + c] = job.gamma[at + c] * invstd[c]
            job.slope[at + c] = job.scale[at + c]
            job.beta[at + c] = job.beta_in[at + c]
        return
    for c in range(channels):
        mean[c] = job.first[at + c]
        job.beta[at + c] = job.beta_in[at + c]
    invert(invstd, job.second + at, job.count, job.eps, channels)
    constants(job.gamma + at, invstd, mean, job.second + at, job.scale + at, job.shift + at, job.slope + at, channels)
    if job.running_mean != NULL:
        run_on(job.running_mean + at, mean, job.momentum, 1.0, channels)
        run_on(job.running_var + at, job.second + at, job.momentum, job.count - (1.0 if job.unbiased else 0.0),
               channels)


cdef void finish_backward(const Job* job, Py_ssize_t at, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    cdef double sum_dy, product, invstd
    for c in range(at, at + channels):
        sum_dy, product, invstd = job.first[c], job.second[c], job.invstd[c]
        job.dbeta[c] = <float> sum_dy
        job.dgamma[c] = <float> (product * invstd)
        job.shift[c] = sum_dy / job.count
        job.slope[c] = (invstd * invstd) * (product / job.count)


cdef void finish_tile(const Job* job, Py_ssize_t tile) noexcept nogil:
    cdef Py_ssize_t at = tile * job.walk.tile_channels
    cdef Py_ssize_t channels = min(job.walk.tile_channels, job.walk.channels - at)
    if job.backward:
        finish_backward(job, at, channels)
    else:
        finish_forward(job, at, channels)


cdef void whole_tile(void* context, Py_ssize_t tile) noexcept nogil:
    cdef const Job* job = <const Job*> context
    cdef Py_ssize_t index
    if job.stages & SUM:
        for index in range(job.walk.blocks):
            sum_block(job, tile, index)
        merge_tile(job, tile)
    if job.stages & FINISH:
        finish_tile(job, tile)
    if job.stages & WRITE:
        for index in range(job.walk.blocks):
            write_block(job, tile, index)


# Or stage by stage, where tiles are few: every block of every tile is a task.

cdef void sum_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef const Job* job = <const Job*> context
    sum_block(job, task % job.walk.tiles, task // job.walk.tiles)


cdef void middle_task(void* context, Py_ssize_t tile) noexcept nogil:
    cdef const Job* job = <const Job*> context
    if job.stages & SUM:
        merge_tile(job, tile)
    if job.stages & FINISH:
        finish_tile(job, tile)


cdef void write_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef const Job* job = <const Job*> context
    write_block(job, task % job.walk.tiles, task // job.walk.tiles)


cdef void run(Job* job, double nanoseconds) noexcept nogil:
    cdef Walk* w = &job.walk
    cdef int threads = threads_for(nanoseconds * <double> w.outer * <double> w.channels * <double> w.inner)
    if threads == 1 or w.tiles >= FEW_TILES:
        parallel_for(whole_tile, job, w.tiles, threads)
        return
    if job.stages & SUM:
        parallel_for(sum_task, job, w.tiles * w.blocks, threads)
    parallel_for(middle_task, job, w.tiles, 1)
    if job.stages & WRITE:
        parallel_for(write_task, job, w.tiles * w.blocks, threads)


cdef int begin(Job* job, Layout layout, int stages, Array saved, Array first, Array second) except -1:
    """The job's arrays of one number a channel: `saved` outlives the call and so do the sums where they are given;
    job.shift is the rest, to be freed."""
    cdef Py_ssize_t blocks, channels = layout.channels
    job.walk = walk(layout.outer, channels, layout.inner)
    job.stages = stages
    job.x = <const float*> layout.x.data
    job.count = <double> layout.outer * <double> layout.inner
    blocks = job.walk.blocks if stages & SUM else 0
    job.shift = <double*> malloc((4 + 2 * blocks) * channels * sizeof(double))
    if job.shift == NULL:
        raise MemoryError
    job.slope, job.parts = job.shift + channels, job.shift + 4 * channels
    job.first = job.shift + 2 * channels if first is None else <double*> first.data
    job.second = job.shift + 3 * channels if second is None else <double*> second.data
    if saved is not None:
        job.mean = <double*> saved.data
        job.invstd, job.scale, job.beta = job.mean + channels, job.mean + 2 * channels, job.mean + 3 * channels
    return 0


def statistics(Layout layout not None, Array mean not None, Array m2 not None):
    """Write the mean and m2 of every channel."""
    cdef Job job
    job.backward, job.flags = False, 0
    begin(&job, layout, SUM, None, mean, m2)
    with nogil:
        run(&job, 0.15)
        free(job.shift)


def forward(Layout layout not None, Array gamma not None, Array beta not None, Array running_mean, Array running_var,
            Array y not None, Array saved not None, bint training, double momentum, double eps, bint unbiased,
            bint relu, double count, Array mean, Array m2):
    """Write y; `saved` (4 × channels, float64) receives mean, invstd, γ · invstd and β. y may be x.

    Training: by the statistics (count, mean, m2), or if they are None by those of x. Otherwise: by the running ones.
    """
    cdef Job job
    job.backward = False
    begin(&job, layout, SUM | FINISH | WRITE if training and mean is None else FINISH | WRITE, saved,
          mean, m2)
    job.flags = (RELU if relu else 0) | (IN_PLACE if layout.x.data == y.data else 0)
    job.out = <float*> y.data
    job.gamma, job.beta_in = <const float*> gamma.data, <const float*> beta.data
    job.running_mean = <float*> running_mean.data if running_mean is not None else NULL
    job.running_var = <float*> running_var.data if running_var is not None else NULL
    if mean is not None:
        job.count = count
    job.momentum, job.eps, job.unbiased, job.running_given = momentum, eps, unbiased, not training
    with nogil:
        run(&job, 0.35 if job.stages & SUM else 0.2)
        free(job.shift)


def backward_sums(Layout layout not None, Array dy not None, Array saved not None, bint relu, Array sum_dy not None,
                  Array product not None):
    """Write Σ dy and Σ dy · (x − mean) of every channel."""
    cdef Job job
    job.backward, job.flags, job.dy = True, RELU if relu else 0, <const float*> dy.data
    begin(&job, layout, SUM, saved, sum_dy, product)
    with nogil:
        run(&job, 0.25)
        free(job.shift)


def backward(Layout layout not None, Array dy not None, Array saved not None, Array dx not None,
             Array dgamma not None, Array dbeta not None, bint training, bint relu, double count, Array sum_dy,
             Array product):
    """Write dx, dgamma and dbeta, from the two sums or, if they are None, those of dy and x. dx may be dy."""
    cdef Job job
    job.backward = True
    begin(&job, layout, SUM | FINISH | WRITE if sum_dy is None else FINISH | WRITE, saved, sum_dy,
          product)
    job.flags = (RELU if relu else 0) | (IN_PLACE if dx.data == dy.data else 0) | (0 if training else FIXED)
    job.dy, job.out = <const float*> dy.data, <float*> dx.data
    job.dgamma, job.dbeta = <float*> dgamma.data, <float*> dbeta.data
    job.count = count
    with nogil:
        run(&job, 0.6 if job.stages & SUM else 0.35)
        free(job.shift)


def merge(Array mean not None, Array m2 not None, double n, Array mean_b not None, Array m2_b not None, double n_b):
    """Merge the statistics of n_b values into those of n."""
    merge_statistics(<double*> mean.data, <double*> m2.data, <const double*> mean_b.data, <const double*> m2_b.data,
                     n, n_b, mean.size)


def merge_gradients(Array s not None, Array q not None, Array s_b not None, Array q_b not None):
    """Add the sums of another part of the batch."""
    merge_sums(<double*> s.data, <double*> q.data, <const double*> s_b.data, <const double*> q_b.data, s.size)
