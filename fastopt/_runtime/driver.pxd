# The chunk driver. See driver.pyx.

cdef enum:
    STREAMS = 8            # arrays a rule can walk: param, grad, then its state
    BLOCK = 24             # doubles of scalars a rule can carry

# A rule applied to `n` consecutive elements of one tensor. x[0] is param, x[1] grad, the rest the rule's state in its
# own order; optional arrays that were not given are NULL.
ctypedef void (*rule_fn)(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil

cdef class Rule:
    cdef rule_fn fn
    cdef double cost       # nanoseconds an element, about, on one core: only the thread count depends on it
    cdef tuple names       # of the streams, as the user knows them
    cdef int required      # the first so many streams must be given; those after them may be None
    cdef double block[BLOCK]      # the scalars, in a struct of the rule's own; doubles for their alignment
