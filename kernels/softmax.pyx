# log-softmax, softmax, hardmax and the backwards of the first two, along any axis. The method is in _softmax.pxd.
#
#     log softmax(x)ⱼ = xⱼ − log Σₖ exp(xₖ)                   backward: dxⱼ = dyⱼ − exp(yⱼ) · Σₖ dyₖ
#     softmax(x)ⱼ = exp(xⱼ) / Σₖ exp(xₖ)                      backward: dxⱼ = yⱼ · (dyⱼ − Σₖ dyₖ · yₖ)
#     hardmax(x)ⱼ = 1 for the first largest element, else 0
#
# Where exp(yⱼ) is near 1, the first backward is computed as (dyⱼ − Σ) − (exp(yⱼ) − 1) · Σ: where a confident label's dy
# is the row's whole sum, what is left is all in exp(y) − 1. Sums are double; a result is rounded once.
#
# Each function is written twice: for one row of consecutive elements, and for rows side by side (`lanes`), which is how
# any axis but the last one lies, and the last one too once narrow rows are transposed.

from libc.math cimport NAN
from libc.string cimport memcpy, memset

from _common cimport IN, INOUT
from _math cimport exp_split
from _softmax cimport (BLOCK, INOUT64, LANES, NARROW, SUMS, Rows, choose_base, finish, lane_sum, row_max,
                       scale_lanes, scale_row, scan_lanes, scan_rows, transpose_in, transpose_out)
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    TASK = 16384            # elements a task has at least, unless a row or a block of columns is longer

cdef enum:                  # what to compute
    LOG_SOFTMAX = 0
    SOFTMAX = 1
    HARDMAX = 2
    LOG_SOFTMAX_BACKWARD = 3
    SOFTMAX_BACKWARD = 4

# Arrays seen as (outer, n, inner), reduced along n. Forward: x to out. Backward: x is dy, and y the forward's result.
cdef struct Job:
    const float* x
    const float* y
    float* out
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


cdef inline void softmax_rows(const float* x, float* out, Py_ssize_t n, int rows, int what) noexcept nogil:
    """log-softmax or softmax of a group."""
    cdef Rows s
    cdef int r
    for r in range(rows):
        s.m[r] = row_max(x + r * n, n)
    choose_base(&s, rows)
    scan_rows(&s, x, out, n, rows, what == SOFTMAX)
    finish(&s, rows, what == LOG_SOFTMAX, what == SOFTMAX)
    for r in range(rows):
        if what == SOFTMAX:
            scale_row(out + r * n, n, s.top[r], s.factor[r], s.largest[r])
        elif x == out:
            shift_in_place(out + r * n, n, s.high[r], s.low[r])
        else:
            shift(x + r * n, out + r * n, n, s.high[r], s.low[r])


cdef inline int any_nan(IN x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef int found = 0
    for i in range(n):
        found |= x[i] != x[i]
    return found


cdef inline void hardmax_row(const float* x, float* out, Py_ssize_t n) noexcept nogil:
    cdef float m = row_max(x, n)
    cdef Py_ssize_t i, first = 0
    if any_nan(x, n):
        for i in range(n):
            out[i] = NAN
        return
    while x[first] != m:
        first += 1
    memset(out, 0, n * sizeof(float))
    out[first] = 1.0


cdef inline double row_sum(IN x, IN y, Py_ssize_t n, bint product) noexcept nogil:
    """Σ x or Σ x · y in SUMS lanes."""
    cdef double acc[SUMS]
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(SUMS):
        acc[lane] = 0.0
    for i in range(n // SUMS):
        for lane in range(SUMS):
            if product:
                acc[lane] += <double> x[i * SUMS + lane] * <double> y[i * SUMS + lane]
            else:
                acc[lane] += <double> x[i * SUMS + lane]
    for i in range(n // SUMS * SUMS, n):
        acc[i % SUMS] += <double> x[i] * <double> y[i] if product else <double> x[i]
    return lane_sum(acc)


cdef inline float slope(float dy, float y, double total, int what) noexcept nogil:
    if what == SOFTMAX_BACKWARD:
        return <float> (y * (dy - total))
    cdef double whole
    cdef double part = exp_split(y, &whole)
    return <float> ((dy - whole * total) - part * total)


cdef inline void slopes(IN dy, IN y, INOUT out, Py_ssize_t n, double total, int what) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = slope(dy[i], y[i], total, what)


cdef inline void backward_row(const float* dy, const float* y, float* out, Py_ssize_t n, int what) noexcept nogil:
    cdef float block[BLOCK]
    cdef double total = row_sum(dy, y, n, what == SOFTMAX_BACKWARD)
    cdef Py_ssize_t start = 0, length
    while start < n:
        length = min(BLOCK, n - start)
        slopes(dy + start, y + start, block, length, total, what)
        memcpy(out + start, block, length * sizeof(float))      # which may be dy or y
        start += length


cdef inline void shift_lanes(IN x, INOUT y, IN high, IN low, int lanes) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        y[lane] = (x[lane] - high[lane]) - low[lane]


cdef inline void softmax_lanes(const float* x, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes,
                               int what) noexcept nogil:
    cdef Rows s
    cdef float v[LANES]
    cdef Py_ssize_t j
    scan_lanes(&s, x, out, stride, n, lanes, what == SOFTMAX)
    finish(&s, lanes, what == LOG_SOFTMAX, what == SOFTMAX)
    for j in range(n):
        if what == SOFTMAX:
            scale_lanes(out + j * stride, s.top, s.factor, s.largest, lanes)
        else:
            shift_lanes(x + j * stride, v, s.high, s.low, lanes)
            memcpy(out + j * stride, v, lanes * sizeof(float))


cdef inline void hardmax_lanes(const float* x, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes) noexcept nogil:
    cdef float m[LANES]
    cdef float other[LANES]             # 0, or NaN in a row of NaN
    cdef Py_ssize_t first[LANES]
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(lanes):
        m[lane], first[lane], other[lane] = x[lane], 0, NAN if x[lane] != x[lane] else 0.0
    for j in range(1, n):
        for lane in range(lanes):
            first[lane] = j if x[j * stride + lane] > m[lane] else first[lane]
            m[lane] = x[j * stride + lane] if x[j * stride + lane] > m[lane] else m[lane]
            other[lane] = NAN if x[j * stride + lane] != x[j * stride + lane] else other[lane]
    for j in range(n):
        for lane in range(lanes):
            out[j * stride + lane] = other[lane] + <float> (first[lane] == j)


cdef inline void add_loop(INOUT64 acc, IN x, IN y, int lanes, bint product) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        if product:
            acc[lane] += <double> x[lane] * <double> y[lane]
        else:
            acc[lane] += <double> x[lane]


cdef inline void slope_lanes(IN dy, IN y, INOUT out, INOUT64 total, int lanes, int what) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        out[lane] = slope(dy[lane], y[lane], total[lane], what)


cdef inline void backward_lanes(const float* dy, const float* y, float* out, Py_ssize_t stride, Py_ssize_t n,
                                int lanes, int what) noexcept nogil:
    cdef double total[LANES]
    cdef float v[LANES]
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(lanes):
        total[lane] = 0.0
    for j in range(n):
        add_loop(total, dy + j * stride, y + j * stride, lanes, what == SOFTMAX_BACKWARD)
    for j in range(n):
        slope_lanes(dy + j * stride, y + j * stride, v, total, lanes, what)
        memcpy(out + j * stride, v, lanes * sizeof(float))


cdef inline void lanes_of(const float* x, const float* y, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes,
                          int what) noexcept nogil:
    if what == HARDMAX:
        hardmax_lanes(x, out, stride, n, lanes)
    elif what == LOG_SOFTMAX or what == SOFTMAX:
        softmax_lanes(x, out, stride, n, lanes, what)
    else:
        backward_lanes(x, y, out, stride, n, lanes, what)


cdef inline void last_axis(const Job* job, Py_ssize_t index, int what) noexcept nogil:
    """One task: rows of consecutive elements."""
    cdef float block[NARROW * LANES]
    cdef float block_y[NARROW * LANES]
    cdef Py_ssize_t n = job.n, i = index * job.task, last = min(job.outer, i + job.task)
    cdef int rows, r
    while i < last:
        if n <= NARROW:
            rows = <int> min(LANES, last - i)
            transpose_in(block, job.x + i * n, n, rows)
            if what >= LOG_SOFTMAX_BACKWARD:
                transpose_in(block_y, job.y + i * n, n, rows)
            lanes_of(block, block_y, block, LANES, n, rows, what)
            transpose_out(job.out + i * n, block, n, rows)
        else:
            rows = <int> min(min(16, max(TASK // 2 // n, 1)), last - i)
            if what == LOG_SOFTMAX or what == SOFTMAX:
                softmax_rows(job.x + i * n, job.out + i * n, n, rows, what)
            else:
                for r in range(rows):
                    if what == HARDMAX:
                        hardmax_row(job.x + (i + r) * n, job.out + (i + r) * n, n)
                    else:
                        backward_row(job.x + (i + r) * n, job.y + (i + r) * n, job.out + (i + r) * n, n, what)
        i += rows


cdef inline void other_axis(const Job* job, Py_ssize_t index, int what) noexcept nogil:
    """One task: blocks of LANES columns."""
    cdef Py_ssize_t i, first, start
    for i in range(index * job.task, min((index + 1) * job.task, job.outer * job.columns)):
        first = i % job.columns * LANES
        start = i // job.columns * job.n * job.inner + first
        lanes_of(job.x + start, job.y + start, job.out + start, job.inner, job.n, <int> min(LANES, job.inner - first),
                 what)


cdef inline void task_of(const Job* job, Py_ssize_t index, int what) noexcept nogil:
    if job.inner == 1:
        last_axis(job, index, what)
    else:
        other_axis(job, index, what)


cdef void log_softmax_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const Job*> job, index, LOG_SOFTMAX)


cdef void softmax_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const Job*> job, index, SOFTMAX)


cdef void hardmax_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const Job*> job, index, HARDMAX)


cdef void log_softmax_backward_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const Job*> job, index, LOG_SOFTMAX_BACKWARD)


cdef void softmax_backward_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const Job*> job, index, SOFTMAX_BACKWARD)


ctypedef void (*task_type)(void* job, Py_ssize_t index) noexcept nogil


cdef int run(task_type task, Array x, Array y, Array out, Py_ssize_t outer, Py_ssize_t n, Py_ssize_t inner) except -1:
    cdef Job job
    cdef Py_ssize_t count
    if x.size == 0:
        return 0
    job.x, job.y, job.out = <const float*> x.data, <const float*> y.data, <float*> out.data
    job.outer, job.n, job.inner = outer, n, inner
    job.columns = (inner + LANES - 1) // LANES
    with nogil:
        if inner == 1:
            job.task = max(TASK // (n * LANES), 1) * LANES if n <= NARROW else max(TASK // n, 1)
            count = (outer + job.task - 1) // job.task
        else:
            job.task = max(TASK // (n * LANES), 1)
            count = (outer * job.columns + job.task - 1) // job.task
        parallel_for(task, &job, count, threads_for((2.0 if n <= NARROW else 0.6) * <double> x.size))
    return 0


def log_softmax(Array x not None, Array out not None, Py_ssize_t outer, Py_ssize_t n, Py_ssize_t inner):
    """Both arrays are (outer, n, inner); out may be x."""
    run(log_softmax_task, x, x, out, outer, n, inner)


def softmax(Array x not None, Array out not None, Py_ssize_t outer, Py_ssize_t n, Py_ssize_t inner):
    """Both arrays are (outer, n, inner); out may be x."""
    run(softmax_task, x, x, out, outer, n, inner)


def hardmax(Array x not None, Array out not None, Py_ssize_t outer, Py_ssize_t n, Py_ssize_t inner):
    """Both arrays are (outer, n, inner); out may be x."""
    run(hardmax_task, x, x, out, outer, n, inner)


def log_softmax_backward(Array dy not None, Array y not None, Array out not None, Py_ssize_t outer, Py_ssize_t n,
                         Py_ssize_t inner):
    """All arrays are (outer, n, inner); out may be dy or y."""
    run(log_softmax_backward_task, dy, y, out, outer, n, inner)


def softmax_backward(Array dy not None, Array y not None, Array out not None, Py_ssize_t outer, Py_ssize_t n,
                     Py_ssize_t inner):
    """All arrays are (outer, n, inner); out may be dy or y."""
    run(softmax_backward_task, dy, y, out, outer, n, inner)
