"""Build the named modules of the source tree in the current folder, in place and without optimisation.

    python build.py fastopt._runtime.driver fastopt._isa.baseline.adam
"""

import sys

import Cython.Build
from setuptools.dist import Distribution  # noqa: F401  (setuptools has to be imported before distutils)

from distutils.core import run_setup  # isort: skip

wanted = set(sys.argv[1:])
cythonize = Cython.Build.cythonize


def cythonize_wanted(extensions, **options):
    return cythonize([extension for extension in extensions if extension.name in wanted], quiet=True, **options)


Cython.Build.cythonize = cythonize_wanted
distribution = run_setup("setup.py", ["-q", "build_ext", "--inplace", "--force", "--parallel=1"],
                         stop_after="commandline")
missing = wanted - {extension.name for extension in distribution.ext_modules}
if missing:
    sys.exit(f"no such modules in setup.py: {', '.join(sorted(missing))}")
for extension in distribution.ext_modules:
    extension.extra_compile_args += ["-O1", "-fexpensive-optimizations"]    # fuses multiplications, if it is allowed to
distribution.run_commands()
