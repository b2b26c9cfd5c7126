"""What import and calls leave alone in the user's process, and what happens after a fork."""

import os
import sys

import numpy as np
import pytest
from helpers import run

import fastopt

PREAMBLE = """
    import os, signal, sys
    import numpy as np

    def busy():
        import fastopt
        from fastopt._runtime import parallel
        n = 400_000
        rng = np.random.default_rng(0)
        p, g, m, v = (rng.standard_normal(n, dtype=np.float32) for _ in range(4))
        v = abs(v)
        for step in range(1, 4):
            fastopt.adam(p, g, m, v, step=step)
        logits = rng.standard_normal((500, 100), dtype=np.float32)
        fastopt.softmax_cross_entropy(logits, np.zeros(500, int))
        x = rng.standard_normal((3000, 64), dtype=np.float32)
        one = np.ones(64, np.float32)
        y, cache = fastopt.batch_norm_forward(x, one, one)
        fastopt.batch_norm_backward(y, cache)
        return p.tobytes() + y.tobytes()
"""


def test_floating_point_environment():
    """Subnormals and the rounding mode are as before: a library linked with -ffast-math turns subnormals off."""
    run(PREAMBLE + """
    tiny = np.full(64, 1e-45, np.float32)
    def check():
        assert (tiny * np.float32(1.0) == np.float32(1e-45)).all() and tiny[0] != 0
        assert np.float64(5e-324) * 1.0 != 0
        assert 1.0 + 2.0**-53 == 1.0 and 1.0 + 3 * 2.0**-53 == 1.0 + 2.0**-51
    check()
    import fastopt
    check()
    busy()
    check()
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy).result()
        pool.submit(check).result()
    """)


def test_subnormals_survive():
    param = np.full(100, 1e-40, np.float32)
    fastopt.sgd(param, np.full(100, 1e-41, np.float32), lr=1.0)
    np.testing.assert_allclose(param, 9e-41, rtol=1e-4)
    assert (param > 0).all()


def test_environment_affinity_signals_and_threads():
    run(PREAMBLE + """
    import threading
    def facts():
        return (dict(os.environ), os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
                [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV, signal.SIGFPE)],
                signal.pthread_sigmask(signal.SIG_BLOCK, []) if hasattr(signal, "pthread_sigmask") else None,
                threading.active_count(), os.getcwd())
    before = facts()
    import fastopt
    assert facts() == before
    busy()
    assert facts() == before
    """)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_import_starts_no_threads():
    run("""
    import os
    import numpy as np
    before = len(os.listdir("/proc/self/task"))
    import fastopt
    assert len(os.listdir("/proc/self/task")) == before
    """)


def test_threadpoolctl_sees_the_same_openmp_settings_before_and_after():
    pytest.importorskip("threadpoolctl")
    run(PREAMBLE + """
    import threadpoolctl, fastopt
    def settings():
        return sorted(threadpoolctl.threadpool_info(), key=lambda library: library["filepath"])
    before = settings()
    with fastopt.num_threads(3):
        busy()
    fastopt.set_num_threads(2)
    busy()
    assert settings() == before
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_after_use():
    """libgomp waits forever in a child whose parent used it: 20 children, the same bits, no hang."""
    run(PREAMBLE + """
    import fastopt, hashlib
    fastopt.set_num_threads(2)
    expected = hashlib.sha256(busy()).digest()
    from fastopt._runtime import parallel
    assert parallel.state()["regions"]
    for _ in range(20):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            with fastopt.num_threads(4):
                digest = hashlib.sha256(busy()).digest()
            assert fastopt.get_num_threads() == 1
            assert "forked" in fastopt.show_config(mode="dicts")["threads"]["why"]
            os.write(w, digest)
            os._exit(0)
        os.close(w)
        assert os.read(r, 64) == expected
        os.close(r)
        assert os.waitpid(pid, 0)[1] == 0
    assert hashlib.sha256(busy()).digest() == expected
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_every_forked_child_is_serial():
    """Another library that shares libgomp may have used it in the parent, which cannot be detected."""
    run(PREAMBLE + """
    import fastopt
    fastopt.set_num_threads(2)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        busy()
        os._exit(0 if fastopt.get_num_threads() == 1 and not parallel.state()["regions"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert fastopt.get_num_threads() == 2
    """.replace("import fastopt\n", "import fastopt\n    from fastopt._runtime import parallel\n", 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_multiprocessing_fork_pool():
    run(PREAMBLE + """
    import multiprocessing, hashlib, warnings
    warnings.simplefilter("ignore")
    expected = busy()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(result == expected for result in pool.starmap_async(busy, [()] * 6).get(timeout=60))
    """)


def test_from_several_python_threads_at_once():
    run(PREAMBLE + """
    from concurrent.futures import ThreadPoolExecutor
    expected = busy()
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: busy(), range(24)))
    """)
