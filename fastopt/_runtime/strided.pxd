# C-contiguous copies: strided.pyx.

cpdef contiguous(array)
cdef int write(object array, float* target) except -1
