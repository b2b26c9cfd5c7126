"""What .ci/check_wheel.py refuses: wheels and modules made here with one fault each."""

import importlib.util
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not (ROOT / ".ci" / "check_wheel.py").exists(), reason="needs the source tree"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files"),
    pytest.mark.skipif(not all(map(shutil.which, ("gcc", "readelf", "objdump"))), reason="gcc or binutils are missing"),
]

MODULE = """
void use(char* text);
int helper(void) { return 1; }
__attribute__((visibility("default"))) void* PyInit_sgd(void) { char text[64]; use(text); return text[0] ? &use : 0; }
"""
FLAGS = ["-O2", "-fvisibility=hidden", "-fstack-protector-strong", "-Wl,-z,relro,-z,now,-z,noexecstack"]
if platform.machine() == "x86_64":
    FLAGS += ["-fcf-protection", "-Wl,-z,shstk"]


def compiled(folder, *flags):
    (folder / "module.c").write_text(MODULE)
    path = folder / "sgd.abi3.so"
    subprocess.run(["gcc", "-shared", "-fPIC", folder / "module.c", "-o", path, *FLAGS, *flags], check=True)
    return path


@pytest.mark.parametrize(("flags", "fault"), [
    ([], None),
    (["-Wl,-rpath,$ORIGIN/../lib"], None),
    (["-Wl,-rpath,/opt/python/lib"], "run path /opt/python/lib"),
    (["-Wl,-rpath,$ORIGIN:/opt/python/lib"], "run path"),
    (["-Wl,--disable-new-dtags,-rpath,/opt/python/lib"], "run path"),
    (["-Wl,-z,lazy"], "no full RELRO"),
    (["-Wl,-z,norelro"], "no full RELRO"),
    (["-Wl,-z,execstack"], "an executable stack"),
    (["-fvisibility=default"], "exports"),
    (["-fno-stack-protector"], "no stack protector"),
    pytest.param(["-fcf-protection=none"], "no endbr64",
                 marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64's")),
])
def test_a_module_with_one_fault_is_refused(tmp_path, flags, fault):
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / ".ci" / "check_wheel.py")
    check_wheel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_wheel)
    found = list(check_wheel.faults(compiled(tmp_path, *flags)))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


EXPRESSION = "License-Expression: BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1"


@pytest.mark.parametrize(("expression", "missing", "rpath", "refusal"), [
    (EXPRESSION, None, "$ORIGIN", None),
    ("License-Expression: BSD-3-Clause", None, "$ORIGIN",
     "expected GPL-3.0-or-later WITH GCC-exception-3.1, got License-Expression: BSD-3-Clause"),
    ("License: BSD", None, "$ORIGIN", "got no License-Expression"),
    (EXPRESSION, "COPYING3", "$ORIGIN", "expected the text licenses/libgomp/COPYING3"),
    (EXPRESSION, "COPYING.RUNTIME", "$ORIGIN", "expected the text licenses/libgomp/COPYING.RUNTIME"),
    (EXPRESSION, None, "/opt/gcc/lib", "libgomp-1.so.1.0.0: run path /opt/gcc/lib"),
])
def test_a_wheel_with_libgomp_and_one_fault_is_refused(tmp_path, expression, missing, rpath, refusal):
    wheel = tmp_path / "fastopt-0-cp311-abi3-linux.whl"
    texts = [text for text in (ROOT / "licenses" / "libgomp").iterdir() if text.name != missing]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [path for pattern in ("*.py", "*.so", "py.typed", "templates/*")
                     for path in (ROOT / "fastopt").rglob(pattern)]:
            archive.write(path, path.relative_to(ROOT))
        archive.write(compiled(tmp_path, f"-Wl,-rpath,{rpath}"), "fastopt.libs/libgomp-1.so.1.0.0")
        for text in texts:
            archive.write(text, f"fastopt-0.dist-info/licenses/libgomp/{text.name}")
        files = "\n".join(f"License-File: libgomp/{text.name}" for text in texts)
        archive.writestr("fastopt-0.dist-info/METADATA", f"Name: fastopt\n{expression}\n{files}\n\nText\n")
    done = subprocess.run([sys.executable, ROOT / ".ci" / "check_wheel.py", wheel], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == (refusal is not None), done.stderr
    assert refusal is None or refusal in done.stderr
