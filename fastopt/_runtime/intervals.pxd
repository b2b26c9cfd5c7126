# The memory of a model's arrays: which of them overlap.
from libc.stdlib cimport qsort

cdef struct Interval:
    size_t start
    size_t stop
    Py_ssize_t tensor
    Py_ssize_t stream


cdef inline int by_start(const void* a, const void* b) noexcept nogil:
    cdef size_t x = (<const Interval*> a).start, y = (<const Interval*> b).start
    return -1 if x < y else x > y


cdef inline Py_ssize_t sort_disjoint(Interval* intervals, Py_ssize_t count) noexcept nogil:
    """Sort intervals by start; return the index of the first that overlaps the one before it, or 0 if none does."""
    cdef Py_ssize_t i
    qsort(intervals, count, sizeof(Interval), by_start)
    for i in range(1, count):
        if intervals[i].start < intervals[i - 1].stop:
            return i
    return 0


cdef inline Py_ssize_t overlapped(const Interval* intervals, Py_ssize_t count, size_t start,
                                  size_t stop) noexcept nogil:
    """The index of an interval that overlaps [start, stop), or -1. The intervals are sorted and disjoint."""
    cdef Py_ssize_t middle, low = 0, high = count
    while low < high:                   # finds the first interval that ends after `start`
        middle = (low + high) // 2
        if intervals[middle].stop <= start:
            low = middle + 1
        else:
            high = middle
    return low if low < count and start < stop and intervals[low].start < stop else -1
