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

from _memory cimport IN, INOUT
from _math cimport exp_split
from _memory cimport INOUT64
from _softmax cimport LANES, NARROW, Rows, choose_base, finish
from _softmax_lanes cimport Narrow, lanes_for, narrow_group, scale_lanes, sum_lanes, transpose_in, transpose_out
from _softmax_rows cimport BLOCK, SUMS, group_of, lane_sum, max_lanes, max_rows, padded_group, scale_row, sum_rows
from fastopt._runtime.parallel cimport parallel_for, threads_for
from fastopt._runtime.slices cimport Slices

cdef enum:
    TASK = 4096             # elements of a task, about, unless a row is longer: enough that threads share evenly

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
    cdef int r, padded = padded_group(rows)
    max_rows(&s, x, n, rows)
    choose_base(&s, padded)
    sum_rows(&s, x, out, n, rows, what == SOFTMAX)
    finish(&s, padded, what == LOG_SOFTMAX, what == SOFTMAX)
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
    cdef float lanes[SUMS]
    cdef float m
    cdef int lane
    max_lanes(x, lanes, n)
    m = lanes[0]
    for lane in range(1, SUMS):
        m = max(m, lanes[lane])
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
    for lane in range(SUMS // 2):
        acc[lane] += acc[lane + SUMS // 2]
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


cdef inline void shift_lanes(IN x, INOUT y, IN high, IN low, int lanes, bint in_place) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        y[lane] = ((y[lane] if in_place else x[lane]) - high[lane]) - low[lane]


cdef inline void softmax_lanes(const float* x, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes,
                               int what) noexcept nogil:
    cdef Rows s
    cdef Py_ssize_t j
    sum_lanes(&s, x, out, stride, n, lanes, what == SOFTMAX)
    finish(&s, lanes, what == LOG_SOFTMAX, what == SOFTMAX)
    for j in range(n):
        if what == SOFTMAX:
            scale_lanes(out + j * stride, s.top, s.factor, s.largest, lanes)
        elif x == out:
            shift_lanes(NULL, out + j * stride, s.high, s.low, lanes, True)
        else:
            shift_lanes(x + j * stride, out + j * stride, s.high, s.low, lanes, False)


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
    cdef Narrow x, y, room
    cdef Py_ssize_t n = job.n, i = index * job.task, last = min(job.outer, i + job.task)
    cdef int rows, lanes, r
    while i < last:
        if n <= NARROW:
            rows = narrow_group(last - i)
            transpose_in(x.v, room.v, job.x + i * n, n, rows)
            if what >= LOG_SOFTMAX_BACKWARD:
                transpose_in(y.v, room.v, job.y + i * n, n, rows)
            lanes = lanes_for(rows)
            lanes_of(x.v, y.v, x.v, lanes, n, lanes, what)
            transpose_out(job.out + i * n, x.v, room.v, n, rows)
        else:
            rows = <int> min(group_of(n), last - i)
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


cdef int run(task_type task, Slices arrays) except -1:
    """Backward: x is dy, and out may be x or y. Forward: out may be x."""
    cdef Job job
    cdef Py_ssize_t n = arrays.n, count, group
    if arrays.x.size == 0:
        return 0
    job.x, job.out = <const float*> arrays.x.data, <float*> arrays.out.data
    job.y = <const float*> arrays.y.data if arrays.y is not None else NULL
    job.outer, job.n, job.inner = arrays.outer, n, arrays.inner
    job.columns = (job.inner + LANES - 1) // LANES
    with nogil:
        if job.inner == 1:
            group = LANES if n <= NARROW else group_of(n)
            job.task = max(TASK // (n * group), 1) * group
            count = (job.outer + job.task - 1) // job.task
        else:
            job.task = max(TASK // (n * LANES), 1)
            count = (job.outer * job.columns + job.task - 1) // job.task
        parallel_for(task, &job, count, threads_for((1.2 if n <= NARROW else 0.5) * <double> arrays.x.size))
    return 0


def log_softmax(Slices arrays not None):
    run(log_softmax_task, arrays)


def softmax(Slices arrays not None):
    run(softmax_task, arrays)


def hardmax(Slices arrays not None):
    run(hardmax_task, arrays)


def log_softmax_backward(Slices arrays not None):
    run(log_softmax_backward_task, arrays)


def softmax_backward(Slices arrays not None):
    run(softmax_backward_task, arrays)
