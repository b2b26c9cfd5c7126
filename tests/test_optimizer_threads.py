"""One optimizer, several threads or processes: one call at a time, and no other result than that of calls in turn."""

import copy
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from helpers import assert_same_bits, run

import fastopt
from fastopt._runtime import progress

F = np.float32
BUSY = r"^\w+: expected one call at a time, got one while this optimizer's \w+ runs in another thread: hold a lock"
WITHIN = r"^\w+: expected one call at a time, got one from within this optimizer's update \(by a schedule, per_param"


def together(count, work):
    """Run work(number) in `count` threads that begin at the same time; return the errors."""
    barrier, errors = threading.Barrier(count), []

    def begin(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.fixture
def often():
    """Threads change places as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("bound", [False, True], ids=["first update", "bound"])
def test_updates_from_several_threads_are_counted_or_refused(bound, often):
    """Each call takes a whole step or raises: the result is that of the counted steps, one after the other."""
    grad = np.random.default_rng(0).standard_normal(300_000).astype(F)
    refused = 0
    for _ in range(10):
        opt, param = fastopt.Adam(lr=lambda step: 1.0 / step), np.zeros(300_000, F)
        if bound:
            opt.update(param, grad)
        errors = together(8, lambda number, opt=opt, param=param: [opt.update(param, grad) for _ in range(3)])
        for error in errors:
            with pytest.raises(RuntimeError, match=BUSY):
                raise error
        refused += len(errors)
        alone, twin = np.zeros(300_000, F), fastopt.Adam(lr=lambda step: 1.0 / step)
        for _ in range(opt.step_count):
            twin.update(alone, grad)
        assert opt.steps == {0: opt.step_count}
        assert_same_bits(param, alone)
        assert_same_bits(opt.state[0]["v"], twin.state[0]["v"])
    assert refused > 0


def test_each_thread_a_parameter_of_its_own(often):
    """Of one optimizer: refused calls are made again, and each step is counted once."""
    params, opt = [np.zeros(300, F) for _ in range(4)], fastopt.SGD(lr=1.0)
    grad = np.ones(300, F)
    seen = []

    def work(number):
        done = 0
        while done < 100:
            try:
                opt.update_one(number, params[number], grad)
                done += 1
            except RuntimeError:
                pass
            seen.append(opt.steps.get(number, 0) == done)

    assert together(4, work) == []
    assert all(seen)
    assert opt.steps == dict.fromkeys(range(4), 100)
    assert 100 <= opt.step_count <= 400
    for param in params:
        assert (param == -100.0).all()


def test_steps_read_while_an_update_ends():
    """By the step count and the arrays of one moment, whichever bytecode the update comes before."""
    begun, read = [], type(fastopt.Adam()).steps.fget

    def trace(frame, event, argument):
        nonlocal at
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code is read.__code__:
            at -= 1
            if at == 0:
                sys.settrace(None)
                opt.update({"b": np.ones(1, F)}, {"b": np.ones(1, F)})
                begun.append(True)
        return trace

    before = sys.gettrace()
    for instant in range(1, 1000):
        opt, at = fastopt.SGD(lr=1.0), instant
        opt.update({"a": np.ones(1, F)}, {"a": np.ones(1, F)})
        sys.settrace(trace)
        try:
            steps = read(opt)
        finally:
            sys.settrace(before)
        assert steps in ({"a": 1}, {"a": 1, "b": 1})
        if len(begun) < instant:
            break
    assert 10 < len(begun) < 999


def test_a_lock_around_each_call_is_enough(often):
    grad, param, lock = np.ones(1000, F), np.zeros(1000, F), threading.Lock()
    opt = fastopt.SGD(lr=1.0)

    def work(number):
        for _ in range(200):
            with lock:
                opt.update(param, grad)

    assert together(8, work) == []
    assert opt.step_count == 1600
    assert (param == -1600.0).all()


def calls(opt, param):
    """Every call that writes, and one that reads, as a second thread makes it."""
    grad, saved = np.ones_like(param), {"step_count": 0, "steps": {}, "state": {}}
    return {"update": lambda: opt.update(param, grad), "update_one": lambda: opt.update_one(0, param, grad),
            "new key": lambda: opt.update_one(1, grad.copy(), grad),
            "load_state_dict": lambda: opt.load_state_dict(saved),
            "update_hessian": lambda: opt.update_hessian(param, grad), "state_dict": opt.state_dict,
            "copy": lambda: copy.copy(opt)}


@pytest.mark.parametrize("name", ["update", "update_one", "new key", "load_state_dict", "update_hessian", "state_dict",
                                  "copy"])
def test_what_a_second_thread_is_told(name):
    """And nothing has changed; the lr can be assigned meanwhile, for the next step."""
    inside, go_on = threading.Event(), threading.Event()

    def lr(step):
        if step == 2 and not inside.is_set():
            inside.set()
            assert go_on.wait(60)
        return 0.5

    param = np.zeros(5, F)
    opt = fastopt.Sophia(lr=lr)
    opt.update(param, np.ones(5, F))
    before = param.copy()
    thread = threading.Thread(target=opt.update, args=(param, np.ones(5, F)))
    thread.start()
    assert inside.wait(60)
    try:
        with pytest.raises(RuntimeError, match=BUSY) as caught:
            calls(opt, param)[name]()
        assert str(caught.value).startswith(f"{name.replace('new key', 'update_one')}: ")
        opt.lr = 0.25
        assert_same_bits(param, before)
        assert opt.step_count == 1
    finally:
        go_on.set()
        thread.join()
    assert opt.step_count == 2
    calls(opt, param)[name]()


@pytest.mark.parametrize("name", ["update", "update_one", "new key", "load_state_dict", "update_hessian"])
@pytest.mark.parametrize("caller", ["schedule", "per_param"])
def test_a_call_from_within_an_update_is_refused(name, caller):
    param = np.zeros(5, F)

    def call(*_):
        if armed:
            calls(opt, param)[name]()
        return 0.5 if caller == "schedule" else {}

    armed = False
    opt = fastopt.Sophia(**({"lr": call} if caller == "schedule" else {"per_param": call}))
    armed = True
    with pytest.raises(RuntimeError, match=WITHIN):
        opt.update(param, np.ones(5, F))
    assert opt.step_count == 0
    assert not param.any()
    armed = False
    opt.update(param, np.ones(5, F))
    assert opt.step_count == 1


def test_a_function_that_update_calls_may_read():
    """A signal handler that saves, for example: an update writes in one native call, during which none runs."""
    param, seen = np.zeros(5, F), []

    def lr(step):
        seen.append((opt.state_dict() if step > 1 else {}, opt.step_count if step > 1 else 0))
        return 0.5

    opt = fastopt.Momentum(lr=lr)
    for _ in range(3):
        opt.update(param, np.ones(5, F))
    assert [(saved["step_count"], count) for saved, count in seen[2:]] == [(1, 1), (2, 2)]
    np.testing.assert_allclose(seen[-1][0]["state"][0]["v"], -0.95)


def test_an_optimizer_copied_during_an_update_is_at_rest():
    copies = []

    def per_param(key, array):
        copies.extend([copy.copy(opt), copy.deepcopy(opt)])
        return {}

    opt, param = fastopt.Momentum(lr=1.0, per_param=per_param), np.zeros(3, F)
    opt.update(param, np.ones(3, F))
    assert len(copies) == 2
    for twin in copies:
        twin._per_param = None
        twin.update(np.zeros(3, F), np.ones(3, F))
        assert twin.step_count == 1
    opt._per_param = None
    assert pickle.loads(pickle.dumps(opt)).update(param, np.ones(3, F)).step == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(("call", "told"), [("run", 1), ("read", 0), ("load", 0)])
def test_a_child_forked_during_a_call_that_writes_into_no_array_goes_on(call, told):
    held = progress.Progress(0, None)

    def fork():
        pid = os.fork()
        if pid:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == told
            return 1, None
        status = 2
        try:
            held.run("update", lambda: None)
            status = 0
        except RuntimeError:
            status = 1
        finally:
            os._exit(status)

    getattr(held, call)("name", fork)
    assert held.run("update", lambda: 5) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_during_an_update():
    """It is told what happened and what to do, does it, and goes on; a child of another moment notices nothing."""
    run("""
    import os, threading, traceback, warnings
    import numpy as np, fastopt
    warnings.simplefilter("ignore", DeprecationWarning)     # of forks beside threads
    fastopt.set_num_threads(1)
    size, asked = 8_000_000, threading.Event()
    params, grads = np.zeros(size, np.float32), np.ones(size, np.float32)
    opt = fastopt.Momentum(lr=lambda step: asked.set() or 1.0)      # the native call comes next
    opt.update(params, grads)
    saved, kept = opt.state_dict(), params.copy()

    def refused(call):
        try:
            call()
        except RuntimeError as error:
            text = str(error)
            assert "this process was forked while update ran in its parent" in text, text
            assert "partly updated" in text and "restore the parameters and call load_state_dict" in text, text
            return True

    def child():
        if not refused(opt.state_dict):
            os._exit(77)        # the update was over
        for call in (lambda: opt.update(params, grads), opt.state_dict):
            told = []
            # A thread of the child may get the number that the parent's thread had.
            thread = threading.Thread(target=lambda: told.append(refused(call)))
            thread.start()
            thread.join()
            assert told == [True] and refused(call)
        try:
            opt.load_state_dict({"step_count": 1})
        except ValueError:
            pass
        assert refused(lambda: opt.update(params, grads))
        params[...] = kept
        opt.load_state_dict(saved)
        opt.update(params, grads)
        assert opt.step_count == 2
        assert np.allclose(params, -2.9), params

    def at_rest():
        opt.update(params, grads)

    def forked(child):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                child()
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    for attempt in range(100):
        asked.clear()
        thread = threading.Thread(target=opt.update, args=(params, grads))
        thread.start()
        asked.wait()
        status = forked(child)
        thread.join()
        assert forked(at_rest) == 0
        if status != 77:
            break
    assert status == 0
    at_rest()
    """)
