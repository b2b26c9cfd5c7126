"""Every loop of every optimizer and activation function is vectorised: packed instructions counted in the modules.

An optimizer is compiled once per combination of flags. If gcc gives up on one of these loops its results stay the same
and only its time grows, so the results cannot show it; the number of instructions on full vectors can. The least number
follows from the formulas (`loops` in optimizer_cases.py): a vectorised loop holds each of its multiplications,
divisions and square roots once. (Its remainder runs in narrower vectors at v3 and v4. At baseline it shares their
registers, so that level of the optimizers is not counted.)
"""

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from helpers import compiled
from optimizer_cases import ROWS

from fastopt._runtime import dispatch

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or shutil.which("objdump") is None,
    reason="reads x86-64 ELF modules with objdump",
)
REGISTERS = {"v3": "%ymm", "v4": "%zmm"}

KERNELS = sorted({row.family for row in ROWS})


def shared(multiplications, divisions, roots):
    """The sum over the 8 combinations of weight_decay (1 multiplication), l1 (1) and average (2)."""
    return Counter(mul=8 * multiplications + 4 + 4 + 4 * 2, div=8 * divisions, sqrt=8 * roots)


def lamb(level):
    """LAMB has loops of its own: flags for weight decay and average, or for weight decay and l1.

    Updating the parameter: α · m, the rate, the decay in two of four, 2 for the average in two of four.
    Measuring, in 16 lanes: 7 for scale, moments and α · m, the decay in two of four, l1 in two of four; that is two
    vectors and a remainder of one at v3, one vector and a narrower remainder at v4. LARS measures scale · grad alike.
    """
    vectors = {"v3": 3, "v4": 1}[level]
    update, moments = 4 * 2 + 2 + 2 * 2, 4 * 7 + 2 + 2
    return Counter(mul=update + vectors * (moments + 1), div=4 + 4 * vectors, sqrt=4 + 4 * vectors)


def packed(path, register):
    """How many packed float32 multiplications, divisions and square roots a module does in such registers."""
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
    found = re.findall(rf"\tv?(mul|div|sqrt)ps\s.*{register}", code.stdout)
    return Counter(found)


@pytest.mark.parametrize("level", REGISTERS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_loop_is_vectorised(kernel, level):
    if kernel not in dispatch.kernels_at(level):
        pytest.skip(f"{kernel} is not built at {level}")
    expected = Counter()
    for row in ROWS:
        if row.family == kernel:
            for operations in row.loops:
                expected += shared(*operations)
    if kernel == "layerwise":
        expected += lamb(level)
    found = packed(importlib.util.find_spec(f"fastopt._isa.{level}.{kernel}").origin, REGISTERS[level])
    lost = {name: (found[name], expected[name]) for name in expected if found[name] < expected[name]}
    assert not lost, f"{kernel} at {level}: (found, expected) {lost}"


@pytest.mark.parametrize("level", ["baseline", *REGISTERS])
def test_the_loops_of_the_activation_functions_are_vectorised(level):
    """Each of the eight functions of x divides once; at baseline, packed divisions differ from scalar ones by name."""
    found = packed(compiled("elementary", level).__file__, REGISTERS.get(level, "%xmm"))
    assert found["div"] >= 8, f"{level}: {found}"
