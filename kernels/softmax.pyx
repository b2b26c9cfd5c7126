# log-softmax along any axis. The method is in _softmax.pxd.
#
#     log softmax(x)ⱼ = xⱼ − log Σₖ exp(xₖ)

from libc.string cimport memcpy

from _common cimport IN, INOUT
from _softmax cimport (LANES, NARROW, Rows, choose_base, finish, row_max, scan_lanes, scan_row, transpose_in,
                       transpose_out)
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    TASK = 16384            # elements a task has at least, unless a row or a block of columns is longer

# x and y seen as (outer, n, inner), reduced along n.
cdef struct Job:
    const float* x
    float* y
    Py_ssize_t outer
    Py_ssize_t n
    Py_ssize_t inner
    Py_ssize_t task             # rows, or blocks of LANES columns, in a task
    Py_ssize_t columns          # blocks of columns in one of the outer slices


cdef inline void shift(IN x, INOUT y, Py_ssize_t n, float high, float low) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = (x[i] - high) - low


cdef inline void shift_in_place(INOUT y, Py_ssize_t n, float high, float low) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = (y[i] - high) - low


cdef inline void shift_lanes(IN x, INOUT y, IN high, IN low, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        y[lane] = (x[lane] - high[lane]) - low[lane]


cdef inline void log_softmax_rows(const Job* job, const float* x, float* y, int rows) noexcept nogil:
    cdef Rows s
    cdef Py_ssize_t n = job.n
    cdef int r
    for r in range(rows):
        s.m[r] = row_max(x + r * n, n)
    choose_base(&s, rows)
    for r in range(rows):
        scan_row(&s, r, x + r * n, y, n, False)
    finish(&s, rows)
    for r in range(rows):
        if x == y:
            shift_in_place(y + r * n, n, s.high[r], s.low[r])
        else:
            shift(x + r * n, y + r * n, n, s.high[r], s.low[r])


cdef inline void log_softmax_lanes(const float* x, float* y, Py_ssize_t stride, Py_ssize_t n,
                                   int lanes) noexcept nogil:
    cdef Rows s
    cdef float v[LANES]
    cdef Py_ssize_t j
    scan_lanes(&s, x, v, stride, n, lanes, False)
    finish(&s, lanes)
    for j in range(n):
        shift_lanes(x + j * stride, v, s.high, s.low, lanes)
        memcpy(y + j * stride, v, lanes * sizeof(float))


cdef void log_softmax_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Job* job = <const Job*> context
    cdef float block[NARROW * LANES]
    cdef Py_ssize_t n = job.n, i = index * job.task, last = min(job.outer, i + job.task), group
    if n <= NARROW:
        while i < last:
            group = min(LANES, last - i)
            transpose_in(block, job.x + i * n, n, <int> group)
            log_softmax_lanes(block, block, LANES, n, <int> group)
            transpose_out(job.y + i * n, block, n, <int> group)
            i += group
        return
    while i < last:
        group = min(min(16, max(TASK // 2 // n, 1)), last - i)
        log_softmax_rows(job, job.x + i * n, job.y + i * n, <int> group)
        i += group


cdef void log_softmax_columns_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Job* job = <const Job*> context
    cdef Py_ssize_t i, outer, first, start
    for i in range(index * job.task, min((index + 1) * job.task, job.outer * job.columns)):
        outer, first = i // job.columns, i % job.columns * LANES
        start = outer * job.n * job.inner + first
        log_softmax_lanes(job.x + start, job.y + start, job.inner, job.n, <int> min(LANES, job.inner - first))


def log_softmax(Array x not None, Array y not None, Py_ssize_t outer, Py_ssize_t n, Py_ssize_t inner):
    """y = log softmax of x, both (outer, n, inner), along n. y may be x."""
    cdef Job job
    cdef Py_ssize_t count
    if x.size == 0:
        return
    job.x, job.y = <const float*> x.data, <float*> y.data
    job.outer, job.n, job.inner = outer, n, inner
    with nogil:
        if inner == 1:
            job.task = max(TASK // (n * LANES), 1) * LANES if n <= NARROW else max(TASK // n, 1)
            count = (outer + job.task - 1) // job.task
            parallel_for(log_softmax_task, &job, count, threads_for(0.5 * <double> x.size))
        else:
            job.columns = (inner + LANES - 1) // LANES
            job.task = max(TASK // (n * LANES), 1)
            count = (outer * job.columns + job.task - 1) // job.task
            parallel_for(log_softmax_columns_task, &job, count, threads_for(0.5 * <double> x.size))
