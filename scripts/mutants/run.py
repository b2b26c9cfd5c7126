"""Plant faults one at a time and see whether the tests notice.

    python scripts/mutants/run.py [--jobs N] [--only WORD...]

The faults, called mutants, are in the tables *.toml beside this program:

    ["kernels/adam.pyx"]                        # defaults of the file's mutants
    tests = "tests/test_bits.py -k adam"

    ["kernels/adam.pyx"."what is wrong then"]
    old = "text that occurs exactly once in the file"
    new = "text that replaces it"
    tests = "arguments of pytest"               # the tests that should fail
    modules = ["fastopt._isa.baseline.adam"]    # to be rebuilt; by default the one of the file's name
    equivalent = "why no test can fail"         # only for a mutant that changes nothing that a user could see

Every mutant is applied to a copy of this source tree, which must be built in place. In the copy, kernels are those of
the baseline level, so that a test runs once; what is rebuilt there is compiled with -O1, which changes no bit. A mutant
is killed if its tests fail, crash or do not end. Before, each selection of tests must pass without a mutant.
"""

import argparse
import contextlib
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT = 120     # seconds for a selection of tests
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "v3", "v4")


@dataclass(frozen=True)
class Mutant:
    file: str
    fault: str
    old: str
    new: str
    tests: str
    modules: tuple[str, ...]
    equivalent: str = ""

    def __str__(self):
        return f"{self.file}: {self.fault}"

    def applied(self, text):
        """The file's text with the fault. Raises an error unless `old` occurs exactly once."""
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self}: expected the text once in the file, got it {text.count(self.old)} times: "
                             f"{self.old}")
        return text.replace(self.old, self.new)


def default_modules(file):
    """The compiled module of a .pyx file; none of any other."""
    path = Path(file)
    if path.suffix != ".pyx":
        return ()
    return (f"fastopt.{'_isa.baseline' if path.parts[0] == 'kernels' else '_runtime'}.{path.stem}",)


def read_tables():
    """All mutants, in the tables' order."""
    mutants = []
    for table in sorted(HERE.glob("*.toml")):
        for file, section in tomllib.loads(table.read_text("utf-8")).items():
            defaults = {"modules": default_modules(file),
                        **{key: value for key, value in section.items() if not isinstance(value, dict)}}
            for fault, entry in section.items():
                if isinstance(entry, dict):
                    fields = {**defaults, **entry}
                    fields["modules"] = tuple(fields["modules"])
                    mutants.append(Mutant(file, fault, **fields))
    return mutants


class Tree:
    """A copy of the source tree in which mutants are tried."""

    def __init__(self, root):
        self.root = Path(root)
        shutil.copytree(ROOT, root, ignore=LEFT_OUT, dirs_exist_ok=True)
        for level in ("v3", "v4"):
            (self.root / "fastopt/_isa" / level).mkdir()
            (self.root / "fastopt/_isa" / level / "__init__.py").touch()

    def call(self, arguments):
        """Return (exit status, output) of Python, run in the tree; the status is None if it did not end in time."""
        process = subprocess.Popen([sys.executable, *arguments], cwd=self.root, text=True, start_new_session=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=LIMIT)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]

    def test(self, selection):
        return self.call(["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(selection)])

    def built(self, module):
        return [*self.root.glob(module.replace(".", "/") + ".*.so")]

    @contextlib.contextmanager
    def mutated(self, mutant):
        """The tree with the mutant, rebuilt; afterwards everything is as before, times included."""
        source = self.root / mutant.file
        backup = self.root / "backup"
        kept = [source, *(path for module in mutant.modules for path in self.built(module))]
        backup.mkdir()
        for path in kept:
            shutil.copy2(path, backup / path.name)
        source.write_text(mutant.applied(source.read_text("utf-8")), "utf-8")
        try:
            if mutant.modules:
                status, output = self.call([str(HERE / "build.py"), *mutant.modules])
                if status != 0:
                    raise RuntimeError(f"{mutant}: does not compile\n{output}")
            yield
        finally:
            for path in {path for module in mutant.modules for path in self.built(module)} - set(kept):
                path.unlink()
            for path in kept:
                path.unlink()       # a file that is mapped into a process must not be written
                shutil.copy2(backup / path.name, path)
            shutil.rmtree(backup)


def verdict(tree, mutant):
    """(verdict, details) of one mutant."""
    try:
        with tree.mutated(mutant):
            status, output = tree.test(mutant.tests)
    except (RuntimeError, ValueError) as error:
        return "error", str(error)
    if status == 0:
        return ("equivalent", "") if mutant.equivalent else ("survived", "")
    if status is None or status < 0 or status == 1:
        if mutant.equivalent:
            return "error", "killed, but the table calls it equivalent\n" + output
        return "killed", ""
    return "error", f"pytest ended with status {status}\n{output}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="mutants tried at the same time")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="mutants whose file or fault has one of these words")
    options = parser.parse_args()
    start = time.monotonic()
    mutants = [mutant for mutant in read_tables()
               if not options.only or any(word in str(mutant) for word in options.only)]
    for mutant in mutants:
        mutant.applied((ROOT / mutant.file).read_text("utf-8"))
    results = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        trees = queue.SimpleQueue()
        for k in range(options.jobs):
            trees.put(Tree(f"{folder}/{k}"))

        def lend(work, item):
            tree = trees.get()
            begun = time.monotonic()
            try:
                return item, work(tree, item), time.monotonic() - begun
            finally:
                trees.put(tree)

        broken = set()
        for selection, (status, output), _ in pool.map(lambda item: lend(Tree.test, item),
                                                       dict.fromkeys(mutant.tests for mutant in mutants)):
            if status != 0:
                broken.add(selection)
                print(f"fails without a mutant: pytest {selection}\n{output}", flush=True)
        fair = [mutant for mutant in mutants if mutant.tests not in broken]
        for mutant, (result, details), seconds in pool.map(lambda item: lend(verdict, item), fair):
            results.setdefault(result, []).append(mutant)
            print(f"{result:10} {seconds:5.1f} s  {mutant}{details and ': ' + details}", flush=True)
    counts = {name: len(results.get(name, ())) for name in ("killed", "equivalent", "survived", "error")}
    print(f"{len(mutants)} mutants: {counts['killed']} killed, {counts['equivalent']} argued to be equivalent, "
          f"{counts['survived']} survived, {counts['error'] + len(mutants) - len(fair)} errors; "
          f"{time.monotonic() - start:.0f} s")
    for mutant in results.get("survived", ()):
        print(f"survived: {mutant}")
    sys.exit(counts["killed"] + counts["equivalent"] < len(mutants))


if __name__ == "__main__":
    main()
