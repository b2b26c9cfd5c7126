"""The keys of arrays in nested containers."""

from typing import Any


class Path(tuple[Any, ...]):
    """The key of an array in nested containers: the keys that lead to it. Equal to the tuple of them."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return tuple, (tuple(self),)        # a copy is a plain tuple


def params_beside(source: str) -> str:
    """What the user calls the parameters whose gradients are called `source`."""
    return "param" if source == "grad" else "params"


def named(source: str, key: Any) -> tuple[str, Any]:
    """The name of an array for an error message, a pair that reads as container[key]."""
    if type(key) is Path:
        return source + "".join(f"[{part!r:.100}]" for part in key[:-1]), key[-1]
    return source, key
