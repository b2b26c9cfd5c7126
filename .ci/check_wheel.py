"""check_wheel.py WHEEL: exactly one file, abi3, small, with the kernels of every level in it."""

import platform
import re
import sys
import zipfile
from pathlib import Path

LARGEST = 2_000_000     # bytes
LEVELS = ("baseline", "v3", "v4") if platform.machine().lower() in {"x86_64", "amd64"} else ("baseline",)

if len(sys.argv) != 2:
    sys.exit(f"expected one wheel, got {len(sys.argv) - 1}: {' '.join(sys.argv[1:])}")
wheel = Path(sys.argv[1])
if "-cp311-abi3-" not in wheel.name:
    sys.exit(f"{wheel.name}: expected a cp311-abi3 wheel")
size = wheel.stat().st_size
if size >= LARGEST:
    sys.exit(f"{wheel.name}: expected less than {LARGEST} bytes, got {size}")

kernels = {path.stem for path in Path("kernels").glob("*.pyx")}
files = zipfile.ZipFile(wheel).namelist()
for level in LEVELS:
    built = {Path(file).name.split(".")[0] for file in files
             if re.search(rf"fastopt/_isa/{level}/\w+\.[\w.-]*(so|pyd)$", file)}
    if not built or (level == "baseline" and built != kernels):
        sys.exit(f"{wheel.name}: expected {sorted(kernels)} at level {level}, got {sorted(built)}")
    print(f"{wheel.name}: {size} bytes, {level}: {', '.join(sorted(built))}")
if any(file.endswith((".pyx", ".pxd", ".c")) or file.startswith(("kernels/", "tests/", "bench/")) for file in files):
    sys.exit(f"{wheel.name}: holds sources")
