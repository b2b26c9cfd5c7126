# hardmax: 1 for the first largest element of a row, else 0; NaN if the row has a NaN.

from libc.math cimport NAN
from libc.string cimport memset

from _memory cimport IN
from _softmax cimport MAX_ROWS
from _softmax_rows cimport ROW_LANES, max_lanes


cdef inline int any_nan(IN x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef int found = 0
    for i in range(n):
        found |= x[i] != x[i]
    return found


cdef inline float max_of(const float* x, Py_ssize_t n) noexcept nogil:
    """Largest of n ≥ ROW_LANES elements."""
    cdef float lanes[ROW_LANES]
    cdef float m
    cdef int lane
    max_lanes(x, lanes, n)
    m = lanes[0]
    for lane in range(1, ROW_LANES):
        m = max(m, lanes[lane])
    return m


cdef inline void hardmax_row(const float* x, float* out, Py_ssize_t n, float m) noexcept nogil:
    """hardmax of a row whose largest element is m."""
    cdef Py_ssize_t i, first = 0
    if any_nan(x, n):
        for i in range(n):
            out[i] = NAN
        return
    while x[first] != m:
        first += 1
    memset(out, 0, n * sizeof(float))
    out[first] = 1.0


cdef inline void hardmax_lanes(const float* x, float* out, Py_ssize_t stride, Py_ssize_t n, int lanes) noexcept nogil:
    cdef float m[MAX_ROWS]
    cdef float other[MAX_ROWS]             # 0, or NaN if the row has a NaN
    cdef Py_ssize_t first[MAX_ROWS]
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
