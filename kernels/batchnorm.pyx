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
#   dx = (γ · invstd) · dy                  after inference, where mean and variance do not depend on x
#
# Statistics come from one pass. A block shifts its values by its first value of the channel, K (Chan, Golub and LeVeque
# 1983, "Algorithms for computing the sample variance"): with s = Σ (x − K) and q = Σ (x − K)²,
#
#   mean = K + s / n,  m2 = q − s² / n      (K − mean)² ≤ m2, so that at most log2(n + 1) of 53 bits cancel
#
# and blocks are merged in order by the same paper's formula. Inference computes y in float32
# (_batchnorm_inference.pxd). Everything else is computed in double and rounded once, where it is stored as float32.
# (In float32, with the mean as a sum of two floats, an element costs a third of the arithmetic, but dx has an error of
# up to 7 ULP of its largest term instead of 0.51, and 1 / √(var + ε) overflows below 2⁻¹²⁸. Beyond the second-level
# cache memory bandwidth is the limit either way.)
#
# The order of the sums: _batchnorm_order.pxd, which also defines tile, block, row, lane, run, strip and task. The loops
# over a block's elements: _batchnorm_loops.pxd.

from libc.math cimport fabs, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _batchnorm_inference cimport Inference, inference_task, repeat, scales, set_rows, tasks_of
from _batchnorm_loops cimport (INFERENCE, IN_PLACE, RELU, Backward, Forward, sum_backward, sum_forward,
                               write_backward_block, write_forward_block)
from _batchnorm_order cimport Block, Tiling, block_of, tiling_of, write_tiling_of
from _memory cimport IN, IN64, INOUT, INOUT64
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.channels cimport Layout
from fastopt._runtime.parallel cimport parallel_for, threads_for

# The stages of a pass, in this order.
cdef enum:
    SUM = 1             # two sums of every block, merged to those of the channels
    FINISH = 2          # the constants that elements need, and the results that have one number for each channel
    WRITE = 4           # the elements

cdef enum:
    FEW_TILES = 8
    MANY_CHANNELS = 1024    # from this number on, channels are merged and finished on several threads
    CACHED = 1048576        # bytes of a tile that the second-level cache is taken to hold between SUM and WRITE

cdef struct Pass:
    Forward* forward                # one of these two is NULL
    Backward* backward
    int stages
    double count                    # values of each channel
    Tiling tiling
    Tiling write_tiling
    double* first                   # of each channel: mean and m2, or Σ dy and Σ dy · (x − mean)
    double* second
    double* block_sums              # the same of a tile's blocks, except its first, which writes to `first`, `second`
    Py_ssize_t padded               # from one array of doubles to the next: channels, in whole cache lines


cdef inline double* block_sum(const Pass* p, int which, Py_ssize_t index, Py_ssize_t channel) noexcept nogil:
    if index == 0:
        return (p.second if which else p.first) + channel
    return p.block_sums + (2 * (index - 1) + which) * p.padded + channel


# SUM.

cdef void sum_block(Pass* p, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    cdef Block b = block_of(&p.tiling, tile, index)
    cdef double* first = block_sum(p, 0, index, b.channel)
    cdef double* second = block_sum(p, 1, index, b.channel)
    if p.forward != NULL:
        sum_forward(p.forward, &b, first, second)
    else:
        sum_backward(p.backward, &b, first, second)


cdef inline void merge_statistics(INOUT64 mean, INOUT64 m2, IN64 mean_b, IN64 m2_b, double n, double n_b,
                                  Py_ssize_t channels) noexcept nogil:
    cdef double share = n_b / (n + n_b), weight = n * share, delta
    cdef Py_ssize_t c
    for c in range(channels):
        delta = mean_b[c] - mean[c]
        mean[c] = mean[c] + delta * share
        m2[c] = (m2[c] + m2_b[c]) + delta * delta * weight


cdef inline void merge_sums(INOUT64 s, INOUT64 q, IN64 s_b, IN64 q_b, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        s[c] = s[c] + s_b[c]
        q[c] = q[c] + q_b[c]


cdef void merge_blocks(Pass* p, Py_ssize_t tile) noexcept nogil:
    cdef Block b = block_of(&p.tiling, tile, 0)
    cdef double* first = p.first + b.channel
    cdef double* second = p.second + b.channel
    cdef double* first_b
    cdef double* second_b
    cdef double n = b.count
    cdef Py_ssize_t index
    for index in range(1, p.tiling.blocks):
        b = block_of(&p.tiling, tile, index)
        first_b, second_b = block_sum(p, 0, index, b.channel), block_sum(p, 1, index, b.channel)
        if p.forward != NULL:
            merge_statistics(first, second, first_b, second_b, n, b.count, b.channels)
        else:
            merge_sums(first, second, first_b, second_b, b.channels)
        n += b.count


# FINISH.

cdef void constants(IN64 mean, IN64 m2, IN gamma, IN beta, double count, double eps, INOUT64 invstd, INOUT64 scale,
                    INOUT64 center, INOUT64 factor, INOUT64 shift, Py_ssize_t channels) noexcept nogil:
    """y = (x − center) · factor + shift. In a constant channel that is 0 · −0 + β = β, even if β is −0."""
    cdef Py_ssize_t c
    cdef double inverse, a
    for c in range(channels):
        inverse = 1.0 / sqrt(m2[c] / count + eps)
        a = <double> gamma[c] * inverse
        invstd[c] = inverse
        scale[c] = a
        center[c] = -0.0 if mean[c] == 0.0 else mean[c]
        factor[c] = -0.0 * fabs(a) if m2[c] == 0.0 else a
        shift[c] = beta[c]


cdef void update_running(INOUT running, IN64 new, double momentum, double divisor, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        running[c] = <float> ((1.0 - momentum) * <double> running[c] + momentum * (new[c] / divisor))


cdef void finish_forward(Forward* f, double count, Py_ssize_t channel, Py_ssize_t channels,
                         Py_ssize_t all_channels) noexcept nogil:
    cdef const double* mean = f.mean + channel
    cdef const double* m2 = f.m2 + channel
    cdef double* saved = f.saved + channel
    constants(mean, m2, f.gamma + channel, f.beta + channel, count, f.eps, saved + all_channels,
              saved + 2 * all_channels, f.center + channel, f.factor + channel, f.shift + channel, channels)
    memcpy(saved, mean, channels * sizeof(double))
    memcpy(saved + 3 * all_channels, f.shift + channel, channels * sizeof(double))
    if f.running_mean != NULL:
        update_running(f.running_mean + channel, mean, f.momentum, 1.0, channels)
        update_running(f.running_var + channel, m2, f.momentum, count - 1.0 if f.unbiased else count, channels)


cdef void finish_backward(IN64 sum_dy, IN64 sum_dy_d, IN64 mean, IN64 invstd, IN64 scale, double count, INOUT dbeta,
                          INOUT dgamma, INOUT64 slope, INOUT64 shift, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        dbeta[c] = <float> sum_dy[c]
        dgamma[c] = <float> (sum_dy_d[c] * invstd[c])
        slope[c] = -(scale[c] * ((invstd[c] * invstd[c]) * (sum_dy_d[c] / count)))
        shift[c] = -(scale[c] * (sum_dy[c] / count) + mean[c] * slope[c])


cdef void finish_tile(Pass* p, Py_ssize_t tile) noexcept nogil:
    cdef Backward* g = p.backward
    cdef Py_ssize_t c = tile * p.tiling.tile_channels
    cdef Py_ssize_t channels = min(p.tiling.tile_channels, p.tiling.channels - c)
    if p.forward != NULL:
        finish_forward(p.forward, p.count, c, channels, p.tiling.channels)
    else:
        finish_backward(g.sum_dy + c, g.sum_dy_d + c, g.mean + c, g.invstd + c, g.scale + c, p.count, g.dbeta + c,
                        g.dgamma + c, g.slope + c, g.shift + c, channels)


# WRITE.

cdef void write_block(Pass* p, const Block* b) noexcept nogil:
    if p.forward == NULL:
        write_backward_block(p.backward, b)
    elif p.forward.flags & RELU:
        write_forward_block(p.forward, b, RELU)
    else:
        write_forward_block(p.forward, b, 0)


# The tasks: whole tiles, or stage by stage where tiles are few. Then every block of every tile is a task.

cdef void whole_tile(void* context, Py_ssize_t tile) noexcept nogil:
    cdef Pass* p = <Pass*> context
    cdef Py_ssize_t index
    cdef Block b
    for index in range(p.tiling.blocks):
        sum_block(p, tile, index)
    merge_blocks(p, tile)
    if p.stages & FINISH:
        finish_tile(p, tile)
    if p.stages & WRITE:
        for index in range(p.tiling.blocks):
            b = block_of(&p.tiling, tile, index)
            write_block(p, &b)


cdef void sum_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef Pass* p = <Pass*> context
    sum_block(p, task % p.tiling.tiles, task // p.tiling.tiles)


cdef void finish_task(void* context, Py_ssize_t tile) noexcept nogil:
    cdef Pass* p = <Pass*> context
    if p.stages & SUM:
        merge_blocks(p, tile)
    if p.stages & FINISH:
        finish_tile(p, tile)


cdef void write_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef Pass* p = <Pass*> context
    cdef Block b = block_of(&p.write_tiling, task % p.write_tiling.tiles, task // p.write_tiling.tiles)
    write_block(p, &b)


cdef void run(Pass* p, double nanoseconds) noexcept nogil:
    """All stages. `nanoseconds` is the approximate time per element on one thread."""
    cdef Tiling* t = &p.tiling
    cdef int threads = threads_for(nanoseconds * <double> t.outer * <double> t.channels * <double> t.inner)
    cdef Py_ssize_t arrays = 2 if p.forward == NULL else 1
    cdef Py_ssize_t tile_bytes = arrays * t.outer * t.tile_channels * t.inner * <Py_ssize_t> sizeof(float)
    if p.stages & SUM and (threads == 1 or t.tiles >= FEW_TILES) and (t.long_runs or tile_bytes <= CACHED):
        t.by_tile = True
        parallel_for(whole_tile, p, t.tiles, threads)
        return
    if p.stages & SUM:
        parallel_for(sum_task, p, t.tiles * t.blocks, threads)
    parallel_for(finish_task, p, t.tiles, threads if p.stages & SUM and t.channels >= MANY_CHANNELS else 1)
    if p.stages & WRITE:
        p.write_tiling = write_tiling_of(t)
        parallel_for(write_task, p, p.write_tiling.tiles * p.write_tiling.blocks, threads)


# A pass from Python.

cdef double* begin(Pass* p, Layout layout, int stages, Py_ssize_t arrays, void** memory) except NULL:
    """Set the sizes; return `arrays` arrays of one double for each channel, of which the first two are to be
    `p.first` and `p.second`. `memory` is to be freed."""
    cdef Py_ssize_t blocks
    cdef double* start
    p.forward, p.backward, p.stages = NULL, NULL, stages
    if layout.x.size:
        p.tiling = tiling_of(layout.outer, layout.channels, layout.inner)
    else:                               # a part of a batch without values: statistics or sums are given
        p.tiling = tiling_of(0, layout.channels, 1)
        p.stages &= FINISH
    p.count = <double> layout.outer * <double> layout.inner
    p.padded = (layout.channels + 7) // 8 * 8
    blocks = p.tiling.blocks if p.stages & SUM else 1
    memory[0] = malloc((arrays + 2 * (blocks - 1)) * p.padded * sizeof(double) + 64)
    if memory[0] == NULL:
        raise MemoryError
    start = <double*> ((<size_t> memory[0] + 63) // 64 * 64)
    p.first, p.second, p.block_sums = start, start + p.padded, start + arrays * p.padded
    return start


def statistics(Layout layout not None, Array mean not None, Array m2 not None):
    """Write the mean and m2 of every channel."""
    cdef Pass p
    cdef Forward f
    cdef void* memory
    begin(&p, layout, SUM, 0, &memory)
    p.forward = &f
    p.first, p.second = <double*> mean.data, <double*> m2.data
    f.x = <const float*> layout.x.data
    with nogil:
        run(&p, 0.15)
        free(memory)


def forward(Layout layout not None, Array gamma not None, Array beta not None, Array running_mean, Array running_var,
            Array y not None, Array saved not None, double momentum, double eps, bint unbiased, bint relu,
            double count, Array mean, Array m2):
    """Write y by the statistics (count, mean, m2), or if they are None by those of x.

    `saved` (4 × channels, float64) receives mean, invstd, γ · invstd and β.
    """
    cdef Pass p
    cdef Forward f
    cdef void* memory
    cdef double* doubles = begin(&p, layout, FINISH | WRITE if mean is not None else SUM | FINISH | WRITE, 5, &memory)
    cdef size_t size = layout.channels * sizeof(double)
    p.forward = &f
    f.x, f.y = <const float*> layout.x.data, <float*> y.data
    f.gamma, f.beta = <const float*> gamma.data, <const float*> beta.data
    f.running_mean = <float*> running_mean.data if running_mean is not None else NULL
    f.running_var = <float*> running_var.data if running_var is not None else NULL
    f.momentum, f.eps, f.unbiased, f.flags = momentum, eps, unbiased, RELU if relu else 0
    f.mean, f.m2, f.saved = p.first, p.second, <double*> saved.data
    f.center, f.factor, f.shift = doubles + 2 * p.padded, doubles + 3 * p.padded, doubles + 4 * p.padded
    if mean is not None:
        p.count = count
        memcpy(p.first, mean.data, size)
        memcpy(p.second, m2.data, size)
    with nogil:
        run(&p, 0.35 if p.stages & SUM else 0.2)
        free(memory)


cdef double* begin_backward(Pass* p, Backward* g, Layout layout, Array dy, Array saved, int stages, bint training,
                            bint relu, void** memory) except NULL:
    """`begin`, and what backward reads; what forward saved is copied to arrays aligned to cache lines."""
    cdef double* doubles = begin(p, layout, stages, 8, memory)
    cdef double* copies = doubles + 2 * p.padded
    cdef Py_ssize_t row
    p.backward = g
    for row in range(4):
        memcpy(copies + row * p.padded, <const double*> saved.data + row * layout.channels,
               layout.channels * sizeof(double))
    g.x, g.dy = <const float*> layout.x.data, <const float*> dy.data
    g.mean, g.invstd, g.scale, g.beta = copies, copies + p.padded, copies + 2 * p.padded, copies + 3 * p.padded
    g.slope, g.shift = doubles + 6 * p.padded, doubles + 7 * p.padded
    g.flags = (RELU if relu else 0) | (0 if training else INFERENCE)
    return doubles


def backward_sums(Layout layout not None, Array dy not None, Array saved not None, bint training, bint relu,
                  Array sum_dy not None, Array sum_dy_d not None):
    """Write Σ dy and Σ dy · (x − mean) of every channel."""
    cdef Pass p
    cdef Backward g
    cdef void* memory
    begin_backward(&p, &g, layout, dy, saved, SUM, training, relu, &memory)
    p.first, p.second = <double*> sum_dy.data, <double*> sum_dy_d.data
    with nogil:
        run(&p, 0.25)
        free(memory)


def backward(Layout layout not None, Array dy not None, Array saved not None, Array dx not None, Array dgamma not None,
             Array dbeta not None, bint training, bint relu, double count, Array sum_dy, Array sum_dy_d):
    """Write dx, dgamma and dbeta, from the two sums or, if they are None, those of dy and x. dx may be dy."""
    cdef Pass p
    cdef Backward g
    cdef void* memory
    cdef size_t size = layout.channels * sizeof(double)
    begin_backward(&p, &g, layout, dy, saved, SUM | FINISH | WRITE if sum_dy is None else FINISH | WRITE, training,
                   relu, &memory)
    if dx.data == dy.data:
        g.flags |= IN_PLACE
    g.dx, g.dgamma, g.dbeta = <float*> dx.data, <float*> dgamma.data, <float*> dbeta.data
    g.sum_dy, g.sum_dy_d = p.first, p.second
    p.count = count
    if sum_dy is not None:
        memcpy(p.first, sum_dy.data, size)
        memcpy(p.second, sum_dy_d.data, size)
    with nogil:
        run(&p, 0.6 if p.stages & SUM else 0.35)
        free(memory)


# Inference, and the merging of parts.

cdef void write_inference(void* context, Py_ssize_t task) noexcept nogil:
    inference_task(<Inference*> context, task)


def inference(Layout layout not None, Array gamma not None, Array beta not None, Array mean not None,
              Array var not None, Array y not None, Array saved, double eps, bint relu):
    """Write y by the given mean and variance; y may be x. `saved`, or None: as in `forward`."""
    cdef Inference f
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
    set_rows(&f, layout.outer, channels, layout.inner)
    if not f.rows_are_runs and f.lanes > channels:
        width = f.lanes
    scale = <float*> malloc((channels + 3 * width) * sizeof(float))
    if scale == NULL:
        raise MemoryError
    f.x, f.y = <const float*> layout.x.data, <float*> y.data
    f.mean, f.scale, f.beta = <const float*> mean.data, scale, <const float*> beta.data
    f.flags = (RELU if relu else 0) | (IN_PLACE if layout.x.data == y.data else 0)
    with nogil:
        scales(<const float*> gamma.data, <const float*> var.data, eps, scale, channels)
        if width:
            lanes = scale + channels
            repeat(f.mean, lanes, channels, layout.inner, width)
            repeat(f.scale, lanes + width, channels, layout.inner, width)
            repeat(f.beta, lanes + 2 * width, channels, layout.inner, width)
            f.mean, f.scale, f.beta = lanes, lanes + width, lanes + 2 * width
        parallel_for(write_inference, &f, tasks_of(&f), threads_for(0.1 * <double> layout.x.size))
        free(scale)


def merge(Array mean not None, Array m2 not None, double n, Array mean_b not None, Array m2_b not None, double n_b):
    """Merge the statistics of n_b values into those of n."""
    merge_statistics(<double*> mean.data, <double*> m2.data, <const double*> mean_b.data, <const double*> m2_b.data,
                     n, n_b, mean.size)


def merge_gradients(Array sum_dy not None, Array sum_dy_d not None, Array sum_dy_b not None, Array sum_dy_d_b not None):
    """Add the sums of another part of the batch."""
    merge_sums(<double*> sum_dy.data, <double*> sum_dy_d.data, <const double*> sum_dy_b.data,
               <const double*> sum_dy_d_b.data, sum_dy.size)
