# Pointer types and hints about memory.

cdef extern from "_memory.h":
    # A restrict pointer: no other argument points into this memory. IN is read, INOUT read and written.
    ctypedef const float* IN "fastopt_in"
    ctypedef float* INOUT "fastopt_inout"
    ctypedef double* INOUT64 "fastopt_inout64"
    ctypedef const double* IN64 "fastopt_in64"
    ctypedef int* INOUT_INT "fastopt_inout_int"
    void prefetch_for_writing "fastopt_prefetch_for_writing"(const void* p) noexcept nogil
    int unknown "fastopt_unknown"(int n) noexcept nogil
    double* allocate_lines "fastopt_allocate_lines"(size_t n) noexcept nogil
    void free_lines "fastopt_free_lines"(double* start) noexcept nogil
