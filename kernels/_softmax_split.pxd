# Long rows split over the threads, block by block.
#
# Rows are tasks as long as every thread gets the same number of them. The rows left over, fewer than threads, are
# split: their blocks (_softmax_rows.pxd) are the tasks of three parallel loops, for the largest elements, the sums and
# the results. Between the loops, the blocks' partial results are merged in order, as in sum_long_row: the bits are the
# same. A thread has the same blocks in each loop, and finds them in its cache.

from fastopt._runtime.parallel cimport parallel_for
from _softmax cimport MAX_ROWS, Rows, choose_base
from _softmax_rows cimport begin_max, block_start, blocks_of, max_block, merge_max, sum_block

cdef enum:
    SPLIT = 24576       # elements by which splitting must shorten a thread's work: 10 µs; three loops cost about 5

# The blocks of a group of rows.
cdef struct Split:
    const float* x              # of the first row
    float* e                    # for sum_block: where terms are stored or results will be, or NULL; may be x
    bint keep                   # for sum_block
    Py_ssize_t n
    Py_ssize_t blocks           # of a row
    int rows                    # MAX_ROWS at most
    Rows* s
    double* partial             # for each block: its largest element, then its sum


cdef inline Py_ssize_t split_rows(Py_ssize_t rows, Py_ssize_t n, int threads) noexcept nogil:
    """How many of the last rows to split."""
    cdef Py_ssize_t remaining = rows % threads
    return remaining if n // threads * (threads - remaining) >= SPLIT else 0


cdef inline Py_ssize_t split_group(Py_ssize_t rows) noexcept nogil:
    """How many of the remaining rows form the next group."""
    return min(rows, <Py_ssize_t> MAX_ROWS)


cdef inline Py_ssize_t partials(Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """Numbers that Split.partial has to hold."""
    return split_group(rows) * blocks_of(n)


cdef inline void max_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Split* p = <const Split*> context
    p.partial[index] = max_block(p.x + index // p.blocks * p.n, p.n, index % p.blocks)


cdef inline void max_split(Split* p, int threads) noexcept nogil:
    """Compute m, top_block and the base of each row."""
    cdef Py_ssize_t index
    cdef int row
    parallel_for(max_task, p, p.rows * p.blocks, threads)
    for row in range(p.rows):
        begin_max(p.s, row)
        for index in range(p.blocks):
            merge_max(p.s, row, <float> p.partial[row * p.blocks + index], index)
    choose_base(p.s, p.rows)


cdef inline void sum_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Split* p = <const Split*> context
    cdef Py_ssize_t row = index // p.blocks
    p.partial[index] = sum_block(p.s, <int> row, p.x + row * p.n, NULL if p.e == NULL else p.e + row * p.n, p.n,
                                 index % p.blocks, p.keep)


cdef inline void sum_split(Split* p, int threads) noexcept nogil:
    """Compute the sum of each row. With `keep`, store the terms."""
    cdef Py_ssize_t index
    cdef int row
    parallel_for(sum_task, p, p.rows * p.blocks, threads)
    for row in range(p.rows):
        p.s.sum[row] = 0.0
        for index in range(p.blocks):
            p.s.sum[row] += p.partial[row * p.blocks + index]
