# The instruction-set level of this machine, and how fastopt was compiled. Built once, at baseline.

cdef extern from "cpu.h":
    int x86_level "fastopt_x86_level"() noexcept nogil


def level():
    """The highest level that this machine supports: 'v4', 'v3' or 'baseline'."""
    return {4: "v4", 3: "v3"}.get(x86_level(), "baseline")


cdef extern from "cpu.h":
    const char* COMPILER "FASTOPT_COMPILER"
    const char* COMMON "FASTOPT_FLAGS_COMMON"
    const char* BASELINE "FASTOPT_FLAGS_baseline"
    const char* V3 "FASTOPT_FLAGS_v3"
    const char* V4 "FASTOPT_FLAGS_v4"


def build():
    """The compiler, the flags of every module, and those that each level adds."""
    return {
        "compiler": COMPILER.decode(),
        "flags": COMMON.decode(),
        "level_flags": {"baseline": BASELINE.decode(), "v3": V3.decode(), "v4": V4.decode()},
    }
