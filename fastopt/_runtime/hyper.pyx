# Numbers among the arguments. An int is an int or an object with __index__; a number is what float() converts. A bool,
# a string, bytes or an array with a dimension is neither.
#
# Ranges checks several numbers in one call against intervals that are known at import; integer() and number() check one
# whose name or bounds are known at the call.
#
# A kernel computes in float32, and its arguments are Python floats. So an interval that excludes inf also excludes the
# numbers that float32 rounds to inf, and one that excludes 0 those that it rounds to 0. What a kernel derives from
# several numbers in range, such as lr / (1 − β₁), is not checked: it may be inf, as in the reference.
import operator
import reprlib

from cpython.dict cimport PyDict_Next
from cpython.long cimport PyLong_AsDouble
from cpython.object cimport PyObject
from libc.math cimport NAN, isfinite, isinf

import numpy

cdef tuple NOT_NUMBERS = (bool, str, bytes, numpy.bool_)

cdef double LEAST_INF = 2.0**128 - 2.0**103     # from here on float32 rounds to inf (a tie is rounded to even)
cdef double LARGEST_ZERO = 2.0**-150            # up to here it rounds to 0

cdef enum:
    MOST_RANGES = 32

cdef struct Range:
    double low
    double high
    bint excludes_low
    bint excludes_high
    bint or_zero
    bint integer
    bint single         # the number becomes a float32
    bint flag
    bint or_none


cdef object as_int(object value):
    """`value` as a Python int, or None if it is no int."""
    if type(value) is int:
        return value
    if not hasattr(value, "__index__") or isinstance(value, NOT_NUMBERS):
        return None
    try:
        return operator.index(value)
    except TypeError:                           # an array that is no integer scalar
        return None


cdef double bound(object text) except? -1.0:
    """An end of an interval: a float, or a power such as 2**-126."""
    base, _, exponent = text.partition("**")
    return float(base) ** int(exponent or 1)


cdef object refusal(object name, object expected, object error, object value, object note=""):
    """The error for a number: its type is shown if that is what is wrong."""
    if isinstance(value, int) and value.bit_length() > 64:
        shown = f"an int of {value.bit_length()} bits"
    elif error is TypeError:
        shown = f"{type(value).__name__} {reprlib.repr(value)}"
    else:
        shown = reprlib.repr(value)
    return error(f"{name}: expected {expected}, got {shown}{note}")


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
    given = value
    if type(value) is not int:
        value = as_int(given)
        if value is None:
            raise refusal(name, "an int", TypeError, given)
    if value < low or (high is not None and value >= high):
        limits = f"of at least {power(low)}" if high is None else f"in [{power(low)}, {power(high)})"
        raise refusal(name, f"an int {limits}", ValueError, value)
    return value


cdef class Ranges:
    """Ranges(lr="[0, inf)", step="int [1, inf)")(lr, step): raise an error unless each value is in its interval.

    An interval is written as in mathematics: a square bracket includes the end, a round one excludes it. NaN is in
    none. "int" asks for an int, "double" is for a number that no kernel rounds to float32, "0 or" allows 0 as well, and
    "bool" alone asks for True or False. "None or" is for `replaced`, which then takes None for the default.
    """
    cdef readonly tuple names
    cdef tuple intervals
    cdef Range ranges[MOST_RANGES]

    def __init__(self, **intervals):
        cdef Py_ssize_t i
        if len(intervals) > MOST_RANGES:
            raise ValueError(f"intervals: expected at most {MOST_RANGES}, got {len(intervals)}")
        self.names = tuple(intervals)
        self.intervals = tuple([text.removeprefix("None or ").removeprefix("double ") for text in intervals.values()])
        for i, text in enumerate(intervals.values()):
            self.set_range(&self.ranges[i], text)

    cdef int set_range(self, Range* r, object text) except -1:
        if text == "bool":
            r.flag = True
            return 0
        r.or_none, text = text.startswith("None or "), text.removeprefix("None or ")
        r.integer, r.or_zero = text.startswith("int "), text.startswith("0 or ")
        r.single = not r.integer and not text.startswith("double ")
        r.excludes_low, r.excludes_high = "(" in text, ")" in text
        low, high = text.removeprefix("int ").removeprefix("double ").removeprefix("0 or ").strip("[]()").split(",")
        r.low, r.high = bound(low), bound(high)
        if r.single and r.excludes_high and isinf(r.high):
            r.high = LEAST_INF
        if r.single and r.excludes_low and isinf(r.low):
            r.low = -LEAST_INF
        if r.single and r.excludes_low and r.low == 0.0:
            r.low = LARGEST_ZERO
        return 0

    def __call__(self, *values):
        cdef Py_ssize_t i
        if len(values) != len(self.names):
            raise TypeError(f"values: expected {len(self.names)}, got {len(values)}")
        for i in range(<Py_ssize_t> len(self.names)):
            self.check(i, values[i])

    def replaced(self, tuple defaults not None, dict given not None, other):
        """`defaults` with the values that `given` has for the names, checked; the defaults are not. Beside the names
        `given` may have the key `other`; if it has any other key, the result is None."""
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t i, position = 0, names = len(self.names)
        values = list(defaults)
        while PyDict_Next(given, &position, &key, &value):
            i = 0
            while i < names and key != <PyObject*> self.names[i]:   # keywords are interned
                i += 1
            if i == names and <object> key != other:
                i = self.names.index(<object> key) if <object> key in self.names else -1
                if i < 0:
                    return None
            if i < names and not (self.ranges[i].or_none and <object> value is None):
                values[i] = <object> value
        for i in range(names):
            if values[i] is not defaults[i]:
                self.check(i, values[i])
        return tuple(values)

    cdef int check(self, Py_ssize_t i, object item) except -1:
        cdef const Range* r = &self.ranges[i]
        cdef double value
        if r.flag:
            if item is not True and item is not False and not isinstance(item, numpy.bool_):
                raise refusal(self.names[i], "True or False", TypeError, item)
            return 0
        if type(item) is float and not r.integer:
            value = item
        elif type(item) is int:
            value = self.from_int(item)
        else:
            value = self.convert(i, item)
        if not ((r.low < value if r.excludes_low else r.low <= value)
                and (value < r.high if r.excludes_high else value <= r.high)):
            self.outside(i, item, value)
        return 0

    cdef double from_int(self, object value) except? -1.0:
        try:
            return PyLong_AsDouble(value)
        except OverflowError:                   # NaN is in no interval
            return NAN

    cdef double convert(self, Py_ssize_t i, object value) except? -1.0:
        """float(value), which may be of any type."""
        if self.ranges[i].integer:
            whole = as_int(value)
            if whole is None:
                raise refusal(self.names[i], self.expected(i), TypeError, value)
            return self.from_int(whole)
        if isinstance(value, NOT_NUMBERS) or (isinstance(value, numpy.ndarray) and value.ndim):
            raise refusal(self.names[i], self.expected(i), TypeError, value)
        try:
            return float(value)
        except OverflowError:
            return NAN
        except (TypeError, ValueError):
            raise refusal(self.names[i], self.expected(i), TypeError, value) from None

    cdef int outside(self, Py_ssize_t i, object item, double value) except -1:
        """Raise the error for a value outside its interval, unless it is the 0 that is allowed as well."""
        cdef float rounded = <float> value
        if self.ranges[i].or_zero and value == 0.0:
            return 0
        note = ""
        if self.ranges[i].single and isfinite(value) and (isinf(rounded) or (rounded == 0.0 and value != 0.0)):
            note = f", which is {rounded:g} as float32"
        raise refusal(self.names[i], self.expected(i), ValueError, item, note)

    cdef object expected(self, Py_ssize_t i):
        text = self.intervals[i]
        if text.startswith("0 or "):
            return f"0 or a number in {text.removeprefix('0 or ')}"
        return f"{'an int' if text.startswith('int ') else 'a number'} in {text.removeprefix('int ')}"


def pair(name, values):
    """The two members of a pair of numbers, as a tuple; the caller checks their ranges."""
    if type(values) is tuple and len(<tuple> values) == 2:
        return values
    try:
        first, second = values
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected two numbers, got {reprlib.repr(values)}") from None
    return first, second


def number(value, name, interval):
    """`value` as a float in `interval`, which is written as Ranges has it."""
    Ranges(**{name: interval})(value)
    return float(value)


def boolean(value, name):
    """`value` as a bool."""
    Ranges(**{name: "bool"})(value)
    return bool(value)
