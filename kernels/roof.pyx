# The memory roof: loops that load and store the arrays a workload does, with next to no arithmetic. A pass makes
#
#   mean = (Σ updated + Σ read) / number of both          updated ← mean, written ← mean, element by element
#
# and where nothing is updated or written, the sum of all elements read, or the compiler would drop the loads. Passes
# follow one another on each chunk, so that those after the first find its elements in the cache. Work is split into
# chunks and shared between threads as in every kernel; fastopt.bench.roof describes a workload's passes.

from libc.stdlib cimport free, malloc

from _memory cimport IN, INOUT
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef enum:
    CHUNK = 8192        # elements of a task
    ACCUMULATORS = 64   # of a sum: enough that no addition waits for the one before

# Numbers of arrays updated, only read and only written, as three digits: literals in the loops.
FORMS = (110, 210, 310, 410, 510, 220, 120, 111, 100, 10, 20, 11, 21)

cdef enum:
    READ = 5            # in Pass.array: up to five updated arrays, two only read, one only written
    WRITTEN = 7
    MOST_PASSES = 4     # on each chunk

cdef struct Pass:
    int form
    float* array[WRITTEN + 1]       # those that the form does not have are never loaded or stored
    float share                     # 1 / number of arrays that are loaded

cdef struct Streams:
    Pass passes[MOST_PASSES]
    int count
    Py_ssize_t size
    double* sums                    # one for each chunk


cdef inline void move(INOUT a, INOUT b, INOUT c, INOUT d, INOUT e, IN r, IN s, INOUT w, Py_ssize_t n, float share,
                      int updated, int read, int written) noexcept nogil:
    cdef Py_ssize_t i
    cdef float mean
    for i in range(n):
        mean = a[i] if updated > 0 else <float> -0.0        # −0 + x is x
        mean += b[i] if updated > 1 else <float> -0.0
        mean += c[i] if updated > 2 else <float> -0.0
        mean += d[i] if updated > 3 else <float> -0.0
        mean += e[i] if updated > 4 else <float> -0.0
        mean += r[i] if read > 0 else <float> -0.0
        mean += s[i] if read > 1 else <float> -0.0
        mean *= share
        if updated > 0: a[i] = mean
        if updated > 1: b[i] = mean
        if updated > 2: c[i] = mean
        if updated > 3: d[i] = mean
        if updated > 4: e[i] = mean
        if written > 0: w[i] = mean


cdef inline double add(IN r, IN s, Py_ssize_t n, int read) noexcept nogil:
    cdef float partial[ACCUMULATORS]
    cdef double total = 0.0
    cdef Py_ssize_t b, i
    cdef int l
    for l in range(ACCUMULATORS):
        partial[l] = 0.0
    for b in range(n // ACCUMULATORS):
        for l in range(ACCUMULATORS):
            partial[l] += r[ACCUMULATORS * b + l] + s[ACCUMULATORS * b + l] if read > 1 else r[ACCUMULATORS * b + l]
    for i in range(n // ACCUMULATORS * ACCUMULATORS, n):
        partial[0] += r[i] + s[i] if read > 1 else r[i]
    for l in range(ACCUMULATORS):
        total += partial[l]
    return total


cdef inline double pass_over(const Pass* x, Py_ssize_t start, Py_ssize_t n, int updated, int read,
                             int written) noexcept nogil:
    if updated == 0 and written == 0:
        return add(x.array[READ] + start, x.array[READ + 1] + start, n, read)
    move(x.array[0] + start, x.array[1] + start, x.array[2] + start, x.array[3] + start, x.array[4] + start,
         x.array[READ] + start, x.array[READ + 1] + start, x.array[WRITTEN] + start, n, x.share, updated, read, written)
    return 0.0


cdef inline double one_pass(const Pass* x, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    if x.form == 110: return pass_over(x, start, n, 1, 1, 0)
    elif x.form == 210: return pass_over(x, start, n, 2, 1, 0)
    elif x.form == 310: return pass_over(x, start, n, 3, 1, 0)
    elif x.form == 410: return pass_over(x, start, n, 4, 1, 0)
    elif x.form == 510: return pass_over(x, start, n, 5, 1, 0)
    elif x.form == 220: return pass_over(x, start, n, 2, 2, 0)
    elif x.form == 120: return pass_over(x, start, n, 1, 2, 0)
    elif x.form == 111: return pass_over(x, start, n, 1, 1, 1)
    elif x.form == 100: return pass_over(x, start, n, 1, 0, 0)
    elif x.form == 10: return pass_over(x, start, n, 0, 1, 0)
    elif x.form == 20: return pass_over(x, start, n, 0, 2, 0)
    elif x.form == 11: return pass_over(x, start, n, 0, 1, 1)
    return pass_over(x, start, n, 0, 2, 1)


cdef void task(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef const Streams* x = <const Streams*> context
    cdef Py_ssize_t start = chunk * CHUNK, n = min(CHUNK, x.size - start)
    cdef int k
    x.sums[chunk] = 0.0
    for k in range(x.count):
        x.sums[chunk] += one_pass(&x.passes[k], start, n)


cdef Py_ssize_t fill(Pass* x, tuple updated, tuple read, tuple written) except -1:
    """Fill in a pass; return the number of its arrays."""
    cdef Array array
    cdef Py_ssize_t k, loaded = len(updated) + len(read)
    x.form = 100 * len(updated) + 10 * len(read) + len(written)
    if x.form not in FORMS:
        raise ValueError(f"streams: expected arrays updated, read and written as in one of {FORMS}, got {x.form}")
    array = (updated or read)[0]
    for k in range(WRITTEN + 1):
        x.array[k] = <float*> array.data
    for first, arrays in ((0, updated), (READ, read), (WRITTEN, written)):
        for k in range(len(arrays)):
            array = arrays[k]
            x.array[<Py_ssize_t> first + k] = <float*> array.data
    x.share = 1.0 / loaded
    return loaded + len(written)


def streams(Py_ssize_t size, tuple passes not None):
    """Run passes, (updated, read, written) tuples of Arrays of this size, chunk by chunk.

    Return the sum of all elements read in the passes that write nothing.
    """
    cdef Streams x
    cdef Py_ssize_t k, chunks = (size + CHUNK - 1) // CHUNK, count = 0
    cdef double total = 0.0
    x.size, x.count = size, len(passes)
    if x.count > MOST_PASSES:
        raise ValueError(f"streams: expected at most {MOST_PASSES} passes chunk by chunk, got {x.count}")
    for k in range(x.count):
        updated, read, written = passes[k]
        count += fill(&x.passes[k], updated, read, written)
    x.sums = <double*> malloc(max(chunks, 1) * sizeof(double))
    if x.sums == NULL:
        raise MemoryError
    with nogil:
        parallel_for(task, &x, chunks, threads_for(0.1 * <double> count * <double> size))
        for k in range(chunks):
            total += x.sums[k]
        free(x.sums)
    return total
