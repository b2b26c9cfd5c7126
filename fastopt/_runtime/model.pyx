# A model's arrays, held from one step to the next.
#
# Acquiring four buffers per parameter at each step would be most of the cost of a small model. An export does not pin
# an array, so each one is compared with what it was when it was bound (arrays.h) before it is used.
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from cpython.list cimport PyList_GetItem
from cpython.object cimport PyObject
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastopt._runtime.arrays cimport (
    DESCRIBED, Known, acquire, clear, elements, forget, held, is_masked, know, label, overlap_error, same_buffer,
    same_head, same_shape, shape_of, usable,
)
from fastopt._runtime.driver cimport GRAD, PARAM, STATE, STREAMS, Tensor, stream_name
from fastopt._runtime.intervals cimport Interval, overlapped, sort_disjoint
from fastopt._runtime.strided cimport contiguous

import numpy

from fastopt._runtime.paths import named, params_beside

cdef object ndarray = numpy.ndarray
cdef tuple ARRAYS = (numpy.ndarray, numpy.floating)


cdef class Model:
    """The exported buffers of parameters, state and gradients, and the memory that is written among them."""

    cdef int hold(self, list keys, list arrays, tuple states, unsigned reads) except -1:
        """Bind the arrays, once: the arguments are those of a Binding. An error leaves the rest unbound."""
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        self.keys, self.states, self.count, self.reads = keys, states, len(arrays), reads | 1 << GRAD
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
                if row[k].len > 0 and not self.reads >> k & 1:
                    self.written[self.intervals] = Interval(
                        <size_t> row[k].buf, <size_t> row[k].buf + <size_t> row[k].len, i, k)
                    self.intervals += 1
            self.tensors[i].size = elements(&row[PARAM])
        self.know_all()
        i = sort_disjoint(self.written, self.intervals)
        if i > 0:
            raise overlap_error(self.where(i), self.where(i - 1))
        for i in range(self.count):
            for k in range(STATE, STREAMS):
                if self.reads & self.tensors[i].given & 1u << k:
                    self.require_unwritten(i, k)
        return 0

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
        free(self.written)

    def takes(self, list params, bint replaces):
        """Whether these arrays are the ones bound, or `replaces` and are from now on."""
        return self.holds(params) or (replaces and self.replace(params))

    cdef bint holds(self, list params) noexcept:
        """Whether these very arrays, in this order, are the ones bound."""
        cdef Py_ssize_t i
        if len(params) != self.count:
            return False
        for i in range(self.count):
            if PyList_GetItem(params, i) != self.params[i]:
                return False
        return True

    cdef bint replace(self, list params) except -1:
        """Bind these arrays in place of those bound, if each is an ndarray like the one that it replaces, and all can
        be updated together: otherwise return False, and nothing has changed.

        What is not accepted here is to be bound anew, which raises the error if there is one.
        """
        cdef Py_buffer* views
        cdef Interval* written
        cdef Py_ssize_t i, k
        cdef bint same = len(params) == self.count and self.reads == 1 << GRAD
        if not same:
            return False
        views = <Py_buffer*> calloc(max(self.count, 1), sizeof(Py_buffer))
        written = <Interval*> malloc(max(self.intervals, 1) * sizeof(Interval))
        try:
            if views == NULL or written == NULL:
                raise MemoryError
            for i in range(self.count):
                same = same and (PyList_GetItem(params, i) == self.params[i]
                                 or taken(&views[i], params[i], &self.views[i * STREAMS], True))
            memcpy(written, self.written, self.intervals * sizeof(Interval))
            for i in range(self.intervals):
                k = written[i].tensor
                if written[i].stream == PARAM and held(&views[k]):
                    written[i].start = <size_t> views[k].buf
                    written[i].stop = written[i].start + <size_t> views[k].len
            same = same and sort_disjoint(written, self.intervals) == 0
            if same:
                self.written, written = written, self.written
                self.swap(views, params)
        finally:                        # releases the arrays that are no longer bound: that may run code of the user's
            free(written)
            for i in range(self.count if views != NULL else 0):
                if held(&views[i]):
                    PyBuffer_Release(&views[i])
            free(views)
        return same

    cdef int swap(self, Py_buffer* views, list params) except -1:
        """Exchange the parameters' buffers for those of `views` that are held."""
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        before = self.arrays            # is released last
        self.arrays = before[:]
        for i in range(self.count):
            self.release_gradient(i)    # of each tensor: it may overlap another one's new parameter
            if held(&views[i]):
                self.arrays[i] = (params[i], *before[i][1:])
                row = &self.views[i * STREAMS]
                row[PARAM], views[i] = views[i], row[PARAM]
                for k in range(STREAMS):
                    if k == PARAM or not self.tensors[i].given >> k & 1:
                        self.tensors[i].x[k] = <float*> row[PARAM].buf
        self.know_all()
        return 0

    cdef int know_all(self) except -1:
        """Remember every array bound as it is now."""
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        for i in range(self.exports):
            forget(&self.known[i])
        self.exports = self.indirect = 0
        for i in range(self.count):
            row = &self.views[i * STREAMS]
            self.params[i] = <PyObject*> self.arrays[i][PARAM]
            for k in range(STREAMS):
                if self.tensors[i].given >> k & 1:
                    know(&self.known[self.exports], self.arrays[i][k], &row[k], &row[PARAM], not self.reads >> k & 1)
                    self.indirect += self.known[self.exports].descr == NULL
                    self.exports += 1
        return 0

    def params_bound(self):
        return [streams[PARAM] for streams in self.arrays]

    cdef tuple name(self, Py_ssize_t tensor, Py_ssize_t stream):
        if stream == PARAM:
            return named(params_beside(self.source), self.keys[tensor])
        return named(self.source if stream == GRAD else f"state {stream_name(self.states, stream)}", self.keys[tensor])

    cdef object where(self, Py_ssize_t interval):
        return label(self.name(self.written[interval].tensor, self.written[interval].stream))

    cdef int require_unwritten(self, Py_ssize_t i, Py_ssize_t k) except -1:
        """Refuse an array for stream k of tensor i, which is only read, that overlaps memory that is written."""
        cdef const Py_buffer* slot = &self.views[i * STREAMS + k]
        cdef Py_ssize_t other = overlapped(self.written, self.intervals, <size_t> slot.buf,
                                           <size_t> slot.buf + <size_t> slot.len)
        if other >= 0:
            raise overlap_error(self.name(i, k), self.where(other))
        return 0

    cdef int bind_gradient(self, Py_ssize_t i, object grad) except -1:
        """Bind `grad`, converted if necessary, as the gradient of tensor i."""
        cdef Py_buffer* slot = &self.views[i * STREAMS + GRAD]
        cdef const Py_buffer* param = &self.views[i * STREAMS]
        self.release_gradient(i)
        if not taken(slot, grad, param, False):
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


cdef bint taken(Py_buffer* view, object array, const Py_buffer* param, bint writable) except -1:
    """Bind an ndarray that can be used as it is; return False, with nothing bound, for any other object."""
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, view, DESCRIBED)
    except (TypeError, ValueError, BufferError):
        clear(view)
        return False
    if usable(view, c"f", writable) and same_shape(view, param):
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
