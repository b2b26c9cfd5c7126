# C-contiguous copies of float32 arrays of other strides: transposed (F-ordered), permuted, sliced, reversed.
#
# The last axis of the copy is consecutive in memory; in a transposed array another one is (`rows` below). Whichever of
# the two is walked, each element of one array is in a cache line of its own, and if a row is a power of two long, these
# lines compete for the same set of the cache (4K aliasing) and are evicted before their next element is needed. So the
# plane of the two axes is cut into tiles whose sides are one cache line: a tile is read line by line into a local
# buffer, and written line by line from there.
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer

from fastopt._runtime.arrays cimport DESCRIBED, elements
from fastopt._runtime.parallel cimport parallel_for, threads_for

import numpy

cdef extern from "strided.h":
    void transpose4 "fastopt_transpose4"(const float* x, Py_ssize_t x_stride, float* y,
                                         Py_ssize_t y_stride) noexcept nogil
    void prefetch "fastopt_prefetch"(const void* p) noexcept nogil
    void prefetch_for_writing "fastopt_prefetch_for_writing"(const void* p) noexcept nogil

cdef object empty = numpy.empty
cdef object float32 = numpy.dtype(numpy.float32)

cdef enum:
    TILE = 16               # elements: 64 bytes
    TASK_ELEMENTS = 8192    # a task is as many blocks as have this many elements, at least one
    MAX_AXES = 64           # NumPy's

cdef struct Axis:
    Py_ssize_t n
    Py_ssize_t x_stride     # in elements
    Py_ssize_t y_stride

cdef struct Copy:
    const float* x
    float* y
    Axis columns            # the last axis; y_stride is 1
    Axis rows               # of the other axes, the one with the smallest stride in x
    Axis outer[MAX_AXES]    # the axes left
    int outers
    bint tiled              # whether rows have a smaller stride in x than columns
    Py_ssize_t block_rows
    Py_ssize_t block_columns
    Py_ssize_t row_blocks
    Py_ssize_t column_blocks
    Py_ssize_t blocks       # of the whole array
    Py_ssize_t task         # blocks in a task


cdef inline void copy_tile(const float* x, Py_ssize_t x_row, Py_ssize_t x_column, float* y, Py_ssize_t y_row,
                           Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    cdef float tile[TILE][TILE]
    cdef Py_ssize_t r, c, i, fours = columns // 4 * 4
    for c in range(columns):
        for r in range(rows):
            tile[c][r] = x[c * x_column + r * x_row]
    for i in range(rows // 4):
        for c in range(columns // 4):
            transpose4(&tile[4 * c][4 * i], TILE, y + 4 * i * y_row + 4 * c, y_row)
        for r in range(4 * i, 4 * i + 4):
            for c in range(fours, columns):
                y[r * y_row + c] = tile[c][r]
    for r in range(rows // 4 * 4, rows):
        for c in range(columns):
            y[r * y_row + c] = tile[c][r]


cdef inline void prefetch_lines(const float* x, Py_ssize_t x_column, float* y, Py_ssize_t y_row) noexcept nogil:
    """Each line of a tile is in a page of its own, where the processor's own prefetching begins anew: those of x four
    tiles on, and those of y that the next column of tiles writes. A third faster if x is not in the cache."""
    cdef Py_ssize_t k
    for k in range(TILE):
        prefetch(x + k * x_column + 4 * TILE)
        prefetch_for_writing(y + k * y_row + TILE)


cdef inline void copy_row(const float* x, Py_ssize_t x_column, float* y, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(columns):
        y[c] = x[c * x_column]


cdef void copy_block(const Copy* copy, const float* x, float* y, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t x_row = copy.rows.x_stride, x_column = copy.columns.x_stride, y_row = copy.rows.y_stride
    cdef Py_ssize_t i, j = 0
    if not copy.tiled:
        for i in range(rows):
            if x_column == 1:
                copy_row(x + i * x_row, 1, y + i * y_row, columns)
            else:
                copy_row(x + i * x_row, x_column, y + i * y_row, columns)
        return
    while j < columns:
        i = 0
        while i < rows:
            if x_row == 1 and i + TILE <= rows:
                prefetch_lines(x + i + j * x_column, x_column, y + i * y_row + j, y_row)
                copy_tile(x + i + j * x_column, 1, x_column, y + i * y_row + j, y_row, TILE, min(TILE, columns - j))
            else:
                copy_tile(x + i * x_row + j * x_column, x_row, x_column, y + i * y_row + j, y_row,
                          min(TILE, rows - i), min(TILE, columns - j))
            i += TILE
        j += TILE


cdef void copy_task(void* context, Py_ssize_t index) noexcept nogil:
    cdef const Copy* copy = <const Copy*> context
    cdef const Axis* axis
    cdef Py_ssize_t b, i, j, rest, x, y
    cdef int k
    for b in range(index * copy.task, min((index + 1) * copy.task, copy.blocks)):
        i, rest = b % copy.row_blocks * copy.block_rows, b // copy.row_blocks
        j, rest = rest % copy.column_blocks * copy.block_columns, rest // copy.column_blocks
        x, y = i * copy.rows.x_stride + j * copy.columns.x_stride, i * copy.rows.y_stride + j
        for k in range(copy.outers):
            axis = &copy.outer[k]
            x += rest % axis.n * axis.x_stride
            y += rest % axis.n * axis.y_stride
            rest = rest // axis.n
        copy_block(copy, copy.x + x, copy.y + y, min(copy.block_rows, copy.rows.n - i),
                   min(copy.block_columns, copy.columns.n - j))


cdef inline Py_ssize_t pieces(Py_ssize_t n, Py_ssize_t length) noexcept:
    return (n + length - 1) // length


cdef void plan(Copy* copy, const Py_buffer* view) noexcept:
    """Everything but the pointers. Neighbouring axes that one stride walks are one axis, those of length 1 none."""
    cdef Axis axes[MAX_AXES]
    cdef Py_ssize_t n, stride, size = 1
    cdef int k, count = 0, rows = -1
    for k in range(view.ndim):
        n, stride = view.shape[k], view.strides[k] // <Py_ssize_t> sizeof(float)
        if n == 1:
            continue
        if count > 0 and axes[count - 1].x_stride == n * stride:
            axes[count - 1].n, axes[count - 1].x_stride = axes[count - 1].n * n, stride
        else:
            axes[count] = Axis(n, stride, 0)
            count += 1
    for k in range(count - 1, -1, -1):
        axes[k].y_stride = size
        size *= axes[k].n
        if k < count - 1 and (rows < 0 or abs(axes[k].x_stride) < abs(axes[rows].x_stride)):
            rows = k
    copy.columns = axes[count - 1] if count > 0 else Axis(1, 1, 1)
    copy.rows = axes[rows] if rows >= 0 else Axis(1, copy.columns.x_stride, size)
    copy.outers = 0
    for k in range(count - 1):
        if k != rows:
            copy.outer[copy.outers] = axes[k]
            copy.outers += 1
    copy.tiled = abs(copy.rows.x_stride) < abs(copy.columns.x_stride)
    copy.block_rows = min(256 if copy.tiled else 64, copy.rows.n)
    copy.block_columns = min(64 if copy.tiled else 1024, copy.columns.n)
    copy.row_blocks = pieces(copy.rows.n, copy.block_rows)
    copy.column_blocks = pieces(copy.columns.n, copy.block_columns)
    copy.blocks = copy.row_blocks * copy.column_blocks * (size // (copy.rows.n * copy.columns.n))
    copy.task = max(TASK_ELEMENTS // (copy.block_rows * copy.block_columns), 1)


cpdef contiguous(array):
    """A new C-contiguous copy of an ndarray of native float32, or None for one of another type or misaligned."""
    cdef Py_buffer target
    if array.dtype != float32 or not array.flags.aligned:
        return None
    made = empty(array.shape, float32)
    PyObject_GetBuffer(made, &target, DESCRIBED)
    try:
        write(array, <float*> target.buf)
    finally:
        PyBuffer_Release(&target)
    return made


cdef int write(object array, float* target) except -1:
    """Write the elements of an aligned array of native float32, in C order, into memory that it does not overlap."""
    cdef Py_buffer view
    cdef Copy copy
    cdef Py_ssize_t tasks
    cdef double cost        # in nanoseconds
    PyObject_GetBuffer(array, &view, DESCRIBED)
    try:
        if view.len > 0:
            plan(&copy, &view)
            copy.x, copy.y = <const float*> view.buf, target
            tasks, cost = pieces(copy.blocks, copy.task), 0.3 * <double> elements(&view)
            with nogil:
                parallel_for(copy_task, &copy, tasks, threads_for(cost))
    finally:
        PyBuffer_Release(&view)
    return 0
