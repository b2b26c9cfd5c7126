"""check_wheel.py WHEEL, run in the source tree: a small abi3 wheel that holds what it should and nothing else.

On Linux its modules are hardened, look for libraries beside themselves only, and a bundled libgomp comes with its
licence. Needs readelf and objdump there, which come with the compiler.
"""

import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LARGEST = 3_300_000     # bytes
X86_64 = platform.machine().lower() in {"x86_64", "amd64"}
LEVELS = ("baseline", "v3", "v4") if X86_64 else ("baseline",)
LIBGOMP = "GPL-3.0-or-later WITH GCC-exception-3.1"


def check_content(wheel, files):
    """Every module of the source tree, compiled, and no other file."""
    modules, others = {}, set()     # compiled modules by folder
    for file in files:
        if match := re.fullmatch(r"(fastopt/.+)/(\w+)\.[\w.-]*(so|pyd)", file):
            modules.setdefault(match[1], set()).add(match[2])
        elif not file.startswith("fastopt.libs/libgomp-"):      # which auditwheel copies into the wheel
            others.add(file)
    expected = {str(path) for pattern in ("*.py", "py.typed", "templates/*") for path in Path("fastopt").rglob(pattern)}
    if others != expected:
        sys.exit(f"{wheel.name}: missing {sorted(expected - others)}, unexpected {sorted(others - expected)}")
    kernels = {path.stem for path in Path("kernels").glob("*.pyx")}
    runtime = {path.stem for path in Path("fastopt/_runtime").glob("*.pyx")}
    for folder, built in modules.items():
        level = folder.removeprefix("fastopt/_isa/")
        if level not in LEVELS and folder != "fastopt/_runtime":
            sys.exit(f"{wheel.name}: expected no compiled modules in {folder}, got {sorted(built)}")
    for folder, sources in {"fastopt/_runtime": runtime,
                            **{f"fastopt/_isa/{level}": kernels for level in LEVELS}}.items():
        built = modules.get(folder, set())
        # Above baseline a kernel may be left out, but not all of them.
        if not built or built - sources or (built != sources and folder.endswith(("_runtime", "baseline"))):
            sys.exit(f"{wheel.name}: expected {sorted(sources)} in {folder}, got {sorted(built)}")
        print(f"{wheel.name}: {wheel.stat().st_size} bytes, {folder}: {', '.join(sorted(built))}")


def faults(path):
    """What a compiled module or library lacks, in words."""
    def tool(*command):
        return subprocess.run([*command, path], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout

    dynamic, symbols = tool("readelf", "-dW"), tool("readelf", "--dyn-syms", "-W")
    for folders in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic):
        if not all(folder.startswith("$ORIGIN") for folder in folders.split(":")):
            yield f"run path {folders}, expected folders relative to $ORIGIN"
    if path.name.startswith("libgomp-"):
        return      # as the system provides it
    segments = tool("readelf", "-lW")
    if not re.search(r"GNU_STACK .* RW +0x", segments):
        yield "an executable stack"
    if "GNU_RELRO" not in segments or not re.search(r"FLAGS.*\bNOW\b", dynamic):
        yield "no full RELRO (-z relro -z now)"
    defined = {name: int(address, 16) for address, name in
               re.findall(r": ([0-9a-f]+) .* (?:GLOBAL|WEAK) +DEFAULT +\d+ (\S+)", symbols)}
    init = f"PyInit_{path.name.partition('.')[0]}"
    if list(defined) != [init]:
        yield f"exports {', '.join(defined)}, expected {init} alone (-fvisibility=hidden)"
    if "__stack_chk_fail" not in symbols:
        yield "no stack protector (-fstack-protector-strong)"
    # Whether every function was compiled with -fcf-protection cannot be read from a module: the linker states IBT only
    # if the C library's start files have it, and SHSTK because setup.py says so. One function is looked at.
    if X86_64 and "SHSTK" not in tool("readelf", "-nW"):
        yield "no shadow stack (-z shstk)"
    start = defined.get(init, 0)
    if X86_64 and "endbr64" not in tool("objdump", "-d", f"--start-address={start}", f"--stop-address={start + 4}"):
        yield f"no endbr64 in {init} (-fcf-protection)"


def check_binaries(wheel, archive, files):
    binaries = [file for file in files if file.endswith(".so") or file.startswith("fastopt.libs/")]
    fortified = 0
    with tempfile.TemporaryDirectory() as folder:
        for file in binaries:
            path = Path(archive.extract(file, folder))
            if found := list(faults(path)):
                sys.exit(f"{wheel.name}: {file}: {'; '.join(found)}")
            fortified += b"__memcpy_chk" in path.read_bytes()
    # A module shows -D_FORTIFY_SOURCE only where it copies a number of bytes that the compiler does not know.
    if not fortified and platform.libc_ver()[0] == "glibc":
        sys.exit(f"{wheel.name}: no module imports __memcpy_chk (-D_FORTIFY_SOURCE)")


def check_licence(wheel, archive, files):
    """A wheel with libgomp states its licence, and holds the texts in licenses/libgomp."""
    if not any(file.startswith("fastopt.libs/libgomp-") for file in files):
        return
    info = next(file for file in archive.namelist() if file.endswith(".dist-info/METADATA"))
    metadata = archive.read(info).decode().partition("\n\n")[0].splitlines()
    expression = next((line for line in metadata if line.startswith("License-Expression: ")), "no License-Expression")
    if LIBGOMP not in expression:
        sys.exit(f"{wheel.name}: libgomp's licence: expected {LIBGOMP}, got {expression}")
    for text in Path("licenses/libgomp").iterdir():
        file = f"{info.removesuffix('METADATA')}licenses/libgomp/{text.name}"
        if file not in archive.namelist() or archive.read(file) != text.read_bytes():
            sys.exit(f"{wheel.name}: libgomp's licence: expected the text {text} as {file}")
        if f"License-File: libgomp/{text.name}" not in metadata:
            sys.exit(f"{wheel.name}: libgomp's licence: expected License-File: libgomp/{text.name} in {info}")


def check(wheel):
    if "-cp311-abi3-" not in wheel.name:
        sys.exit(f"{wheel.name}: expected a cp311-abi3 wheel")
    if (size := wheel.stat().st_size) >= LARGEST:
        sys.exit(f"{wheel.name}: expected less than {LARGEST} bytes, got {size}")
    with zipfile.ZipFile(wheel) as archive:
        files = {file for file in archive.namelist()      # auditwheel adds folders
                 if not (re.match(r"fastopt-[^/]+\.dist-info/", file) or file.endswith("/"))}
        check_content(wheel, files)
        check_licence(wheel, archive, files)
        if sys.platform == "linux":
            check_binaries(wheel, archive, files)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"expected one wheel, got {len(sys.argv) - 1}: {' '.join(sys.argv[1:])}")
    check(Path(sys.argv[1]))
