# An optimizer's progress: progress.pyx.

cdef class Progress:
    cdef readonly long long step_count
    cdef readonly object snapshot
    cdef str running                    # the call that runs now; None: none
    cdef bint writes                    # whether it writes into arrays
    cdef unsigned long thread           # its thread
    cdef int forks                      # forks() when it began

    cdef int refuse(self, str name) except -1
    cdef int take(self, str name, bint writes) except -1
    cdef int replace(self, long long step_count, object snapshot) except -1
