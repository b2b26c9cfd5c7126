# Layer normalisation and RMS normalisation over rows of consecutive elements: forward and backward.
#
#   layer norm (Ba, Kiros and Hinton 2016):   m = Σ x / D,  i = 1 / √(Σ (x − m)² / D + eps),  y = (x − m) · i · γ + β
#   RMS norm (Zhang and Sennrich 2019):       m = 0,        i = 1 / √(Σ x² / D + eps),        y = x · i · γ
#
#   with g = dy · γ and x̂ = (x − m) · i:      dγ = Σ dy · x̂,  dβ = Σ dy            over the rows
#                                             dx = i · ((g − Σ g / D) − x̂ · (Σ g · x̂ / D)); RMS norm's without Σ g / D
#
# An array is (rows, D). Sums are double; y and dx are written as _layernorm_elements.pxd says. Sums along a row are in
# LANES lanes: element j is added to lane j % LANES, but the last D % LANES elements to the last lanes. For sums over
# rows, the rows are cut into blocks by their sizes alone: a block's rows are added in order, then the blocks.

from libc.math cimport INFINITY

from _batchnorm_constants cimport y_center
from _lanes cimport ROWS
from _layernorm_elements cimport (
    CONSTANT, IN_PLACE, RMS, backward_constants, forward_constants, inverse_root, write_backward, write_backward64,
    write_forward, write_forward64,
)
from _layernorm_sums cimport LANES, Backward, backward_sums, forward_sums
from _memory cimport IN64, INOUT, INOUT64, allocate_lines, free_lines
from _sums cimport add_sums
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    GROUP = 4                   # rows of a batch, a task and a block are a multiple; and of ROWS
    GROUP_BYTES = 262144        # of a group: half of a second-level cache
    BATCH = 64                  # rows whose constants are computed together, at most
    BATCH_ELEMENTS = 1024
    FORWARD_ELEMENTS = 16384    # of a forward task, at least
    BLOCK_ELEMENTS = 32768      # of a block of rows in backward, at least
    MAX_BLOCKS = 32
    COLUMNS = 512               # of a task that adds the blocks


cdef struct Forward:
    const float* x
    float* y
    const float* gamma
    const float* beta
    double* mean                # of each row; not used by RMS norm
    double* invstd
    Py_ssize_t rows
    Py_ssize_t n                # D
    Py_ssize_t task             # rows of a task
    double eps


cdef inline int batch_of(Py_ssize_t n) noexcept nogil:
    """Rows of a batch: one, or a multiple of GROUP."""
    if GROUP * n > GROUP_BYTES // 8:
        return 1
    return <int> min(<Py_ssize_t> BATCH, max(<Py_ssize_t> GROUP, BATCH_ELEMENTS // n // GROUP * GROUP))


# Forward.

cdef inline bint centre(IN64 k, IN64 s, INOUT64 m2, Py_ssize_t n, int rows, INOUT64 mean) noexcept nogil:
    """Mean and Σ (x − mean)² from the sums around k; true if a k is more than four deviations from its mean."""
    cdef double average, lost
    cdef bint far = False
    cdef int r
    for r in range(rows):
        average = s[r] / <double> n
        lost = s[r] * average
        m2[r] = m2[r] - lost
        mean[r] = k[r] + average
        far |= lost > 16.0 * m2[r]
    return far


cdef inline void statistics(const float* x, const float* y, Py_ssize_t n, int rows, double* mean, double* m2,
                            int flags) noexcept nogil:
    """Mean and Σ (x − mean)² of at most BATCH rows; of RMS norm Σ x².

    One pass, around the row's first element. Where that is far from the mean, m2 has lost digits: a second pass, around
    the mean.
    """
    cdef double k[BATCH]
    cdef double s[BATCH]
    cdef int i, r
    for r in range(rows):
        k[r] = 0.0 if flags & RMS else x[r * n]
    for i in range(rows // ROWS):
        r = i * ROWS
        forward_sums(x + r * n, y + r * n, n, ROWS, k + r, s + r, m2 + r, flags)
    for r in range(rows // ROWS * ROWS, rows):
        forward_sums(x + r * n, y + r * n, n, 1, k + r, s + r, m2 + r, flags)
    if not flags & RMS and centre(k, s, m2, n, rows, mean):
        for r in range(rows):
            if s[r] * (s[r] / <double> n) > 16.0 * m2[r]:
                k[r] = mean[r]
                forward_sums(x + r * n, y + r * n, n, 1, k + r, s + r, m2 + r, flags)
                centre(k + r, s + r, m2 + r, n, 1, mean + r)


cdef inline void forward_rows(const Forward* f, Py_ssize_t first, int rows, int flags) noexcept nogil:
    """At most BATCH rows."""
    cdef Py_ssize_t n = f.n, at
    cdef double m2[BATCH]
    cdef float center[BATCH]
    cdef float factor[BATCH]
    cdef float shift[BATCH]
    cdef double* mean = f.mean + first
    cdef double* invstd = f.invstd + first
    cdef int r
    statistics(f.x + first * n, f.y + first * n, n, rows, mean, m2, flags)
    inverse_root(m2, n, f.eps, rows, invstd)
    forward_constants(mean, invstd, n, rows, center, factor, shift, flags)
    for r in range(rows):
        at = (first + r) * n
        if center[r] == <float> INFINITY:
            write_forward64(f.x + at, f.y + at, f.gamma, f.beta, n, 0.0 if flags & RMS else y_center(mean[r]),
                            invstd[r], flags if flags & RMS or m2[r] != 0.0 else CONSTANT)
        elif not flags & RMS and m2[r] == 0.0:
            write_forward(f.x + at, f.y + at, f.gamma, f.beta, n, center[r], factor[r], shift[r], CONSTANT)
        else:
            write_forward(f.x + at, f.y + at, f.gamma, f.beta, n, center[r], factor[r], shift[r], flags)


cdef inline void forward_task(const Forward* f, Py_ssize_t index, int flags) noexcept nogil:
    cdef Py_ssize_t i = index * f.task, last = min(f.rows, i + f.task), batch = batch_of(f.n)
    while i < last:
        forward_rows(f, i, <int> min(batch, last - i), flags)
        i += batch


cdef void layer_norm_task(void* f, Py_ssize_t index) noexcept nogil:
    forward_task(<const Forward*> f, index, 0)


cdef void rms_norm_task(void* f, Py_ssize_t index) noexcept nogil:
    forward_task(<const Forward*> f, index, RMS)


# Backward.

cdef inline void backward_rows(const Backward* b, Py_ssize_t first, int rows, double* products, double* sums,
                               int flags) noexcept nogil:
    """At most BATCH rows."""
    cdef Py_ssize_t n = b.n, at
    cdef double s[BATCH]
    cdef double q[BATCH]
    cdef float center[BATCH]
    cdef float factor[BATCH]
    cdef float slope[BATCH]
    cdef float shift[BATCH]
    cdef const double* mean = b.mean + first
    cdef const double* invstd = b.invstd + first
    cdef int r
    for r in range(rows // ROWS):
        at = ROWS * r
        backward_sums(b, first + at, ROWS, products, sums, s + at, q + at, flags)
    for r in range(rows // ROWS * ROWS, rows):
        backward_sums(b, first + r, 1, products, sums, s + r, q + r, flags)
    backward_constants(s, q, mean, invstd, n, rows, center, factor, slope, shift, flags)
    for r in range(rows):
        at = (first + r) * n
        if slope[r] == <float> INFINITY:
            write_backward64(b.x + at, b.dy + at, b.dx + at, b.gamma, n, 0.0 if flags & RMS else mean[r], invstd[r],
                             s[r], q[r], flags)
        else:
            write_backward(b.x + at, b.dy + at, b.dx + at, b.gamma, n, center[r], factor[r], slope[r], shift[r], flags)


cdef inline void backward_task(const Backward* b, Py_ssize_t index, int flags) noexcept nogil:
    """A block of rows."""
    cdef Py_ssize_t n = b.n, j, i = index * b.task, last = min(b.rows, i + b.task), batch = batch_of(n)
    cdef double* products = b.sums + 2 * index * b.width
    cdef double* sums = products + b.width
    for j in range(2 * b.width):
        products[j] = 0.0
    while i < last:
        backward_rows(b, i, <int> min(batch, last - i), products + b.width - n, sums + b.width - n, flags)
        i += batch


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


cdef inline void round_sums(IN64 sums, INOUT gradient, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        gradient[i] = <float> sums[i]


cdef inline void merge(double* sums, Py_ssize_t stride, Py_ssize_t blocks, float* gradient,
                       Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(1, blocks):
        add_sums(sums, sums + k * stride, n)
    round_sums(sums, gradient, n)


cdef void merge_task(void* context, Py_ssize_t index) noexcept nogil:
    """dgamma, and dbeta unless that is NULL, of COLUMNS columns: the blocks' sums in order."""
    cdef const Backward* b = <const Backward*> context
    cdef Py_ssize_t first = index * COLUMNS, columns = min(<Py_ssize_t> COLUMNS, b.n - first)
    cdef double* sums = b.sums + (b.width - b.n) + first
    merge(sums, 2 * b.width, b.blocks, b.dgamma + first, columns)
    if b.dbeta != NULL:
        merge(sums + b.width, 2 * b.width, b.blocks, b.dbeta + first, columns)


cdef inline void widen(const float* x, double* copy, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """x in the last n of `width` elements, after zeros."""
    cdef Py_ssize_t i
    for i in range(width - n):
        copy[i] = 0.0
    for i in range(n):
        copy[width - n + i] = x[i]


# What Python calls. n and rows are at least 1.

cdef Forward forward_of(Array x, Array y, Array gamma, Array saved, double eps):
    cdef Forward f
    f.x, f.y, f.eps = <const float*> x.data, <float*> y.data, eps
    f.gamma, f.beta, f.mean, f.invstd = <const float*> gamma.data, NULL, <double*> saved.data, <double*> saved.data
    f.n = gamma.size
    f.rows = x.size // f.n
    f.task = max(FORWARD_ELEMENTS // f.n // GROUP * GROUP, 1)
    return f


def layer_norm(Array x not None, Array gamma not None, Array beta not None, Array y not None, Array saved not None,
               double eps):
    """Write y; `saved` (2 × rows, float64) receives mean and invstd."""
    cdef Forward f = forward_of(x, y, gamma, saved, eps)
    f.beta = <const float*> beta.data
    f.invstd += f.rows
    with nogil:
        parallel_for(layer_norm_task, &f, (f.rows + f.task - 1) // f.task, threads_for(0.25 * <double> x.size))


def rms_norm(Array x not None, Array gamma not None, Array y not None, Array saved not None, double eps):
    """Write y; `saved` (rows, float64) receives 1 / √(Σ x² / D + eps)."""
    cdef Forward f = forward_of(x, y, gamma, saved, eps)
    with nogil:
        parallel_for(rms_norm_task, &f, (f.rows + f.task - 1) // f.task, threads_for(0.2 * <double> x.size))


def backward(Array dy not None, Array x not None, Array gamma not None, Array saved not None, Array dx not None,
             Array dgamma not None, Array dbeta):
    """Write dx, dgamma and dbeta; without dbeta, and with `saved` as rms_norm writes it, those of RMS norm."""
    cdef Backward b
    cdef Py_ssize_t n = gamma.size, rows = x.size // n, least
    cdef double* copy
    cdef int threads
    b.x, b.dy, b.dx = <const float*> x.data, <const float*> dy.data, <float*> dx.data
    b.gamma = <const float*> gamma.data
    b.dgamma, b.dbeta = <float*> dgamma.data, <float*> dbeta.data if dbeta is not None else NULL
    b.mean = <const double*> saved.data
    b.invstd = <const double*> saved.data + (rows if dbeta is not None else 0)
    b.rows, b.n, b.width = rows, n, max(n, <Py_ssize_t> LANES)
    least = max((rows + MAX_BLOCKS - 1) // MAX_BLOCKS, (BLOCK_ELEMENTS + n - 1) // n)
    b.task = (least + GROUP - 1) // GROUP * GROUP
    b.blocks = (rows + b.task - 1) // b.task
    b.sums = allocate_lines((2 * b.blocks + 1) * b.width)
    if b.sums == NULL:
        raise MemoryError
    copy = b.sums + 2 * b.blocks * b.width
    b.gamma64 = copy + b.width - n
    with nogil:
        widen(b.gamma, copy, n, b.width)
        threads = threads_for(0.4 * <double> x.size)
        if b.dbeta == NULL:
            parallel_for(rms_norm_backward_task, &b, b.blocks, threads)
        else:
            parallel_for(layer_norm_backward_task, &b, b.blocks, threads)
        parallel_for(merge_task, &b, (n + COLUMNS - 1) // COLUMNS, threads_for(0.3 * <double> (b.blocks * n)))
        free_lines(b.sums)
