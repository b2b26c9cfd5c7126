"""Ways to spoil an argument: `spoil` replaces one value somewhere in a call's arguments."""

import array
import decimal
import fractions
import sys
import types
import warnings
from contextlib import contextmanager

import numpy as np
from helpers import misaligned, read_only


class Planted(Exception):
    """Raised by the user's own code in the middle of a call; it must come out as it is."""


class Hostile:
    """An object of which one special method raises Planted."""

    def __repr__(self):
        return f"<{type(self).__name__}>"


def planted(*args, **kwargs):
    raise Planted


METHODS = "__float__ __index__ __array__ __len__ __iter__ __bool__ __eq__ __call__".split()
HOSTILE = [type(f"Hostile{method}", (Hostile,), {method: planted}) for method in METHODS]


class LyingArray:
    """`__array__` gives another type and shape at each call."""

    calls = 0

    def __array__(self, dtype=None, copy=None):
        self.calls += 1
        return np.zeros((3,) * (self.calls % 4), np.float32 if self.calls % 2 else np.float64)


class LyingLength(list):
    def __len__(self):
        return 2**62


class NegativeLength:
    def __len__(self):
        return -1

    def __getitem__(self, index):
        return 0.5


class LyingDict(dict):
    def keys(self):
        return {"W": 0}.keys()

    def __len__(self):
        return 10**9


class LyingInt(int):
    def __index__(self):
        return -5


class LyingFloat(float):
    def __float__(self):
        return float("nan")


class Subclass(np.ndarray):
    """An array whose results are of another shape than it has."""

    def __array_finalize__(self, other):
        self.note = "made"


class OtherBuffer:
    """`__array_interface__` of another type."""

    def __init__(self):
        self.kept = np.arange(3, dtype=np.int16)
        self.__array_interface__ = self.kept.__array_interface__


class LyingBuffer:
    """A buffer of other bytes at each request; Python 3.12 asks for it."""

    calls = 0

    def __buffer__(self, flags):
        self.calls += 1
        return memoryview(bytes(4 * self.calls))


VALUES = [
    lambda: None, lambda: float("nan"), lambda: float("inf"), lambda: -float("inf"), lambda: -1, lambda: 0, lambda: 1,
    lambda: 2, lambda: 3, lambda: 0.5, lambda: 1.5, lambda: -0.0, lambda: 10**400, lambda: -(10**400), lambda: 2**63,
    lambda: 2**62, lambda: -(2**63), lambda: 1e39, lambda: 1e300, lambda: 1e-50, lambda: 5e-324, lambda: True,
    lambda: False, lambda: "text", lambda: "", lambda: "x" * 100_000, lambda: b"bytes", lambda: str, lambda: dict,
    lambda: np.ndarray, lambda: np.float32, dict, list, lambda: (), lambda: set(), lambda: object(),
    lambda: np.float64(0.5), lambda: np.float32(0.5), lambda: np.float16(0.5), lambda: np.int64(1), lambda: np.uint8(1),
    lambda: np.bool_(True), lambda: np.str_("text"), lambda: np.datetime64(1, "s"), lambda: np.array(0.5),
    lambda: np.array(0.5, np.float32), lambda: np.array(2), lambda: np.array([0.5]), lambda: np.zeros((0,), np.float32),
    lambda: np.zeros((1, 1), np.float32), lambda: np.array(["a", None], object), lambda: np.ma.masked, lambda: 1 + 2j,
    lambda: decimal.Decimal("0.5"), lambda: decimal.Decimal("NaN"), lambda: fractions.Fraction(1, 3),
    lambda: lambda *args: 0.5, lambda: (i for i in range(3)), lambda: iter([0.1, 0.2]), lambda: range(3),
    lambda: slice(3), lambda: ..., lambda: NotImplemented, lambda: sys, lambda: ValueError("text"),
    lambda: dict.fromkeys(range(20_000), 0.5), lambda: {f"key{i}": np.zeros(1, np.float32) for i in range(20_000)},
    lambda: [0.5] * 20_000, lambda: [[[[[0.5]]]]], lambda: (0.1, 0.2), lambda: ("a", 0.9), lambda: [1, 2, 3],
    lambda: types.MappingProxyType({"W": 1}), lambda: memoryview(bytes(8)), lambda: array.array("f", [0.5, 0.5, 0.5]),
    lambda: bytearray(12), lambda: array.array("d", [0.5]), lambda: 0.1 + 0j, LyingArray, LyingLength, NegativeLength,
    lambda: LyingDict(W=1), lambda: LyingInt(3), lambda: LyingFloat(0.5), OtherBuffer, LyingBuffer, *HOSTILE,
]
"""Values for any argument."""


def masked(a):
    return np.ma.masked_array(a.copy(), np.ones(a.shape, bool))


def filled(value):
    def fill(a):
        wrong = a.copy()
        if a.dtype.kind == "f" and a.size:
            wrong.ravel()[a.size // 2] = value
        return wrong
    return fill


ARRAYS = {
    "float64": lambda a: a.astype(np.float64), "float16": lambda a: np.clip(a, -9, 9).astype(np.float16),
    "float32": lambda a: a.astype(np.float32), "int32": lambda a: np.clip(a, -9, 9).astype(np.int32),
    "int8": lambda a: np.clip(a, -9, 9).astype(np.int8), "uint64": lambda a: np.clip(a, 0, 9).astype(np.uint64),
    "bool": lambda a: a > 0, "complex64": lambda a: a.astype(np.complex64), "object": lambda a: a.astype(object),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()), "datetime64": lambda a: np.zeros(a.shape, "M8[s]"),
    "str": lambda a: a.astype(str), "record": lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "f4")]),
    "longdouble": lambda a: a.astype(np.longdouble), "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()) if a.ndim else (), "memoryview": lambda a: memoryview(a.copy()),
    "bytes": lambda a: a.tobytes(), "array.array": lambda a: array.array("f", a.ravel().tolist()),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a.astype(np.float16),
    "reversed": lambda a: a[..., ::-1] if a.ndim else a.astype(np.float16),
    "Fortran order": lambda a: np.asfortranarray(a), "transposed": lambda a: a.T.copy(),
    "broadcast": lambda a: np.broadcast_to(np.float32(0.5), a.shape), "misaligned": misaligned, "read-only": read_only,
    "masked": masked, "subclass": lambda a: a.copy().view(Subclass), "recarray": lambda a: a.copy().view(np.recarray),
    "one element more": lambda a: np.append(a.ravel(), a.dtype.type(1)),
    "one element less": lambda a: a.ravel()[:-1].copy(), "one dimension more": lambda a: a[np.newaxis].copy(),
    "flat": lambda a: a.ravel().copy(), "no dimensions": lambda a: np.array(0.5, a.dtype),
    "empty": lambda a: np.empty(0, a.dtype),
    "33 dimensions": lambda a: a.reshape(a.shape + (1,) * (33 - a.ndim)).copy(),
    "NaN": filled(np.nan), "inf": filled(np.inf), "-inf": filled(-np.inf), "huge": filled(3e38), "-1": filled(-1.0),
    "only NaN": lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else a,
}
"""Copies of an array with one fault, and some that are none."""

IN_PLACE = {
    "made read-only": (lambda a: a.setflags(write=False), lambda a: a.setflags(write=True)),
    "type changed": (lambda a: setattr(a, "dtype", f"i{a.itemsize}"), lambda a: setattr(a, "dtype", f"f{a.itemsize}")),
    "shape changed": (lambda a: setattr(a, "shape", (1, *a.shape)), lambda a: setattr(a, "shape", a.shape[1:])),
}
"""Changes of the very array that a call was given before, and how to undo them."""

CONTAINERS = {
    "one left out": lambda c, rng: without(c, int(rng.integers(len(c)))),
    "one more": lambda c, rng: {**c, "more": 0.5} if isinstance(c, dict) else type(c)([*c, 0.5]),
    "one named otherwise": lambda c, rng: renamed(c, int(rng.integers(len(c)))),
    "one twice": lambda c, rng: dict.fromkeys(c, next(iter(c.values()))) if isinstance(c, dict)
                                else type(c)([next(iter(c))] * len(c)),
    "another order": lambda c, rng: dict(reversed(c.items())) if isinstance(c, dict) else type(c)(list(c)[::-1]),
    "20 000 more": lambda c, rng: {**c, **dict.fromkeys(range(20_000), 0.5)} if isinstance(c, dict)
                                  else type(c)([*c, *range(20_000)]),
}


def without(container, index):
    if isinstance(container, dict):
        return {key: value for i, (key, value) in enumerate(container.items()) if i != index}
    return type(container)(value for i, value in enumerate(container) if i != index)


def renamed(container, index):
    if isinstance(container, dict):
        return {("other", i) if i == index else key: value for i, (key, value) in enumerate(container.items())}
    return dict(enumerate(container))


def all_arrays(value):
    """The float arrays in nested containers."""
    if isinstance(value, np.ndarray):
        return [value] if value.dtype.kind == "f" else []
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [a for item in value for a in all_arrays(item)]


def overlapping(value, arguments, rng):
    """Memory that another array of the call lies in, from its start or one element later."""
    same = [other for other in all_arrays(arguments)
            if other is not value and other.dtype == value.dtype and other.size >= value.size > 0
            and other.flags.c_contiguous]
    if not same:
        return None
    other = same[rng.integers(len(same))].reshape(-1)
    start = int(rng.integers(other.size - value.size + 1))
    return other[start : start + value.size].reshape(value.shape)


def spoil(value, arguments, rng):
    """A spoiled `value`, what was done, and a function that undoes it."""
    def done():
        pass
    if isinstance(value, (dict, list, tuple)) and value and type(value) in (dict, list, tuple):
        way = rng.random()
        if way < 0.6:       # somewhere inside
            keys = list(value) if isinstance(value, dict) else range(len(value))
            key = keys[rng.integers(len(keys))]
            inner, how, undo = spoil(value[key], arguments, rng)
            if isinstance(value, dict):
                return {**value, key: inner}, f"[{key!r}] {how}", undo
            items = list(value)
            items[key] = inner
            return type(value)(items), f"[{key}] {how}", undo
        if way < 0.85:
            how = list(CONTAINERS)[rng.integers(len(CONTAINERS))]
            return CONTAINERS[how](value, rng), how, done
    if isinstance(value, np.ndarray):
        way = rng.random()
        if way < 0.6:
            how = list(ARRAYS)[rng.integers(len(ARRAYS))]
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ARRAYS[how](value), how, done
        if way < 0.7 and (other := overlapping(value, arguments, rng)) is not None:
            return other, "overlapping", done
        if way < 0.8 and value.dtype.kind == "f" and value.flags.writeable and value.flags.owndata:
            how = list(IN_PLACE)[rng.integers(len(IN_PLACE))]
            change, restore = IN_PLACE[how]
            with quiet():
                change(value)
            return value, how, lambda: restored(value, restore)
    made = VALUES[rng.integers(len(VALUES))]()
    return made, f"{type(made).__name__} {short(made)}", done


def restored(value, restore):
    with quiet():
        restore(value)


@contextmanager
def quiet():
    """Without NumPy's warnings that an attribute should not be assigned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short(value):
    text = repr(value) if not isinstance(value, (dict, list, tuple)) else f"of {list.__len__(value)}" \
        if isinstance(value, list) else f"of {len(value)}"
    return text[:60]
