# What an optimizer replaces at a step, and the flag that one call at a time takes.
#
# Both are compiled so that no exception comes in between: Python runs signal handlers between bytecodes only. Nothing
# interrupts the code from the moment the flag is taken until the `try` that gives it back, nor an assignment of step
# count and snapshot together.
from cpython.pythread cimport PyThread_get_thread_ident

from fastopt._runtime.parallel cimport forks


cdef class Progress:
    """The number of steps taken and the snapshot that belongs to it, any object, which is replaced as a whole.

    A second call while one runs is refused: in another thread it would mix two steps, and so would one from a function
    of the user's that the first one calls. A process that is forked while another thread updates inherits the flag
    taken, and arrays that may be half written: every call says so until `load` has replaced the snapshot.
    """

    def __init__(self, long long step_count, object snapshot):
        self.step_count, self.snapshot = step_count, snapshot

    def run(self, str name, function, *arguments):
        """Return function(*arguments), the only call that runs; `name` is what messages call it."""
        self.take(name, True)
        try:
            return function(*arguments)
        finally:
            self.running = None

    def read(self, str name, function):
        """Return function(), which only reads: from within a call of this very thread, which is not writing, it may."""
        if (self.running is not None and self.forks == forks() and self.thread == PyThread_get_thread_ident()):
            return function()
        self.take(name, False)
        try:
            return function()
        finally:
            self.running = None

    def load(self, str name, function, *arguments):
        """Replace step count and snapshot by function(*arguments), even after a fork in the middle of a call."""
        cdef bint stale = self.running is not None and self.forks != forks()
        if not stale:
            self.take(name, False)
        try:
            step_count, snapshot = function(*arguments)
            self.replace(step_count, snapshot)
            stale = False
        finally:
            if not stale:
                self.running = None

    cdef int take(self, str name, bint writes) except -1:
        if self.running is not None and (self.writes or self.forks == forks()):
            self.refuse(name)
        self.running, self.writes, self.thread, self.forks = name, writes, PyThread_get_thread_ident(), forks()
        return 0

    cdef int refuse(self, str name) except -1:
        if self.forks != forks():
            raise RuntimeError(
                f"{name}: expected an optimizer at rest, but this process was forked while {self.running} ran in its "
                "parent, so parameters and state may be partly updated: restore the parameters and call "
                "load_state_dict, both from what was saved earlier")
        if self.thread == PyThread_get_thread_ident():
            raise RuntimeError(
                f"{name}: expected one call at a time, got one from within this optimizer's {self.running} (by a "
                "schedule, per_param, or a signal handler): make it before or after")
        raise RuntimeError(
            f"{name}: expected one call at a time, got one while this optimizer's {self.running} runs in another "
            "thread: hold a lock during each call, or give each thread an optimizer of its own")

    cdef int replace(self, long long step_count, object snapshot) except -1:
        _before = self.snapshot         # is released last: that may run code of the user's
        self.step_count, self.snapshot = step_count, snapshot
        return 0
