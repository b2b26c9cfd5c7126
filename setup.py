"""Build fastopt: every kernel once per instruction-set level, the runtime once.

The two tables below say what is built. Everything else is in pyproject.toml.
"""
import os
import platform
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

X86_64 = platform.machine().lower() in {"x86_64", "amd64"}
MSVC = sys.platform == "win32"

# Instruction-set levels (x86-64 psABI names) and the flags that ask for them; other processors build baseline.
LEVELS = {
    "baseline": [],
    "v3": ["/arch:AVX2"] if MSVC else ["-march=x86-64-v3"],
    "v4": ["/arch:AVX512"] if MSVC else ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}

# kernels/<name>.pyx and the levels at which each earned its place (docs/levels.md).
KERNELS = {
    "sgd": ("baseline", "v3", "v4"),
    "adaptive": ("baseline", "v3"),
    "adam": ("baseline", "v3"),
    "sign": ("baseline", "v3", "v4"),
    "layerwise": ("baseline", "v3", "v4"),
    "cross_entropy": ("baseline", "v3", "v4"),
    "elementary": ("baseline", "v4"),
    "softmax": ("baseline", "v3", "v4"),
    "batchnorm": ("baseline", "v3", "v4"),
    "roof": ("baseline", "v3"),
}

# Compiled once, at baseline: fastopt/_runtime/<name>.pyx. Only "parallel" is linked with OpenMP.
RUNTIME = ("arrays", "binding", "channels", "cpu", "driver", "hyper", "parallel", "slices")

# -ffp-contract=off: gcc otherwise fuses multiply-adds from v3 up and the levels' bits differ.
# -fno-wrapv undoes Python's -fwrapv, which hides loop bounds (softmax of 100 classes: 1.4 times as slow).
# -fno-math-errno lets sqrtf become one exact instruction. Nothing here relaxes IEEE arithmetic.
if MSVC:
    COMPILE, OPENMP, OPENMP_LINK, INLINE, STRIP = ["/O2", "/fp:precise"], ["/openmp"], [], "__forceinline", []
else:
    COMPILE = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv", "-Wall",
               "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type",
               "-Wno-unused-function"]
    INLINE, STRIP = "__inline__ __attribute__((always_inline))", []
    if sys.platform == "darwin":  # Apple clang: `brew install libomp`, with its paths in CPPFLAGS and LDFLAGS
        OPENMP, OPENMP_LINK = ["-Xpreprocessor", "-fopenmp"], ["-lomp"]
    else:
        OPENMP, OPENMP_LINK = ["-fopenmp"], ["-fopenmp", "-Wl,-z,nodelete"]
        STRIP = ["-Wl,--strip-all"]     # what Python needs of a module stays; a tenth of the wheel goes

# abi3: one wheel for every CPython from 3.11 on. A free-threaded interpreter has no limited API yet.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
MACROS = [("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")] if ABI3 else []

# What show_config() says of the build.
QUOTE = '\\"' if MSVC else '"'
FLAGS = [(f"FASTOPT_FLAGS_{name}", QUOTE + " ".join(flags) + QUOTE)
         for name, flags in {"COMMON": COMPILE, **LEVELS}.items()]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}


def extensions(build_dir, sources, *, flags=(), macros=(), link=()):
    """Cythonize {module name: source} with one build_dir, so that no two levels share a C file."""
    made = cythonize([Extension(module, [source], py_limited_api=ABI3) for module, source in sources.items()],
                     include_path=[".", "kernels"], build_dir=f"build/cython/{build_dir}",
                     compiler_directives=DIRECTIVES)
    for extension in made:  # after cythonize, which would otherwise add up what one source got at several levels
        extension.include_dirs = ["kernels", "fastopt/_runtime"]    # their .h files
        extension.define_macros = [*MACROS, *macros]
        extension.extra_compile_args = [*COMPILE, *flags]
        extension.extra_link_args = [*link, *STRIP]
        extension.depends = [*extension.depends, "setup.py"]
    return made


ext_modules = []
for name in RUNTIME:
    openmp = name == "parallel"
    ext_modules += extensions(
        "runtime", {f"fastopt._runtime.{name}": f"fastopt/_runtime/{name}.pyx"}, macros=FLAGS if name == "cpu" else (),
        flags=OPENMP if openmp else (), link=OPENMP_LINK if openmp else ())
for level in LEVELS if X86_64 else ("baseline",):
    ext_modules += extensions(
        level, {f"fastopt._isa.{level}.{kernel}": f"kernels/{kernel}.pyx"
                for kernel, levels in KERNELS.items() if level in levels},
        flags=LEVELS[level], macros=[("CYTHON_INLINE", INLINE)])

OPTIONS = {"build_ext": {"parallel": os.cpu_count()}}
if ABI3:
    OPTIONS["bdist_wheel"] = {"py_limited_api": "cp311"}

setup(ext_modules=ext_modules, options=OPTIONS)
