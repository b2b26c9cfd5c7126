# An array with a channel axis as outer × channels × inner in memory, and the arrays that go with it.
from fastopt._runtime.arrays cimport Array, array_of, overlap, vector_of

import numpy

cdef object ndarray = numpy.ndarray
cdef object asarray = numpy.asarray
cdef object empty = numpy.empty
cdef object float32 = numpy.dtype(numpy.float32)


cdef object channels_last(object x, object channel_axis):
    """The order of axes that makes x C-contiguous where its channels are the last axis in memory only, or None."""
    if not isinstance(x, ndarray) or x.ndim < 3 or type(channel_axis) is not int:
        return None
    axis = channel_axis % x.ndim
    order = (*range(axis), *range(axis + 1, x.ndim), axis)
    return order if x.transpose(order).flags.c_contiguous else None


cdef class Layout:
    """Layout(x, channel_axis): x, checked and held, and its sizes in memory.

    x is C-contiguous, or `order` transposes it to C order with the channels last: an (N, C, H, W) view of
    (N, H, W, C) memory.
    """

    def __init__(self, x, channel_axis, name="x", axis_name="channel_axis"):
        cdef Py_ssize_t axis, i, ndim
        try:
            self.x = array_of(x, name, c"f", False, NULL)
        except ValueError:
            self.order = channels_last(x, channel_axis)
            if self.order is None:
                raise
            self.x = array_of(x.transpose(self.order), name, c"f", False, NULL)
        ndim = self.x.view.ndim
        if self.order is None:          # x may be another object that exports a buffer, without a shape of its own
            self.source = x if isinstance(x, ndarray) else asarray(x)
            self.shape = self.x.shape
        else:
            self.source, self.shape = x, x.shape
        if ndim < 2:
            raise ValueError(f"{name}: expected at least 2 dimensions, got shape {self.shape}")
        if type(channel_axis) is not int:
            raise TypeError(f"{axis_name}: expected an int, got {channel_axis!r}")
        if not -ndim <= channel_axis < ndim:
            shown = channel_axis if abs(channel_axis) < 2**64 else f"an int of {channel_axis.bit_length()} bits"
            raise ValueError(f"{axis_name}: expected an int in [-{ndim}, {ndim}), got {shown}")
        axis = ndim - 1 if self.order is not None else channel_axis
        if axis < 0:
            axis += ndim
        self.channels = self.x.view.shape[axis]
        self.outer = self.inner = 1
        for i in range(axis):
            self.outer *= self.x.view.shape[i]
        for i in range(axis + 1, ndim):
            self.inner *= self.x.view.shape[i]

    @property
    def count(self):
        """Values of each channel."""
        return self.outer * self.inner

    @property
    def size(self):
        return self.x.size

    def empty(self):
        """A new array of x's shape and layout."""
        if self.order is None:
            return empty(self.shape, float32)
        made = empty([self.shape[axis] for axis in self.order], float32)
        return made.transpose([self.order.index(axis) for axis in range(len(self.order))])

    def array(self, source, name, bint writable=False):
        """`source`, checked: the shape and the layout of x."""
        if self.order is not None and isinstance(source, ndarray):
            if source.shape != self.shape:      # that of the memory, (N, H, W, C), among them
                array_of(source, name, c"f", writable, NULL)
                raise ValueError(f"{name}: expected the shape of x, {self.shape}, got {source.shape}")
            turned = source.transpose(self.order)
            if not turned.flags.c_contiguous:
                raise ValueError(f"{name}: expected the memory layout of x (channels last), got strides "
                                 f"{source.strides}")
            source = turned
        return array_of(source, name, c"f", writable, &self.x.view)

    def constants(self):
        """A new float64 array of four numbers a channel, and the same as the kernels take it."""
        made = empty((4, self.channels))
        return made, array_of(made, "saved", c"d", True, NULL)

    def vector(self, source, name, bint writable=False):
        """`source`, checked: float32, one number a channel."""
        return vector_of(source, name, c"f", writable, self.channels)

    def doubles(self, source, name, bint writable=False):
        """`source`, checked: float64, one number a channel."""
        return vector_of(source, name, c"d", writable, self.channels)


def same_memory(Array a not None, Array b not None):
    """Whether two arrays of one shape are the same memory (rather than apart, or overlapping in part)."""
    return a.data == b.data


def refuse_overlap(Array written not None, Array read not None):
    """Refuse a written array that shares memory with one read, unless it is that memory exactly."""
    if written.data != read.data and overlap(&written.view, &read.view):
        raise ValueError(f"{written.name}: expected memory of its own or that of {read.name}, got an array that "
                         f"overlaps {read.name} in part")
