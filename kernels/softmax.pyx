# log-softmax, softmax, hardmax, and the gradients of the first two, along any axis.
#
#     log softmax(x)ⱼ = xⱼ − log Σₖ exp(xₖ)           method: _softmax.pxd;   gradient: _softmax_backward.pxd
#     softmax(x)ⱼ = exp(xⱼ) / Σₖ exp(xₖ)              the same
#     hardmax(x)ⱼ = 1 for the first largest element, else 0                   _hardmax.pxd
#
# Each function exists twice: along rows of consecutive elements (`_row`, `_rows`), and with one row per lane
# (`_lanes`), for any axis but the last, and for narrow rows of the last axis after a transposition. A few narrow rows
# (`_few`) are processed along the row, with the lanes' bits.

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _hardmax cimport hardmax_lanes, hardmax_row, max_of
from _memory cimport IN, INOUT
from _softmax cimport (
    HARDMAX, LOG_SOFTMAX, LOG_SOFTMAX_BACKWARD, MAX_ROWS, NARROW, SOFTMAX, SOFTMAX_BACKWARD, TASK_ELEMENTS, Rows,
    choose_base, finish,
)
from _softmax_backward cimport backward_lanes, backward_row, product_sum, row_sum, slopes, write_slopes
from _softmax_few cimport are_few, few_lanes, max_padded, pad_row, sum_few, sum_in_order
from _softmax_lanes cimport NarrowBlock, lanes_for, narrow_group, scale_lanes, sum_lanes, transpose_in, transpose_out
from _softmax_rows cimport (
    BLOCK, Terms, block_start, blocks_of, group_of, max_rows, padded_group, padded_length, row_cost, rows_per_task,
    scale_row, sum_long_row, sum_rows, write_scaled,
)
from _softmax_split cimport Split, max_split, partials, split_group, split_rows, sum_split
from fastopt._runtime.parallel cimport parallel_for, task_fn, threads_for
from fastopt._runtime.slices cimport Slices, backward, forward

# Arrays of shape (outer, n, inner), reduced along n. Backward: x is dy, and y is the result of the forward function.
cdef struct SoftmaxJob:
    const float* x
    const float* y
    float* out
    Py_ssize_t outer
    Py_ssize_t n
    Py_ssize_t inner
    Py_ssize_t task             # rows, or column blocks, in a task
    Py_ssize_t columns          # column blocks, of MAX_ROWS of the `inner` columns, per outer index


cdef inline void shift(IN x, INOUT y, Py_ssize_t n, float high, float low) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = (x[i] - high) - low


cdef inline void shift_in_place(INOUT y, Py_ssize_t n, float high, float low) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = (y[i] - high) - low


cdef inline void shift_row(const Rows* s, int row, const float* x, float* out, Py_ssize_t n) noexcept nogil:
    """log-softmax of n elements of a row."""
    if x == out:
        shift_in_place(out, n, s.high[row], s.low[row])
    else:
        shift(x, out, n, s.high[row], s.low[row])


cdef inline void softmax_rows(const float* x, float* out, Py_ssize_t n, int rows, int what) noexcept nogil:
    """log-softmax or softmax of a group of rows of at most BLOCK elements."""
    cdef Rows s
    cdef Terms block
    cdef int r, padded = padded_group(rows)
    max_rows(&s, x, n, rows)
    choose_base(&s, padded)
    sum_rows(&s, x, block.v, n, rows, out)
    finish(&s, padded, what == LOG_SOFTMAX, what == SOFTMAX)
    for r in range(rows):
        if what == SOFTMAX:
            write_scaled(block.v + r * padded_length(n), out + r * n, n, s.top[r], <float> s.factor[r], s.largest[r])
        else:
            shift_row(&s, r, x + r * n, out + r * n, n)


cdef inline void write_long_row(const Rows* s, int row, const float* x, float* out, Py_ssize_t n,
                                int what) noexcept nogil:
    """log-softmax or softmax of n elements of a row; softmax's terms are in `out`."""
    if what == SOFTMAX:
        scale_row(out, n, s.top[row], <float> s.factor[row], s.largest[row])
    else:
        shift_row(s, row, x, out, n)


cdef inline void softmax_long_row(const float* x, float* out, Py_ssize_t n, int what) noexcept nogil:
    """log-softmax or softmax of a row of more than BLOCK elements."""
    cdef Rows s
    max_rows(&s, x, n, 1)
    choose_base(&s, 1)
    sum_long_row(&s, x, out, n, what == SOFTMAX)
    finish(&s, 1, what == LOG_SOFTMAX, what == SOFTMAX)
    write_long_row(&s, 0, x, out, n, what)


cdef inline void shift_lanes(IN x, INOUT y, IN high, IN low, int lanes, bint in_place) noexcept nogil:
    cdef int lane
    for lane in range(lanes):
        y[lane] = ((y[lane] if in_place else x[lane]) - high[lane]) - low[lane]


cdef inline void softmax_lanes(const float* x, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes,
                               int what) noexcept nogil:
    cdef Rows s
    cdef float factor[MAX_ROWS]
    cdef Py_ssize_t j
    cdef int lane
    sum_lanes(&s, x, out, stride, n, lanes, what == SOFTMAX)
    finish(&s, lanes, what == LOG_SOFTMAX, what == SOFTMAX)
    if what == SOFTMAX:
        for lane in range(lanes):
            factor[lane] = <float> s.factor[lane]
    for j in range(n):
        if what == SOFTMAX:
            scale_lanes(out + j * stride, s.top, factor, s.largest, lanes)
        elif x == out:
            shift_lanes(NULL, out + j * stride, s.high, s.low, lanes, True)
        else:
            shift_lanes(x + j * stride, out + j * stride, s.high, s.low, lanes, False)


cdef inline void shift_ends(IN x, INOUT y, Py_ssize_t n, int width, float high, float low) noexcept nogil:
    """shift() for width ≤ n ≤ 2 · width: the first `width` elements and the last, which may overlap."""
    cdef int i
    for i in range(width):
        y[i] = (x[i] - high) - low
    for i in range(width):
        y[n - width + i] = (x[n - width + i] - high) - low


cdef inline void log_softmax_narrow(const float* block, float* scratch, const float* x, float* out, Py_ssize_t n,
                                    int rows, int lanes) noexcept nogil:
    """log-softmax of a group of rows of 8 to 32 elements; `block` holds them transposed."""
    cdef Rows s
    cdef int r
    if x == out:
        memcpy(scratch, x, rows * n * sizeof(float))
        x = scratch
    sum_lanes(&s, block, NULL, lanes, n, lanes, False)
    finish(&s, lanes, True, False)
    for r in range(rows):
        if n < 16:
            shift_ends(x + r * n, out + r * n, n, 8, s.high[r], s.low[r])
        else:
            shift_ends(x + r * n, out + r * n, n, 16, s.high[r], s.low[r])


cdef inline void lanes_of(const float* x, const float* y, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes,
                          int what) noexcept nogil:
    if what == HARDMAX:
        hardmax_lanes(x, out, stride, n, lanes)
    elif what == LOG_SOFTMAX or what == SOFTMAX:
        softmax_lanes(x, out, stride, n, lanes, what)
    else:
        backward_lanes(x, y, out, stride, n, lanes, what)


cdef inline void softmax_few(const float* x, float* out, Py_ssize_t n, int rows, int what) noexcept nogil:
    """log-softmax or softmax of a few rows of at most NARROW elements."""
    cdef Rows s
    cdef NarrowBlock block, terms
    cdef Py_ssize_t padded = padded_length(n)
    cdef int r
    for r in range(rows):
        pad_row(x + r * n, block.v + r * padded, n)
    sum_few(&s, block.v, terms.v, n, rows)
    finish(&s, few_lanes(rows), what == LOG_SOFTMAX, what == SOFTMAX)
    for r in range(rows):
        if what == SOFTMAX:
            write_scaled(terms.v + r * padded, block.v + r * padded, padded, s.top[r], <float> s.factor[r],
                         s.largest[r])
        else:
            shift_in_place(block.v + r * padded, padded, s.high[r], s.low[r])
        memcpy(out + r * n, block.v + r * padded, n * sizeof(float))


cdef inline void few_rows(const float* x, const float* y, float* out, Py_ssize_t n, int rows, int what) noexcept nogil:
    """Any of the functions for a few rows of at most NARROW elements, along the row."""
    cdef float a[NARROW]
    cdef float b[NARROW]
    cdef float gradient[NARROW]
    cdef double total
    cdef int r
    if what == LOG_SOFTMAX or what == SOFTMAX:
        softmax_few(x, out, n, rows, what)
        return
    for r in range(rows):
        pad_row(x + r * n, a, n)
        if what == HARDMAX:
            hardmax_row(x + r * n, out + r * n, n, max_padded(a, padded_length(n)))
        else:
            pad_row(y + r * n, b, n)
            total = product_sum(a, b, n) if what == SOFTMAX_BACKWARD else sum_in_order(a, n)
            slopes(a, b, gradient, (n + 7) // 8 * 8, total, what)
            memcpy(out + r * n, gradient, n * sizeof(float))


cdef inline void narrow_rows(const float* x, const float* y, float* out, Py_ssize_t n, int rows,
                             int what) noexcept nogil:
    """Any of the functions for a group of rows of at most NARROW elements, one row per lane."""
    cdef NarrowBlock block, other, scratch
    cdef int lanes = lanes_for(rows)
    transpose_in(block.v, scratch.v, x, n, rows)
    if what >= LOG_SOFTMAX_BACKWARD:
        transpose_in(other.v, scratch.v, y, n, rows)
    if what == LOG_SOFTMAX and n >= 8:
        log_softmax_narrow(block.v, scratch.v, x, out, n, rows, lanes)
    else:
        lanes_of(block.v, other.v, block.v, lanes, n, lanes, what)
        transpose_out(out, block.v, scratch.v, n, rows)


cdef inline void last_axis(const SoftmaxJob* job, Py_ssize_t index, int what) noexcept nogil:
    """One task of job.task rows of consecutive elements."""
    cdef Py_ssize_t n = job.n, i = index * job.task, last = min(job.outer, i + job.task)
    cdef int rows, r
    while i < last:
        if n <= NARROW:
            rows = narrow_group(last - i)
            if are_few(rows, n):
                few_rows(job.x + i * n, job.y + i * n, job.out + i * n, n, rows, what)
            else:
                narrow_rows(job.x + i * n, job.y + i * n, job.out + i * n, n, rows, what)
        else:
            rows = <int> min(group_of(n), last - i)
            if what == LOG_SOFTMAX or what == SOFTMAX:
                if n <= BLOCK:
                    softmax_rows(job.x + i * n, job.out + i * n, n, rows, what)
                else:
                    softmax_long_row(job.x + i * n, job.out + i * n, n, what)
            else:
                for r in range(rows):
                    if what == HARDMAX:
                        hardmax_row(job.x + (i + r) * n, job.out + (i + r) * n, n, max_of(job.x + (i + r) * n, n))
                    else:
                        backward_row(job.x + (i + r) * n, job.y + (i + r) * n, job.out + (i + r) * n, n, what)
        i += rows


cdef inline void other_axis(const SoftmaxJob* job, Py_ssize_t index, int what) noexcept nogil:
    """One task of job.task column blocks."""
    cdef Py_ssize_t i, first, start
    for i in range(index * job.task, min((index + 1) * job.task, job.outer * job.columns)):
        first = i % job.columns * MAX_ROWS
        start = i // job.columns * job.n * job.inner + first
        lanes_of(job.x + start, job.y + start, job.out + start, job.inner, job.n,
                 <int> min(MAX_ROWS, job.inner - first), what)


cdef inline void task_of(const SoftmaxJob* job, Py_ssize_t index, int what) noexcept nogil:
    if job.inner == 1:
        last_axis(job, index, what)
    else:
        other_axis(job, index, what)


cdef void log_softmax_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const SoftmaxJob*> job, index, LOG_SOFTMAX)


cdef void softmax_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const SoftmaxJob*> job, index, SOFTMAX)


cdef void hardmax_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const SoftmaxJob*> job, index, HARDMAX)


cdef void log_softmax_backward_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const SoftmaxJob*> job, index, LOG_SOFTMAX_BACKWARD)


cdef void softmax_backward_task(void* job, Py_ssize_t index) noexcept nogil:
    task_of(<const SoftmaxJob*> job, index, SOFTMAX_BACKWARD)


# Rows that are split over the threads.

cdef struct SplitSoftmax:
    Split p                     # of rows of job.x and job.out
    const SoftmaxJob* job
    Py_ssize_t first            # of the rows
    int what
    double* total               # the rows' sums, for backward


cdef void total_task(void* context, Py_ssize_t row) noexcept nogil:
    cdef const SplitSoftmax* split = <const SplitSoftmax*> context
    cdef Py_ssize_t at = (split.first + row) * split.job.n
    if split.what == SOFTMAX_BACKWARD:
        split.total[row] = row_sum(split.job.x + at, split.job.y + at, split.job.n, True)
    else:
        split.total[row] = row_sum(split.job.x + at, split.job.y + at, split.job.n, False)


cdef void write_task(void* context, Py_ssize_t index) noexcept nogil:
    """The results of one block."""
    cdef const SplitSoftmax* split = <const SplitSoftmax*> context
    cdef const SoftmaxJob* job = split.job
    cdef Py_ssize_t n = job.n, row = index // split.p.blocks, block = index % split.p.blocks
    cdef Py_ssize_t start = block_start(n, block), length = block_start(n, block + 1) - start
    start += (split.first + row) * n
    if split.what == LOG_SOFTMAX or split.what == SOFTMAX:
        write_long_row(split.p.s, <int> row, job.x + start, job.out + start, length, split.what)
    elif split.what == SOFTMAX_BACKWARD:
        write_slopes(job.x + start, job.y + start, job.out + start, length, split.total[row], SOFTMAX_BACKWARD)
    else:
        write_slopes(job.x + start, job.y + start, job.out + start, length, split.total[row], LOG_SOFTMAX_BACKWARD)


cdef void split_over_threads(const SoftmaxJob* job, Py_ssize_t first, int rows, int what, double* partial,
                             int threads) noexcept nogil:
    """All functions but hardmax for a group of rows."""
    cdef SplitSoftmax split
    cdef Rows s
    split.p.x, split.p.e, split.p.n = job.x + first * job.n, job.out + first * job.n, job.n
    split.p.keep, split.p.rows, split.p.blocks = what == SOFTMAX, rows, blocks_of(job.n)
    split.p.s, split.p.partial = &s, partial
    split.job, split.first, split.what, split.total = job, first, what, partial
    if what == LOG_SOFTMAX or what == SOFTMAX:
        max_split(&split.p, threads)
        sum_split(&split.p, threads)
        finish(&s, rows, what == LOG_SOFTMAX, what == SOFTMAX)
    else:
        parallel_for(total_task, &split, rows, threads)
    parallel_for(write_task, &split, rows * split.p.blocks, threads)


cdef int run(task_fn task, int what, Slices arrays) except -1:
    """Run `task` over arrays.x and arrays.y to arrays.out, which may be either of them."""
    cdef SoftmaxJob job
    cdef Py_ssize_t n = arrays.sizes.n, count, split = 0, first, rows
    cdef double* partial = NULL
    cdef int threads
    if arrays.x.size == 0:
        return 0
    job.x, job.out = <const float*> arrays.x.data, <float*> arrays.out.data
    job.y = <const float*> arrays.y.data if arrays.y is not None else NULL
    job.outer, job.n, job.inner = arrays.sizes.outer, n, arrays.sizes.inner
    job.columns = (job.inner + MAX_ROWS - 1) // MAX_ROWS
    threads = threads_for(row_cost(n) * <double> (job.outer * job.inner))
    if job.inner == 1 and what != HARDMAX:
        split = split_rows(job.outer, n, threads)
    if split > 0:
        partial = <double*> malloc(partials(split, n) * sizeof(double))
        if partial == NULL:
            raise MemoryError
    with nogil:
        job.outer -= split
        if job.inner == 1:
            job.task = rows_per_task(n)
            count = (job.outer + job.task - 1) // job.task
        else:
            job.task = max(TASK_ELEMENTS // (n * MAX_ROWS), 1)
            count = (job.outer * job.columns + job.task - 1) // job.task
        parallel_for(task, &job, count, threads)
        first = job.outer
        while first < arrays.sizes.outer:
            rows = split_group(arrays.sizes.outer - first)
            split_over_threads(&job, first, <int> rows, what, partial, threads)
            first += rows
        free(partial)
    return 0


def log_softmax(x, axis, out):
    cdef Slices arrays = forward(x, axis, out)
    run(log_softmax_task, LOG_SOFTMAX, arrays)
    return arrays.result


def softmax(x, axis, out):
    cdef Slices arrays = forward(x, axis, out)
    run(softmax_task, SOFTMAX, arrays)
    return arrays.result


def hardmax(x, axis, out):
    cdef Slices arrays = forward(x, axis, out)
    run(hardmax_task, HARDMAX, arrays)
    return arrays.result


def log_softmax_backward(dy, y, axis, out):
    cdef Slices arrays = backward(dy, y, axis, out)
    run(log_softmax_backward_task, LOG_SOFTMAX_BACKWARD, arrays)
    return arrays.result


def softmax_backward(dy, y, axis, out):
    cdef Slices arrays = backward(dy, y, axis, out)
    run(softmax_backward_task, SOFTMAX_BACKWARD, arrays)
    return arrays.result
