# Layer normalisation and RMS normalisation over rows of consecutive elements: forward and backward.
#
#   layer norm (Ba, Kiros and Hinton 2016):   m = Σ x / D,  i = 1 / √(Σ (x − m)² / D + eps),  y = (x − m) · i · γ + β
#   RMS norm (Zhang and Sennrich 2019):       m = 0,        i = 1 / √(Σ x² / D + eps),        y = x · i · γ
#
#   with g = dy · γ and x̂ = (x − m) · i:      dγ = Σ dy · x̂,  dβ = Σ dy            over the rows
#                                             dx = i · ((g − Σ g / D) − x̂ · (Σ g · x̂ / D)); RMS norm's without Σ g / D
#
# An array is (rows, D). Arithmetic is double, and a result is rounded once to float32. Sums along a row are kept in
# LANES lanes: element j is added to lane j % LANES, then halves are added. For the sums over rows, the rows are cut
# into blocks by their sizes alone: a block's rows are added in order, then the blocks.

from libc.math cimport fabs, sqrt

from _memory cimport IN, IN64, INOUT, INOUT64, allocate_lines, free_lines, unknown
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    LANES = 32
    STEPS = 4                   # values of each lane that are added at once
    GROUP = 4                   # rows whose steps are done in turn, so that their latencies overlap
    FORWARD_ELEMENTS = 8192     # of a forward task, at least
    BLOCK_ELEMENTS = 8192       # of a block of rows in backward, at least
    MAX_BLOCKS = 32
    COLUMNS = 512               # of a task that adds the blocks
    RMS = 1
    IN_PLACE = 2                # dx is dy: read through the pointer that is written
    CONSTANT = 4                # all elements of the row are equal
    SQUARES = 8


cdef struct Forward:
    const float* x
    float* y
    const double* gamma         # copies: a conversion takes longer than twice the bytes
    const double* beta
    double* mean                # of each row; NULL for RMS norm
    double* invstd
    Py_ssize_t rows
    Py_ssize_t n                # D
    Py_ssize_t task             # rows of a task
    double eps


cdef struct Backward:
    const float* x
    const float* dy
    float* dx
    float* dgamma
    float* dbeta
    const double* gamma         # a copy, as in Forward
    const double* mean
    const double* invstd
    double* sums                # Σ dy · x̂ and Σ dy of each block: n doubles each
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t task             # rows of a block
    Py_ssize_t blocks


cdef inline double fold(double* lane) noexcept nogil:
    """Σ of the lanes: halves are added."""
    cdef int i
    for i in range(LANES // 2):
        lane[i] += lane[i + LANES // 2]
    for i in range(LANES // 4):
        lane[i] += lane[i + LANES // 4]
    for i in range(LANES // 8):
        lane[i] += lane[i + LANES // 8]
    for i in range(LANES // 16):
        lane[i] += lane[i + LANES // 16]
    return lane[0] + lane[1]


cdef inline void add_values(IN x, int steps, int lanes, double mean, INOUT64 s, int flags) noexcept nogil:
    """Add `steps` (a literal) times LANES values of a row, or with SQUARES the squares of x − mean."""
    cdef int l, k
    cdef double total, d
    for l in range(lanes):
        total = s[l]
        for k in range(steps):
            if flags & SQUARES:
                d = <double> x[LANES * k + l] - mean
                total = total + d * d
            else:
                total = total + <double> x[LANES * k + l]
        s[l] = total


cdef inline double row_sum(const float* x, Py_ssize_t n, double mean, int flags) noexcept nogil:
    """Σ x, or with SQUARES Σ (x − mean)²"""
    cdef double s[LANES]
    cdef int lanes = unknown(LANES), l
    cdef Py_ssize_t b, i = n // (STEPS * LANES) * STEPS
    for l in range(LANES):
        s[l] = 0.0
    for b in range(n // (STEPS * LANES)):
        add_values(x + b * STEPS * LANES, STEPS, lanes, mean, s, flags)
    for b in range(i, n // LANES):
        add_values(x + b * LANES, 1, lanes, mean, s, flags)
    i = n // LANES * LANES
    add_values(x + i, 1, <int> (n - i), mean, s, flags)
    return fold(s)


cdef inline void add_gradients(IN x, IN dy, IN64 gamma, int steps, int lanes, double mean, INOUT64 s, INOUT64 q,
                               int flags) noexcept nogil:
    """Add `steps` (a literal) times LANES values of g, unless RMS, and of g · (x − mean)."""
    cdef int l, k
    cdef double total, product, g
    for l in range(lanes):
        total = s[l]
        product = q[l]
        for k in range(steps):
            g = <double> dy[LANES * k + l] * gamma[LANES * k + l]
            if not flags & RMS:
                total = total + g
            product = product + g * (<double> x[LANES * k + l] - mean)
        s[l] = total
        q[l] = product


cdef inline void gradient_sums(const float* x, const float* dy, const double* gamma, Py_ssize_t n, double mean,
                               double* sum_g, double* sum_g_d, int flags) noexcept nogil:
    """Σ g, which is 0 with RMS, and Σ g · (x − mean)."""
    cdef double s[LANES]
    cdef double q[LANES]
    cdef int lanes = unknown(LANES), l
    cdef Py_ssize_t b, i
    for l in range(LANES):
        s[l] = 0.0
        q[l] = 0.0
    for b in range(n // (STEPS * LANES)):
        i = b * STEPS * LANES
        add_gradients(x + i, dy + i, gamma + i, STEPS, lanes, mean, s, q, flags)
    for b in range(n // (STEPS * LANES) * STEPS, n // LANES):
        i = b * LANES
        add_gradients(x + i, dy + i, gamma + i, 1, lanes, mean, s, q, flags)
    i = n // LANES * LANES
    add_gradients(x + i, dy + i, gamma + i, 1, <int> (n - i), mean, s, q, flags)
    sum_g[0] = 0.0 if flags & RMS else fold(s)
    sum_g_d[0] = fold(q)


cdef inline void write_forward(IN x, INOUT y, IN64 gamma, IN64 beta, Py_ssize_t n, double center, double invstd,
                               int flags) noexcept nogil:
    """y; with CONSTANT (x − center = 0) that is 0 · −|γ| + β = β, even if β is −0."""
    cdef Py_ssize_t i
    cdef double g
    for i in range(n):
        g = -fabs(gamma[i]) if flags & CONSTANT else gamma[i]
        if flags & RMS:
            y[i] = <float> (<double> x[i] * invstd * g)
        else:
            y[i] = <float> ((<double> x[i] - center) * invstd * g + beta[i])


cdef inline void forward_rows(const Forward* f, Py_ssize_t first, int rows, int flags) noexcept nogil:
    """At most GROUP rows."""
    cdef double m2[GROUP]
    cdef double mean[GROUP]
    cdef Py_ssize_t n = f.n
    cdef const float* x = f.x + first * n
    cdef float* y = f.y + first * n
    cdef int r
    for r in range(rows):
        mean[r] = 0.0 if flags & RMS else row_sum(x + r * n, n, 0.0, 0) / <double> n
    for r in range(rows):
        m2[r] = row_sum(x + r * n, n, mean[r], SQUARES)
    for r in range(rows):
        f.invstd[first + r] = 1.0 / sqrt(m2[r] / <double> n + f.eps)
        if not flags & RMS:
            f.mean[first + r] = mean[r]
            mean[r] = -0.0 if mean[r] == 0.0 else mean[r]
    for r in range(rows):
        if not flags & RMS and m2[r] == 0.0:
            write_forward(x + r * n, y + r * n, f.gamma, f.beta, n, mean[r], f.invstd[first + r], flags | CONSTANT)
        else:
            write_forward(x + r * n, y + r * n, f.gamma, f.beta, n, mean[r], f.invstd[first + r], flags)


cdef inline int group_of(Py_ssize_t n) noexcept nogil:
    """Rows of a group: few enough that they stay in the cache."""
    return GROUP if n <= 1024 else 1


cdef inline void forward_task(const Forward* f, Py_ssize_t index, int flags) noexcept nogil:
    cdef Py_ssize_t i = index * f.task, last = min(f.rows, i + f.task)
    cdef int rows
    while i < last:
        rows = <int> min(<Py_ssize_t> group_of(f.n), last - i)
        forward_rows(f, i, rows, flags)
        i += rows


cdef void layer_norm_task(void* f, Py_ssize_t index) noexcept nogil:
    forward_task(<const Forward*> f, index, 0)


cdef void rms_norm_task(void* f, Py_ssize_t index) noexcept nogil:
    forward_task(<const Forward*> f, index, RMS)


# Backward.

cdef inline void write_backward(IN x, IN dy, INOUT dx, IN64 gamma, Py_ssize_t n, double mean, double invstd,
                                double mean_g, double mean_g_xhat, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef double g, xhat
    for i in range(n):
        g = <double> (dx[i] if flags & IN_PLACE else dy[i]) * gamma[i]
        xhat = (<double> x[i] - mean) * invstd
        dx[i] = <float> (invstd * ((g if flags & RMS else g - mean_g) - xhat * mean_g_xhat))


cdef inline void add_columns(IN x, IN dy, Py_ssize_t stride, int rows, Py_ssize_t n, IN64 mean, IN64 invstd,
                             INOUT64 sum_dy_xhat, INOUT64 sum_dy, int flags) noexcept nogil:
    """Add `rows` (a literal) rows to the sums of each column, in order."""
    cdef Py_ssize_t i, r
    cdef double s, q, g
    for i in range(n):
        q = sum_dy_xhat[i]
        s = 0.0 if flags & RMS else sum_dy[i]
        for r in range(rows):
            g = <double> dy[r * stride + i]
            q = q + g * ((<double> x[r * stride + i] - mean[r]) * invstd[r])
            if not flags & RMS:
                s = s + g
        sum_dy_xhat[i] = q
        if not flags & RMS:
            sum_dy[i] = s


cdef inline void backward_row(const Backward* b, Py_ssize_t row, int flags) noexcept nogil:
    cdef Py_ssize_t n = b.n, at = row * n
    cdef double mean = 0.0 if flags & RMS else b.mean[row], sum_g = 0.0, sum_g_d
    gradient_sums(b.x + at, b.dy + at, b.gamma, n, mean, &sum_g, &sum_g_d, flags)
    write_backward(b.x + at, b.dy + at, b.dx + at, b.gamma, n, mean, b.invstd[row], sum_g / <double> n,
                   sum_g_d * b.invstd[row] / <double> n, flags)


cdef inline void backward_task(const Backward* b, Py_ssize_t index, int flags) noexcept nogil:
    """A block of rows."""
    cdef Py_ssize_t n = b.n, i, j, k, r, first = index * b.task, last = min(b.rows, first + b.task)
    cdef double* products = b.sums + 2 * index * n
    cdef double* sums = products + n
    cdef double zeros[GROUP]
    cdef const double* mean
    for i in range(GROUP):
        zeros[i] = 0.0
    for j in range(2 * n):
        products[j] = 0.0
    for k in range((last - first) // GROUP):
        i = first + GROUP * k
        mean = <const double*> zeros if flags & RMS else b.mean + i
        add_columns(b.x + i * n, b.dy + i * n, n, GROUP, n, mean, b.invstd + i, products, sums, flags)
        for r in range(i, i + GROUP):
            backward_row(b, r, flags)
    for r in range(first + (last - first) // GROUP * GROUP, last):
        mean = <const double*> zeros if flags & RMS else b.mean + r
        add_columns(b.x + r * n, b.dy + r * n, n, 1, n, mean, b.invstd + r, products, sums, flags)
        backward_row(b, r, flags)


cdef void layer_norm_backward_task(void* b, Py_ssize_t index) noexcept nogil:
    cdef const Backward* job = <const Backward*> b
    if job.dx == job.dy:
        backward_task(job, index, IN_PLACE)
    else:
        backward_task(job, index, 0)


cdef void rms_norm_backward_task(void* b, Py_ssize_t index) noexcept nogil:
    cdef const Backward* job = <const Backward*> b
    if job.dx == job.dy:
        backward_task(job, index, RMS | IN_PLACE)
    else:
        backward_task(job, index, RMS)


cdef inline void add_block(INOUT64 sums, IN64 other, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        sums[i] += other[i]


cdef inline void round_sums(IN64 sums, INOUT gradient, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        gradient[i] = <float> sums[i]


cdef void merge_task(void* context, Py_ssize_t index) noexcept nogil:
    """dgamma, and dbeta unless that is NULL, of COLUMNS columns: the blocks' sums in order."""
    cdef const Backward* b = <const Backward*> context
    cdef Py_ssize_t n = b.n, first = index * COLUMNS, columns = min(<Py_ssize_t> COLUMNS, n - first), k
    for k in range(1, b.blocks):
        add_block(b.sums + first, b.sums + 2 * k * n + first, columns)
    round_sums(b.sums + first, b.dgamma + first, columns)
    if b.dbeta != NULL:
        for k in range(1, b.blocks):
            add_block(b.sums + n + first, b.sums + (2 * k + 1) * n + first, columns)
        round_sums(b.sums + n + first, b.dbeta + first, columns)


cdef inline void widen(IN x, INOUT64 copy, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        copy[i] = x[i]


# What Python calls. n and rows are at least 1.

cdef Forward forward_of(Array x, Array y, Array gamma, Array saved, double eps):
    cdef Forward f
    f.x, f.y, f.eps = <const float*> x.data, <float*> y.data, eps
    f.gamma, f.beta, f.mean, f.invstd = NULL, NULL, NULL, <double*> saved.data
    f.n = gamma.size
    f.rows = x.size // f.n
    f.task = max(FORWARD_ELEMENTS // f.n // GROUP * GROUP, 1)
    return f


def layer_norm(Array x not None, Array gamma not None, Array beta not None, Array y not None, Array saved not None,
               double eps):
    """Write y; `saved` (2 × rows, float64) receives mean and invstd."""
    cdef Forward f = forward_of(x, y, gamma, saved, eps)
    cdef double* copies = allocate_lines(2 * f.n)
    if copies == NULL:
        raise MemoryError
    f.gamma, f.beta, f.mean = copies, copies + f.n, f.invstd
    f.invstd += f.rows
    with nogil:
        widen(<const float*> gamma.data, copies, f.n)
        widen(<const float*> beta.data, copies + f.n, f.n)
        parallel_for(layer_norm_task, &f, (f.rows + f.task - 1) // f.task, threads_for(0.4 * <double> x.size))
        free_lines(copies)


def rms_norm(Array x not None, Array gamma not None, Array y not None, Array saved not None, double eps):
    """Write y; `saved` (rows, float64) receives 1 / √(Σ x² / D + eps)."""
    cdef Forward f = forward_of(x, y, gamma, saved, eps)
    cdef double* copy = allocate_lines(f.n)
    if copy == NULL:
        raise MemoryError
    f.gamma = copy
    with nogil:
        widen(<const float*> gamma.data, copy, f.n)
        parallel_for(rms_norm_task, &f, (f.rows + f.task - 1) // f.task, threads_for(0.3 * <double> x.size))
        free_lines(copy)


def backward(Array dy not None, Array x not None, Array gamma not None, Array saved not None, Array dx not None,
             Array dgamma not None, Array dbeta):
    """Write dx, dgamma and dbeta; without dbeta, and with `saved` as rms_norm writes it, those of RMS norm."""
    cdef Backward b
    cdef Py_ssize_t n = gamma.size, rows = x.size // n, least
    cdef int threads
    b.x, b.dy, b.dx = <const float*> x.data, <const float*> dy.data, <float*> dx.data
    b.dgamma, b.dbeta = <float*> dgamma.data, <float*> dbeta.data if dbeta is not None else NULL
    b.mean = <const double*> saved.data if dbeta is not None else NULL
    b.invstd = <const double*> saved.data + (rows if dbeta is not None else 0)
    b.rows, b.n = rows, n
    least = max((rows + MAX_BLOCKS - 1) // MAX_BLOCKS, (BLOCK_ELEMENTS + n - 1) // n)
    b.task = (least + GROUP - 1) // GROUP * GROUP
    b.blocks = (rows + b.task - 1) // b.task
    b.sums = allocate_lines((2 * b.blocks + 1) * n)
    if b.sums == NULL:
        raise MemoryError
    b.gamma = b.sums + 2 * b.blocks * n
    with nogil:
        widen(<const float*> gamma.data, b.sums + 2 * b.blocks * n, n)
        threads = threads_for(0.6 * <double> x.size)
        if b.dbeta == NULL:
            parallel_for(rms_norm_backward_task, &b, b.blocks, threads)
        else:
            parallel_for(layer_norm_backward_task, &b, b.blocks, threads)
        parallel_for(merge_task, &b, (n + COLUMNS - 1) // COLUMNS, threads_for(0.3 * <double> (b.blocks * n)))
        free_lines(b.sums)
