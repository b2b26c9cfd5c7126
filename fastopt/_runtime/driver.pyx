# The chunk driver: a rule applied to a whole model in one native call.
#
# Design
# ------
# A Rule is a C function with its scalars: what one optimizer does to consecutive elements at one step. Kernels make
# them (`adam(step, lr, …) -> Rule`), and this module alone walks memory with them:
#
#   segments   each tensor cut every CHUNK elements, from its own start: (tensor, offset, length)
#   chunks     runs of segments, of at least CHUNK elements together: many small tensors share one
#
# The bounds are a function of the sizes alone, a segment's of its own tensor's size alone: so a tensor's sums do not
# depend on what model it is in.
#
# Each element is computed by itself, so neither chunks nor threads can change a bit of the result. Where a rule needs
# a tensor's norms, segments' sums are stored and added in order.
#
# Everything is validated before the first element is written: here for one tensor, in binding.pyx for a model.
from cpython.buffer cimport PyBuffer_Release
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastopt._runtime.arrays cimport acquire, elements, held, overlap
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef Py_ssize_t CHUNK = 8192            # elements; docs/threads.md has the measurement


cdef class Rule:
    """A C function with its scalars: see driver.pxd. Made by the kernels, not by users."""


cdef int cut(Table* table, const Tensor* tensors, Py_ssize_t count) except -1:
    """Cut each tensor into segments, and gather these in chunks."""
    cdef Py_ssize_t i, offset, length, s = 0, room = 0, most = 0
    for i in range(count):
        most += (tensors[i].size + CHUNK - 1) // CHUNK
    table.segments = <Segment*> malloc(max(most, 1) * sizeof(Segment))
    table.first = <Py_ssize_t*> malloc((most + 1) * sizeof(Py_ssize_t))
    table.chunks = 0
    if table.segments == NULL or table.first == NULL:
        raise MemoryError
    for i in range(count):
        offset = 0
        while offset < tensors[i].size:
            if room <= 0:
                table.first[table.chunks] = s
                table.chunks += 1
                room = CHUNK
            length = min(CHUNK, tensors[i].size - offset)
            table.segments[s] = Segment(i, offset, length)
            s += 1
            offset += length
            room -= length
    table.first[table.chunks] = s
    return 0


cdef void discard(Table* table) noexcept:
    free(table.segments)
    free(table.first)


cdef inline void locate(Tensor* tensor, Py_ssize_t offset, float** x) noexcept nogil:
    """The streams of one tensor from `offset` on."""
    cdef Py_ssize_t k
    for k in range(STREAMS):
        x[k] = tensor.x[k] + offset if tensor.x[k] != NULL else NULL
    x[OUTCOME] = &tensor.outcome


cdef void measure_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef Plan* plan = <Plan*> context
    cdef const Segment* segment
    cdef const Compiled* rule
    cdef float* x[STREAMS + 1]
    cdef Py_ssize_t s
    for s in range(plan.table.first[chunk], plan.table.first[chunk + 1]):
        segment = &plan.table.segments[s]
        rule = &plan.rules[plan.tensors[segment.tensor].rule]
        if rule.measure != NULL:
            locate(&plan.tensors[segment.tensor], segment.offset, x)
            rule.measure(rule.scalars, x, segment.length, plan.sums + SUMS * s)


cdef void run_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef Plan* plan = <Plan*> context
    cdef const Segment* segment
    cdef const Compiled* rule
    cdef float* x[STREAMS + 1]
    cdef Py_ssize_t s
    for s in range(plan.table.first[chunk], plan.table.first[chunk + 1]):
        segment = &plan.table.segments[s]
        rule = &plan.rules[plan.tensors[segment.tensor].rule]
        if rule.fn != NULL:
            locate(&plan.tensors[segment.tensor], segment.offset, x)
            rule.fn(rule.scalars, x, segment.length)


cdef void settle_all(Plan* plan) noexcept nogil:
    """Add each tensor's sums in the order of its segments."""
    cdef Py_ssize_t s = 0, tensor
    cdef const Compiled* rule
    cdef double total[SUMS]
    cdef int k
    while s < plan.table.first[plan.table.chunks]:
        tensor = plan.table.segments[s].tensor
        for k in range(SUMS):
            total[k] = 0.0
        while s < plan.table.first[plan.table.chunks] and plan.table.segments[s].tensor == tensor:
            for k in range(SUMS):
                total[k] += plan.sums[SUMS * s + k]
            s += 1
        rule = &plan.rules[plan.tensors[tensor].rule]
        if rule.settle != NULL:
            plan.tensors[tensor].outcome = rule.settle(rule.scalars, total)


cdef void run(Plan* plan, double nanoseconds) noexcept nogil:
    cdef int threads = threads_for(nanoseconds)
    if plan.sums != NULL:
        parallel_for(measure_chunk, plan, plan.table.chunks, threads)
        settle_all(plan)
    if plan.applies:
        parallel_for(run_chunk, plan, plan.table.chunks, threads)


cdef Compiled compiled(Rule rule):
    return Compiled(rule.fn, rule.measure, rule.settle, <const void*> &rule.block[0],
                    (1u << rule.required) - 1 | rule.uses)


def apply(Rule rule not None, tuple arrays not None):
    """Apply `rule` to one tensor: arrays are (param, grad, state…), None where an optional one was not given."""
    cdef Py_buffer views[STREAMS]
    cdef Tensor tensor
    cdef Table table
    cdef Compiled code = compiled(rule)
    cdef Plan plan
    cdef double* sums = NULL
    cdef Py_ssize_t k, j, count = len(arrays)
    if count > STREAMS:
        raise ValueError(f"arrays: expected at most {STREAMS}, got {count}")
    memset(views, 0, sizeof(views))
    memset(&tensor, 0, sizeof(tensor))
    memset(&table, 0, sizeof(table))
    try:
        for k in range(count):
            if arrays[k] is None and not code.needs >> k & 1:
                continue
            acquire(&views[k], arrays[k], rule.names[k], c"f", k != 1, &views[0] if k > 0 else NULL)
            tensor.x[k] = <float*> views[k].buf
            for j in range(k):
                if held(&views[j]) and overlap(&views[k], &views[j]):
                    raise ValueError(f"{rule.names[k]}: expected memory of its own, got an array that overlaps "
                                     f"{rule.names[j]}")
        tensor.size = elements(&views[0])
        cut(&table, &tensor, 1)
        if rule.measure != NULL:
            sums = <double*> calloc(max(table.first[table.chunks], 1) * SUMS, sizeof(double))
            if sums == NULL:
                raise MemoryError
        plan = Plan(&tensor, table, &code, sums, True)
        with nogil:
            run(&plan, rule.cost * <double> tensor.size)
    finally:
        free(sums)
        discard(&table)
        for k in range(count):
            PyBuffer_Release(&views[k])


def swap_chunk(Py_ssize_t chunk):
    """Set the chunk size of bindings made from now on (tests do) and return the one before."""
    global CHUNK
    cdef Py_ssize_t before = CHUNK
    if chunk < 16 or chunk % 16:
        raise ValueError(f"chunk: expected a positive multiple of 16, got {chunk}")
    CHUNK = chunk
    return before
