"""`show_config`: what is installed and how it will run, for users and for bug reports."""

import platform
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy

from fastopt._runtime import cpu, dispatch, parallel


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Show the version, the ISA level, the number of threads and its reason, and how the kernels were compiled.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print the configuration, or return it as a dict.

    Returns
    -------
    dict or None
        The configuration for mode="dicts", otherwise None.

    Raises
    ------
    ValueError
        Another mode.
    """
    if not isinstance(mode, str) or mode not in ("stdout", "dicts"):
        raise ValueError(f"mode: expected 'stdout' or 'dicts', got {reprlib.repr(mode)}")
    from fastopt import __version__

    threads = parallel.state()
    config = {
        "fastopt": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "isa": {
            "level": dispatch.active.level,
            "available": dispatch.available(),
            "machine": cpu.level(),
        },
        "threads": {"count": threads.pop("threads"), "why": _why(threads), **threads},
        "build": cpu.build(),
    }
    if mode == "dicts":
        return config
    _print(config)
    return None


def _why(threads: Mapping[str, Any]) -> str:
    """The rule that determines the number of threads, in words."""
    if threads["openmp"] == 0:
        return "built without OpenMP"
    if threads["forked"]:
        return "a forked child: serial"
    if threads["thread_request"]:
        why = "num_threads(…)"
    elif threads["process_request"]:
        why = "set_num_threads(…) or FASTOPT_NUM_THREADS"
    elif threads["openmp_is_explicit"]:
        why = "OMP_NUM_THREADS"
    else:
        why = "the minimum of OpenMP's count, CPU affinity and the cgroup's quota"
    if threads["openmp_threads"] < threads["openmp_threads_at_import"]:
        why += ", limited by a change of OpenMP's count since import"
    return why


def _print(entry: Mapping[str, Any], indent: str = "") -> None:
    for name, value in entry.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            _print(value, indent + "  ")
        else:
            print(f"{indent}{name}: {', '.join(value) if isinstance(value, list) else value}")
