# The arguments of functions along an axis (softmax and its relatives): arrays of one shape, validated. The kernels call
# forward() and backward() themselves: one call from Python instead of two saves 30 to 60 ns.
cimport cython

from fastopt._runtime.arrays cimport array_of, require_disjoint_or_same, shape_of
from fastopt._runtime.axes cimport axis_index, sizes_around

import numpy

cdef object empty = numpy.empty
cdef object float32 = numpy.dtype(numpy.float32)


@cython.no_gc           # it lives as long as one call, and no object refers to it
cdef class Slices:
    """x, y (or None) and out, and their sizes around the axis. `result` is the object to return for out."""

    cdef int set_axis(self, object axis) except -1:
        cdef int ndim = self.x.view.ndim
        if ndim == 0:
            raise ValueError(f"{self.x.name}: expected at least one dimension, got shape ()")
        self.sizes = sizes_around(&self.x.view, axis_index(axis, "axis", ndim))
        return 0

    cdef int set_out(self, object out) except -1:
        """`out`, or a new array if that is None."""
        self.result = empty(shape_of(&self.x.view), float32) if out is None else out
        self.out = array_of(self.result, "out", c"f", True, &self.x.view)
        return 0


cdef Slices forward(object x, object axis, object out):
    """Slices of x and out, which may be x."""
    cdef Slices s = Slices.__new__(Slices)
    s.x = array_of(x, "x", c"f", False, NULL)
    s.set_axis(axis)
    s.set_out(out)
    require_disjoint_or_same(s.out, s.x)
    return s


cdef Slices backward(object dy, object y, object axis, object out):
    """Slices of dy (as `x`), y and out, which may be either of them."""
    cdef Slices s = Slices.__new__(Slices)
    s.x = array_of(dy, "dy", c"f", False, NULL)
    s.y = array_of(y, "y", c"f", False, &s.x.view)
    s.set_axis(axis)
    s.set_out(out)
    require_disjoint_or_same(s.out, s.x)
    require_disjoint_or_same(s.out, s.y)
    return s
