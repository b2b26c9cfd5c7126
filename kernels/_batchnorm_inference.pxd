# BatchNorm by given mean and variance: y = (x − mean) · scale + β in float32, with scale = γ / √(var + ε) rounded once.
# (In double, arrays in the second-level cache took up to twice as long. The error is at most 3.5 units in the last
# place of the larger term, in double 0.5.)
#
# Where runs are short (inner = 1 in (N, C) and channels-last) a row is all channels of one or several outer indices,
# and every lane has constants of its own; elsewhere a row is one run, with its channel's constants in registers. A
# task is a segment of several rows. For the other words see _batchnorm_order.pxd.

from libc.math cimport sqrt

from _batchnorm_elements cimport IN_PLACE, RELU, as_scale
from _batchnorm_order cimport AHEAD, WRITE_ELEMENTS
from _memory cimport IN, INOUT, prefetch

cdef enum:
    ROW_RUN = 16            # runs of at least this length are rows
    MIN_ROW_LANES = 1024    # other rows have about this many lanes, or more
    SEGMENT = 4096          # most elements of a row in a task: x, y and three constants stay in the first-level cache
    LONG_STRIP = 64         # elements of a strip
    PREFETCHED = 1048576    # elements from which x is prefetched: later than where two passes follow each other

cdef struct Inference:
    const float* x
    float* y
    const float* mean               # one value per channel where rows are runs, else per lane; the next two likewise
    const float* scale
    const float* beta
    Py_ssize_t channels
    Py_ssize_t size
    bint rows_are_runs
    Py_ssize_t rows
    Py_ssize_t lanes                # of a row; the last one may have fewer
    Py_ssize_t segments             # of a row
    Py_ssize_t task_rows
    int flags


cdef inline void set_rows(Inference* f, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner) noexcept nogil:
    f.channels, f.size, f.rows_are_runs = channels, outer * channels * inner, inner >= ROW_RUN
    if f.rows_are_runs:
        f.rows, f.lanes = outer * channels, inner
    else:
        f.lanes = channels * inner * max(min(MIN_ROW_LANES // (channels * inner), outer // 8), 1)
        f.rows = (f.size + f.lanes - 1) // f.lanes
    f.segments = (f.lanes + SEGMENT - 1) // SEGMENT
    f.task_rows = max(WRITE_ELEMENTS // min(f.lanes, SEGMENT), 1)


cdef inline void scales(IN gamma, IN var, double eps, INOUT scale, Py_ssize_t channels) noexcept nogil:
    """γ / √(var + ε)"""
    cdef Py_ssize_t c
    for c in range(channels):
        scale[c] = as_scale(<double> gamma[c] * (1.0 / sqrt(<double> var[c] + eps)))


cdef inline void repeat(const float* channel, float* lane, Py_ssize_t channels, Py_ssize_t inner,
                        Py_ssize_t lanes) noexcept nogil:
    """Give every lane of a row its channel's value."""
    cdef Py_ssize_t c, i
    for c in range(channels):
        for i in range(inner):
            lane[c * inner + i] = channel[c]
    for i in range(channels * inner, lanes):
        lane[i] = lane[i - channels * inner]


cdef inline float normalised32(float x, float mean, float scale, float beta, int flags) noexcept nogil:
    cdef float y = (x - mean) * scale + beta
    if flags & RELU:
        y = 0.0 if y < <float> 0.0 else y
    return y


cdef inline void write_lanes(IN x, INOUT y, Py_ssize_t n, IN mean, IN scale, IN beta, int flags) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = normalised32(y[i] if flags & IN_PLACE else x[i], mean[i], scale[i], beta[i], flags)


cdef inline void write_lanes_ahead(const float* x, float* y, Py_ssize_t n, const float* mean, const float* scale,
                                   const float* beta, int flags) noexcept nogil:
    """The same with prefetching, for arrays beyond the caches: x and y at the same offset in their pages (4K aliasing)
    defeat the hardware prefetchers. One thread, channels-last (64, 256, 14, 14): 1.2 times as fast."""
    cdef Py_ssize_t strip, at
    for strip in range(n // LONG_STRIP):
        at = strip * LONG_STRIP
        prefetch(x + at + AHEAD, LONG_STRIP)
        prefetch(y + at + AHEAD, LONG_STRIP)
        write_lanes(x + at, y + at, LONG_STRIP, mean + at, scale + at, beta + at, flags)
    at = n // LONG_STRIP * LONG_STRIP
    write_lanes(x + at, y + at, n - at, mean + at, scale + at, beta + at, flags)


cdef inline void write_run(IN x, INOUT y, Py_ssize_t n, float mean, float scale, float beta, int flags) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = normalised32(y[i] if flags & IN_PLACE else x[i], mean, scale, beta, flags)


cdef inline void write_task(Inference* f, Py_ssize_t task, int flags) noexcept nogil:
    cdef Py_ssize_t first = task // f.segments * f.task_rows, start = task % f.segments * SEGMENT
    cdef Py_ssize_t n = min(SEGMENT, f.lanes - start), row, at, c
    for row in range(first, min(first + f.task_rows, f.rows)):
        at = row * f.lanes + start
        n = min(n, f.size - at)
        if f.rows_are_runs:
            c = row % f.channels
            write_run(f.x + at, f.y + at, n, f.mean[c], f.scale[c], f.beta[c], flags)
        elif f.size >= PREFETCHED:
            write_lanes_ahead(f.x + at, f.y + at, n, f.mean + start, f.scale + start, f.beta + start, flags)
        else:
            write_lanes(f.x + at, f.y + at, n, f.mean + start, f.scale + start, f.beta + start, flags)


cdef inline Py_ssize_t tasks_of(const Inference* f) noexcept nogil:
    return (f.rows + f.task_rows - 1) // f.task_rows * f.segments


cdef inline void inference_task(Inference* f, Py_ssize_t task) noexcept nogil:
    if f.flags == 0: write_task(f, task, 0)
    elif f.flags == RELU: write_task(f, task, RELU)
    elif f.flags == IN_PLACE: write_task(f, task, IN_PLACE)
    else: write_task(f, task, RELU | IN_PLACE)
