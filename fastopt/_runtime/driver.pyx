# The chunk driver: a rule applied to a whole model in one native call.
#
# Design
# ------
# A Rule is a C function with its scalars: what one optimizer does to consecutive elements at one step. Kernels make
# rules (`adam(step, lr, …) -> Rule`), and only this module applies them to memory:
#
#   segments   each tensor is cut every CHUNK elements from its start: (tensor, offset, length)
#   chunks     consecutive segments with at least CHUNK elements in total, so that many small tensors share a chunk
#
# A segment's bounds depend only on the size of its own tensor, so the sums over a tensor do not depend on the other
# tensors of the model.
#
# Each element is computed independently, so neither chunks nor threads can change a bit of the result. Where a rule
# needs a tensor's norms, the segments' sums are stored and added in order.
#
# Everything is validated before the first element is written: here for one tensor, in binding.pyx for a model.
from cpython.buffer cimport PyBuffer_Release
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastopt._runtime.arrays cimport acquire, elements, held, overlap, overlap_error
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef Py_ssize_t CHUNK = 8192            # elements; docs/threads.md has the measurement


cdef class Rule:
    """A C function with its scalars: see driver.pxd. Made by the kernels, not by users."""


cdef object stream_name(tuple states, Py_ssize_t stream):
    """The name of a stream of a rule that has these states."""
    if stream >= STATE:
        return states[stream - STATE]
    if stream == PARAM:
        return "param"
    return "grad" if stream == GRAD else "average"


cdef int cut(Table* table, const Tensor* tensors, Py_ssize_t count) except -1:
    """Cut each tensor into segments and group the segments into chunks."""
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
    """Set x to the streams of one tensor at `offset`."""
    cdef Py_ssize_t k
    for k in range(STREAMS):
        x[k] = tensor.x[k] + offset
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
                    rule.uses | 1 << PARAM | 1 << GRAD, rule.reads | 1 << GRAD)


def apply(Rule rule not None, tuple arrays not None):
    """Apply `rule` to one tensor.

    `arrays` are (param, grad, average, state…), with None for those that the rule does not use.
    """
    cdef Py_buffer views[STREAMS]
    cdef Tensor tensor
    cdef Table table
    cdef Compiled code = compiled(rule)
    cdef Plan plan
    cdef double* sums = NULL
    cdef Py_ssize_t k, j, count = len(arrays)
    if count > STREAMS or code.needs >> count:
        raise ValueError(f"arrays: expected {STATE + len(rule.states)}, got {count}")
    memset(views, 0, sizeof(views))
    memset(&tensor, 0, sizeof(tensor))
    memset(&table, 0, sizeof(table))
    try:
        for k in range(count):
            if arrays[k] is None and not code.needs >> k & 1:
                continue
            acquire(&views[k], arrays[k], stream_name(rule.states, k), c"f", not code.reads >> k & 1,
                    &views[PARAM] if k != PARAM else NULL)
            tensor.x[k] = <float*> views[k].buf
            for j in range(k):
                if held(&views[j]) and not (code.reads >> k & code.reads >> j & 1) and overlap(&views[k], &views[j]):
                    raise overlap_error(stream_name(rule.states, k), stream_name(rule.states, j))
        for k in range(STREAMS):
            if tensor.x[k] == NULL:
                tensor.x[k] = tensor.x[PARAM]
        tensor.size = elements(&views[PARAM])
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
            if held(&views[k]):
                PyBuffer_Release(&views[k])


def swap_chunk(Py_ssize_t chunk):
    """Set the chunk size of later calls and bindings, for tests, and return the previous one."""
    global CHUNK
    cdef Py_ssize_t before = CHUNK
    if chunk < 16 or chunk % 16:
        raise ValueError(f"chunk: expected a positive multiple of 16, got {chunk}")
    CHUNK = chunk
    return before
