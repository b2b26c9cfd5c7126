# Numbers among the arguments. An int is an int or an object with __index__; a number is what float() converts. A bool,
# a string or bytes is neither.
#
# Ranges checks several numbers in one call against intervals that are known at import; integer() and number() check one
# whose name or bounds are known at the call.
import operator
import reprlib

from cpython.long cimport PyLong_AsDouble
from libc.math cimport NAN

import numpy

cdef tuple NOT_NUMBERS = (bool, str, bytes, numpy.bool_)

cdef enum:
    MOST_RANGES = 32

cdef struct Range:
    double low
    double high
    bint excludes_low
    bint excludes_high
    bint integer
    bint flag


cdef bint is_int(object value):
    return type(value) is int or (hasattr(value, "__index__") and not isinstance(value, NOT_NUMBERS))


cdef object refusal(object name, object expected, object error, object value):
    """The error for a number: its type is shown if that is what is wrong."""
    if isinstance(value, int) and value.bit_length() > 64:
        shown = f"an int of {value.bit_length()} bits"
    elif error is TypeError:
        shown = f"{type(value).__name__} {reprlib.repr(value)}"
    else:
        shown = reprlib.repr(value)
    return error(f"{name}: expected {expected}, got {shown}")


cdef object power(object bound):
    """A bound of an interval as text; large powers of two are written as such."""
    size = abs(bound)
    if size < 2**32 or size & (size - 1):
        return bound
    return f"{'-' if bound < 0 else ''}2**{size.bit_length() - 1}"


cpdef object integer(object value, object name, object low, object high=None):
    """`value` as a Python int in [low, high), or of at least `low` if high is None.

    Raises
    ------
    TypeError
        If `value` is no int.
    ValueError
        If it is outside the interval.
    """
    if type(value) is not int:
        if not is_int(value):
            raise refusal(name, "an int", TypeError, value)
        value = operator.index(value)
    if value < low or (high is not None and value >= high):
        limits = f"of at least {power(low)}" if high is None else f"in [{power(low)}, {power(high)})"
        raise refusal(name, f"an int {limits}", ValueError, value)
    return value


cdef class Ranges:
    """Ranges(lr="[0, inf)", step="int [1, inf)")(lr, step): raise an error unless each value is in its interval.

    An interval is written as in mathematics: a square bracket includes the end, a round one excludes it. NaN is in
    none. "int" asks for an int, and "bool" alone for True or False.
    """
    cdef readonly tuple names
    cdef tuple intervals
    cdef Range ranges[MOST_RANGES]

    def __init__(self, **intervals):
        cdef Py_ssize_t i
        if len(intervals) > MOST_RANGES:
            raise ValueError(f"intervals: expected at most {MOST_RANGES}, got {len(intervals)}")
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
                    raise refusal(self.names[i], "True or False", TypeError, item)
                continue
            if type(item) is float and not r.integer:
                value = item
            elif type(item) is int:
                value = self.from_int(item)
            else:
                value = self.convert(i, item)
            if not ((r.low < value if r.excludes_low else r.low <= value)
                    and (value < r.high if r.excludes_high else value <= r.high)):
                raise refusal(self.names[i], self.expected(i), ValueError, item)

    cdef double from_int(self, object value) except? -1.0:
        try:
            return PyLong_AsDouble(value)
        except OverflowError:                   # NaN is in no interval
            return NAN

    cdef double convert(self, Py_ssize_t i, object value) except? -1.0:
        """float(value), which may be of any type."""
        if isinstance(value, NOT_NUMBERS) or (self.ranges[i].integer and not is_int(value)):
            raise refusal(self.names[i], self.expected(i), TypeError, value)
        try:
            return float(value)
        except OverflowError:
            return NAN
        except (TypeError, ValueError):
            raise refusal(self.names[i], self.expected(i), TypeError, value) from None

    cdef object expected(self, Py_ssize_t i):
        text = self.intervals[i]
        return f"{'an int' if text.startswith('int ') else 'a number'} in {text.removeprefix('int ')}"


def number(value, name, interval="(-inf, inf)"):
    """`value` as a float in `interval`, which is written as Ranges has it."""
    Ranges(**{name: interval})(value)
    return float(value)


def boolean(value, name):
    """`value` as a bool."""
    Ranges(**{name: "bool"})(value)
    return bool(value)
