# A model's arrays, bound once and updated many times.
#
# A Binding holds the exported buffers of parameters and state and the driver's tables: acquiring four buffers per
# parameter at each step would be most of the cost of a small model. An export does not pin an array, so a step first
# compares every array with what it was when it was bound (arrays.h), and asks to be bound anew if one differs.
# Everything is validated before the first element is written.
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GetItem
from cpython.object cimport PyObject
from libc.stdlib cimport calloc, free, malloc, qsort

from fastopt._runtime.arrays cimport (
    DESCRIBED, Known, acquire, clear, elements, forget, is_masked, know, label, overlap_error, same_buffer,
    same_head, same_shape, shape_of, usable,
)
from fastopt._runtime.driver cimport (
    GRAD, PARAM, STATE, STREAMS, SUMS, Compiled, Plan, Rule, Table, Tensor, compiled, cut, discard, run_plan,
    stream_name,
)
from fastopt._runtime.progress cimport Progress

import numpy

from fastopt._runtime.strided import contiguous

cdef object ndarray = numpy.ndarray
cdef tuple ARRAYS = (numpy.ndarray, numpy.floating)

cdef Py_ssize_t HELD = 65536            # gradients of at most this many elements stay bound between steps


cdef enum:
    FEW = 4             # rules of a model, for which no memory is allocated


cdef struct Interval:
    size_t start
    size_t stop
    Py_ssize_t tensor
    Py_ssize_t stream


cdef int by_start(const void* a, const void* b) noexcept nogil:
    cdef size_t x = (<const Interval*> a).start, y = (<const Interval*> b).start
    return -1 if x < y else x > y


cdef class Binding:
    """A model's parameters and state, bound: `apply(rules, grads)` is one native call over all of it.

    Parameters
    ----------
    keys : list
        The user's key of each tensor.
    arrays : list of tuple
        For each tensor (param, None, average, state…): a rule's streams without the gradient, and None for those that
        the rule does not use.
    states : tuple of str
        The states' names.
    groups : list of int
        For each tensor the index of its rule among those given to `apply`.
    reads : int
        Bit k: stream k is only read; its array need not be writable.
    """
    cdef list keys
    cdef tuple states
    cdef unsigned reads
    cdef Py_ssize_t count, total, rules
    cdef Py_buffer* views               # count x STREAMS; the gradient's slot is bound again when a step needs it
    cdef Tensor* tensors
    cdef Table table
    cdef Interval* written              # memory that is written, sorted by start
    cdef Py_ssize_t intervals
    cdef PyObject** params              # borrowed
    cdef Known* known                   # of every array bound
    cdef Py_ssize_t exports             # how many
    cdef Py_ssize_t indirect            # how many of them are not compared by their heads
    cdef Known* slopes                  # of each gradient that is bound
    cdef bint large                     # whether a gradient has more than HELD elements
    cdef list arrays                    # holds references to all of them
    cdef bint numbered                  # whether keys are 0, 1, …
    cdef object source                  # what the user calls the gradients of this call

    def __cinit__(self, list keys, list arrays, tuple states, list groups, unsigned reads=0):
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        self.keys, self.states, self.count, self.reads = keys, states, len(arrays), reads | 1 << GRAD
        self.source = "grads"
        if not (len(keys) == len(groups) == self.count and STATE + len(states) <= STREAMS):
            raise ValueError("keys, arrays, groups: expected the same length")
        if any([len(streams) != STATE + len(states) for streams in arrays]):
            raise ValueError("arrays: expected (param, None, average) and one for each of states")
        self.views = <Py_buffer*> calloc(max(self.count, 1) * STREAMS, sizeof(Py_buffer))
        self.tensors = <Tensor*> calloc(max(self.count, 1), sizeof(Tensor))
        self.written = <Interval*> malloc(max(self.count, 1) * STREAMS * sizeof(Interval))
        self.params = <PyObject**> calloc(max(self.count, 1), sizeof(PyObject*))
        self.known = <Known*> calloc(max(self.count, 1) * STREAMS, sizeof(Known))
        self.slopes = <Known*> calloc(max(self.count, 1), sizeof(Known))
        self.arrays = arrays
        if (self.views == NULL or self.tensors == NULL or self.written == NULL or self.params == NULL
                or self.known == NULL or self.slopes == NULL):
            raise MemoryError
        for i in range(self.count):
            row = &self.views[i * STREAMS]
            for k in range(STREAMS):
                self.tensors[i].x[k] = <float*> row[PARAM].buf
                if k == GRAD or k >= <Py_ssize_t> len(arrays[i]) or (arrays[i][k] is None and k != PARAM):
                    continue
                acquire(&row[k], arrays[i][k], self.name(i, k), c"f", not self.reads >> k & 1,
                        &row[PARAM] if k != PARAM else NULL)
                self.tensors[i].x[k] = <float*> row[k].buf
                self.tensors[i].given |= 1u << k
                know(&self.known[self.exports], arrays[i][k], &row[k], &row[PARAM], not self.reads >> k & 1)
                self.indirect += self.known[self.exports].descr == NULL
                self.exports += 1
                if row[k].len > 0 and not self.reads >> k & 1:
                    self.written[self.intervals] = Interval(
                        <size_t> row[k].buf, <size_t> row[k].buf + <size_t> row[k].len, i, k)
                    self.intervals += 1
            self.params[i] = <PyObject*> arrays[i][PARAM]
            self.tensors[i].size = elements(&row[PARAM])
            self.tensors[i].rule = groups[i]
            self.rules = max(self.rules, self.tensors[i].rule + 1)
            self.total += self.tensors[i].size
            self.large = self.large or self.tensors[i].size > HELD
        qsort(self.written, self.intervals, sizeof(Interval), by_start)
        for i in range(1, self.intervals):
            if self.written[i].start < self.written[i - 1].stop:
                raise overlap_error(self.where(i), self.where(i - 1))
        for i in range(self.count):
            for k in range(STATE, STREAMS):
                if self.reads & self.tensors[i].given & 1u << k:
                    self.require_unwritten(i, k)
        cut(&self.table, self.tensors, self.count)
        self.numbered = True
        for i in range(self.count):     # the type first: a user's key may define == in any way, even to return an array
            if type(keys[i]) is not int or keys[i] != i:
                self.numbered = False
                break

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.views != NULL:
            for i in range(self.count * STREAMS):
                PyBuffer_Release(&self.views[i])
        for i in range(self.exports):
            forget(&self.known[i])
        for i in range(self.count if self.slopes != NULL else 0):
            forget(&self.slopes[i])
        free(self.params)
        free(self.known)
        free(self.slopes)
        free(self.views)
        free(self.tensors)
        discard(&self.table)
        free(self.written)

    cpdef bint holds(self, list params):
        """Whether these very arrays, in this order, are the ones bound."""
        cdef Py_ssize_t i
        if len(params) != self.count:
            return False
        for i in range(self.count):
            if PyList_GetItem(params, i) != self.params[i]:
                return False
        return True

    def gradients_of(self, params, grads):
        """The gradients in the order bound, if params and grads are both dicts, lists or arrays and params holds the
        bound arrays under their keys; otherwise None."""
        cdef Py_ssize_t i
        cdef PyObject* found
        cdef dict given, slopes
        cdef list ordered
        if type(params) is list and type(grads) is list:
            return grads[:] if len(grads) == self.count and self.numbered and self.holds(params) else None
        if type(params) is ndarray:
            return [grads] if self.count == 1 and self.numbered and <PyObject*> params == self.params[0] else None
        if type(params) is not dict or type(grads) is not dict:
            return None
        given, slopes = params, grads
        if len(given) != self.count or len(slopes) != self.count:
            return None
        ordered = []
        for i in range(self.count):
            key = self.keys[i]
            found = PyDict_GetItemWithError(slopes, key)
            if found == NULL:
                return None
            ordered.append(<object> found)
            if PyDict_GetItemWithError(given, key) != self.params[i]:
                return None
        return ordered

    cdef tuple name(self, Py_ssize_t tensor, Py_ssize_t stream):
        return (("params", self.source)[stream] if stream <= GRAD else f"state {stream_name(self.states, stream)}",
                self.keys[tensor])

    cdef object where(self, Py_ssize_t interval):
        return label(self.name(self.written[interval].tensor, self.written[interval].stream))

    cdef int require_unwritten(self, Py_ssize_t i, Py_ssize_t k) except -1:
        """Refuse an array for stream k of tensor i, which is only read, that overlaps memory that is written."""
        cdef const Py_buffer* slot = &self.views[i * STREAMS + k]
        cdef Py_ssize_t middle, low = 0, high = self.intervals
        # The first interval that ends after the array's start: intervals are sorted and disjoint.
        while low < high:
            middle = (low + high) // 2
            if self.written[middle].stop <= <size_t> slot.buf:
                low = middle + 1
            else:
                high = middle
        if low < self.intervals and slot.len > 0 and self.written[low].start < <size_t> slot.buf + <size_t> slot.len:
            raise overlap_error(self.name(i, k), self.where(low))
        return 0

    cdef int bind_gradient(self, Py_ssize_t i, object grad) except -1:
        """Bind `grad`, converted if necessary, as the gradient of tensor i."""
        cdef Py_buffer* slot = &self.views[i * STREAMS + GRAD]
        cdef const Py_buffer* param = &self.views[i * STREAMS]
        self.release_gradient(i)
        if not taken(slot, grad, param):
            grad = as_gradient(grad, param)
            acquire(slot, grad, self.name(i, GRAD), c"f", False, param)
            if <PyObject*> grad != <PyObject*> slot.obj:    # an exporter that cannot be asked for the same buffer again
                copy = numpy.array(memoryview(grad))
                PyBuffer_Release(slot)
                acquire(slot, copy, self.name(i, GRAD), c"f", False, param)
        know(&self.slopes[i], <object> slot.obj, slot, param, False)
        try:
            self.require_unwritten(i, GRAD)
        except BaseException:
            self.release_gradient(i)
            raise
        self.tensors[i].x[GRAD] = <float*> slot.buf
        return 0

    cdef void release_gradient(self, Py_ssize_t i) noexcept:
        forget(&self.slopes[i])
        PyBuffer_Release(&self.views[i * STREAMS + GRAD])

    cdef bint unchanged(self) except -1:
        """Whether all arrays bound are as they were then.

        Those whose own code may run, and change another array, come first.
        """
        cdef Py_ssize_t i
        if self.indirect > 0:
            for i in range(self.exports):
                if self.known[i].descr == NULL and not same_buffer(&self.known[i]):
                    return False
        for i in range(self.exports):
            if self.known[i].descr != NULL and not same_head(&self.known[i]):
                return False
        return True

    cdef bint same_gradient(self, Py_ssize_t i) except -1:
        """Whether the gradient bound to tensor i is as it was then."""
        return same_head(&self.slopes[i]) if self.slopes[i].descr != NULL else same_buffer(&self.slopes[i])

    def apply(self, list rules not None, list grads not None, object source="grads", Progress progress=None,
              object snapshot=None, bint counts=True):
        """Apply rules[groups[i]] to tensor i for every i, with gradient grads[i]. All or nothing.

        Then `progress`, if given, holds `snapshot`, with the step counted if it `counts`. `source` is what error
        messages call the gradients.

        Returns
        -------
        bool
            False if an array has changed since it was bound, in its memory, type, shape or flags: it is to be bound
            anew, and nothing has been done.
        """
        return self.step(rules, grads, source, progress, snapshot, counts, NULL)

    def measure(self, Rule rule not None, list grads not None):
        """Return the first of rule's sums over all gradients, added in order, or None where `apply` returns False.
        Nothing is written."""
        cdef double total = 0.0
        return total if self.step([rule] * max(self.rules, 1), grads, "grads", None, None, False, &total) else None

    cdef bint step(self, list rules, list grads, object source, Progress progress, object snapshot, bint counts,
                   double* total) except -1:
        """Run the rules; add what they measure to `total`, unless that is NULL."""
        cdef Compiled few[FEW]
        cdef Compiled* many = NULL
        cdef Compiled* code = few
        cdef double* sums = NULL
        cdef Plan plan
        cdef Rule rule
        cdef Py_ssize_t i, count = len(rules)
        cdef double cost = 0.0
        cdef bint measures = False, applies = False, bound = False
        cdef PyObject* grad
        if len(grads) != self.count:
            raise ValueError(f"{source}: expected {self.count} arrays, got {len(grads)}")
        if count < self.rules:
            raise ValueError(f"rules: expected {self.rules}, got {count}")
        self.source = source
        try:
            if count > FEW:
                code = many = <Compiled*> malloc(count * sizeof(Compiled))
                if many == NULL:
                    raise MemoryError
            for i in range(count):
                rule = rules[i]
                code[i] = compiled(rule)
                cost = max(cost, rule.cost)
                measures = measures or rule.measure != NULL
                applies = applies or rule.fn != NULL
                if rule.fn != NULL and self.reads & ~code[i].reads:
                    raise ValueError("rules: expected rules that only read what was bound as read only")
            if measures:
                sums = <double*> calloc(max(self.table.first[self.table.chunks], 1) * SUMS, sizeof(double))
                if sums == NULL:
                    raise MemoryError
            if not self.unchanged():
                return False
            for i in range(self.count):
                if not (self.slopes[i].array == PyList_GetItem(grads, i) and self.same_gradient(i)):
                    bound = True
                    self.bind_gradient(i, grads[i])
                if code[self.tensors[i].rule].needs & ~self.tensors[i].given & ~(1u << GRAD):
                    raise self.missing(i, &code[self.tensors[i].rule])
            if bound:                   # code of the user's may have run, and may in unchanged(): gradients come last
                if not self.unchanged():
                    return False
                for i in range(self.count):
                    if not self.same_gradient(i):
                        return False
            plan = Plan(self.tensors, self.table, code, sums, applies)
            run_plan(&plan, cost * <double> self.total)
            if progress is not None:
                progress.replace(progress.step_count + counts, snapshot)
            if total != NULL:
                for i in range(self.table.first[self.table.chunks]):
                    total[0] += sums[SUMS * i]
        finally:
            # Only small gradients stay bound: for them rebinding is a noticeable cost; the memory of large ones should
            # be free when the user drops them.
            if bound or self.large:
                for i in range(self.count):
                    grad = self.slopes[i].array
                    if grad != NULL and (self.tensors[i].size > HELD or grad != <PyObject*> grads[i]):
                        self.release_gradient(i)
            free(many)
            free(sums)
        return True

    cdef object missing(self, Py_ssize_t i, const Compiled* code):
        """The error for a stream of tensor i that the rule needs and that is not bound."""
        cdef Py_ssize_t k = 0
        while not (code.needs & ~self.tensors[i].given & ~(1u << GRAD)) >> k & 1:
            k += 1
        return TypeError(f"{label(self.name(i, k))}: expected an array, got None when the model was bound: "
                         "hyper-parameters have changed since")


cdef bint taken(Py_buffer* view, object grad, const Py_buffer* param) except -1:
    """Bind a gradient that needs no conversion; return False, with nothing bound, for any other."""
    if type(grad) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(grad, view, DESCRIBED)
    except (TypeError, ValueError, BufferError):
        clear(view)
        return False
    if usable(view, c"f", False) and same_shape(view, param):
        return True
    PyBuffer_Release(view)
    return False


cdef object as_gradient(object grad, const Py_buffer* param):
    """A C-contiguous float32 array of the elements of an array or NumPy scalar of floats, copied if it is not one;
    anything else unchanged."""
    if not isinstance(grad, ARRAYS) or is_masked(grad):
        return grad                     # acquire accepts it or raises an error
    array = numpy.asarray(grad)
    if array.dtype.kind != "f" or array.shape != shape_of(param):
        return grad
    copy = None if array.flags.c_contiguous else contiguous(array)
    return numpy.require(array, numpy.float32, ["C_CONTIGUOUS", "ALIGNED"]) if copy is None else copy
