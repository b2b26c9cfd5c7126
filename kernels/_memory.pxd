# Pointer types and hints about memory.

cdef extern from "_memory.h":
    # A restrict pointer: no other argument points into this memory. IN is read, INOUT read and written.
    ctypedef const float* IN "fastopt_in"
    ctypedef float* INOUT "fastopt_inout"
    ctypedef double* INOUT64 "fastopt_inout64"
    ctypedef const double* IN64 "fastopt_in64"
    ctypedef int* INOUT_INT "fastopt_inout_int"
    void prefetch_line_for_writing "fastopt_prefetch_for_writing"(const void* p) noexcept nogil
    void prefetch_line "fastopt_prefetch_for_reading"(const void* p) noexcept nogil
    int unknown "fastopt_unknown"(int n) noexcept nogil
    double* allocate_lines "fastopt_allocate_lines"(size_t n) noexcept nogil
    void free_lines "fastopt_free_lines"(double* start) noexcept nogil


cdef inline void prefetch(const float* x, Py_ssize_t n) noexcept nogil:
    """Prefetch the lines of n elements that are read next."""
    cdef Py_ssize_t i
    for i in range((n + 15) // 16):
        prefetch_line(x + 16 * i)


cdef inline void prefetch_for_writing(const float* x, Py_ssize_t n) noexcept nogil:
    """Prefetch the lines of n elements that are written next."""
    cdef Py_ssize_t i
    for i in range((n + 15) // 16):
        prefetch_line_for_writing(x + 16 * i)
