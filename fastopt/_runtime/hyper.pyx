# Hyper-parameters' ranges, checked in one call.
import reprlib

from cpython.long cimport PyLong_AsDouble
from libc.math cimport NAN

import numpy

cdef tuple NOT_NUMBERS = (bool, str, bytes, numpy.bool_)

cdef enum:
    MOST = 32

cdef struct Range:
    double low
    double high
    bint low_is_out
    bint high_is_out
    bint integer
    bint flag


cdef class Ranges:
    """Ranges(lr="[0, inf)", step="int [1, inf)")(lr, step): each value is a number in its range, or an error says so.

    An interval is written as in mathematics: square brackets include the end, round ones leave it out. NaN is in
    none. "int" asks for an integer (an int or what has __index__; a bool is neither number nor integer here), and
    "bool" alone for True or False.
    """
    cdef readonly tuple names
    cdef tuple intervals
    cdef Range ranges[MOST]

    def __init__(self, **intervals):
        cdef Py_ssize_t i
        if len(intervals) > MOST:
            raise ValueError(f"intervals: expected at most {MOST}, got {len(intervals)}")
        self.names = tuple(intervals)
        self.intervals = tuple(intervals.values())
        for i, text in enumerate(self.intervals):
            if text == "bool":
                self.ranges[i] = Range(0.0, 0.0, False, False, False, True)
                continue
            low, high = text.removeprefix("int ").strip("[]()").split(",")
            self.ranges[i] = Range(float(low), float(high), "(" in text, ")" in text, text.startswith("int "),
                                   False)

    def __call__(self, *values):
        cdef Py_ssize_t i
        cdef double value
        cdef const Range* r
        if len(values) != len(self.names):
            raise TypeError(f"values: expected {len(self.names)}, got {len(values)}")
        for i in range(<Py_ssize_t> len(self.names)):
            r = &self.ranges[i]
            item = values[i]
            if r.flag:
                if item is not True and item is not False and not isinstance(item, numpy.bool_):
                    raise self.refusal(TypeError, i, item)
                continue
            if type(item) is float and not r.integer:
                value = item
            elif type(item) is int:
                value = self.whole(item)
            else:
                value = self.number(i, item, r.integer)
            if not ((r.low < value if r.low_is_out else r.low <= value)
                    and (value < r.high if r.high_is_out else value <= r.high)):
                raise self.refusal(ValueError, i, item)

    cdef double whole(self, object value) except? -1.0:
        try:
            return PyLong_AsDouble(value)
        except OverflowError:                   # in no interval
            return NAN

    cdef double number(self, Py_ssize_t i, object value, bint integer) except? -1.0:
        if isinstance(value, NOT_NUMBERS) or (integer and not hasattr(value, "__index__")):
            raise self.refusal(TypeError, i, value)
        try:
            return float(value)
        except OverflowError:                   # of what stands for an int: in no interval
            return NAN
        except (TypeError, ValueError):
            raise self.refusal(TypeError, i, value) from None

    cdef object refusal(self, object error, Py_ssize_t i, object value):
        text = self.intervals[i]
        kind = "an int" if text.startswith("int ") else "a number"
        try:
            shown = reprlib.repr(value)
        except ValueError:                      # an int of more digits than Python prints
            shown = type(value).__name__
        if error is TypeError:
            shown = f"{type(value).__name__} {shown}"
        wanted = "True or False" if text == "bool" else f"{kind} in {text.removeprefix('int ')}"
        return error(f"{self.names[i]}: expected {wanted}, got {shown}")
