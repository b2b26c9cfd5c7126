"""check_wheel.py WHEEL, run in the source tree: one small abi3 wheel that holds what it should and nothing else."""

import platform
import re
import sys
import zipfile
from pathlib import Path

LARGEST = 3_000_000     # bytes
LEVELS = ("baseline", "v3", "v4") if platform.machine().lower() in {"x86_64", "amd64"} else ("baseline",)

if len(sys.argv) != 2:
    sys.exit(f"expected one wheel, got {len(sys.argv) - 1}: {' '.join(sys.argv[1:])}")
wheel = Path(sys.argv[1])
if "-cp311-abi3-" not in wheel.name:
    sys.exit(f"{wheel.name}: expected a cp311-abi3 wheel")
size = wheel.stat().st_size
if size >= LARGEST:
    sys.exit(f"{wheel.name}: expected less than {LARGEST} bytes, got {size}")

files = {file for file in zipfile.ZipFile(wheel).namelist()
         if not (re.match(r"fastopt-[^/]+\.dist-info/", file) or file.endswith("/"))}      # auditwheel adds folders
modules, others = {}, set()     # compiled modules by folder
for file in files:
    if match := re.fullmatch(r"(fastopt/.+)/(\w+)\.[\w.-]*(so|pyd)", file):
        modules.setdefault(match[1], set()).add(match[2])
    elif not file.startswith("fastopt.libs/"):      # libraries that auditwheel copies into the wheel
        others.add(file)

expected = {str(path) for path in Path("fastopt").rglob("*.py")} | {"fastopt/py.typed"}
if others != expected:
    sys.exit(f"{wheel.name}: missing {sorted(expected - others)}, unexpected {sorted(others - expected)}")
kernels = {path.stem for path in Path("kernels").glob("*.pyx")}
runtime = {path.stem for path in Path("fastopt/_runtime").glob("*.pyx")}
for folder, built in modules.items():
    level = folder.removeprefix("fastopt/_isa/")
    if level not in LEVELS and folder != "fastopt/_runtime":
        sys.exit(f"{wheel.name}: expected no compiled modules in {folder}, got {sorted(built)}")
for folder, sources in {"fastopt/_runtime": runtime, **{f"fastopt/_isa/{level}": kernels for level in LEVELS}}.items():
    built = modules.get(folder, set())
    # Above baseline a kernel may be left out, but not all of them.
    if not built or built - sources or (built != sources and folder.endswith(("_runtime", "baseline"))):
        sys.exit(f"{wheel.name}: expected {sorted(sources)} in {folder}, got {sorted(built)}")
    print(f"{wheel.name}: {size} bytes, {folder}: {', '.join(sorted(built))}")
