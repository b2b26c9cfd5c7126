"""Build fastopt: every kernel once per instruction-set level, the runtime once.

The tables below say what is built. Everything else is in pyproject.toml.
"""
import os
import platform
import sys
import sysconfig
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

X86_64 = platform.machine().lower() in {"x86_64", "amd64"}
MSVC = sys.platform == "win32"

# Instruction-set levels (x86-64 psABI names) and their compiler flags; other processors build baseline alone.
LEVELS = {
    "baseline": [],
    "v3": ["/arch:AVX2"] if MSVC else ["-march=x86-64-v3"],
    "v4": ["/arch:AVX512"] if MSVC else ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}

# kernels/<name>.pyx and the levels at which each earned its place (docs/levels.md): fastopt._isa.<level>.<name>.
KERNELS = {
    "sgd": ("baseline", "v3", "v4"),
    "adaptive": ("baseline", "v3"),
    "adam": ("baseline", "v3"),
    "sign": ("baseline", "v3", "v4"),
    "layerwise": ("baseline", "v3", "v4"),
    "cross_entropy": ("baseline", "v3", "v4"),
    "softmax": ("baseline", "v3", "v4"),
    "batchnorm": ("baseline", "v3", "v4"),
    "dropout": ("baseline", "v3", "v4"),
    "activation": ("baseline", "v3", "v4"),
    "layernorm": ("baseline", "v3", "v4"),
    "embedding": ("baseline", "v3"),
    "roof": ("baseline", "v3"),
}

# tests/compiled/<name>.pyx, which only tests call: built in place as <name>_<level>, never into a wheel.
TESTS = {
    "regions": ("baseline",),
    "elementary": ("baseline", "v3", "v4"),
    "philox": ("baseline", "v3", "v4"),
}

# fastopt/_runtime/<name>.pyx, compiled once, at baseline. Only "parallel" is linked with OpenMP.
RUNTIME = ("arrays", "binding", "channels", "containers", "cpu", "driver", "hyper", "model", "parallel", "progress",
           "slices", "strided", "updates")

# -ffp-contract=off: gcc otherwise fuses multiply-adds from v3 up and the levels' bits differ.
# -fno-wrapv undoes Python's -fwrapv, which hides loop bounds (softmax of 100 classes: 1.4 times as slow).
# -fno-math-errno lets sqrtf become one exact instruction. Nothing here relaxes IEEE arithmetic.
COMPILE = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv",
           "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type",
           "-Wno-unused-function"]
OPENMP, LINK_OPENMP, LINK = ["-fopenmp"], ["-fopenmp", "-Wl,-z,nodelete"], ["-Wl,--strip-all"]
INLINE, QUOTE = "__inline__ __attribute__((always_inline))", '"'
if MSVC:
    COMPILE, OPENMP, LINK_OPENMP, LINK = ["/O2", "/fp:precise"], ["/openmp"], [], []
    INLINE, QUOTE = "__forceinline", '\\"'
elif sys.platform == "linux":   # hardening: docs/reliability.md says what it costs, .ci/check_wheel.py looks for it
    COMPILE += ["-fvisibility=hidden", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
    LINK += ["-Wl,-z,relro,-z,now,-z,noexecstack"]
    if X86_64:
        COMPILE, LINK = [*COMPILE, "-fcf-protection"], [*LINK, "-Wl,-z,shstk"]
elif sys.platform == "darwin":  # Apple clang: `brew install libomp`, with its paths in CPPFLAGS and LDFLAGS
    OPENMP, LINK_OPENMP, LINK = ["-Xpreprocessor", "-fopenmp"], ["-lomp"], []

# abi3: one wheel for every CPython from 3.11 on. A free-threaded interpreter has no limited API yet.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
MACROS = [("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")] if ABI3 else []
CONFIG = [(f"FASTOPT_FLAGS_{name}", QUOTE + " ".join(flags) + QUOTE)      # for show_config()
          for name, flags in {"COMMON": COMPILE, **LEVELS}.items()]
DIRECTIVES = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True,
              "initializedcheck": False, "embedsignature": True}
WHEEL = "bdist_wheel" in sys.argv


def extensions(build_dir, sources, *, flags=(), macros=(), link=()):
    """Cythonize {module name: source} with one build_dir, so that no two levels share a C file."""
    made = cythonize([Extension(module, [source], py_limited_api=ABI3) for module, source in sources.items()],
                     include_path=[".", "kernels"], build_dir=f"build/cython/{build_dir}",
                     compiler_directives=DIRECTIVES)
    for extension in made:  # after cythonize, which merges the settings of modules that share a source
        extension.include_dirs = ["kernels", "fastopt/_runtime"]
        extension.define_macros = [*MACROS, *macros]
        extension.extra_compile_args = [*COMPILE, *flags]
        extension.extra_link_args = [*link, *LINK]
        extension.depends = [*extension.depends, *glob("kernels/*.h"), *glob("fastopt/_runtime/*.h"), "setup.py"]
    return made


class Build(build_ext):
    """Without the interpreter's own run path: a folder of this machine, where another one may hold anybody's files."""

    def build_extensions(self):
        if sys.platform == "linux":
            own = [flag for flag in sysconfig.get_config_var("LDSHARED").split() if flag.startswith("-Wl,-rpath")]
            self.compiler.linker_so = [flag for flag in self.compiler.linker_so if flag not in own]
        super().build_extensions()


modules = []
for name in RUNTIME:
    openmp = name == "parallel"
    modules += extensions("runtime", {f"fastopt._runtime.{name}": f"fastopt/_runtime/{name}.pyx"},
                          macros=CONFIG if name == "cpu" else (), flags=OPENMP if openmp else (),
                          link=LINK_OPENMP if openmp else ())
for level in LEVELS if X86_64 else ("baseline",):
    sources = {f"fastopt._isa.{level}.{name}": f"kernels/{name}.pyx" for name in KERNELS if level in KERNELS[name]}
    sources |= {} if WHEEL else {f"tests.compiled.{name}_{level}": f"tests/compiled/{name}.pyx"
                                 for name in TESTS if level in TESTS[name]}
    modules += extensions(level, sources, flags=LEVELS[level], macros=[("CYTHON_INLINE", INLINE)])

setup(ext_modules=modules, cmdclass={"build_ext": Build}, options={
    "build": {"build_base": "build/wheel" if WHEEL else "build"},   # a wheel ships whatever its build_base holds
    "build_ext": {"parallel": os.cpu_count()},
    "bdist_wheel": {"py_limited_api": "cp311"} if ABI3 else {},
})
