# Embedding: rows of a table by index, and the gradient of the table.
#
#     forward:  y[i] = weight[index[i]]
#     backward: out[k] = out[k] + Σ dy[i] over the positions i with index[i] = k
#
# The backward's sum starts from out[k] (0 for a new array), is computed in double in the order of the positions and
# rounded to float32 once: the bits are those of numpy.add.at on a float64 copy.
#
# The positions are sorted by index, with a stable radix sort, so that the cost does not depend on the number of
# embeddings. Equal indices then form a segment, whose sum is one row of the result. Each element of the result is
# computed by one task from its whole segment: so the bits do not depend on how segments are divided among tasks.

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _memory cimport IN, INOUT, INOUT64, prefetch, prefetch_line
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    DIGIT = 11          # bits of a digit of the radix sort, at most
    TASK = 16384        # elements of dy in a task
    LEAST = 8           # rows of dy in a task, at least
    MOST = 1024         # and at most
    BLOCK = 128         # columns that are summed at a time
    LINE = 16           # elements of a cache line
    AHEAD = 16          # rows from a prefetch to its use
    PREFETCHED = 128    # columns of a row that are prefetched; in longer rows the hardware prefetches the rest


cdef inline void prefetch_row(const float* row, Py_ssize_t n) noexcept nogil:
    """Prefetch n > 0 elements, which may begin within a cache line."""
    n = min(n, PREFETCHED)
    prefetch(row, n)
    prefetch_line(row + n - 1)


# Forward

cdef struct Gather:
    const float* weight
    const long long* indices
    float* y
    Py_ssize_t count
    Py_ssize_t width            # of a row
    Py_ssize_t rows             # in a task
    Py_ssize_t columns          # in a task
    Py_ssize_t blocks           # of columns


cdef void gather_task(void* context, Py_ssize_t task) noexcept nogil:
    cdef const Gather* job = <const Gather*> context
    cdef Py_ssize_t first = task // job.blocks * job.rows, start = task % job.blocks * job.columns, i
    cdef Py_ssize_t width = min(job.columns, job.width - start)
    for i in range(first, min(first + job.rows, job.count)):
        if i + AHEAD < job.count:
            prefetch_row(job.weight + job.indices[i + AHEAD] * job.width + start, width)
        memcpy(job.y + i * job.width + start, job.weight + job.indices[i] * job.width + start, width * sizeof(float))


def forward(Array weight not None, Array indices not None, Array y not None):
    """y[i] = weight[indices[i]] for int64 indices in [0, rows of weight)."""
    cdef Gather job
    job.weight, job.indices, job.y = <const float*> weight.data, <const long long*> indices.data, <float*> y.data
    job.count, job.width = indices.size, weight.view.shape[1]
    if y.size == 0:
        return
    job.rows = max(TASK // job.width, 1)
    job.columns = min(job.width, TASK)
    job.blocks = (job.width + job.columns - 1) // job.columns
    with nogil:
        parallel_for(gather_task, &job, (job.count + job.rows - 1) // job.rows * job.blocks,
                     threads_for((0.15 * <double> job.width + 5.0) * <double> job.count))


# Backward: the sort

cdef struct Entry:
    Py_ssize_t index
    Py_ssize_t position


cdef inline int bits_of(long long n) noexcept nogil:
    """Bits of the numbers in [0, n), at least 1."""
    cdef int bits = 1
    while bits < 63 and (n - 1) >> bits:
        bits += 1
    return bits


cdef inline void scatter_indices(const long long* indices, Py_ssize_t n, long long padding, Entry* target,
                                 Py_ssize_t* place, long long mask) noexcept nogil:
    """The first pass: make the entries, in the order of the lowest digit."""
    cdef Py_ssize_t i, at
    for i in range(n):
        if indices[i] != padding:
            at = place[indices[i] & mask]
            place[indices[i] & mask] = at + 1
            target[at].index, target[at].position = indices[i], i


cdef inline void scatter_entries(const Entry* source, Py_ssize_t n, Entry* target, Py_ssize_t* place, int shift,
                                 long long mask) noexcept nogil:
    """A further pass: move the entries into the order of another digit."""
    cdef Py_ssize_t i, at
    cdef long long digit
    for i in range(n):
        digit = (source[i].index >> shift) & mask
        at = place[digit]
        place[digit] = at + 1
        target[at] = source[i]


cdef Py_ssize_t sort(const long long* indices, Py_ssize_t n, long long padding, int digits, int width, Entry* entries,
                     Entry* scratch, Py_ssize_t* places) noexcept nogil:
    """Fill `entries` with the positions of indices other than `padding`, sorted by index; return their number.

    There are `digits` digits of `width` bits. `scratch` has the size of `entries`, or is NULL if there is one digit.
    """
    cdef Py_ssize_t size = <Py_ssize_t> 1 << width, i, k, count = 0, next
    cdef long long mask = size - 1
    cdef Py_ssize_t* place
    cdef Entry* source = scratch
    cdef Entry* target = entries
    cdef int digit
    memset(places, 0, digits * size * sizeof(Py_ssize_t))
    for i in range(n):
        if indices[i] != padding:
            count += 1
            for digit in range(digits):
                places[digit * size + ((indices[i] >> (digit * width)) & mask)] += 1
    for digit in range(digits):
        place, next = places + digit * size, 0
        for k in range(size):
            i = place[k]
            place[k] = next
            next += i
    if digits % 2 == 0:
        source, target = entries, scratch
    scatter_indices(indices, n, padding, target, places, mask)
    for digit in range(1, digits):
        source, target = target, source
        scatter_entries(source, count, target, places + digit * size, digit * width, mask)
    return count


# Backward: the sums

cdef struct Sums:
    const float* dy
    float* out
    const Entry* entries        # sorted
    Py_ssize_t count
    Py_ssize_t width            # of a row
    Py_ssize_t chunk            # entries of a task
    Py_ssize_t shares           # tasks of a chunk: one for each thread, if a row has so many cache lines
    Py_ssize_t columns          # of a long segment, in a task
    bint fresh                  # out is a new array of zeros


cdef inline void add_row(INOUT64 total, IN row, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        total[j] += row[j]


cdef inline void sum_columns(const Sums* job, Py_ssize_t first, Py_ssize_t last, Py_ssize_t start,
                             Py_ssize_t n) noexcept nogil:
    """Add `n` columns from `start` on of a segment of entries [first, last) to their row of `out`."""
    cdef double total[BLOCK]
    cdef INOUT out = job.out + job.entries[first].index * job.width + start
    cdef Py_ssize_t i, j
    for j in range(n):
        total[j] = 0.0 if job.fresh else <double> out[j]
    for i in range(first, last):
        if i + AHEAD < job.count:
            prefetch_row(job.dy + job.entries[i + AHEAD].position * job.width + start, n)
        add_row(total, job.dy + job.entries[i].position * job.width + start, n)
    for j in range(n):
        out[j] = <float> total[j]


cdef inline void add_only_row(INOUT out, IN row, Py_ssize_t n, bint fresh) noexcept nogil:
    """What sum_columns does with one entry: a sum of two float32 numbers that is rounded to double and then to float32
    is their float32 sum (Figueroa 1995: double has more than twice the digits and two)."""
    cdef Py_ssize_t j
    if fresh:
        for j in range(n):
            out[j] = <float> 0.0 + row[j]
    else:
        for j in range(n):
            out[j] += row[j]


cdef inline Py_ssize_t segment_end(const Sums* job, Py_ssize_t first) noexcept nogil:
    cdef Py_ssize_t last = first + 1
    while last < job.count and job.entries[last].index == job.entries[first].index:
        last += 1
    return last


cdef inline void sum_segment(const Sums* job, Py_ssize_t first, Py_ssize_t last, Py_ssize_t start,
                             Py_ssize_t end) noexcept nogil:
    """Add the columns [start, end) of a segment."""
    if last == first + 1:
        if first + AHEAD < job.count:
            prefetch_row(job.dy + job.entries[first + AHEAD].position * job.width + start, end - start)
            prefetch_row(job.out + job.entries[first + AHEAD].index * job.width + start, end - start)
        add_only_row(job.out + job.entries[first].index * job.width + start,
                     job.dy + job.entries[first].position * job.width + start, end - start, job.fresh)
        return
    while start < end:
        sum_columns(job, first, last, start, min(end - start, BLOCK))
        start += BLOCK


cdef void sum_task(void* context, Py_ssize_t task) noexcept nogil:
    """The segments that begin in one chunk of entries: the first share does them whole.

    The exception is a segment that begins in the chunk and covers the next one: the shares divide its columns.
    """
    cdef const Sums* job = <const Sums*> context
    cdef const Entry* e = job.entries
    cdef Py_ssize_t share = task % job.shares, first = task // job.shares * job.chunk, last, begin, end
    cdef Py_ssize_t before = -1             # the index of the segment that the chunk before has begun
    last = min(first + job.chunk, job.count)
    if first > 0:
        before = e[first - 1].index
    end = last - 1 + job.chunk
    if end < job.count and e[end].index == e[last - 1].index and e[last - 1].index != before:
        begin = last - 1
        while begin > first and e[begin - 1].index == e[begin].index:
            begin -= 1
        sum_segment(job, begin, segment_end(job, begin), share * job.columns,
                    min((share + 1) * job.columns, job.width))
        last = begin
    if share > 0:
        return
    while first < last and e[first].index == before:
        first += 1
    while first < last:
        end = segment_end(job, first)
        sum_segment(job, first, end, 0, job.width)
        first = end


def backward(Array dy not None, Array indices not None, long long padding, Array out not None, *, bint fresh):
    """Add the rows of dy to the rows of `out` that the indices name; those of index `padding` (−1: none) are left out.

    indices: int64, in [0, rows of out). fresh: `out` is all zeros, and is not read.
    """
    cdef Sums job
    cdef Py_ssize_t n = indices.size, lines
    cdef int threads
    cdef Entry* memory
    cdef Py_ssize_t* places
    cdef int bits = bits_of(out.view.shape[0]), digits = (bits + DIGIT - 1) // DIGIT, width
    if dy.size == 0:
        return
    width = (bits + digits - 1) // digits
    job.dy, job.out, job.width, job.fresh = <const float*> dy.data, <float*> out.data, out.view.shape[1], fresh
    memory = <Entry*> malloc(n * sizeof(Entry) * (2 if digits > 1 else 1))
    places = <Py_ssize_t*> malloc((digits * sizeof(Py_ssize_t)) << width)
    if memory == NULL or places == NULL:
        free(memory)
        free(places)
        raise MemoryError
    with nogil:
        job.entries = memory
        job.count = sort(<const long long*> indices.data, n, padding, digits, width, memory,
                         memory + n if digits > 1 else NULL, places)
        job.chunk = min(max(TASK // job.width, LEAST), MOST)
        lines = (job.width + LINE - 1) // LINE
        threads = threads_for((0.2 * <double> job.width + 10.0) * <double> job.count)
        job.columns = (lines + threads - 1) // threads * LINE
        job.shares = (job.width + job.columns - 1) // job.columns
        parallel_for(sum_task, &job, (job.count + job.chunk - 1) // job.chunk * job.shares, threads)
    free(memory)
    free(places)


def first_outside(Array indices not None, Py_ssize_t n):
    """The place of the first index outside [0, n); −1 if there is none."""
    cdef const long long* index = <const long long*> indices.data
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(indices.size):
        wrong |= (index[i] < 0) | (index[i] >= n)
    if wrong:
        for i in range(indices.size):
            if not 0 <= index[i] < n:
                return i
    return -1
