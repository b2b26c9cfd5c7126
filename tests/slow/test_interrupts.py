"""Ctrl-C at every instant: what a call writes is as before it or as after it, never a mixture.

A trace function raises KeyboardInterrupt before every bytecode of every public call that writes: signal handlers run
there. Then the same call, made again, must give what it gives a twin that was not interrupted. A second test sends real
signals during calls that have released the GIL.
"""

import dis
import json
import sys

import numpy as np
import pytest
from helpers import run
from slow.cases import public
from slow.digest import digest
from slow.good_calls import CALLS
from slow.test_bad_calls import comparable

import fastopt

WRITE_NOTHING = {"cast", "get_num_threads", "show_config", "load_state", "convert.to_torch", "convert.to_keras",
                 "convert.to_optax", "convert.layer_to_torch", "convert.layer_to_keras", "batch_norm_merge",
                 "batch_norm_merge_sums", "batch_norm_statistics", "batch_norm_backward_sums",
                 "softmax_cross_entropy_loss", *(name for name in public() if name.endswith("state_dict")
                                                 and "load" not in name)}
OF_FILES = {"save_state"}
"""Interrupted, killed and failing saves have a suite of their own: test_saves.py."""

PURE_OUTPUTS = {"linear_cross_entropy", "Dense.forward", "Dense.backward"}
"""What writes `out`, and Dense.backward the gradients, piece by piece: NumPy's product is one. The next call writes
all of it again and reads none, so nothing is lost."""

ONLY_WHERE_SIGNALS_ARE_HANDLED = {"num_threads"}
"""A `finally` or __exit__ cannot be protected from what is raised before its first bytecode; but CPython handles
signals only after calls, jumps back and at the start and resumption of functions."""

HANDLED_AFTER = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"}

NAMES = sorted(name for name in public() if name not in WRITE_NOTHING | OF_FILES
               and not (name.split(".")[0] in ("schedules", "init") or public()[name].__class__ is type))
"""Constructors and functions that only return something new write nothing."""

CASES = 2
"""Cases of each call, drawn from the seed."""


class Interrupter:
    """A trace function that raises KeyboardInterrupt before bytecode number `at`, and counts bytecodes."""

    def __init__(self, name, at=None):
        self.at, self.count = at, 0
        self.everywhere = name not in ONLY_WHERE_SIGNALS_ARE_HANDLED
        self.last = {}      # the bytecode that each frame ran before

    def __call__(self, frame, event, arg):
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count += self.everywhere or self.is_after_a_check(frame)
            if self.count == self.at:
                self.last.clear()
                raise KeyboardInterrupt
        return self

    def is_after_a_check(self, frame):
        last, self.last[frame] = self.last.get(frame), dis.opname[frame.f_code.co_code[frame.f_lasti]]
        return last in HANDLED_AFTER

    def call(self, case):
        """Whether the call was interrupted."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            case.call(**case.arguments)     # this frame has no trace function
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


@pytest.mark.parametrize("name", NAMES)
def test_before_every_bytecode(name, seed, trials, figures):
    interrupts = before_again = 0
    for maker_index, maker in enumerate(CALLS[name]):
        for number in range(trials(CASES)):
            case_seed = [seed, maker_index, number]

            def made(maker=maker, case_seed=case_seed):
                return maker(np.random.default_rng(case_seed), fastopt)

            twin = made()
            before = watched(twin, name)
            first, second = ((outcome(twin), watched(twin, name)) for _ in range(2))
            counting = Interrupter(name)
            assert not counting.call(made())
            for at in range(1, counting.count + 1):
                subject, interrupter = made(), Interrupter(name, at)
                what = f"{name}, seed {case_seed}, interrupted before bytecode {at} of {counting.count}"
                interrupts += interrupter.call(subject)
                state = watched(subject, name)
                assert state in (before, first[1]), f"{what}: the state is neither that before nor that after the call"
                before_again += state == before
                # Calls that change nothing the second time give the same once more.
                allowed = {"before": (first,), "after": (first, second)}["before" if state == before else "after"]
                again = outcome(subject), watched(subject, name)
                assert again in allowed, f"{what}: the next call differs from its twin's"
    figures(interrupts=interrupts, left_the_state_as_it_was=before_again)
    assert interrupts


def outcome(case):
    """What the call returns, or how it refuses to be made a second time."""
    try:
        return digest(comparable(case.call(**case.arguments)))
    except ValueError as error:
        return repr(error)


def watched(case, name):
    arguments = {key: value for key, value in case.arguments.items() if name not in PURE_OUTPUTS or key != "out"}
    watch = [(made.params, made._cache) for made in case.watch] if name == "Dense.backward" else case.watch
    return digest((arguments, watch))


SIGNALS = """
    import json, os, random, signal, sys, threading, time
    import numpy as np
    import fastopt

    seed, count = {seed}, {count}
    random.seed(seed)
    rng = np.random.default_rng(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    n = 3_000_000
    start = [np.abs(rng.standard_normal(n, dtype=np.float32)) for _ in range(4)]

    def of_function():
        p, g, m, v = (a.copy() for a in start)
        return lambda: fastopt.adam(p, g, m, v, step=3), lambda: (p.tobytes(), m.tobytes(), v.tobytes())

    def of_class():
        opt, p, g = fastopt.AdamW(average_decay=0.5, clip_norm=1.0), start[0].copy(), start[1]
        opt.update(p, g)
        return lambda: opt.update(p, g), lambda: (opt.step_count, p.tobytes(), opt.averages[0].tobytes())

    def of_batch_norm():
        layer, x = fastopt.BatchNorm(64), start[0][:n // 64 * 64].reshape(-1, 64)
        out = np.zeros_like(x)
        return (lambda: layer.forward(x, out=out),
                lambda: (layer.running_mean.tobytes(), layer.running_var.tobytes(), out.tobytes()))

    def of_softmax():
        x = start[0][:n // 1000 * 1000].reshape(-1, 1000).copy()
        return lambda: fastopt.log_softmax(x, out=x), lambda: x.tobytes()

    interrupted, inside = 0, 0
    for trial in range(count):
        make = (of_function, of_class, of_batch_norm, of_softmax)[trial % 4]
        call, look = make()
        before = hash(look())
        began = time.perf_counter()
        call()
        duration = time.perf_counter() - began
        after = hash(look())
        call, look = make()
        instant = random.random() * duration * 1.2
        sender = threading.Thread(target=lambda: (time.sleep(instant), os.kill(os.getpid(), signal.SIGINT)))
        try:
            sender.start()
            began = time.perf_counter()
            call()
            finished = time.perf_counter()
            sender.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
        sender.join()
        now = hash(look())
        assert now in (before, after), (make.__name__, trial)
        inside += now == after
    print(json.dumps({{"signals": interrupted, "finished": inside}}))
"""


def test_signals_during_calls_without_the_gil(seed, trials, figures):
    """The call finishes, then KeyboardInterrupt is raised."""
    counts = json.loads(run(SIGNALS.format(seed=seed, count=trials(200))))
    figures(**counts)
    assert counts["signals"] > 0
    assert counts["finished"] > 0
