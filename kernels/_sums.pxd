# Sums in double: of the columns of rows, of blocks of them, and of consecutive elements in lanes.

from _memory cimport IN, IN64, INOUT64, unknown

cdef enum:
    LANES = 32
    STEPS = 4                   # elements of each lane that are added at once


cdef inline void add_rows(IN dx, Py_ssize_t stride, int rows, Py_ssize_t n, INOUT64 sums) noexcept nogil:
    """Add `rows` (a literal) rows to the sums of their columns, in order."""
    cdef Py_ssize_t i, r
    cdef double total
    for i in range(n):
        total = sums[i]
        for r in range(rows):
            total = total + <double> dx[r * stride + i]
        sums[i] = total


cdef inline void add_sums(INOUT64 sums, IN64 other, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        sums[i] += other[i]


cdef inline void add_lanes(IN x, int steps, int lanes, INOUT64 sums) noexcept nogil:
    """Add `steps` (a literal) elements to each lane."""
    cdef int l, k
    cdef double total
    for l in range(lanes):
        total = sums[l]
        for k in range(steps):
            total = total + <double> x[LANES * k + l]
        sums[l] = total


cdef inline void add_elements(const float* x, Py_ssize_t n, double* sums) noexcept nogil:
    """Add n elements, of which the first belongs to the first lane."""
    cdef int lanes = unknown(LANES)
    cdef Py_ssize_t b
    for b in range(n // (STEPS * LANES)):
        add_lanes(x + b * STEPS * LANES, STEPS, lanes, sums)
    for b in range(n // (STEPS * LANES) * STEPS, n // LANES):
        add_lanes(x + b * LANES, 1, lanes, sums)
    add_lanes(x + n // LANES * LANES, 1, <int> (n % LANES), sums)


cdef inline double fold(double* sums) noexcept nogil:
    cdef int half = LANES // 2, i
    while half:
        for i in range(half):
            sums[i] += sums[i + half]
        half //= 2
    return sums[0]
