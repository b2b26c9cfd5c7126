# BatchNorm's elements where mean and variance are given: y = (x − mean) · scale + β in float32, with
# scale = γ / √(var + ε) rounded once. In double, which the sums of a batch need, what is in the second-level cache took
# up to twice as long; the error is at most 3.5 units in the last place of the larger term, and was 0.5.
#
# The array is outer × channels × inner. Where inner is short (1 in (N, C) and channels last) a row is all channels with
# their inner elements, and every lane has constants of its own; elsewhere it is one channel's run, with constants in
# registers. A task is a piece of several rows.

from libc.math cimport sqrt

from _batchnorm_pieces cimport IN_PLACE, RELU, as_scale, fetch
from _memory cimport IN, INOUT

cdef enum:
    SHORT = 16          # so many adjacent elements of a channel make a run
    PIECE = 4096        # elements of a row in a task, at most: x, y and three constants stay in the first-level cache
    WIDE = 1024         # lanes of a row, about, at least: several outer indices
    STEP = 64           # elements between two requests for memory
    AHEAD = 1024        # elements from a request to its use
    TASK = 16384        # elements of a task, about

cdef struct Given:
    const float* x
    float* y
    const float* mean               # of each channel, or of each lane
    const float* scale
    const float* beta
    Py_ssize_t channels
    bint runs
    Py_ssize_t rows
    Py_ssize_t width                # elements of a row; the last one may have fewer
    Py_ssize_t size
    Py_ssize_t pieces               # of a row
    Py_ssize_t task_rows
    int flags


cdef inline float normalised32(float x, float mean, float scale, float beta, int flags) noexcept nogil:
    cdef float y = (x - mean) * scale + beta
    if flags & RELU:
        y = 0.0 if y < <float> 0.0 else y
    return y


cdef inline void write_given(IN x, INOUT y, Py_ssize_t n, IN mean, IN scale, IN beta, int flags) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = normalised32(y[i] if flags & IN_PLACE else x[i], mean[i], scale[i], beta[i], flags)


cdef inline void write_lanes(const float* x, float* y, Py_ssize_t n, const float* mean, const float* scale,
                             const float* beta, int flags) noexcept nogil:
    """Piece by piece: x and y that are the same place in their pages defeat the processor's own prefetchers."""
    cdef Py_ssize_t j, at, k
    for j in range(n // STEP):
        at = j * STEP
        for k in range(STEP // 16):
            fetch(x + at + AHEAD + 16 * k)
            fetch(y + at + AHEAD + 16 * k)
        write_given(x + at, y + at, STEP, mean + at, scale + at, beta + at, flags)
    at = n // STEP * STEP
    write_given(x + at, y + at, n - at, mean + at, scale + at, beta + at, flags)


cdef inline void write_run(IN x, INOUT y, Py_ssize_t n, float mean, float scale, float beta, int flags) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = normalised32(y[i] if flags & IN_PLACE else x[i], mean, scale, beta, flags)


cdef inline void scales(IN gamma, IN var, double eps, INOUT scale, Py_ssize_t channels) noexcept nogil:
    """γ / √(var + ε)"""
    cdef Py_ssize_t c
    for c in range(channels):
        scale[c] = as_scale(<double> gamma[c] * (1.0 / sqrt(<double> var[c] + eps)))


cdef inline void repeat(const float* channel, float* lane, Py_ssize_t channels, Py_ssize_t inner,
                        Py_ssize_t width) noexcept nogil:
    """Give every lane of a row its channel's value."""
    cdef Py_ssize_t c, i
    for c in range(channels):
        for i in range(inner):
            lane[c * inner + i] = channel[c]
    for i in range(channels * inner, width):
        lane[i] = lane[i - channels * inner]


cdef inline void set_rows(Given* g, Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner) noexcept nogil:
    g.channels, g.runs = channels, inner >= SHORT
    if g.runs:
        g.rows, g.width = outer * channels, inner
    else:
        g.width = channels * inner * max(min(WIDE // (channels * inner), outer // 8), 1)
        g.rows = (outer * channels * inner + g.width - 1) // g.width
    g.size = outer * channels * inner
    g.pieces = (g.width + PIECE - 1) // PIECE
    g.task_rows = max(TASK // min(g.width, PIECE), 1)


cdef inline Py_ssize_t tasks_of(const Given* g) noexcept nogil:
    return (g.rows + g.task_rows - 1) // g.task_rows * g.pieces


cdef inline void given_rows(const Given* g, Py_ssize_t task, int flags) noexcept nogil:
    cdef Py_ssize_t first = task // g.pieces * g.task_rows, start = task % g.pieces * PIECE
    cdef Py_ssize_t n = min(PIECE, g.width - start), row, at, c
    for row in range(first, min(first + g.task_rows, g.rows)):
        at = row * g.width + start
        n = min(n, g.size - at)
        if g.runs:
            c = row % g.channels
            write_run(g.x + at, g.y + at, n, g.mean[c], g.scale[c], g.beta[c], flags)
        else:
            write_lanes(g.x + at, g.y + at, n, g.mean + start, g.scale + start, g.beta + start, flags)


cdef inline void given_task(const Given* g, Py_ssize_t task) noexcept nogil:
    if g.flags == 0: given_rows(g, task, 0)
    elif g.flags == RELU: given_rows(g, task, RELU)
    elif g.flags == IN_PLACE: given_rows(g, task, IN_PLACE)
    else: given_rows(g, task, RELU | IN_PLACE)
