# Layer normalisation and RMS normalisation over rows of consecutive elements: forward and backward.
#
#   layer norm (Ba, Kiros and Hinton 2016):   m = Σ x / D,  i = 1 / √(Σ (x − m)² / D + eps),  y = (x − m) · i · γ + β
#   RMS norm (Zhang and Sennrich 2019):       m = 0,        i = 1 / √(Σ x² / D + eps),        y = x · i · γ
#
#   with g = dy · γ and x̂ = (x − m) · i:      dγ = Σ dy · x̂,  dβ = Σ dy            over the rows
#                                             dx = i · ((g − Σ g / D) − x̂ · (Σ g · x̂ / D)); RMS norm's without Σ g / D
#
# An array is (rows, D). Sums are double; y and dx are written as _layernorm_elements.pxd says. Sums along a row are kept
# in eight lanes: element j is added to lane j % 8, but the last D % 8 elements to the last lanes. For the sums over
# rows, the rows are cut into blocks by their sizes alone: a block's rows are added in order, then the blocks.

from libc.math cimport INFINITY

from _lanes cimport ROWS, Lanes, add, add_exact, keep_last, lanes_of, lanes_sum, load, load32, mul, store, sub
from _layernorm_elements cimport (
    CONSTANT, IN_PLACE, RMS, backward_constants, forward_constants, inverse_root, y_center, write_backward,
    write_backward64, write_forward, write_forward64,
)
from _memory cimport IN64, INOUT, INOUT64, allocate_lines, free_lines, prefetch, prefetch_line_for_writing
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    LANES = 8
    GROUP = 4                   # rows of a batch, a task and a block are a multiple; and of ROWS
    GROUP_BYTES = 262144        # of a group: half of a second-level cache
    BATCH = 64                  # rows whose constants are computed together, at most
    BATCH_ELEMENTS = 2048
    FORWARD_ELEMENTS = 16384    # of a forward task, at least
    BLOCK_ELEMENTS = 32768      # of a block of rows in backward, at least
    MAX_BLOCKS = 32
    AHEAD = 1024                # elements that are prefetched, at least
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


cdef struct Backward:
    const float* x
    const float* dy
    float* dx
    const float* gamma
    float* dgamma
    float* dbeta
    const double* mean          # not used by RMS norm
    const double* invstd
    const double* gamma64       # a copy: a conversion takes longer than twice the bytes
    double* sums                # Σ dy · x̂ and Σ dy of each block: width doubles each, the last n used
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t width            # n, and at least LANES
    Py_ssize_t task             # rows of a block
    Py_ssize_t blocks


cdef struct Short:              # rows of fewer than LANES elements, each in the last lanes of its own
    float x[GROUP * LANES]
    float dy[GROUP * LANES]


cdef inline void copy_short(const float* x, Py_ssize_t n, int rows, float* copy) noexcept nogil:
    cdef Py_ssize_t r, i
    for r in range(rows):
        for i in range(LANES - n):
            copy[LANES * r + i] = 0.0
        for i in range(n):
            copy[LANES * r + LANES - n + i] = x[r * n + i]


cdef inline int batch_of(Py_ssize_t n) noexcept nogil:
    """Rows of a batch: one, or a multiple of GROUP."""
    if GROUP * n > GROUP_BYTES // 8:
        return 1
    return <int> min(<Py_ssize_t> BATCH, max(<Py_ssize_t> GROUP, BATCH_ELEMENTS // n // GROUP * GROUP))


# Forward.

cdef struct Sums:               # of a row: Σ (x − k) and Σ (x − k)²
    const float* x
    Lanes k
    Lanes s
    Lanes q


cdef inline Sums no_sums(const float* x, double k) noexcept nogil:
    cdef Sums a
    a.x, a.k, a.s, a.q = x, lanes_of(k), lanes_of(0.0), lanes_of(0.0)
    return a


cdef inline void add_x(Sums* a, Py_ssize_t at, int last, int flags) noexcept nogil:
    """Add eight elements, or the `last` of them."""
    cdef Lanes d = load32(a.x + at)
    if not flags & RMS:
        d = sub(d, a.k)
    if last:
        d = keep_last(d, last)
    if not flags & RMS:
        a.s = add(a.s, d)
        a.q = add(a.q, mul(d, d))
    else:
        a.q = add_exact(a.q, d, d)


cdef inline void add_x_of(Sums* a, Sums* b, Sums* c, Sums* d, Py_ssize_t at, int last, int rows,
                          int flags) noexcept nogil:
    add_x(a, at, last, flags)
    if rows > 1:
        add_x(b, at, last, flags)
    if rows > 2:
        add_x(c, at, last, flags)
        add_x(d, at, last, flags)


cdef inline void prefetch_lines_for_writing(const float* y, Py_ssize_t stride, int rows) noexcept nogil:
    """A line of each row."""
    prefetch_line_for_writing(y)
    if rows > 1:
        prefetch_line_for_writing(y + stride)
    if rows > 2:
        prefetch_line_for_writing(y + 2 * stride)
        prefetch_line_for_writing(y + 3 * stride)


cdef inline void forward_sums(const float* x, const float* y, Py_ssize_t n, int rows, const double* k, double* s,
                              double* q, int flags) noexcept nogil:
    """Sums of `rows` (a literal: 1 or ROWS) rows; prefetches y's lines."""
    cdef Short copy
    cdef Py_ssize_t stride = n, j
    cdef Sums a, b, c, d
    cdef const float* ahead = x + max(rows * n, <Py_ssize_t> AHEAD)
    if n < LANES:
        copy_short(x, n, rows, copy.x)
        x, stride = copy.x + LANES - n, LANES
    a = no_sums(x, 0.0 if flags & RMS else k[0])
    if rows > 1:
        b = no_sums(x + stride, 0.0 if flags & RMS else k[1])
    if rows > 2:
        c = no_sums(x + 2 * stride, 0.0 if flags & RMS else k[2])
        d = no_sums(x + 3 * stride, 0.0 if flags & RMS else k[3])
    for j in range(n // (2 * LANES)):
        prefetch(ahead + 2 * LANES * j * rows, 2 * LANES * rows)
        prefetch_lines_for_writing(y + 2 * LANES * j, n, rows)
        add_x_of(&a, &b, &c, &d, 2 * LANES * j, 0, rows, flags)
        add_x_of(&a, &b, &c, &d, 2 * LANES * j + LANES, 0, rows, flags)
    if n % (2 * LANES) >= LANES:
        add_x_of(&a, &b, &c, &d, n // (2 * LANES) * (2 * LANES), 0, rows, flags)
    if n % LANES:
        add_x_of(&a, &b, &c, &d, n - LANES, <int> (n % LANES), rows, flags)
    s[0], q[0] = lanes_sum(a.s), lanes_sum(a.q)
    if rows > 1:
        s[1], q[1] = lanes_sum(b.s), lanes_sum(b.q)
    if rows > 2:
        s[2], q[2] = lanes_sum(c.s), lanes_sum(c.q)
        s[3], q[3] = lanes_sum(d.s), lanes_sum(d.q)


cdef inline void statistics(const float* x, const float* y, Py_ssize_t n, int rows, double* mean, double* m2,
                            int flags) noexcept nogil:
    """Mean and Σ (x − mean)² of at most BATCH rows; of RMS norm Σ x².

    One pass, around the row's first element. Where that is more than four deviations from the mean, m2 has lost too many
    digits: a second pass, around the mean.
    """
    cdef double k[BATCH]
    cdef double s[BATCH]
    cdef double lost
    cdef int r
    for r in range(rows):
        k[r] = 0.0 if flags & RMS else x[r * n]
    for r in range(rows // ROWS):
        forward_sums(x + ROWS * r * n, y + ROWS * r * n, n, ROWS, k + ROWS * r, s + ROWS * r, m2 + ROWS * r, flags)
    for r in range(rows // ROWS * ROWS, rows):
        forward_sums(x + r * n, y + r * n, n, 1, k + r, s + r, m2 + r, flags)
    if flags & RMS:
        return
    for r in range(rows):
        lost = s[r] * (s[r] / <double> n)
        if lost > 16.0 * (m2[r] - lost):
            k[r] += s[r] / <double> n
            forward_sums(x + r * n, y + r * n, n, 1, k + r, s + r, m2 + r, flags)
    for r in range(rows):
        mean[r] = k[r] + s[r] / <double> n
        m2[r] = m2[r] - s[r] * (s[r] / <double> n)


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

cdef struct GradientSums:       # of a row: Σ g and Σ g · (x − mean)
    const float* x
    const float* dy
    Lanes mean
    Lanes invstd
    Lanes s
    Lanes q


cdef struct Columns:            # of all rows, eight columns: Σ dy · x̂ and Σ dy
    Lanes gamma
    Lanes products
    Lanes sums


cdef inline GradientSums no_gradient_sums(const float* x, const float* dy, const double* mean, const double* invstd,
                                          int flags) noexcept nogil:
    cdef GradientSums a
    a.x, a.dy, a.mean, a.invstd = x, dy, lanes_of(0.0 if flags & RMS else mean[0]), lanes_of(invstd[0])
    a.s, a.q = lanes_of(0.0), lanes_of(0.0)
    return a


cdef inline void add_dy(GradientSums* a, Columns* c, Py_ssize_t at, int last, int flags) noexcept nogil:
    """Add eight elements, or the `last` of them."""
    cdef Lanes dy = load32(a.dy + at), d = load32(a.x + at), product
    if last:
        dy = keep_last(dy, last)
        d = keep_last(d, last)
    if not flags & RMS:
        d = sub(d, a.mean)
        a.s = add_exact(a.s, dy, c.gamma)
        c.sums = add(c.sums, dy)
    product = mul(dy, d)
    a.q = add(a.q, mul(product, c.gamma))
    c.products = add(c.products, mul(product, a.invstd))


cdef inline void add_dy_of(GradientSums* a, GradientSums* b, GradientSums* c, GradientSums* d, const double* gamma,
                           double* products, double* sums, Py_ssize_t at, int last, int rows,
                           int flags) noexcept nogil:
    cdef Columns columns
    columns.gamma = load(gamma + at)
    columns.products = load(products + at)
    if not flags & RMS:
        columns.sums = load(sums + at)
    add_dy(a, &columns, at, last, flags)
    if rows > 1:
        add_dy(b, &columns, at, last, flags)
    if rows > 2:
        add_dy(c, &columns, at, last, flags)
        add_dy(d, &columns, at, last, flags)
    store(columns.products, products + at)
    if not flags & RMS:
        store(columns.sums, sums + at)


cdef inline void backward_sums(const Backward* b, Py_ssize_t row, int rows, double* products, double* sums, double* s,
                               double* q, int flags) noexcept nogil:
    """Sums of `rows` (a literal: 1 or ROWS) rows, added to those of the columns."""
    cdef Short copy
    cdef Py_ssize_t n = b.n, stride = n, j
    cdef const double* mean = b.mean + row
    cdef const double* invstd = b.invstd + row
    cdef const float* x = b.x + row * n
    cdef const float* dy = b.dy + row * n
    cdef float* dx = b.dx + row * n
    cdef const float* x_ahead = x + max(rows * n, <Py_ssize_t> AHEAD)
    cdef const float* dy_ahead = dy + max(rows * n, <Py_ssize_t> AHEAD)
    cdef GradientSums r0, r1, r2, r3
    if n < LANES:
        copy_short(x, n, rows, copy.x)
        copy_short(dy, n, rows, copy.dy)
        x, dy, stride = copy.x + LANES - n, copy.dy + LANES - n, LANES
    r0 = no_gradient_sums(x, dy, mean, invstd, flags)
    if rows > 1:
        r1 = no_gradient_sums(x + stride, dy + stride, mean + 1, invstd + 1, flags)
    if rows > 2:
        r2 = no_gradient_sums(x + 2 * stride, dy + 2 * stride, mean + 2, invstd + 2, flags)
        r3 = no_gradient_sums(x + 3 * stride, dy + 3 * stride, mean + 3, invstd + 3, flags)
    for j in range(n // (2 * LANES)):
        prefetch(x_ahead + 2 * LANES * j * rows, 2 * LANES * rows)
        prefetch(dy_ahead + 2 * LANES * j * rows, 2 * LANES * rows)
        if not flags & IN_PLACE:
            prefetch_lines_for_writing(dx + 2 * LANES * j, n, rows)
        add_dy_of(&r0, &r1, &r2, &r3, b.gamma64, products, sums, 2 * LANES * j, 0, rows, flags)
        add_dy_of(&r0, &r1, &r2, &r3, b.gamma64, products, sums, 2 * LANES * j + LANES, 0, rows, flags)
    if n % (2 * LANES) >= LANES:
        add_dy_of(&r0, &r1, &r2, &r3, b.gamma64, products, sums, n // (2 * LANES) * (2 * LANES), 0, rows, flags)
    if n % LANES:
        add_dy_of(&r0, &r1, &r2, &r3, b.gamma64, products, sums, n - LANES, <int> (n % LANES), rows, flags)
    s[0], q[0] = lanes_sum(r0.s), lanes_sum(r0.q)
    if rows > 1:
        s[1], q[1] = lanes_sum(r1.s), lanes_sum(r1.q)
    if rows > 2:
        s[2], q[2] = lanes_sum(r2.s), lanes_sum(r2.q)
        s[3], q[3] = lanes_sum(r3.s), lanes_sum(r3.q)


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


cdef inline void add_block(INOUT64 sums, IN64 other, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        sums[i] += other[i]


cdef inline void round_sums(IN64 sums, INOUT gradient, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        gradient[i] = <float> sums[i]


cdef inline void merge(double* sums, Py_ssize_t stride, Py_ssize_t blocks, float* gradient, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(1, blocks):
        add_block(sums, sums + k * stride, n)
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
