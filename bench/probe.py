"""The memory roof: a loop that loads and stores the arrays that an optimizer does, with trivial arithmetic.

Compiled for the level in use by the system's C compiler, when first asked for; without one the rows that need it are
skipped.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastopt


@functools.cache
def compiled(reads, writes):
    """A C function (pointers, n, threads): of `reads` arrays the first `writes` become their mean, element by element;
    with none to write all is added up."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the memory probe")
    arrays = "".join(f"float *restrict x{k} = x[{k}];" for k in range(reads))
    total = " + ".join(f"x{k}[i]" for k in range(reads))
    stores = "".join(f"x{k}[i] = mean;" for k in range(writes))
    loop = "#pragma omp parallel for simd num_threads(threads) schedule(static)"
    if writes:
        body = f"{loop}\nfor (ptrdiff_t i = 0; i < n; i++) {{ float mean = ({total}) * {1 / reads}f; {stores} }}"
    else:
        body = (f"float sum = 0;\n{loop} reduction(+:sum)\nfor (ptrdiff_t i = 0; i < n; i++) sum += {total};\n"
                "static volatile float sink; sink = sum;")
    source = f"#include <stddef.h>\nvoid probe(float **x, ptrdiff_t n, int threads) {{\n{arrays}\n{body}\n}}\n"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "probe.so")
        Path(folder, "probe.c").write_text(source)
        config = fastopt.show_config(mode="dicts")
        flags = config["build"]["level_flags"][config["isa"]["level"]].split()
        subprocess.run([compiler, "-O3", *flags, "-fopenmp", "-shared", "-fPIC", "-o", library,
                        Path(folder, "probe.c")], check=True, capture_output=True)
        return ctypes.CDLL(library).probe


def same_streams(arrays, passes):
    """A function that goes over `arrays` once for each of `passes`, pairs of how many it reads and writes."""
    calls = []
    for reads, writes in passes:
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays[:reads])
        pointers = (ctypes.c_void_p * reads)(*(array.ctypes.data for array in arrays[:reads]))
        calls.append((compiled(reads, writes), pointers))
    size, threads = ctypes.c_ssize_t(arrays[0].size), fastopt.get_num_threads()

    def run():
        for function, pointers in calls:
            function(pointers, size, threads)

    run.keeps = arrays
    return run
