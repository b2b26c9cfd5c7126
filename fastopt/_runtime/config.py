"""What is installed and how it will run, for people and for bug reports."""

import platform

import numpy

from fastopt._runtime import cpu, dispatch, parallel


def show_config(mode="stdout"):
    """Show the version, the ISA level, threads and why, and how the kernels were compiled.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print, or return a dictionary.

    Returns
    -------
    dict or None
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode: expected 'stdout' or 'dicts', got {mode!r}")
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


def _why(threads):
    """The rule of the thread policy that decides, in words."""
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
        why = "the least of OpenMP's count, CPU affinity and the cgroup's quota"
    if threads["openmp_threads"] < threads["openmp_threads_at_import"]:
        why += ", within a limit set on OpenMP since import"
    return why


def _print(entry, indent=""):
    for name, value in entry.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            _print(value, indent + "  ")
        else:
            print(f"{indent}{name}: {', '.join(value) if isinstance(value, list) else value}")
