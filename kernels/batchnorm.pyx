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
#      = a · dy + ((x − mean) · slope + shift)      a = γ · invstd, slope = −a · invstd² · s / n, shift = −a · dβ / n
#   dx = (γ · invstd) · dy                  after inference, where mean and variance do not depend on x
#
# Statistics come from one pass. A block shifts its values by its first value of the channel, K (Chan, Golub and LeVeque
# 1983, "Algorithms for computing the sample variance"): with s = Σ (x − K) and q = Σ (x − K)²,
#
#   mean = K + s / n,  m2 = q − s² / n      (K − mean)² ≤ m2, so that at most log2(n + 1) of 53 bits cancel
#
# and blocks are merged in order by the same paper's formula. Sums and a channel's constants (_batchnorm_constants.pxd)
# are computed in double, y and dx in float32 from these constants: _batchnorm_elements.pxd, which also says which
# channels are the exception. Inference: _batchnorm_inference.pxd.
#
# The order of the sums: _batchnorm_order.pxd, which also defines tile, block, row, lane, run, strip and task. The loops
# over a block's elements: _batchnorm_blocks.pxd and, for adjacent ones, _batchnorm_loops.pxd.

from libc.math cimport sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _batchnorm_constants cimport constants, constants32, gradients
from _batchnorm_elements cimport INFERENCE, IN_PLACE, RELU, Backward, Constants, Forward, as_scale, if_normal
from _batchnorm_inference cimport Inference, inference_task, repeat, scales, set_rows, tasks_of
from _batchnorm_blocks cimport sum_backward, sum_forward, write_backward_by_flags, write_forward_block
from _batchnorm_order cimport Block, Tiling, block_of, tiling_of, write_tiling_of
from _memory cimport IN64, INOUT, INOUT64, allocate_lines, free_lines
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.channels cimport Layout
from fastopt._runtime.parallel cimport parallel_for, task_fn, threads_for

# The stages of a tile, in this order.
cdef enum:
    BEGIN = 1           # what SUM needs of the channels
    SUM = 2             # two sums of every block
    MERGE = 4           # these sums to those of the channels
    FINISH = 8          # the constants that elements need, and the results that have one number for each channel
    WRITE = 16          # the elements

cdef enum:
    FEW_TILES = 8
    LEAST_LANES = 128       # of a tile that is made narrower
    MANY_CHANNELS = 1024    # from this number on, channels are merged and finished on several threads
    CACHED = 1048576        # bytes of a tile that the second-level cache is taken to hold between SUM and WRITE


# MERGE.

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


cdef void merge_blocks(const Tiling* t, double* sums, Py_ssize_t tile, bint are_statistics) noexcept nogil:
    """Merge what SUM wrote for a tile's blocks, statistics or sums of gradients, into the first block's, in order."""
    cdef Block b = block_of(t, tile, 0, 4)
    cdef double* total = sums + b.sums
    cdef double* part
    cdef double n = b.count
    cdef Py_ssize_t index
    for index in range(1, t.blocks):
        b = block_of(t, tile, index, 4)
        part = sums + b.sums
        if are_statistics:
            merge_statistics(total, total + t.padded, part, part + t.padded, n, b.count, b.channels)
        else:
            merge_sums(total, total + t.padded, part, part + t.padded, b.channels)
        n += b.count


# FINISH.

cdef void update_running(INOUT running, IN64 new, double momentum, double divisor, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        running[c] = <float> ((1.0 - momentum) * <double> running[c] + momentum * (new[c] / divisor))


cdef void finish_forward(const Forward* f, Py_ssize_t tile) noexcept nogil:
    cdef const Tiling* t = &f.tiling
    cdef Py_ssize_t c = tile * t.tile_channels, channels = min(t.tile_channels, t.channels - c)
    cdef const double* mean = f.sums + c
    cdef const double* m2 = f.sums + t.padded + c
    cdef double* saved = f.saved + c
    constants(mean, m2, f.gamma + c, f.beta + c, f.count, f.eps, saved + t.channels, saved + 2 * t.channels,
              f.center + c, f.factor + c, f.shift + c, channels)
    memcpy(saved, mean, channels * sizeof(double))
    memcpy(saved + 3 * t.channels, f.shift + c, channels * sizeof(double))
    constants32(mean, saved + t.channels, saved + 2 * t.channels, f.shift + c, f.factor + c, f.count, f.y32.center + c,
                f.y32.factor + c, f.y32.shift + c, channels)
    if f.running_mean != NULL:
        update_running(f.running_mean + c, mean, f.momentum, 1.0, channels)
        update_running(f.running_var + c, m2, f.momentum, f.count - 1.0 if f.unbiased else f.count, channels)


cdef void begin_backward_tile(const Backward* g, Py_ssize_t tile) noexcept nogil:
    """The constants of y, which relu's mask needs."""
    cdef const Tiling* t = &g.tiling
    cdef Py_ssize_t c = tile * t.tile_channels, end = min(c + t.tile_channels, t.channels)
    if not g.flags & INFERENCE:
        constants32(g.mean + c, g.invstd + c, g.scale + c, g.beta + c, g.scale + c, g.count, g.y32.center + c,
                    g.y32.factor + c, g.y32.shift + c, end - c)
        return
    for c in range(c, end):             # as in _batchnorm_inference.pxd
        g.y32.center[c], g.y32.shift[c] = <float> g.mean[c], <float> g.beta[c]
        g.y32.factor[c] = as_scale(g.scale[c])


cdef void finish_backward(const Backward* g, Py_ssize_t tile) noexcept nogil:
    cdef const Tiling* t = &g.tiling
    cdef Py_ssize_t c = tile * t.tile_channels, channels = min(t.tile_channels, t.channels - c), i
    if g.flags & (RELU | INFERENCE):
        gradients(g.sums + c, g.sums + t.padded + c, g.mean + c, g.invstd + c, g.scale + c, g.beta + c, g.count,
                  g.dbeta + c, g.dgamma + c, g.y32.center + c, g.y32.factor + c, g.slope + c, g.shift + c, channels,
                  True)
    else:
        gradients(g.sums + c, g.sums + t.padded + c, g.mean + c, g.invstd + c, g.scale + c, g.beta + c, g.count,
                  g.dbeta + c, g.dgamma + c, g.y32.center + c, g.y32.factor + c, g.slope + c, g.shift + c, channels,
                  False)
    if g.flags & INFERENCE:
        for i in range(c, c + channels):
            g.slope[i] = <float> if_normal(0.0, g.scale[i])


# A task is a tile, or one block of it; `run` sets its stages.

cdef void forward_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef const Forward* f = <const Forward*> context
    cdef const Tiling* t = &f.tiling
    cdef Py_ssize_t tile = task % t.tiles, first = task // t.tiles, index
    if t.stages & SUM:
        for index in range(first, first + t.task_blocks):
            sum_forward(f, tile, index)
    if t.stages & MERGE:
        merge_blocks(t, f.sums, tile, True)
    if t.stages & FINISH:
        finish_forward(f, tile)
    if t.stages & WRITE:
        for index in range(first, first + t.task_blocks):
            if f.flags & RELU:
                write_forward_block(f, tile, index, RELU)
            else:
                write_forward_block(f, tile, index, 0)


cdef void backward_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef const Backward* g = <const Backward*> context
    cdef const Tiling* t = &g.tiling
    cdef Py_ssize_t tile = task % t.tiles, first = task // t.tiles, index
    if t.stages & BEGIN:
        begin_backward_tile(g, tile)
    if t.stages & SUM:
        for index in range(first, first + t.task_blocks):
            sum_backward(g, tile, index)
    if t.stages & MERGE:
        merge_blocks(t, g.sums, tile, False)
    if t.stages & FINISH:
        finish_backward(g, tile)
    if t.stages & WRITE:
        for index in range(first, first + t.task_blocks):
            write_backward_by_flags(g, tile, index)


cdef bint tiles_are_tasks(Tiling* t, Py_ssize_t channel_bytes, int threads) noexcept nogil:
    """Whether SUM leaves a tile in the cache for WRITE, and there are enough tiles for all threads.

    For several threads, tiles are made narrower if their rows do not become shorter than a few cache lines.
    """
    cdef Py_ssize_t tiles, width
    if not t.long_runs and t.tile_channels * channel_bytes > CACHED:
        return False
    if threads == 1 or t.tiles >= FEW_TILES:
        return True
    if t.long_runs or t.row_outer > 1:
        return False
    tiles = max((t.tiles + threads - 1) // threads, 2) * threads
    width = (t.channels + tiles - 1) // tiles
    if t.inner == 1:
        width = (width + 15) // 16 * 16
    if width * t.inner < LEAST_LANES:
        return False
    t.tile_channels, t.tiles = width, (t.channels + width - 1) // width
    return True


cdef void run(task_fn task, void* context, Tiling* t, int stages, Py_ssize_t arrays, double nanoseconds) noexcept nogil:
    """Run the stages: tile by tile, or stage by stage where tiles are few, every block being a task then.

    `t` is the tiling in `context`, `arrays` the number of arrays that SUM reads, `nanoseconds` the approximate time per
    element on one thread.
    """
    cdef int threads = threads_for(nanoseconds * <double> t.outer * <double> t.channels * <double> t.inner)
    cdef Py_ssize_t channel_bytes = arrays * t.outer * t.inner * <Py_ssize_t> sizeof(float)
    if stages & SUM and tiles_are_tasks(t, channel_bytes, threads):
        t.stages, t.task_blocks = stages, t.blocks
        parallel_for(task, context, t.tiles, threads)
        return
    if stages & SUM:
        if stages & BEGIN:
            t.stages = BEGIN
            parallel_for(task, context, t.tiles, 1)
        t.stages = SUM
        parallel_for(task, context, t.tiles * t.blocks, threads)
    t.stages = stages & (MERGE | FINISH) if stages & SUM else stages & (BEGIN | FINISH)
    parallel_for(task, context, t.tiles, threads if stages & MERGE and t.channels >= MANY_CHANNELS else 1)
    if stages & WRITE:
        t[0] = write_tiling_of(t)
        t.stages = WRITE
        parallel_for(task, context, t.tiles * t.blocks, threads)


# What Python calls.

def statistics(Layout layout not None, Array mean not None, Array m2 not None):
    """Write the mean and m2 of every channel."""
    cdef Forward f
    cdef size_t size = layout.channels * sizeof(double)
    f.tiling = tiling_of(layout.outer, layout.channels, layout.inner)
    f.sums = allocate_lines(2 * f.tiling.blocks * f.tiling.padded)
    if f.sums == NULL:
        raise MemoryError
    f.x = <const float*> layout.x.data
    with nogil:
        run(forward_task, &f, &f.tiling, SUM | MERGE, 1, 0.15)
        memcpy(mean.data, f.sums, size)
        memcpy(m2.data, f.sums + f.tiling.padded, size)
        free_lines(f.sums)


def forward(Layout layout not None, Array gamma not None, Array beta not None, Array running_mean, Array running_var,
            Array y not None, Array saved not None, double momentum, double eps, bint unbiased, bint relu,
            double count, Array mean, Array m2):
    """Write y by the statistics (count, mean, m2), or if mean and m2 are None by those of x.

    `saved` (4 × channels, float64) receives mean, invstd, γ · invstd and β.
    """
    cdef Forward f
    cdef double* doubles
    cdef Py_ssize_t padded
    f.tiling = tiling_of(layout.outer, layout.channels, layout.inner)
    padded = f.tiling.padded
    doubles = allocate_lines((5 + 2 * f.tiling.blocks) * padded)
    if doubles == NULL:
        raise MemoryError
    f.center, f.factor, f.shift, f.sums = doubles, doubles + padded, doubles + 2 * padded, doubles + 5 * padded
    f.y32 = constants_at(<float*> (doubles + 3 * padded), padded)
    f.x, f.y = <const float*> layout.x.data, <float*> y.data
    f.gamma, f.beta, f.saved = <const float*> gamma.data, <const float*> beta.data, <double*> saved.data
    f.running_mean = <float*> running_mean.data if running_mean is not None else NULL
    f.running_var = <float*> running_var.data if running_var is not None else NULL
    f.momentum, f.eps, f.count, f.unbiased, f.flags = momentum, eps, count, unbiased, RELU if relu else 0
    if mean is None:
        with nogil:
            run(forward_task, &f, &f.tiling, SUM | MERGE | FINISH | WRITE, 1, 0.35)
    else:
        memcpy(f.sums, mean.data, layout.channels * sizeof(double))
        memcpy(f.sums + padded, m2.data, layout.channels * sizeof(double))
        with nogil:
            run(forward_task, &f, &f.tiling, FINISH | WRITE, 1, 0.2)
    free_lines(doubles)


cdef inline Constants constants_at(float* memory, Py_ssize_t padded) noexcept nogil:
    cdef Constants c
    c.center, c.factor, c.shift = memory, memory + padded, memory + 2 * padded
    return c


cdef double* allocate_backward(Backward* g, Layout layout, Array dy, Array saved, bint training, bint relu,
                               double count) except NULL:
    """Set what sums need; return memory to free."""
    cdef double* doubles
    cdef float* floats
    cdef Py_ssize_t padded
    g.tiling = tiling_of(layout.outer, layout.channels, layout.inner)
    padded = g.tiling.padded
    doubles = allocate_lines((3 + 2 * g.tiling.blocks) * padded)
    if doubles == NULL:
        raise MemoryError
    floats, g.sums = <float*> doubles, doubles + 3 * padded
    g.y32, g.slope, g.shift = constants_at(floats, padded), floats + 3 * padded, floats + 4 * padded
    g.mean = <const double*> saved.data
    g.invstd, g.scale = g.mean + layout.channels, g.mean + 2 * layout.channels
    g.beta = g.mean + 3 * layout.channels
    g.x, g.dy, g.count = <const float*> layout.x.data, <const float*> dy.data, count
    g.flags = (RELU if relu else 0) | (0 if training else INFERENCE)
    return doubles


cdef inline int first_stage(const Backward* g) noexcept nogil:
    """FINISH has the constants of y from BEGIN, or computes them in the same loop as those of dx."""
    return BEGIN if g.flags & (RELU | INFERENCE) else 0


def backward_sums(Layout layout not None, Array dy not None, Array saved not None, bint training, bint relu,
                  double count, Array sum_dy not None, Array sum_dy_d not None):
    """Write Σ dy and Σ dy · (x − mean) of every channel."""
    cdef Backward g
    cdef double* doubles = allocate_backward(&g, layout, dy, saved, training, relu, count)
    cdef size_t size = layout.channels * sizeof(double)
    with nogil:
        run(backward_task, &g, &g.tiling, first_stage(&g) | SUM | MERGE, 2, 0.25)
        memcpy(sum_dy.data, g.sums, size)
        memcpy(sum_dy_d.data, g.sums + g.tiling.padded, size)
        free_lines(doubles)


def backward(Layout layout not None, Array dy not None, Array saved not None, Array dx not None, Array dgamma not None,
             Array dbeta not None, bint training, bint relu, double count, Array sum_dy, Array sum_dy_d, other=None):
    """Write dx, dgamma and dbeta, from the two sums or, if they are None, those of dy and x. dx may be dy.

    `other`, if given, is dy in another layout than x's: dx's memory receives it in x's first, and is dy from then on.
    This is done here because neither an interrupt nor a lack of memory comes between it and the rest.
    """
    cdef Backward g
    cdef double* doubles = allocate_backward(&g, layout, dy, saved, training, relu, count)
    if other is not None:
        try:
            layout.relaid(other, "dy", dx)
        except BaseException:
            free_lines(doubles)
            raise
        g.dy = <const float*> dx.data
    if g.dy == dx.data:
        g.flags |= IN_PLACE
    g.dx, g.dgamma, g.dbeta = <float*> dx.data, <float*> dgamma.data, <float*> dbeta.data
    if sum_dy is None:
        with nogil:
            run(backward_task, &g, &g.tiling, first_stage(&g) | SUM | MERGE | FINISH | WRITE, 2, 0.6)
    else:
        memcpy(g.sums, sum_dy.data, layout.channels * sizeof(double))
        memcpy(g.sums + g.tiling.padded, sum_dy_d.data, layout.channels * sizeof(double))
        with nogil:
            run(backward_task, &g, &g.tiling, first_stage(&g) | FINISH | WRITE, 2, 0.35)
    free_lines(doubles)


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
