# An array with a channel axis as (outer, channels, inner) in memory, and the arrays that go with it.
from cpython.buffer cimport PyBuffer_Release
from cpython.object cimport PyObject
from libc.math cimport INFINITY, nextafterf

from fastopt._runtime.arrays cimport (
    Array, acquire, array_of, forget, is_masked, know, same_head, usable_head, vector_of,
)
from fastopt._runtime.axes cimport Sizes, axis_index, sizes_around
from fastopt._runtime.strided cimport contiguous, write

import numpy

cdef object ndarray = numpy.ndarray
cdef object asarray = numpy.asarray
cdef object empty = numpy.empty
cdef object float32 = numpy.dtype(numpy.float32)


cdef object channels_last(object x, object channel_axis, object axis_name):
    """The permutation of axes that makes x C-contiguous with its channels last, or None if x is no such view."""
    if not isinstance(x, ndarray) or x.ndim < 3:
        return None
    axis = axis_index(channel_axis, axis_name, x.ndim)
    order = (*range(axis), *range(axis + 1, x.ndim), axis)
    return order if x.transpose(order).flags.c_contiguous else None


cdef Array array_of_layout(Layout x, object source, object name, bint writable):
    """`source`, validated: of x's shape and memory layout."""
    if x.order is not None and isinstance(source, ndarray):
        if source.shape != x.shape:         # (N, H, W, C), the shape in memory, is refused too
            array_of(source, name, c"f", writable, NULL)
            raise ValueError(f"{name}: expected the shape of x, {x.shape}, got {source.shape}")
        turned = source.transpose(x.order)
        if not turned.flags.c_contiguous:
            raise ValueError(f"{name}: expected the memory layout of x (channels last), got strides "
                             f"{source.strides}")
        source = turned
    return array_of(source, name, c"f", writable, &x.x.view)


cdef class Layout:
    """Layout(x, channel_axis): x, validated and held, and its sizes around the channel axis in memory.

    x is either C-contiguous, and `order` is None, or a view of channels-last memory, such as an (N, C, H, W) view of
    (N, H, W, C): then transposing it by `order` gives a C-contiguous array with the channels last.
    """

    def __init__(self, x, channel_axis, name="x", axis_name="channel_axis"):
        cdef int axis, ndim
        cdef Sizes sizes
        if self.x is not None:
            raise TypeError("Layout: expected one call of __init__, got another")
        refused = None
        try:
            self.x = array_of(x, name, c"f", False, NULL)
        except ValueError as error:
            refused = error
        if refused is not None:         # not inside the handler: an error must not have this one as its context
            self.order = channels_last(x, channel_axis, axis_name)
            if self.order is None:
                raise refused
            self.x = array_of(x.transpose(self.order), name, c"f", False, NULL)
        ndim = self.x.view.ndim
        if self.order is None:          # x may be any object with a buffer, and then has no shape of its own
            self.source = x if isinstance(x, ndarray) else asarray(x)
            self.shape = self.x.shape
        else:
            self.source, self.shape = x, x.shape
        if ndim < 2:
            raise ValueError(f"{name}: expected at least 2 dimensions, got shape {self.shape}")
        self.axis = axis_index(channel_axis, axis_name, ndim)
        axis = ndim - 1 if self.order is not None else self.axis
        sizes = sizes_around(&self.x.view, axis)
        self.outer, self.channels, self.inner = sizes.outer, sizes.n, sizes.inner

    def __dealloc__(self):
        forget(&self.known[0])
        forget(&self.known[1])

    @property
    def count(self):
        """Values per channel."""
        return self.outer * self.inner

    @property
    def size(self):
        return self.x.size

    def empty(self):
        """A new array of x's shape and memory layout."""
        if self.order is None:
            return empty(self.shape, float32)
        made = empty([self.shape[axis] for axis in self.order], float32)
        return made.transpose([self.order.index(axis) for axis in range(len(self.order))])

    def array(self, source, name, bint writable=False):
        """`source`, validated: of x's shape and memory layout."""
        return array_of_layout(self, source, name, writable)

    def gradient(self, source, name):
        """`source`, validated: of x's shape, in x's memory layout or the other one of C-contiguous and channels last.

        Its Array, and whether it has x's layout. Kernels need another Array otherwise: see `relaid`.
        """
        if self.order is None and usable_head(source, c"f", False) != NULL:     # the most frequent case
            return array_of(source, name, c"f", False, &self.x.view), True
        if not isinstance(source, ndarray) or source.shape != self.shape:
            return array_of_layout(self, source, name, False), True     # takes a buffer, refuses another shape
        if self.order is None:
            order = None if source.flags.c_contiguous else channels_last(source, self.axis, name)
            if order is None or source.dtype != float32 or is_masked(source):
                return array_of(source, name, c"f", False, &self.x.view), True
            return array_of(source.transpose(order), name, c"f", False, NULL), False
        turned = source.transpose(self.order)
        if turned.flags.c_contiguous:
            return array_of(turned, name, c"f", False, &self.x.view), True
        if source.flags.c_contiguous:
            return array_of(source, name, c"f", False, NULL), False
        raise ValueError(f"{name}: expected a C-contiguous array or the memory layout of x (channels last), got "
                         f"strides {source.strides}")

    def relaid(self, source, name, Array into=None):
        """An Array of x's layout with the elements of `source`, which has the other one: `into`, or a new one."""
        if source.shape != self.shape or source.dtype != float32 or not source.flags.aligned:
            raise ValueError(f"{name}: expected an array that keeps its shape and type during the call, got one that "
                             "is changed by the code of another argument")
        if self.order is not None:
            source = source.transpose(self.order)
        if into is None:
            return array_of(contiguous(source), name, c"f", False, &self.x.view)
        write(source, <float*> into.data)
        return into

    def constants(self):
        """A new float64 array of shape (4, channels), and its Array, which constants_of returns again."""
        made = empty((4, self.channels))
        self.saved = array_of(made, "cache.saved", c"d", True, NULL)
        if self.order is None:
            know(&self.known[0], self.source, &self.x.view, &self.x.view, False)
        know(&self.known[1], made, &self.saved.view, &self.saved.view, True)
        return made, self.saved

    def constants_of(self, saved):
        """The Array of what `constants` returned in an earlier call.

        `saved` and x are checked again: the memory of an array that is resized is freed, whoever holds its buffer.
        """
        cdef Py_buffer view
        cdef Array made
        cdef bint same
        if (<PyObject*> saved == self.known[1].array and self.known[0].descr != NULL and self.known[1].descr != NULL
                and same_head(&self.known[0]) and same_head(&self.known[1])):
            return self.saved           # 0.1 µs sooner than by buffers
        made = array_of(saved, "cache.saved", c"d", False, NULL)
        if made.view.ndim != 2 or made.view.shape[0] != 4 or made.view.shape[1] != self.channels:
            raise ValueError(f"cache.saved: expected shape {(4, self.channels)}, got {made.shape}")
        acquire(&view, self.source if self.order is None else self.source.transpose(self.order), self.x.name, c"f",
                False, &self.x.view)
        same = view.buf == self.x.data
        PyBuffer_Release(&view)
        if not same:
            raise ValueError(f"{self.x.name}: expected the memory that the forward pass saw, got an array that was "
                             "resized since")
        return made

    def vector(self, source, name, bint writable=False):
        """`source`, validated: float32 of shape (channels,), or with more axes of length 1."""
        cdef Array made = vector_of(source, name, c"f", writable, self.channels)
        if made.view.ndim != 1:
            if self.shapes is None:
                self.shapes = {}
            self.shapes[name] = made.shape
        return made

    @property
    def vector_shapes(self):
        """The shapes of those vectors that have more than one axis, by name; None if there are none."""
        return self.shapes

    def doubles(self, source, name, bint writable=False):
        """`source`, validated: float64 of shape (channels,)."""
        return vector_of(source, name, c"d", writable, self.channels)

    def variances(self, source, name, double eps):
        """`vector` of variances, of which none is so negative that 1 / √(var + eps) is not finite."""
        cdef Array made = vector_of(source, name, c"f", False, self.channels)
        cdef const float* var = <const float*> made.data
        cdef float limit = <float> -eps
        cdef Py_ssize_t c
        cdef int wrong = 0
        if limit > -eps:
            limit = nextafterf(limit, -INFINITY)
        for c in range(made.size):      # var + eps ≤ 0, in a form that gcc vectorises
            wrong |= var[c] <= limit
        if wrong:
            c = [var[c] <= limit for c in range(made.size)].index(True)
            raise ValueError(f"{name}: expected variances above -eps = {-eps!r}, got {name}[{c}] = {var[c]:.9g}")
        return made

    def squares(self, source, name):
        """`doubles` of sums of squares, of which none is negative."""
        cdef Array made = vector_of(source, name, c"d", False, self.channels)
        cdef const double* m2 = <const double*> made.data
        cdef Py_ssize_t c
        for c in range(made.size):
            if m2[c] < 0.0:
                raise ValueError(f"{name}: expected sums of squares, at least 0, got {name}[{c}] = {m2[c]!r}")
        return made
