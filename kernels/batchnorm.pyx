# Batch normalisation: Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1 and the gradients of its section 3.
#
#   mean = Σ x / n                          over the n values of a channel
#   m2 = Σ (x − mean)²                      variance: m2 / n
#   invstd = 1 / √(m2 / n + ε)
#   y = (x − mean) · (γ · invstd) + β       and optionally ReLU: y ← 0 if y < 0
#
#   dy ← 0 if y ≤ 0                         with ReLU
#   dβ = Σ dy,  s = Σ dy · (x − mean),  dγ = s · invstd
#   dx = γ · invstd · (dy − dβ / n − (x − mean) · invstd² · s / n)
#      = (x · slope + shift) + a · dy       a = γ · invstd, slope = −(a · (invstd² · s / n)),
#                                           shift = −(a · dβ / n + mean · slope)
#   dx = (γ · invstd) · dy                  where mean and variance were given
#
# Statistics come from one pass. A block shifts its values by its first value of the channel, K (Chan, Golub and LeVeque
# 1983, "Algorithms for computing the sample variance"): with s = Σ (x − K) and q = Σ (x − K)²,
#
#   mean = K + s / n,  m2 = q − s² / n      (K − mean)² ≤ m2, so that of 53 bits at most log2(n + 1) cancel
#
# and blocks are merged in order by the same paper's formula. Where statistics are given, y is computed in float32
# (_batchnorm_given.pxd). Everything else is computed in double and rounded once, where
# it is stored as float32. (In float32, with the mean in two parts, an element costs a third of the arithmetic, but dx
# is wrong by 7 ULP of its largest term at worst instead of 0.51, and 1 / √(var + ε) overflows below 2⁻¹²⁸. Beyond the
# second-level cache memory is the limit either way.)
#
# In what order sums run: _batchnorm_walk.pxd; the loops: _batchnorm_pieces.pxd; a block of them: _batchnorm_blocks.pxd.

from libc.math cimport fabs, sqrt
from libc.stdlib cimport free, malloc

from _batchnorm_blocks cimport Job, sum_backward, sum_forward, write_backward_block, write_forward_block
from _batchnorm_given cimport Given, given_task, repeat, scales, set_rows, tasks_of
from _batchnorm_pieces cimport FIXED, IN_PLACE, RELU
from _batchnorm_walk cimport IN_DOUBLE, INOUT_DOUBLE, Block, Walk, block_of, walk, wide_walk
from _memory cimport IN, INOUT
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.channels cimport Layout
from fastopt._runtime.parallel cimport parallel_for, threads_for

# What a job does, in this order. A tile's tasks are independent of every other tile's.
cdef enum:
    SUM = 1             # the two sums of every block, merged to the channel's
    FINISH = 2          # what the elements need of a channel, and what the user gets of it
    WRITE = 4           # the elements

cdef enum:
    FEW_TILES = 8
    MANY = 1024         # channels whose blocks' sums are merged on several threads
    HELD = 1048576      # bytes of an array that the second-level cache holds until they are read again, at least

# One tile: the stages, block by block.

cdef inline double* block_sum(const Job* job, int which, Py_ssize_t index, const Block* b) noexcept nogil:
    """Where a block's first or second sum is; the first block's are what the others are merged into."""
    if index == 0:
        return (job.second if which else job.first) + b.channel
    return job.parts + (2 * (index - 1) + which) * job.room + b.channel


cdef void sum_block(const Job* job, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    cdef Block b = block_of(&job.walk, tile, index)
    if job.backward:
        sum_backward(job, &b, block_sum(job, 0, index, &b), block_sum(job, 1, index, &b))
    else:
        sum_forward(job, &b, block_sum(job, 0, index, &b), block_sum(job, 1, index, &b))


cdef void write_block(const Job* job, const Walk* w, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    cdef Block b = block_of(w, tile, index)
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
    cdef Py_ssize_t index
    cdef double* first = job.first + b.channel
    cdef double* second = job.second + b.channel
    cdef double n = b.count
    for index in range(1, job.walk.blocks):
        b = block_of(&job.walk, tile, index)
        if job.backward:
            merge_sums(first, second, block_sum(job, 0, index, &b), block_sum(job, 1, index, &b), b.channels)
        else:
            merge_statistics(first, second, block_sum(job, 0, index, &b), block_sum(job, 1, index, &b), n, b.count,
                             b.channels)
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
    for c in range(channels):
        mean[c] = job.first[at + c]
        job.beta[at + c] = job.beta_in[at + c]
    invert(invstd, job.second + at, job.count, job.eps, channels)
    constants(job.gamma + at, invstd, mean, job.second + at, job.scale + at, job.shift + at, job.slope + at, channels)
    if job.running_mean != NULL:
        run_on(job.running_mean + at, mean, job.momentum, 1.0, channels)
        run_on(job.running_var + at, job.second + at, job.momentum, job.count - (1.0 if job.unbiased else 0.0),
               channels)


cdef inline void gradients(IN_DOUBLE sum_dy, IN_DOUBLE product, IN_DOUBLE mean, IN_DOUBLE invstd, IN_DOUBLE scale,
                           INOUT dbeta, INOUT dgamma, INOUT_DOUBLE shift, INOUT_DOUBLE slope, double n,
                           Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        dbeta[c] = <float> sum_dy[c]
        dgamma[c] = <float> (product[c] * invstd[c])
        slope[c] = -(scale[c] * ((invstd[c] * invstd[c]) * (product[c] / n)))
        shift[c] = -(scale[c] * (sum_dy[c] / n) + mean[c] * slope[c])


cdef void finish_backward(const Job* job, Py_ssize_t at, Py_ssize_t channels) noexcept nogil:
    gradients(job.first + at, job.second + at, job.mean + at, job.invstd + at, job.scale + at, job.dbeta + at,
              job.dgamma + at, job.shift + at, job.slope + at, job.count, channels)


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
            write_block(job, &job.walk, tile, index)


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
    write_block(job, &job.wide, task % job.wide.tiles, task // job.wide.tiles)


cdef void run(Job* job, double nanoseconds) noexcept nogil:
    cdef Walk* w = &job.walk
    cdef int threads = threads_for(nanoseconds * <double> w.outer * <double> w.channels * <double> w.inner)
    cdef Py_ssize_t size = w.outer * w.tile_channels * w.inner * <Py_ssize_t> sizeof(float)
    cdef Py_ssize_t streams = 2 if job.backward else 1
    if job.stages & SUM and (threads == 1 or w.tiles >= FEW_TILES) and (w.runs or size * streams <= HELD):
        w.by_tile = True
        parallel_for(whole_tile, job, w.tiles, threads)
        return
    if job.stages & SUM:
        parallel_for(sum_task, job, w.tiles * w.blocks, threads)
    parallel_for(middle_task, job, w.tiles, threads if job.stages & SUM and w.channels >= MANY else 1)
    if job.stages & WRITE:
        job.wide = wide_walk(w)
        parallel_for(write_task, job, job.wide.tiles * job.wide.blocks, threads)


cdef int begin(Job* job, Layout layout, int stages, Array first, Array second) except -1:
    """The job's sizes and its arrays of one number a channel, each on a cache line's boundary: job.memory is to be
    freed. `first` and `second` are written or read in place where they are given."""
    cdef Py_ssize_t blocks, room = (layout.channels + 7) // 8 * 8
    cdef double* start
    if layout.x.size:
        job.walk = walk(layout.outer, layout.channels, layout.inner)
    else:                               # FINISH alone
        job.walk = walk(0, layout.channels, 1)
        stages &= FINISH
    job.stages, job.room = stages, room
    job.x = <const float*> layout.x.data
    job.count = <double> layout.outer * <double> layout.inner
    blocks = job.walk.blocks if stages & SUM else 1
    job.memory = malloc((8 + 2 * (blocks - 1)) * room * sizeof(double) + 64)
    if job.memory == NULL:
        raise MemoryError
    start = <double*> ((<size_t> job.memory + 63) // 64 * 64)
    job.mean, job.invstd, job.scale, job.beta = start, start + room, start + 2 * room, start + 3 * room
    job.shift, job.slope = start + 4 * room, start + 5 * room
    job.first = start + 6 * room if first is None else <double*> first.data
    job.second = start + 7 * room if second is None else <double*> second.data
    job.parts = start + 8 * room
    return 0


cdef void save(const Job* job, double* saved) noexcept nogil:
    """mean, invstd, scale and beta, one after the other."""
    cdef Py_ssize_t row, c
    for row in range(4):
        for c in range(job.walk.channels):
            saved[row * job.walk.channels + c] = job.mean[row * job.room + c]


cdef void restore(Job* job, const double* saved) noexcept nogil:
    cdef Py_ssize_t row, c
    for row in range(4):
        for c in range(job.walk.channels):
            job.mean[row * job.room + c] = saved[row * job.walk.channels + c]


def statistics(Layout layout not None, Array mean not None, Array m2 not None):
    """Write the mean and m2 of every channel."""
    cdef Job job
    job.backward, job.flags = False, 0
    begin(&job, layout, SUM, mean, m2)
    with nogil:
        run(&job, 0.15)
        free(job.memory)


def forward(Layout layout not None, Array gamma not None, Array beta not None, Array running_mean, Array running_var,
            Array y not None, Array saved not None, double momentum, double eps, bint unbiased, bint relu,
            double count, Array mean, Array m2):
    """Write y by the statistics (count, mean, m2), or if they are None by those of x.

    `saved` (4 × channels, float64) receives mean, invstd, γ · invstd and β.
    """
    cdef Job job
    job.backward = False
    begin(&job, layout, SUM | FINISH | WRITE if mean is None else FINISH | WRITE, mean, m2)
    job.flags = RELU if relu else 0
    job.out = <float*> y.data
    job.gamma, job.beta_in = <const float*> gamma.data, <const float*> beta.data
    job.running_mean = <float*> running_mean.data if running_mean is not None else NULL
    job.running_var = <float*> running_var.data if running_var is not None else NULL
    if mean is not None:
        job.count = count
    job.momentum, job.eps, job.unbiased = momentum, eps, unbiased
    with nogil:
        run(&job, 0.35 if job.stages & SUM else 0.2)
        save(&job, <double*> saved.data)
        free(job.memory)


cdef void inference_task(void* context, Py_ssize_t task) noexcept nogil:
    given_task(<const Given*> context, task)


def inference(Layout layout not None, Array gamma not None, Array beta not None, Array mean not None,
              Array var not None, Array y not None, Array saved, double eps, bint relu):
    """Write y by given statistics; y may be x. `saved`, or None: as in `forward`."""
    cdef Given job
    cdef Py_ssize_t c, channels = layout.channels, width = 0
    cdef float* scale
    cdef float* lanes
    cdef double* s
    if saved is not None:
        s = <double*> saved.data
        for c in range(channels):
            s[c] = (<const float*> mean.data)[c]
            s[channels + c] = 1.0 / sqrt(<double> (<const float*> var.data)[c] + eps)
            s[2 * channels + c] = <double> (<const float*> gamma.data)[c] * s[channels + c]
            s[3 * channels + c] = (<const float*> beta.data)[c]
    if layout.x.size == 0:
        return
    set_rows(&job, layout.outer, channels, layout.inner)
    if not job.runs and job.width > channels:
        width = job.width
    scale = <float*> malloc((channels + 3 * width) * sizeof(float))
    if scale == NULL:
        raise MemoryError
    job.x, job.y = <const float*> layout.x.data, <float*> y.data
    job.mean, job.scale, job.beta = <const float*> mean.data, scale, <const float*> beta.data
    job.flags = (RELU if relu else 0) | (IN_PLACE if layout.x.data == y.data else 0)
    with nogil:
        scales(<const float*> gamma.data, <const float*> var.data, eps, scale, channels)
        if width:
            lanes = scale + channels
            repeat(job.mean, lanes, channels, layout.inner, width)
            repeat(job.scale, lanes + width, channels, layout.inner, width)
            repeat(job.beta, lanes + 2 * width, channels, layout.inner, width)
            job.mean, job.scale, job.beta = lanes, lanes + width, lanes + 2 * width
        parallel_for(inference_task, &job, tasks_of(&job), threads_for(0.1 * <double> layout.x.size))
        free(scale)


def backward_sums(Layout layout not None, Array dy not None, Array saved not None, bint relu, Array sum_dy not None,
                  Array product not None):
    """Write Σ dy and Σ dy · (x − mean) of every channel."""
    cdef Job job
    job.backward, job.flags, job.dy = True, RELU if relu else 0, <const float*> dy.data
    begin(&job, layout, SUM, sum_dy, product)
    with nogil:
        restore(&job, <const double*> saved.data)
        run(&job, 0.25)
        free(job.memory)


def backward(Layout layout not None, Array dy not None, Array saved not None, Array dx not None,
             Array dgamma not None, Array dbeta not None, bint training, bint relu, double count, Array sum_dy,
             Array product):
    """Write dx, dgamma and dbeta, from the two sums or, if they are None, those of dy and x. dx may be dy."""
    cdef Job job
    job.backward = True
    begin(&job, layout, SUM | FINISH | WRITE if sum_dy is None else FINISH | WRITE, sum_dy, product)
    job.flags = (RELU if relu else 0) | (IN_PLACE if dx.data == dy.data else 0) | (0 if training else FIXED)
    job.dy, job.out = <const float*> dy.data, <float*> dx.data
    job.dgamma, job.dbeta = <float*> dgamma.data, <float*> dbeta.data
    job.count = count
    with nogil:
        restore(&job, <const double*> saved.data)
        run(&job, 0.6 if job.stages & SUM else 0.35)
        free(job.memory)


def merge(Array mean not None, Array m2 not None, double n, Array mean_b not None, Array m2_b not None, double n_b):
    """Merge the statistics of n_b values into those of n."""
    merge_statistics(<double*> mean.data, <double*> m2.data, <const double*> mean_b.data, <const double*> m2_b.data,
                     n, n_b, mean.size)


def merge_gradients(Array s not None, Array q not None, Array s_b not None, Array q_b not None):
    """Add the sums of another part of the batch."""
    merge_sums(<double*> s.data, <double*> q.data, <const double*> s_b.data, <const double*> q_b.data, s.size)
