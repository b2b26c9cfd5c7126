# Arrays of one shape as (outer, n, inner) in memory, with an axis in the middle: what is reduced along that axis.
from fastopt._runtime.arrays cimport Array, array_of, overlap

import operator

import numpy

cdef object empty = numpy.empty
cdef object float32 = numpy.dtype(numpy.float32)


cdef class Slices:
    """x, y (or None) and out, checked and held, and their sizes. `result` is out as the user has it."""

    cdef int see(self, object axis) except -1:
        """The sizes of x around the axis."""
        cdef int i, index, ndim = self.x.view.ndim
        if type(axis) is not int and (isinstance(axis, bool) or not hasattr(axis, "__index__")):
            raise TypeError(f"axis: expected an int, got {type(axis).__name__}")
        if ndim == 0:
            raise ValueError(f"{self.x.name}: expected at least one dimension, got shape ()")
        given = axis if type(axis) is int else operator.index(axis)
        if not -ndim <= given < ndim:
            shown = given if abs(given) < 2**64 else f"an int of {given.bit_length()} bits"
            raise ValueError(f"axis: expected an int in [{-ndim}, {ndim}), got {shown}")
        index = given
        if index < 0:
            index += ndim
        self.outer = self.inner = 1
        for i in range(index):
            self.outer *= self.x.view.shape[i]
        self.n = self.x.view.shape[index]
        for i in range(index + 1, ndim):
            self.inner *= self.x.view.shape[i]
        return 0

    cdef int write(self, object out) except -1:
        """`out`, or a new array where it is None."""
        self.result = empty(self.x.shape, float32) if out is None else out
        self.out = array_of(self.result, "out", c"f", True, &self.x.view)
        return 0

    cdef int keep_apart(self, Array read) except -1:
        """out may be `read` or apart from it, and nothing in between."""
        if self.out.data != read.data and overlap(&self.out.view, &read.view):
            raise ValueError(f"out: expected memory of its own or that of {read.name}, got an array that overlaps "
                             f"{read.name} in part")
        return 0


def forward(x, axis, out):
    """x and out, which may be x."""
    cdef Slices s = Slices.__new__(Slices)
    s.x = array_of(x, "x", c"f", False, NULL)
    s.see(axis)
    s.write(out)
    s.keep_apart(s.x)
    return s


def backward(dy, y, axis, out):
    """dy (which is `x` here), y and out, which may be either."""
    cdef Slices s = Slices.__new__(Slices)
    s.x = array_of(dy, "dy", c"f", False, NULL)
    s.y = array_of(y, "y", c"f", False, &s.x.view)
    s.see(axis)
    s.write(out)
    s.keep_apart(s.x)
    s.keep_apart(s.y)
    return s
