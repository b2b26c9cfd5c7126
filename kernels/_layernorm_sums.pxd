# Sums of layer and RMS normalisation, along rows and over rows: layernorm.pyx has their order.
#
# One row, or ROWS side by side: then their additions overlap, and a column's sums are loaded and stored once for all of
# them. What is written later is prefetched for writing, and what is read next.

from _lanes cimport ROWS, Lanes, add, keep_last, lanes_of, lanes_sum, load, load32, mul, store, sub
from _layernorm_elements cimport IN_PLACE, RMS
from _memory cimport prefetch, prefetch_line_for_writing

cdef enum:
    LANES = 8
    AHEAD = 1024                # elements that are prefetched, at least


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
    float x[4 * LANES]
    float dy[4 * LANES]


cdef inline void copy_short(const float* x, Py_ssize_t n, int rows, float* copy) noexcept nogil:
    cdef Py_ssize_t r, i
    for r in range(rows):
        for i in range(LANES - n):
            copy[LANES * r + i] = 0.0
        for i in range(n):
            copy[LANES * r + LANES - n + i] = x[r * n + i]


cdef inline void prefetch_lines_for_writing(const float* y, Py_ssize_t stride, int rows) noexcept nogil:
    """A line of each row."""
    prefetch_line_for_writing(y)
    if rows > 1:
        prefetch_line_for_writing(y + stride)
    if rows > 2:
        prefetch_line_for_writing(y + 2 * stride)
        prefetch_line_for_writing(y + 3 * stride)


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


cdef inline void add_x_of(Sums* a, Sums* b, Sums* c, Sums* d, Py_ssize_t at, int last, int rows,
                          int flags) noexcept nogil:
    add_x(a, at, last, flags)
    if rows > 1:
        add_x(b, at, last, flags)
    if rows > 2:
        add_x(c, at, last, flags)
        add_x(d, at, last, flags)


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
        a.s = add(a.s, mul(dy, c.gamma))
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
