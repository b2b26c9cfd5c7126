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
    MERGED = 0          # rows of Job.sums: the channel's two sums, then each block's
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
    double* gamma
    double* beta
    double* sums                    # forward: mean and m2; backward: Σ dy and Σ dy · (x − mean)
    double count
    double eps
    double momentum
    bint unbiased
    bint statistics_given           # mean and variance are running_mean and running_var, which stay as they are
    const float* gamma_in
    const float* beta_in
    float* running_mean
    float* running_var
    float* dgamma
    float* dbeta


# Loops over `rows` (a literal, 4 or 1) rows of lanes.

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
                               IN_DOUBLE scale, IN_DOUBLE beta, int flags) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef double m, a, b
    for i in range(lanes):
        m, a, b = mean[i], scale[i], beta[i]
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
                                IN_DOUBLE scale, IN_DOUBLE beta, IN_DOUBLE average, IN_DOUBLE slope,
                                int flags) noexcept nogil:
    cdef Py_ssize_t i, r, at
    cdef double m, a, b, u, v, g
    for i in range(lanes):
        m, a = mean[i], scale[i]
        b = beta[i] if flags & RELU else 0.0
        u = 0.0 if flags & FIXED else average[i]
        v = 0.0 if flags & FIXED else slope[i]
        for r in range(rows):
            at = r * stride + i
            g = masked(dx[at] if flags & IN_PLACE else dy[at], x[at], m, a, b, flags)
            if flags & FIXED:
                dx[at] = <float> (a * g)
            else:
                dx[at] = <float> (a * ((g - u) - (<double> x[at] - m) * v))


# One block.

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


cdef inline void scales(const Job* job, const Block* b, INOUT_DOUBLE scale) noexcept nogil:
    """γ · invstd of the block's channels."""
    cdef const double* gamma = job.gamma + b.channel
    cdef const double* invstd = job.invstd + b.channel
    cdef Py_ssize_t c
    for c in range(b.channels):
        scale[c] = gamma[c] * invstd[c]


cdef inline void block_sums(const Job* job, const Block* b, Lanes* mean, Lanes* scale, Lanes* beta, Lanes* s,
                            Lanes* q, int flags) noexcept nogil:
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef Py_ssize_t i, at
    for i in range(b.rows // 4):
        at = 4 * i * b.stride
        add_backward(x + at, dy + at, b.stride, 4, b.lanes, mean.v, scale.v, beta.v, s.v, q.v, flags)
    for i in range(b.rows // 4 * 4, b.rows):
        at = i * b.stride
        add_backward(x + at, dy + at, b.stride, 1, b.lanes, mean.v, scale.v, beta.v, s.v, q.v, flags)
    at = b.rows * b.stride
    add_backward(x + at, dy + at, b.stride, 1, b.tail, mean.v, scale.v, beta.v, s.v, q.v, flags)


cdef void sum_backward(const Job* job, const Block* b, double* sum_dy, double* product) noexcept nogil:
    cdef Lanes mean, scale, beta, s, q
    cdef Py_ssize_t i
    spread(b, job.mean + b.channel, mean.v)
    if job.flags & RELU:
        scales(job, b, s.v)
        spread(b, s.v, scale.v)
        spread(b, job.beta + b.channel, beta.v)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    if job.flags & RELU:
        block_sums(job, b, &mean, &scale, &beta, &s, &q, RELU)
    else:
        block_sums(job, b, &mean, &scale, &beta, &s, &q, 0)
    fold_lanes(b, s.v, sum_dy)
    fold_lanes(b, q.v, product)


cdef inline void block_forward(const Job* job, const Block* b, const Lanes* mean, const Lanes* scale,
                               const Lanes* beta, int flags) noexcept nogil:
    cdef const float* x = job.x + b.start
    cdef float* y = job.out + b.start
    cdef Py_ssize_t i, at
    for i in range(b.rows // 4):
        at = 4 * i * b.stride
        write_forward(x + at, y + at, b.stride, 4, b.lanes, mean.v, scale.v, beta.v, flags)
    for i in range(b.rows // 4 * 4, b.rows):
        at = i * b.stride
        write_forward(x + at, y + at, b.stride, 1, b.lanes, mean.v, scale.v, beta.v, flags)
    at = b.rows * b.stride
    write_forward(x + at, y + at, b.stride, 1, b.tail, mean.v, scale.v, beta.v, flags)


cdef void write_forward_block(const Job* job, const Block* b) noexcept nogil:
    cdef Lanes mean, scale, beta
    cdef const double* m2 = job.sums + job.walk.channels + b.channel
    cdef Py_ssize_t c
    scales(job, b, beta.v)
    for c in range(b.channels):
        mean.v[c] = job.mean[b.channel + c]
    if not job.statistics_given:
        for c in range(b.channels):     # a constant channel: +0 · −0 = −0, which changes no β, not even −0
            beta.v[c] = -0.0 * fabs(beta.v[c]) if m2[c] == 0.0 else beta.v[c]
            mean.v[c] = -0.0 if mean.v[c] == 0.0 else mean.v[c]
    spread(b, beta.v, scale.v)
    spread(b, mean.v, beta.v)
    for c in range(b.lanes):
        mean.v[c] = beta.v[c]
    spread(b, job.beta + b.channel, beta.v)
    if job.flags == 0: block_forward(job, b, &mean, &scale, &beta, 0)
    elif job.flags == RELU: block_forward(job, b, &mean, &scale, &beta, RELU)
    elif job.flags == IN_PLACE: block_forward(job, b, &mean, &scale, &beta, IN_PLACE)
    else: block_forward(job, b, &mean, &scale, &beta, RELU | IN_PLACE)


cdef inline void block_backward(const Job* job, const Block* b, const Lanes* mean, const Lanes* scale,
                                const Lanes* beta, const Lanes* average, const Lanes* slope,
                                int flags) noexcept nogil:
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef float* dx = job.out + b.start
    cdef Py_ssize_t i, at
    for i in range(b.rows // 4):
        at = 4 * i * b.stride
        write_backward(x + at, dy + at, dx + at, b.stride, 4, b.lanes, mean.v, scale.v, beta.v, average.v, slope.v,
                       flags)
    for i in range(b.rows // 4 * 4, b.rows):
        at = i * b.stride
        write_backward(x + at, dy + at, dx + at, b.stride, 1, b.lanes, mean.v, scale.v, beta.v, average.v, slope.v,
                       flags)
    at = b.rows * b.stride
    write_backward(x + at, dy + at, dx + at, b.stride, 1, b.tail, mean.v, scale.v, beta.v, average.v, slope.v, flags)


cdef void write_backward_block(const Job* job, const Block* b) noexcept nogil:
    cdef Lanes mean, scale, beta, average, slope
    cdef const double* sum_dy = job.sums + b.channel
    cdef const double* product = sum_dy + job.walk.channels
    cdef const double* invstd = job.invstd + b.channel
    cdef Py_ssize_t c
    for c in range(b.channels):
        mean.v[c] = sum_dy[c] / job.count
        beta.v[c] = (invstd[c] * invstd[c]) * (product[c] / job.count)
    spread(b, mean.v, average.v)
    spread(b, beta.v, slope.v)
    scales(job, b, beta.v)
    spread(b, beta.v, scale.v)
    spread(b, job.mean + b.channel, mean.v)
    spread(b, job.beta + b.channel, beta.v)
    if job.flags == 0: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 0)
    elif job.flags == 1: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 1)
    elif job.flags == 2: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 2)
    elif job.flags == 3: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 3)
    elif job.flags == 4: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 4)
    elif job.flags == 5: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 5)
    elif job.flags == 6: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 6)
    else: block_backward(job, b, &mean, &scale, &beta, &average, &slope, 7)


# One tile: the stages, block by block.

cdef inline double* block_sum(const Job* job, Py_ssize_t index, const Block* b) noexcept nogil:
    return job.sums + (index + 1) * 2 * job.walk.channels + b.channel


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
    cdef double* total = job.sums + b.channel
    cdef double* part = block_sum(job, 0, &b)
    cdef double n = b.count
    for c in range(b.channels):
        total[c] = part[c]
        total[all_channels + c] = part[all_channels + c]
    for index in range(1, job.walk.blocks):
        b = block_of(&job.walk, tile, index)
        part = block_sum(job, index, &b)
        if job.backward:
            merge_sums(total, total + all_channels, part, part + all_channels, b.channels)
        else:
            merge_statistics(total, total + all_channels, part, part + all_channels, n, b.count, b.channels)
        n += b.count


cdef void finish_tile(const Job* job, Py_ssize_t tile) noexcept nogil:
    """What follows from a channel's sums; the running statistics are written here."""
    cdef Block b = block_of(&job.walk, tile, 0)
    cdef Py_ssize_t c
    cdef double first, second, variance, take = job.momentum
    for c in range(b.channel, b.channel + b.channels):
        first, second = job.sums[c], job.sums[job.walk.channels + c]
        if job.backward:
            job.dbeta[c] = <float> first
            job.dgamma[c] = <float> (second * job.invstd[c])
            continue
        job.gamma[c], job.beta[c] = job.gamma_in[c], job.beta_in[c]
        if job.statistics_given:
            first, variance = job.running_mean[c], job.running_var[c]
        else:
            variance = second / job.count
        job.mean[c] = first
        job.invstd[c] = 1.0 / sqrt(variance + job.eps)
        if job.running_mean != NULL and not job.statistics_given:
            if job.unbiased:
                variance = second / (job.count - 1.0)
            job.running_mean[c] = <float> ((1.0 - take) * job.running_mean[c] + take * first)
            job.running_var[c] = <float> ((1.0 - take) * job.running_var[c] + take * variance)


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


cdef int allocate_sums(Job* job) except -1:
    cdef Py_ssize_t blocks = job.walk.blocks if job.stages & SUM else 0
    job.sums = <double*> malloc((blocks + 1) * 2 * job.walk.channels * sizeof(double))
    if job.sums == NULL:
        raise MemoryError
    return 0


def forward(Array x not None, Array gamma not None, Array beta not None, Array running_mean, Array running_var,
            Array y not None, Array saved not None, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, *,
            bint training, double momentum, double eps, bint unbiased, bint relu):
    """Write y; `saved` (4 × channels, float64) receives mean, invstd, gamma and beta. y may be x."""
    cdef Job job
    job.walk = walk(outer, channels, inner, 128)
    job.backward = False
    job.stages = SUM | FINISH | WRITE if training else FINISH | WRITE
    job.flags = (RELU if relu else 0) | (IN_PLACE if x.data == y.data else 0)
    job.x, job.out = <const float*> x.data, <float*> y.data
    job.gamma_in, job.beta_in = <const float*> gamma.data, <const float*> beta.data
    job.running_mean = <float*> running_mean.data if running_mean is not None else NULL
    job.running_var = <float*> running_var.data if running_var is not None else NULL
    job.mean = <double*> saved.data
    job.invstd, job.gamma, job.beta = job.mean + channels, job.mean + 2 * channels, job.mean + 3 * channels
    job.count = <double> outer * <double> inner
    job.momentum, job.eps, job.unbiased, job.statistics_given = momentum, eps, unbiased, not training
    allocate_sums(&job)
    with nogil:
        run(&job, 0.35 if training else 0.2)
        free(job.sums)


def backward(Array dy not None, Array x not None, Array saved not None, Array dx not None, Array dgamma not None,
             Array dbeta not None, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner, *, bint training,
             bint relu):
    """Write dx, dgamma and dbeta. dx may be dy."""
    cdef Job job
    job.walk = walk(outer, channels, inner, 128)
    job.backward = True
    job.stages = SUM | FINISH | WRITE
    job.flags = (RELU if relu else 0) | (IN_PLACE if dx.data == dy.data else 0) | (0 if training else FIXED)
    job.x, job.dy, job.out = <const float*> x.data, <const float*> dy.data, <float*> dx.data
    job.dgamma, job.dbeta = <float*> dgamma.data, <float*> dbeta.data
    job.mean = <double*> saved.data
    job.invstd, job.gamma, job.beta = job.mean + channels, job.mean + 2 * channels, job.mean + 3 * channels
    job.count = <double> outer * <double> inner
    allocate_sums(&job)
    with nogil:
        run(&job, 0.6)
        free(job.sums)
