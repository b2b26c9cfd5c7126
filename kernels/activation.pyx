# Bias, activation function and dropout of a layer in one pass over the matrix product's result, and their gradients.
#
#   z = x + bias,  h = f(z),  y = h / (1 − p) where dropout keeps the element, else +0
#   dx = dy · f'(z) / (1 − p) where the element was kept, else +0,  dbias = Σ dx over the elements of a channel
#
# Sums are in double, in an order that depends on the sizes alone. An array is (outer, channels, inner) in memory.
#
#   inner < RUN     columns: a row is as many elements as `channels · inner`, or a multiple of that which is at least
#                   LEAST_COLUMNS. Rows are cut into blocks. A block's rows are added in order, column by column; then
#                   the blocks in order, then the columns of a channel.
#   inner ≥ RUN     runs of consecutive elements of one channel, cut into chunks. Of a chunk, element j is added to lane
#                   j % LANES, then halves are added; then the chunks of a run in order, then the runs of a channel.

from libc.string cimport memset

from _activation_blocks cimport (
    BLOCK, WORDS, Activation, adds_at_once, backward_add, backward_range, forward_range, prepare,
)
from _activation_elements cimport LEAKY_RELU, keeps_x
from _math cimport uint32_t, uint64_t
from _memory cimport allocate_lines, free_lines
from _philox cimport PhiloxWords
from _sums cimport LANES, add_elements, add_rows, add_sums, fold
from fastopt._runtime.arrays cimport Array, array_of, require_disjoint_or_same, shape_of, vector_of
from fastopt._runtime.axes cimport Sizes, axis_index, sizes_around
from fastopt._runtime.parallel cimport parallel_for, threads_for

import numpy

from fastopt._runtime.arrays import require_disjoint

cdef object empty = numpy.empty
cdef object float32 = numpy.dtype(numpy.float32)

cdef enum:
    TASK = 8 * BLOCK
    STRIP = 2 * BLOCK           # elements whose dx is computed before they are added, about
    RUN = 64
    CHUNK = 8 * BLOCK           # of a run
    LEAST_COLUMNS = 256
    COLUMNS = 1024              # of a task, at most
    ROWS = 4                    # rows that are added at once
    LEAST_ROWS = 32             # of a block
    LEAST_ELEMENTS = 32768      # of a block of rows, at least
    MOST_BLOCKS = 64


cdef struct Gradients:
    Activation job
    double* sums                # of the columns of each block, or of each chunk
    Py_ssize_t columns          # of a row
    Py_ssize_t rows             # of a block
    Py_ssize_t strip            # rows whose dx is computed before they are added
    Py_ssize_t blocks
    Py_ssize_t tiles            # tasks side by side in a block
    Py_ssize_t width            # columns of a task
    Py_ssize_t chunks           # of a run
    Py_ssize_t units            # chunks of all runs
    Py_ssize_t group            # chunks of a task


cdef void forward_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Activation* job = <const Activation*> context
    cdef float buffer[BLOCK]
    cdef PhiloxWords words[WORDS]
    prepare(buffer)
    forward_range(job, index * TASK, min((index + 1) * TASK, job.size), buffer, words)


cdef void backward_elements(const Activation* job, Py_ssize_t start, Py_ssize_t end, float* buffer,
                            PhiloxWords* words) noexcept nogil:
    """backward_range, compiled once: its loops take 100 kB."""
    backward_range(job, start, end, buffer, words)


cdef void backward_task(void* context, Py_ssize_t index) noexcept nogil:
    """dx alone."""
    cdef const Activation* job = <const Activation*> context
    cdef float buffer[BLOCK]
    cdef PhiloxWords words[WORDS]
    prepare(buffer)
    backward_elements(job, index * TASK, min((index + 1) * TASK, job.size), buffer, words)


cdef void clear_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Activation* job = <const Activation*> context
    cdef Py_ssize_t start = index * TASK
    memset(job.y + start, 0, min(<Py_ssize_t> TASK, job.size - start) * sizeof(float))


# dx and dbias by columns.

cdef void columns_task(void* context, Py_ssize_t index) noexcept nogil:
    """A tile: some columns of the rows of a block."""
    cdef const Gradients* g = <const Gradients*> context
    cdef const Activation* job = &g.job
    cdef float buffer[BLOCK]
    cdef PhiloxWords words[WORDS]
    cdef Py_ssize_t block = index // g.tiles, first = index % g.tiles * g.width, n = min(g.width, g.columns - first)
    cdef Py_ssize_t start = block * g.rows * g.columns + first
    cdef Py_ssize_t end = min((block + 1) * g.rows * g.columns, job.size)
    cdef Py_ssize_t i, r, rows
    cdef double* sums = g.sums + block * g.columns + first
    for i in range(n):
        sums[i] = 0.0
    if adds_at_once(job):
        while start + g.columns + n <= end:
            backward_add(job, start, g.columns, n, sums)
            start += 2 * g.columns
    while start < end:          # the last row of the array may be shorter
        rows = min(g.strip, (end - start + g.columns - 1) // g.columns)
        if n == g.columns:
            backward_elements(job, start, min(end, start + rows * n), buffer, words)
        else:
            for r in range(rows):
                i = start + r * g.columns
                backward_elements(job, i, min(end, i + n), buffer, words)
        r = 0
        while r + ROWS <= rows and start + (r + ROWS - 1) * g.columns + n <= end:
            add_rows(job.y + start + r * g.columns, g.columns, ROWS, n, sums)
            r += ROWS
        while r < rows:
            i = start + r * g.columns
            add_rows(job.y + i, 0, 1, min(n, end - i), sums)
            r += 1
        start += rows * g.columns


cdef void merge_task(void* context, Py_ssize_t index) noexcept nogil:
    """Add the sums of all blocks to those of the first, for some columns."""
    cdef const Gradients* g = <const Gradients*> context
    cdef Py_ssize_t first = index * g.width, n = min(g.width, g.columns - first), k
    for k in range(1, g.blocks):
        add_sums(g.sums + first, g.sums + k * g.columns + first, n)


# dx and dbias by runs.

cdef void runs_task(void* context, Py_ssize_t index) noexcept nogil:
    """Some chunks of runs."""
    cdef const Gradients* g = <const Gradients*> context
    cdef const Activation* job = &g.job
    cdef float buffer[BLOCK]
    cdef PhiloxWords words[WORDS]
    cdef double sums[LANES]
    cdef Py_ssize_t unit, start, end, n, i
    for unit in range(index * g.group, min(g.units, (index + 1) * g.group)):
        start = unit // g.chunks * job.inner + unit % g.chunks * CHUNK
        end = min(start + CHUNK, (unit // g.chunks + 1) * job.inner)
        for i in range(LANES):
            sums[i] = 0.0
        while start < end:
            n = min(<Py_ssize_t> STRIP, end - start)
            backward_elements(job, start, start + n, buffer, words)
            add_elements(job.y + start, n, sums)
            start += n
        g.sums[unit] = fold(sums)


# What Python calls.

cdef int set_dropout(Activation* job, uint64_t key, uint64_t t, float s, float keep) except -1:
    job.key, job.t, job.s, job.keep, job.drop = key, <uint32_t> t, s, keep, t != 0
    return 0


cdef int repeat_biases(Activation* job) except -1:
    """Make job.table, if there is one. The caller frees it."""
    cdef Py_ssize_t i, n
    job.table = NULL
    if job.bias != NULL and job.inner == 1 and job.channels <= BLOCK and job.size:
        n = job.channels + min(<Py_ssize_t> BLOCK, job.size)
        job.table = <float*> allocate_lines((n + 1) // 2)
        if job.table == NULL:
            raise MemoryError
        for i in range(job.channels):
            job.table[i] = job.bias[i]
        for i in range(job.channels, n):
            job.table[i] = job.table[i - job.channels]
    return 0


cdef int free_table(Activation* job) except -1:
    if job.table != NULL:
        free_lines(<double*> job.table)
    return 0


cdef double cost(int kind, bint drop) noexcept nogil:
    """Nanoseconds an element, on one thread."""
    return (0.2 if kind <= LEAKY_RELU else 0.7) + (0.3 if drop else 0.0)


def forward(x, out, bias, channel_axis, int kind, float negative_slope, key, uint64_t t, float s):
    """`out` or a new array, the key, the shape, and None without a bias, or (channels, inner, shape of the bias).

    The shape of a bias of one axis is its length, as NumPy takes it: a tuple less to make.

    As in dropout.pyx, `key` is an int or a numpy.random.Generator from which one is drawn. t is in [0, 2³²]; 0 means no
    dropout, and nothing is drawn.
    """
    cdef Activation job
    cdef Array a = array_of(x, "x", c"f", False, NULL), b = None, y
    cdef Sizes sizes = Sizes(1, 1, 1)
    if bias is not None:
        if a.view.ndim == 0:
            raise ValueError("x: expected at least 1 dimension with a bias, got shape ()")
        sizes = sizes_around(&a.view, axis_index(channel_axis, "channel_axis", a.view.ndim))
        b = vector_of(bias, "bias", c"f", False, sizes.n)
    result = empty(shape_of(&a.view), float32) if out is None else out
    y = array_of(result, "out", c"f", True, &a.view)
    if keeps_x(kind):
        require_disjoint(a, y)
    else:
        require_disjoint_or_same(y, a)
    require_disjoint(b, y)
    if t and type(key) is not int:
        key = int(key.integers(2**64, dtype="uint64"))
    job.x, job.y, job.saved, job.size = <const float*> a.data, <float*> y.data, NULL, a.size
    job.bias = NULL
    if b is not None:
        job.bias = <const float*> b.data
    job.channels, job.inner = sizes.n, sizes.inner
    job.kind, job.negative_slope = kind, negative_slope
    set_dropout(&job, key if t else 0, t, s, <float> 1.0)
    repeat_biases(&job)
    with nogil:
        parallel_for(clear_task if t >> 32 else forward_task, &job, (job.size + TASK - 1) // TASK,
                     threads_for(cost(kind, job.drop) * <double> job.size))
    free_table(&job)
    channels = None
    if b is not None:
        channels = (sizes.n, sizes.inner, sizes.n if b.view.ndim == 1 else b.shape)
    return result, key if t else 0, shape_of(&a.view), channels


cdef int by_columns(Gradients* g, Array dbias) except -1:
    """Write dx and dbias. There are elements."""
    cdef Activation* job = &g.job
    cdef Py_ssize_t channel = job.channels * job.inner, repeats = max(1, (LEAST_COLUMNS + channel - 1) // channel)
    cdef Py_ssize_t rows, c, i, r
    cdef float* out = <float*> dbias.data
    cdef double total
    g.columns = channel * repeats
    rows = (job.size + g.columns - 1) // g.columns
    g.rows = max(LEAST_ROWS, (LEAST_ELEMENTS + g.columns - 1) // g.columns, (rows + MOST_BLOCKS - 1) // MOST_BLOCKS)
    g.rows = (g.rows + ROWS - 1) // ROWS * ROWS
    g.blocks = (rows + g.rows - 1) // g.rows
    g.tiles = (g.columns + COLUMNS - 1) // COLUMNS
    g.width = ((g.columns + g.tiles - 1) // g.tiles + 15) // 16 * 16
    g.tiles = (g.columns + g.width - 1) // g.width
    g.strip = max(<Py_ssize_t> ROWS, STRIP // g.width // ROWS * ROWS)
    g.sums = allocate_lines(g.blocks * g.columns)
    if g.sums == NULL:
        raise MemoryError
    with nogil:
        parallel_for(columns_task, g, g.blocks * g.tiles, threads_for(cost(job.kind, job.drop) * <double> job.size))
        parallel_for(merge_task, g, g.tiles, threads_for(0.2 * <double> (g.blocks * g.columns)))
        for c in range(job.channels):
            total = g.sums[c * job.inner]
            for r in range(repeats):
                for i in range(1 if r == 0 else 0, job.inner):
                    total = total + g.sums[r * channel + c * job.inner + i]
            out[c] = <float> total
        free_lines(g.sums)
    return 0


cdef int by_runs(Gradients* g, Array dbias) except -1:
    """Write dx and dbias. There are elements."""
    cdef Activation* job = &g.job
    cdef Py_ssize_t runs = job.size // job.inner, c, r, k, first
    cdef float* out = <float*> dbias.data
    cdef double total, run
    g.chunks = (job.inner + CHUNK - 1) // CHUNK
    g.units = runs * g.chunks
    g.group = max(<Py_ssize_t> 1, CHUNK // job.inner)
    g.sums = allocate_lines(g.units)
    if g.sums == NULL:
        raise MemoryError
    with nogil:
        parallel_for(runs_task, g, (g.units + g.group - 1) // g.group,
                     threads_for(cost(job.kind, job.drop) * <double> job.size))
        for c in range(job.channels):
            total = 0.0
            for r in range(runs // job.channels):
                first = (r * job.channels + c) * g.chunks
                run = 0.0
                for k in range(first, first + g.chunks):
                    run = run + g.sums[k]
                total = total + run
            out[c] = <float> total
        free_lines(g.sums)
    return 0


def backward(dy, out, dbias, tuple shape not None, saved, saved_name, bias, channels, int kind, float negative_slope,
             uint64_t key, uint64_t t, float s, float keep):
    """dx and dbias: `out` and `dbias`, or new arrays; None for dbias if `channels` is None."""
    cdef Gradients g
    cdef Activation* job = &g.job
    cdef Array a = array_of(dy, "dy", c"f", False, NULL), kept_array = None, b = None, d = None, dx
    if shape_of(&a.view) != shape:
        Array(dy, "dy", shape=shape)        # raises the error
    if saved is not None:
        kept_array = array_of(saved, saved_name, c"f", False, &a.view)
    result = empty(shape, float32) if out is None else out
    dx = array_of(result, "out", c"f", True, &a.view)
    job.channels = job.inner = 1
    if channels is None:
        if dbias is not None:
            raise ValueError("dbias: expected None after a forward pass without a bias, got an array")
    else:
        job.channels, job.inner, bias_shape = channels
        given = dbias
        dbias = empty(bias_shape, float32) if dbias is None else dbias
        d = vector_of(dbias, "dbias", c"f", True, job.channels)
        if bias is not None:
            b = vector_of(bias, "cache.bias", c"f", False, job.channels)
        if given is not None:
            require_disjoint(a, d)
            require_disjoint(kept_array, b, dx, d)
    require_disjoint_or_same(dx, a)
    require_disjoint(kept_array, b, dx)
    job.x, job.y, job.size = <const float*> a.data, <float*> dx.data, a.size
    job.saved, job.bias = job.x, NULL
    if kept_array is not None:
        job.saved = <const float*> kept_array.data
    if b is not None:
        job.bias = <const float*> b.data
    job.kind, job.negative_slope = kind, negative_slope
    set_dropout(job, key, t, s, keep)
    if t >> 32 or d is None or job.size == 0:
        if d is not None:
            memset(d.data, 0, d.size * sizeof(float))
        repeat_biases(job)
        with nogil:
            parallel_for(clear_task if t >> 32 else backward_task, job, (job.size + TASK - 1) // TASK,
                         threads_for(cost(kind, job.drop) * <double> job.size))
        free_table(job)
        return result, dbias
    repeat_biases(job)
    try:
        if job.inner < RUN:
            by_columns(&g, d)
        else:
            by_runs(&g, d)
    finally:
        free_table(job)
    return result, dbias
