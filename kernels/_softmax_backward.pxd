# The gradients of log-softmax and softmax, from dy and the result y:
#
#     log-softmax: dxⱼ = dyⱼ − exp(yⱼ) · Σₖ dyₖ               softmax: dxⱼ = yⱼ · (dyⱼ − Σₖ dyₖ · yₖ)
#
# Where exp(yⱼ) is near 1, the first gradient is computed as (dyⱼ − Σ) − (exp(yⱼ) − 1) · Σ: if dy is nonzero only at a
# confident label, dyⱼ − Σ is 0 there and the result is the second part. Sums are double; a result is rounded once.

from libc.string cimport memcpy

from _math cimport exp_split
from _memory cimport IN, INOUT, INOUT64
from _softmax cimport MAX_ROWS, SOFTMAX_BACKWARD
from _softmax_rows cimport BLOCK, ROW_LANES, lane_sum


cdef inline double row_sum(IN x, IN y, Py_ssize_t n, bint product) noexcept nogil:
    """Σ x, or Σ x · y with `product`, in ROW_LANES lanes."""
    cdef double acc[ROW_LANES]
    cdef Py_ssize_t i
    cdef int lane
    for lane in range(ROW_LANES):
        acc[lane] = 0.0
    for i in range(n // ROW_LANES):
        for lane in range(ROW_LANES):
            if product:
                acc[lane] += <double> x[i * ROW_LANES + lane] * <double> y[i * ROW_LANES + lane]
            else:
                acc[lane] += <double> x[i * ROW_LANES + lane]
    for i in range(n // ROW_LANES * ROW_LANES, n):
        acc[i % ROW_LANES] += <double> x[i] * <double> y[i] if product else <double> x[i]
    for lane in range(ROW_LANES // 2):
        acc[lane] += acc[lane + ROW_LANES // 2]
    return lane_sum(acc)


cdef inline double product_sum(const float* x, const float* y, Py_ssize_t n) noexcept nogil:
    """Σ x · y in the order of the elements."""
    cdef double total = 0.0
    cdef Py_ssize_t i
    for i in range(n):
        total += <double> x[i] * <double> y[i]
    return total


cdef inline float slope(float dy, float y, double total, int what) noexcept nogil:
    """The gradient of one element; `total` is the row's sum."""
    if what == SOFTMAX_BACKWARD:
        return <float> (y * (dy - total))
    cdef double whole
    cdef double part = exp_split(y, &whole)
    return <float> ((dy - whole * total) - part * total)


cdef inline void slopes(IN dy, IN y, INOUT out, Py_ssize_t n, double total, int what) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = slope(dy[i], y[i], total, what)


cdef inline void write_slopes(const float* dy, const float* y, float* out, Py_ssize_t n, double total,
                              int what) noexcept nogil:
    """The gradient of n elements of a row; `out` may be dy or y."""
    cdef float block[BLOCK]
    cdef Py_ssize_t start = 0, length
    while start < n:
        length = min(BLOCK, n - start)
        slopes(dy + start, y + start, block, length, total, what)
        memcpy(out + start, block, length * sizeof(float))
        start += length


cdef inline void backward_row(const float* dy, const float* y, float* out, Py_ssize_t n, int what) noexcept nogil:
    write_slopes(dy, y, out, n, row_sum(dy, y, n, what == SOFTMAX_BACKWARD), what)


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
    cdef double total[MAX_ROWS]
    cdef float v[MAX_ROWS]
    cdef Py_ssize_t j
    cdef int lane
    for lane in range(lanes):
        total[lane] = 0.0
    for j in range(n):
        add_loop(total, dy + j * stride, y + j * stride, lanes, what == SOFTMAX_BACKWARD)
    for j in range(n):
        slope_lanes(dy + j * stride, y + j * stride, v, total, lanes, what)
        memcpy(out + j * stride, v, lanes * sizeof(float))
