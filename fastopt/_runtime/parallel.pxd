# Threads for every kernel: how many, and the one parallel region. See parallel.pyx.

ctypedef void (*task_fn)(void* context, Py_ssize_t index) noexcept nogil

cdef int forks() noexcept nogil
cdef int threads_for(double nanoseconds) noexcept nogil
cdef void parallel_for(task_fn task, void* context, Py_ssize_t count, int threads) noexcept nogil
