"""How many threads the kernels get, and who decides."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_bits, compiled, run

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


@pytest.mark.parametrize("threads", [1, 2, 4, 33])
def test_threads_are_at_work_at_the_same_time(threads):
    assert compiled("regions").meet(threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_every_task_runs_once(threads):
    for count in [0, 1, 2, 3, 15, 16, 17, 100, 1000] * 20:
        assert compiled("regions").times_run(count, threads) == [1] * count


def test_every_task_runs_once_with_concurrent_callers():
    """While one Python thread has the region, the others' calls run on their own threads."""
    compiled("regions")
    run("""
    from concurrent.futures import ThreadPoolExecutor
    from compiled import regions_baseline as regions
    with ThreadPoolExecutor(6) as pool:
        jobs = [(count, 1 + i % 7) for i, count in enumerate([1, 10, 100, 1000] * 300)]
        for (count, _), times in zip(jobs, pool.map(lambda job: regions.times_run(*job), jobs)):
            assert times == [1] * count
    """)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gcc's OpenMP library")
def test_no_barrier_stands_before_the_tasks():
    """Nobody waits for the whole team before the first task: parallel.h removes the clause for which gcc adds one."""
    assert b"GOMP_parallel" in Path(parallel.__file__).read_bytes()
    assert b"GOMP_barrier" not in Path(parallel.__file__).read_bytes()


ADAM = """
    import time
    import numpy as np, fastopt
    from fastopt._runtime import parallel
    arrays = [np.ones(200_000, np.float32) for _ in range(4)]
    def adam():
        fastopt.adam(*arrays, step=1)
"""


def test_after_a_late_team_calls_run_alone_and_then_not():
    compiled("regions")
    run(ADAM + """
    from compiled import regions_baseline as regions
    with fastopt.num_threads(2):
        adam()
        assert not parallel.state()["alone"]
        regions.meet(2, 30)     # milliseconds in which one of the two does nothing
        start = time.monotonic()
        assert parallel.state()["alone"]
        assert fastopt.get_num_threads() == 2
        before = parallel.state()["regions"]
        adam()
        assert parallel.state()["regions"] == before
        while parallel.state()["alone"]:
            assert time.monotonic() - start < 5
            time.sleep(0.01)
        adam()
        assert parallel.state()["regions"] == before + 1
    """)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_team_without_cores_is_left_alone():
    """Two threads on one core gain nothing, and each region costs at least a change of threads: few are run."""
    run(ADAM + """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    fastopt.set_num_threads(2)
    for _ in range(3000):
        adam()
    assert 1 <= parallel.state()["regions"] < 1000, parallel.state()
    """)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_threads_that_the_system_refuses_are_done_without():
    """No room for eight stacks: libgomp would end the process."""
    run(ADAM + """
    import resource
    expected = [array.copy() for array in arrays]
    with fastopt.num_threads(1):
        fastopt.adam(*expected, step=1)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**22, size + 2**22))
    fastopt.set_num_threads(8)
    adam()
    assert all((a == b).all() for a, b in zip(arrays, expected))
    adam()
    """)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_team_leaves_memory_to_the_process():
    """Address space for some of the stacks (of 8 MiB by default) only: the team takes at most half of it."""
    run(ADAM + """
    import os, resource
    expected = [array.copy() for array in arrays]
    with fastopt.num_threads(1):
        fastopt.adam(*expected, step=1)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**31, size + 2**31))
    before = len(os.listdir("/proc/self/task"))
    fastopt.set_num_threads(1023)
    adam()
    assert all((a == b).all() for a, b in zip(arrays, expected))
    assert len(os.listdir("/proc/self/task")) >= before + 16
    np.ones(2**29, np.uint8)
    adam()
    """)


GETENV = """
    import ctypes
    from fastopt._runtime import parallel
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    print(getenv(b"GOMP_SPINCOUNT"), getenv(b"OMP_WAIT_POLICY"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp's variables")
def test_the_spin_is_set_for_libgomp_alone():
    names = {"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": None}
    assert run(GETENV, **names) == "None None"
    assert run(GETENV, **{**names, "GOMP_SPINCOUNT": "77"}) == "b'77' None"
    assert run(GETENV, **{**names, "OMP_WAIT_POLICY": "active"}) == "None b'active'"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp's variables")
@pytest.mark.parametrize(("setting", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"),
                                                   ({"OMP_WAIT_POLICY": "passive"}, "0")])
def test_libgomp_reads_the_spin_that_is_meant(setting, expected):
    """libgomp prints its settings when it is loaded."""
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment |= {"PYTHONPATH": str(Path(fastopt.__path__[0]).parent), "OMP_DISPLAY_ENV": "VERBOSE", **setting}
    done = subprocess.run([sys.executable, "-c", "import fastopt"], env=environment, cwd=Path(__file__).parent,
                          capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64" or not sys.platform.startswith("linux"), reason="FE_UPWARD's value")
def test_workers_round_as_the_caller_does(always_parallel):
    """A mode that the user sets after the team was started holds for the whole array, not for the caller's part."""
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


@pytest.mark.skipif(platform.machine() != "x86_64" or not sys.platform.startswith("linux"), reason="finds libgomp")
def test_workers_get_their_own_rounding_back():
    """Other libraries that share libgomp have the same threads."""
    run(ADAM + """
    import ctypes
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "libgomp" in line)
    region, libm = ctypes.CDLL(path).GOMP_parallel, ctypes.CDLL("libm.so.6")
    fastopt.set_num_threads(2)
    one, little, seen = np.float32(1), np.float32(1e-9), []
    adam()                              # starts the team, whose threads inherit this one's mode
    assert libm.fesetround(0x800) == 0
    assert one + little > one           # upward on this thread
    for _ in range(3):
        adam()
    libm.fesetround(0)
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(float(one + little)))
    region(callback, None, ctypes.c_uint(2), ctypes.c_uint(0))
    assert seen == [1.0, 1.0], seen
    """)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="POSIX signals")
def test_openmps_threads_take_no_signals():
    """A signal must reach the user's threads and interrupt what they wait for."""
    run(ADAM + """
    import os, signal, time
    fastopt.set_num_threads(4)
    adam()
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
def test_openmps_threads_sleep_when_there_is_nothing_to_do():
    """They must not take the processor from others: less than a tenth of a second of work beside a second of sleep."""
    run(ADAM + """
    fastopt.set_num_threads(4)
    adam()
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
    assert not parallel.state()["regions"]
    p = np.ones(20_000, np.float32)         # several chunks, but a few microseconds
    fastopt.sgd(p, p.copy(), lr=0.1)
    assert not parallel.state()["regions"]
    p = np.ones(1_000_000, np.float32)
    fastopt.adam(p, p.copy(), p.copy(), p.copy(), step=1)
    assert parallel.state()["regions"]
    """)


def test_a_model_of_small_parameters_is_shared():
    """Its size counts, not that of one parameter."""
    run("""
    import numpy as np, fastopt
    from fastopt._runtime import parallel
    fastopt.set_num_threads(2)
    params = [np.ones(5000, np.float32) for _ in range(100)]
    fastopt.Adam().update(params, [param.copy() for param in params])
    assert parallel.state()["regions"]
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


def test_none_restores_the_environments_count():
    assert run("""
    import fastopt
    fastopt.set_num_threads(2)
    fastopt.set_num_threads(None)
    print(fastopt.get_num_threads())
    """, FASTOPT_NUM_THREADS="3") == "3"


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
    return cgroup_quota(str(tmp_path / "root"), str(tmp_path / "membership"))


@pytest.mark.parametrize(("membership", "files", "expected"), [
    ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 2),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
    ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
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
    assert cgroup_quota("/nowhere", "/nowhere/either") == 0


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
