"""Forks, little memory, many threads and every instruction-set level: the same bits, or a documented error; no hang.

Everything runs in processes of its own. BUSY is what they share: work of every family, and the hash of its results.
"""

import json
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import run

from fastopt._runtime import dispatch

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork, RLIMIT_AS and /proc as on Linux")

BUSY = """
    import hashlib, json, os, random, resource, signal, sys, threading, time, warnings
    import numpy as np
    import numpy.random

    warnings.simplefilter("ignore")     # that a process with threads forks is the point
    N = 150_000

    def busy(seed=0):
        import fastopt
        rng = np.random.default_rng(seed)
        found = hashlib.sha256()
        params = {"W": rng.standard_normal((500, 300), dtype=np.float32), "b": np.zeros(300, np.float32)}
        grads = {"W": rng.standard_normal((500, 300), dtype=np.float32), "b": np.ones(300, np.float32)}
        for opt in (fastopt.AdamW(clip_norm=1.0, average_decay=0.9), fastopt.LAMB(), fastopt.SGD(lr=0.1, momentum=0.9)):
            for _ in range(2):
                opt.update(params, grads)
        x = params["W"]
        layer = fastopt.BatchNorm(300)
        y = layer.forward(x)
        dx = layer.backward(y)
        loss, d = fastopt.softmax_cross_entropy(x, np.arange(500) % 300)
        for array in (x, params["b"], y, dx, layer.running_var, layer.dgamma, d, fastopt.log_softmax(x, axis=0)):
            found.update(array)
        return found.hexdigest() + repr(loss)
"""


def work(program, **names):
    """Run BUSY and `program` in a new interpreter; return what it prints.

    Of the keyword arguments, numbers are global names of the program, strings environment variables.
    """
    numbers = "".join(f"{name} = {value!r}\n" for name, value in names.items() if not isinstance(value, str))
    environment = {name: value for name, value in names.items() if isinstance(value, str)}
    return run(numbers + textwrap.dedent(BUSY) + textwrap.dedent(program), **environment)


FORKS = """
    import fastopt
    from fastopt._runtime import parallel

    random.seed(SEED)
    parallel.swap_serial_below(0.0)
    fastopt.set_num_threads(2)
    expected = {seed: busy(seed) for seed in range(4)}
    stop, wrong = threading.Event(), []
    shared, p, g = fastopt.Adam(), np.ones(N, np.float32), np.ones(N, np.float32)
    shared.update(p, g)

    def work(seed):
        while not stop.is_set():
            if busy(seed) != expected[seed]:
                wrong.append(seed)

    def train():
        while not stop.is_set():
            shared.update(p, g)
            if random.random() < 0.2:       # some forks should find it between two steps
                time.sleep(0.01)

    def child(seed):
        '''0: the right bits and a step of the shared optimizer, 3: the right bits and a documented refusal.'''
        signal.alarm(30)
        try:
            right = busy(seed) == expected[seed]
            try:
                shared.update(p, g)
            except RuntimeError as error:
                return 3 if right and "fork" in str(error) else 2
            return 0 if right else 1
        except BaseException as error:
            os.write(2, repr(error).encode())
            return 4

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)] + [threading.Thread(target=train)]
    for thread in threads:
        thread.start()
    counts = dict(children=0, with_the_right_bits=0, told_of_a_step_that_the_fork_cut_off=0)
    try:
        for number in range(COUNT):
            time.sleep(random.random() * 0.01)
            pid = os.fork()
            if pid == 0:
                os._exit(child(number % 4))
            status = os.waitpid(pid, 0)[1]
            code = os.waitstatus_to_exitcode(status)
            assert code in (0, 3), (number, code)
            counts["children"] += 1
            counts["with_the_right_bits"] += 1
            counts["told_of_a_step_that_the_fork_cut_off"] += code == 3
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert busy(0) == expected[0]
    print(json.dumps(counts))
"""


def test_forks_while_threads_update(seed, trials, figures):
    """A child has the right bits; an optimizer that was being updated says so, in every child that has it."""
    figures(**json.loads(work(FORKS, SEED=seed, COUNT=trials(200))))


MEMORY = """
    import fastopt
    from fastopt._runtime import dispatch, parallel

    parallel.swap_serial_below(0.0)
    fastopt.set_num_threads(THREADS)
    for kernel in dir(dispatch.active):     # imported now: without memory for a module, that is an ImportError
        getattr(dispatch.active, kernel)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE, most))
    try:
        result = busy()
    except MemoryError:
        result = "MemoryError"
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    print(result)
"""


def test_little_address_space(seed, trials, figures):
    """Whatever the limit, a call returns the right bits or raises MemoryError; the process is never ended.

    A limit also refuses threads, whose stacks it counts: the team then stays smaller.
    """
    expected = work("print(busy())")
    rng = np.random.default_rng(seed)
    limits = [(threads, int(more)) for threads in (1, 2, 64, 1024)
              for more in np.exp(rng.uniform(np.log(1 << 16), np.log(1 << 28), trials(20)))]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda limit: work(MEMORY, THREADS=limit[0], MORE=limit[1]), limits))
    for limit, result in zip(limits, found, strict=True):
        assert result in ("MemoryError", expected), f"threads and bytes {limit}: {result}"
    figures(limits=len(limits), right=found.count(expected), memory_errors=found.count("MemoryError"))
    assert expected in found


THREAD_COUNTS = """
    import fastopt
    from fastopt._runtime import parallel

    random.seed(SEED)
    parallel.swap_serial_below(0.0)
    parallel.swap_back_off(False)
    for count in [*range(1, 65), *(random.randint(1, 64) for _ in range(COUNT))]:
        fastopt.set_num_threads(count)
        print(busy())
"""


def test_thread_counts_that_change_between_calls(seed, trials, figures):
    found = work(THREAD_COUNTS, SEED=seed, COUNT=trials(60)).splitlines()
    assert len(set(found)) == 1
    figures(changes=len(found))


def test_levels_and_environments(figures):
    """The same bits at every level, in processes with other numbers of threads."""
    found = {}
    for level in dispatch.available():
        for threads in ("1", "2", "5"):
            found[level, threads] = work("print(busy())", FASTOPT_ISA=level, FASTOPT_NUM_THREADS=threads)
    assert len(set(found.values())) == 1, found
    figures(processes=len(found))


MANY = """
    import fastopt
    from concurrent.futures import ThreadPoolExecutor
    from fastopt._runtime import parallel

    random.seed(SEED)
    parallel.swap_serial_below(0.0)
    expected = {seed: busy(seed) for seed in range(8)}
    sys.setswitchinterval(1e-5)
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait()
        for seed in (random.randrange(8) for _ in range(COUNT)):
            with fastopt.num_threads(random.randint(1, 4)):
                assert busy(seed) == expected[seed]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    print("right")
"""


def test_many_threads_with_optimizers_of_their_own(seed, trials, figures):
    count = trials(20)
    assert work(MANY, SEED=seed, COUNT=count) == "right"
    figures(threads=16, rounds=16 * count)


SHARED = """
    import fastopt
    from fastopt._runtime import parallel

    parallel.swap_serial_below(0.0)
    sys.setswitchinterval(1e-5)

    def start():
        return np.ones(N, np.float32), np.full(N, 0.5, np.float32)

    def expected(steps, known={}):
        if steps not in known:
            opt, (p, g) = fastopt.Adam(lr=1.0), start()
            for _ in range(steps):
                opt.update(p, g)
            known[steps] = p.tobytes()
        return known[steps]

    refused = steps = 0
    for trial in range(COUNT):
        opt, (p, g) = fastopt.Adam(lr=1.0), start()
        barrier, done, errors = threading.Barrier(8), [], []

        def work():
            barrier.wait()
            for _ in range(3):
                try:
                    opt.update(p, g)
                    done.append(1)
                except RuntimeError as error:
                    errors.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == opt.step_count, (trial, len(done), opt.step_count)
        assert all("one call at a time" in error or "another thread" in error for error in errors), set(errors)
        assert p.tobytes() == expected(len(done)), (trial, len(done))
        refused, steps = refused + len(errors), steps + len(done)
    print(json.dumps(dict(optimizers=COUNT, steps=steps, refused=refused)))
"""


def test_one_optimizer_in_many_threads(trials, figures):
    """Calls wait or are refused: every step that was taken counts, and the bits are those of as many steps in turn."""
    figures(**json.loads(work(SHARED, COUNT=trials(40))))
