"""Ways to make saves and loads fail: kills, write errors, a full disk, damaged files, interrupts.

The quick tests use each of them for a moment, tests/slow/test_saves.py for up to a minute. All return figures.
"""

import collections
import contextlib
import functools
import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
from helpers import bytecodes, run
from states import assert_same

import fastopt
from fastopt import _atomic_file


def numbered(number):
    """A state each part of which tells its number."""
    return {"number": number, "a": np.full(30_000, number), "b": {"c": np.full((3, 100), number, np.float32)}}


def number_of(path):
    """The number of the numbered state in the file, which must be complete."""
    state = fastopt.load_state(path)
    assert_same(state, numbered(state["number"]))
    return state["number"]


def others(path):
    """The names of all other files in the folder."""
    return sorted(set(os.listdir(path.parent)) - {path.name})


def kills(path, count, rng):
    """End processes that save in a loop by SIGKILL, after random times, and check the file after each."""
    code = textwrap.dedent("""
        import os, sys, time
        import fastopt, saves
        for _ in range(2):              # the first one imports what it needs
            start = time.perf_counter()
            fastopt.save_state(sys.argv[1], saves.numbered(0))
        print(time.perf_counter() - start, flush=True)
        for line in sys.stdin:
            child = os.fork()
            if not child:
                os.write(1, b"child %d\\n" % os.getpid())
                for number in range(int(line), sys.maxsize):
                    fastopt.save_state(sys.argv[1], saves.numbered(number))
                    os.write(1, b"%d\\n" % number)
            os.waitpid(child, 0)
            os.write(1, b"dead\\n")
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([
        os.path.dirname(fastopt.__path__[0]), os.path.dirname(__file__)])}
    figures = collections.Counter(kills=0, saves=0, temporaries=0)
    with subprocess.Popen([sys.executable, "-c", code, path], env=environment, cwd=path.parent, text=True, bufsize=1,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        duration = float(process.stdout.readline())
        last = 0
        for _ in range(count):
            process.stdin.write(f"{last + 1}\n")
            lines = [process.stdout.readline()]
            time.sleep(rng.uniform(0.0, 6 * duration))
            os.kill(int(lines[-1].split()[1]), signal.SIGKILL)
            while lines[-1] != "dead\n":
                lines.append(process.stdout.readline())
            reported = max([last, *(int(line) for line in lines if line.strip().isdigit())])
            found = number_of(path)
            assert found in (reported, reported + 1)
            left = others(path)
            assert len(left) <= 1, "a save removes what the one before left"
            figures.update(kills=1, saves=found - last, temporaries=len(left))
            last = found
        process.stdin.close()
    fastopt.save_state(path, numbered(last + 1))
    assert others(path) == []
    return dict(figures)


def system_errors(path, error):
    """Let every system call of a save that replaces a file fail in turn."""
    fcntl = pytest.importorskip("fcntl", reason="file locks are POSIX's")
    figures = collections.Counter(errors=0, errors_after_the_rename=0, tolerated=0)
    for module, name in [(os, "stat"), (os, "listdir"), (os, "open"), (fcntl, "flock"), (os, "chmod"), (os, "fsync"),
                         (os, "replace")]:
        for failing in itertools.count(1):
            counter = itertools.count(1)
            outcome = _save_again(path, error, module, name,
                                  functools.partial(_fail, getattr(module, name), counter, failing, error))
            if next(counter) <= failing:
                assert failing > 1, f"a save does not call {name}"
                break
            figures[outcome] += 1
    return dict(figures)


def _fail(function, counter, failing, error, *arguments, **options):
    if next(counter) == failing:
        raise error
    return function(*arguments, **options)


def device_errors(path, error):
    """Let every write to the new file fail in turn, after one that writes only a part."""
    figures = collections.Counter(errors=0)
    calls = failing = 0
    while calls >= failing:
        failing += 1
        counter = itertools.count(1)

        class Device(io.FileIO):
            def write(self, data, counter=counter, failing=failing):
                number = next(counter)
                if number == failing:
                    raise error
                return super().write(memoryview(data)[: len(data) // 2 + 1] if number == failing - 1 else data)

        def open_device(path, mode, opener=None, device=Device):
            return open(path, mode) if opener is None else io.BufferedWriter(device(path, mode, opener=opener))

        outcome = _save_again(path, error, _atomic_file, "open", open_device)
        calls = next(counter) - 1
        if calls >= failing:
            figures[outcome] += 1
    assert figures["errors"], "a save does not write to what open returns"
    return dict(figures)


def _save_again(path, error, module, name, function):
    """Save with this function replaced, and say what came of it; the file must hold the whole old or new state."""
    fastopt.save_state(path, numbered(1))
    raised = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, function, raising=False)
        try:
            fastopt.save_state(path, numbered(2))
        except OSError as caught:
            raised = caught
    assert others(path) == []
    found = number_of(path)
    if raised is None:
        assert found == 2
        return "tolerated"
    assert raised is error
    return "errors" if found == 1 else "errors_after_the_rename"


def full_disk(path, limits):
    """Save in a process whose files may not grow beyond each of these sizes, which the operating system enforces."""
    pytest.importorskip("resource", reason="limits are POSIX's")
    fastopt.save_state(path, numbered(1))
    before = path.read_bytes()
    errors = int(run(f"""
        import errno, resource
        import fastopt, saves
        errors = 0
        for limit in {list(limits)}:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                fastopt.save_state({os.fspath(path)!r}, saves.numbered(2))
            except OSError as error:
                assert error.errno == errno.EFBIG, error
                errors += 1
        print(errors)
    """))
    assert errors == len(limits)
    assert path.read_bytes() == before
    assert others(path) == []
    return {"errors": errors}


@contextlib.contextmanager
def limited_memory(more):
    """Let this process allocate only so many bytes more."""
    resource = pytest.importorskip("resource", reason="memory limits are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def damage(path, state, damaged):
    """Load the file with each of these contents: it is refused with a ValueError or gives the identical state."""
    figures = collections.Counter(refused=0, identical=0)
    with limited_memory(2**28):
        for content in damaged:
            with open(path, "r+b") as file:     # some file systems flush a file that is emptied and written again
                file.write(content)
                file.truncate()
            try:
                loaded = fastopt.load_state(path)
            except ValueError:
                figures["refused"] += 1
            else:
                assert_same(loaded, state)
                figures["identical"] += 1
    return dict(figures)


def flipped(whole, count, rng, bits=1):
    """Copies of the bytes with so many random bits changed."""
    for _ in range(count):
        content = bytearray(whole)
        for position in rng.integers(0, 8 * len(whole), bits):
            content[position // 8] ^= 1 << position % 8
        yield bytes(content)


@contextlib.contextmanager
def _without_reports_of_finalizers():
    """Ignore a file that is not closed because it was just opened, and a ZipFile whose __init__ was interrupted."""
    hook = sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        sys.unraisablehook = lambda unraisable: None
        try:
            yield
        finally:
            sys.unraisablehook = hook


def interrupted_saves(path, step):
    """Interrupt a save before every `step`-th bytecode."""
    save = functools.partial(fastopt.save_state, path)
    save(numbered(2))
    new = path.read_bytes()
    save(numbered(1))
    old = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch, _without_reports_of_finalizers():
        patch.setattr(os, "fsync", lambda descriptor: None)
        count = bytecodes(lambda: save(numbered(2)))
        figures = collections.Counter(bytecodes=count, old=0, new=0)
        save(numbered(1))
        for number in range(1, count + 1, step):
            with pytest.raises(KeyboardInterrupt):
                bytecodes(lambda: save(numbered(2)), number)
            assert others(path) == [], number
            content = path.read_bytes()
            assert content in (old, new), number
            figures["old" if content == old else "new"] += 1
            if content == new:
                save(numbered(1))
    return dict(figures)


def interrupted_loads(path, step):
    """Interrupt a load before every `step`-th bytecode."""
    fastopt.save_state(path, numbered(1))
    load = functools.partial(fastopt.load_state, path)
    count = bytecodes(load)
    figures = collections.Counter(bytecodes=count, interrupts=0, in_finalizers=0)
    with _without_reports_of_finalizers():
        for number in range(1, count + 1, step):
            try:
                bytecodes(load, number)
            except KeyboardInterrupt:
                figures["interrupts"] += 1
            else:
                figures["in_finalizers"] += 1   # Python ignores exceptions there: the load was not interrupted
    assert number_of(path) == 1
    return dict(figures)
