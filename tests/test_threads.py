"""How many threads the kernels get, and who decides."""

import ctypes
import os
import platform
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_bits, run

import fastopt
from fastopt._runtime import parallel
from fastopt._runtime.threads import cgroup_quota


@pytest.fixture(autouse=True)
def automatic():
    before = parallel.state()["process_request"]
    yield
    parallel.set_process_request(before)


def test_openmp_is_really_on():
    assert parallel.state()["openmp"] >= 201307


@pytest.fixture(params=["pool", "OpenMP regions"])
def whose(request):
    """The threads of the pool, and those of OpenMP, which are used where there are no POSIX threads."""
    before = parallel.swap_pool(request.param == "pool")
    yield
    parallel.swap_pool(before)


@pytest.mark.parametrize("threads", [1, 2, 4, 33])
def test_threads_are_at_work_at_the_same_time(threads, whose):
    assert parallel.meet(threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_every_task_runs_once(threads, whose):
    for count in [0, 1, 2, 3, 15, 16, 17, 100, 1000] * 20:
        assert parallel.times_run(count, threads) == [1] * count


def test_every_task_runs_once_whoever_else_calls():
    """Of several Python threads one has the helpers; the others' calls run by themselves."""
    run("""
    from concurrent.futures import ThreadPoolExecutor
    from fastopt._runtime import parallel
    with ThreadPoolExecutor(6) as pool:
        jobs = [(count, 1 + i % 7) for i, count in enumerate([1, 10, 100, 1000] * 300)]
        for (count, _), times in zip(jobs, pool.map(lambda job: parallel.times_run(*job), jobs)):
            assert times == [1] * count
    """)


@pytest.mark.skipif(platform.machine() != "x86_64" or not sys.platform.startswith("linux"), reason="FE_UPWARD's value")
def test_helpers_round_as_the_caller_does(always_parallel):
    """A mode that the user sets after the helpers were started holds for the whole array, not for the caller's part."""
    libm = ctypes.CDLL("libm.so.6")
    rng = np.random.default_rng(0)
    arrays = [np.abs(rng.standard_normal(300_000, dtype=np.float32)) for _ in range(4)]

    def adam(threads):
        param = arrays[0].copy()
        with fastopt.num_threads(threads):
            fastopt.adam(param, arrays[1], arrays[2].copy(), arrays[3].copy(), step=3)
        return param

    nearest = adam(2)
    try:
        assert libm.fesetround(0x800) == 0
        upward = [adam(threads) for threads in (1, 2, 2, 2, 3)]
    finally:
        libm.fesetround(0)
    assert (upward[0] != nearest).any()
    for other in upward[1:]:
        assert_same_bits(other, upward[0])
    assert_same_bits(adam(2), nearest)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="POSIX signals")
def test_helpers_take_no_signals():
    """A signal must reach the user's threads: a helper that took it would leave them waiting."""
    run("""
    import os, signal, time
    from fastopt._runtime import parallel
    parallel.meet(4)
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.05)
    assert signal.sigpending() == {signal.SIGUSR1} and not seen
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert seen == [1]
    """, OPENBLAS_NUM_THREADS="1")      # whose threads take signals


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_helpers_sleep_when_there_is_nothing_to_do():
    """They must not take the processor from others: less than a tenth of a second of work beside a second of sleep."""
    run("""
    import time
    from fastopt._runtime import parallel
    parallel.meet(4)
    before = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - before < 0.1
    """)


def test_small_work_runs_on_the_calling_thread():
    run("""
    import numpy as np, fastopt
    from fastopt._runtime import parallel
    fastopt.set_num_threads(4)
    p = np.ones(1000, np.float32)
    fastopt.adam(p, p.copy(), p.copy(), p.copy(), step=1)
    assert not parallel.state()["used"]
    p = np.ones(1_000_000, np.float32)
    fastopt.adam(p, p.copy(), p.copy(), p.copy(), step=1)
    assert parallel.state()["used"]
    """)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds libgomp in /proc")
def test_inside_another_librarys_parallel_region_work_is_serial():
    """libgomp's own entry point calls back into Python on two threads."""
    run("""
    import ctypes, sys
    import fastopt
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "libgomp" in line}
    if not paths:
        sys.exit()
    region = ctypes.CDLL(paths.pop()).GOMP_parallel
    seen = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(fastopt.get_num_threads()))
    fastopt.set_num_threads(4)
    region(callback, None, ctypes.c_uint(2), ctypes.c_uint(0))
    assert seen == [1, 1], seen
    assert fastopt.get_num_threads() == 4
    """)


def test_set_and_get():
    fastopt.set_num_threads(5)
    assert fastopt.get_num_threads() == 5
    fastopt.set_num_threads(None)
    assert fastopt.get_num_threads() >= 1


def test_context_nests_and_is_undone_by_errors():
    fastopt.set_num_threads(5)
    with fastopt.num_threads(3):
        assert fastopt.get_num_threads() == 3
        with fastopt.num_threads(2):
            assert fastopt.get_num_threads() == 2
        assert fastopt.get_num_threads() == 3
        with pytest.raises(KeyError), fastopt.num_threads(7):
            raise KeyError
        assert fastopt.get_num_threads() == 3
    assert fastopt.get_num_threads() == 5


def test_context_is_the_calling_threads_own():
    fastopt.set_num_threads(5)
    seen = []
    with fastopt.num_threads(3):
        other = threading.Thread(target=lambda: seen.append(fastopt.get_num_threads()))
        other.start()
        other.join()
    assert seen == [5]


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True, 10**6])
def test_bad_counts(bad):
    with pytest.raises((TypeError, ValueError), match="^num_threads: expected an int"):
        fastopt.set_num_threads(bad)
    with pytest.raises((TypeError, ValueError), match="^num_threads: expected an int"), fastopt.num_threads(bad):
        pass


PRINT = "import fastopt; print(fastopt.get_num_threads())"


@pytest.mark.parametrize(("environment", "expected"), [
    ({"FASTOPT_NUM_THREADS": "3"}, "3"),
    ({"FASTOPT_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"),
    ({"OMP_NUM_THREADS": "5"}, "5"),
    ({"OMP_NUM_THREADS": "5,2"}, "5"),
    ({"FASTOPT_NUM_THREADS": "", "OMP_NUM_THREADS": "1"}, "1"),
])
def test_environment(environment, expected):
    assert run(PRINT, **{"FASTOPT_NUM_THREADS": None, "OMP_NUM_THREADS": None, **environment}) == expected


@pytest.mark.parametrize("bad", ["0", "-2", "many", "1.5"])
def test_bad_environment(bad):
    with pytest.raises(AssertionError, match=rf"ValueError: FASTOPT_NUM_THREADS: expected an int in .*, got '{bad}'"):
        run(PRINT, FASTOPT_NUM_THREADS=bad)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_respected_whenever_it_is_set():
    run("""
    import os
    one = {min(os.sched_getaffinity(0))}
    all_of_them = os.sched_getaffinity(0)
    import fastopt
    assert fastopt.get_num_threads() == len(all_of_them)
    os.sched_setaffinity(0, one)
    assert fastopt.get_num_threads() == 1
    os.sched_setaffinity(0, all_of_them)
    assert fastopt.get_num_threads() == len(all_of_them)
    """, FASTOPT_NUM_THREADS=None, OMP_NUM_THREADS=None)


def test_threadpoolctl_limits_are_obeyed():
    pytest.importorskip("threadpoolctl")
    run("""
    import threadpoolctl, fastopt
    for request in (None, 4):
        fastopt.set_num_threads(request)
        before = fastopt.get_num_threads()
        with threadpoolctl.threadpool_limits(1):
            assert fastopt.get_num_threads() == 1
            with fastopt.num_threads(3):
                assert fastopt.get_num_threads() == 1
            assert "limit" in fastopt.show_config(mode="dicts")["threads"]["why"]
        assert fastopt.get_num_threads() == before
    """, FASTOPT_NUM_THREADS=None, OMP_NUM_THREADS="2")


def cgroup(tmp_path, membership, files):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cgroup_quota(tmp_path / "root", tmp_path / "membership")


@pytest.mark.parametrize(("membership", "files", "expected"), [
    ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 2),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 0),
    ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
    ("0::/not/mounted/here\n", {"cpu.max": "400000 100000\n"}, 4),
    ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 3),
    ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 0),
    ("3:memory:/x\n", {}, 0),
    ("0::/a\n", {"a/cpu.max": "garbage\n"}, 0),
])
def test_cgroup_quota(tmp_path, membership, files, expected):
    assert cgroup(tmp_path, membership, files) == expected


def test_no_cgroup_at_all():
    assert cgroup_quota(Path("/nowhere"), Path("/nowhere/either")) == 0


def test_quota_caps_the_default_alone():
    facts = parallel.state()
    try:
        parallel.configure(0, 1, False)
        assert fastopt.get_num_threads() == 1
        fastopt.set_num_threads(3)
        assert fastopt.get_num_threads() == 3
        parallel.configure(0, 1, True)
        assert fastopt.get_num_threads() == facts["openmp_threads"]
    finally:
        parallel.configure(facts["process_request"], facts["quota"], facts["openmp_is_explicit"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shared OpenMP runtime")
def test_show_config_says_why(capsys):
    fastopt.set_num_threads(3)
    threads = fastopt.show_config(mode="dicts")["threads"]
    assert threads["count"] == 3
    assert "set_num_threads" in threads["why"]
    fastopt.show_config()
    assert "set_num_threads" in capsys.readouterr().out
