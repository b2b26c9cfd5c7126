"""An exception before any bytecode of a call, as signals raise them, leaves what was before the call or what is after.

Signals are handled between bytecodes. A trace function raises KeyboardInterrupt before the first one, then in a new run
before the second one, and so on, until a run ends without.
"""

import numpy as np
import pytest
from helpers import interrupted

import fastopt

F = np.float32


def contents(opt, params):
    """All that a call may change."""
    state = {key: {name: array.tobytes() for name, array in entry.items()} for key, entry in opt.state.items()}
    return [param.tobytes() for param in params], state, opt.step_count, opt.steps


def arrays(value):
    return [np.full(n, value, F) for n in (3, 5)]


class Model:
    """An optimizer after `steps` steps, whose schedule changes the rate at each."""

    def __init__(self, steps, **options):
        self.params, self.grads = arrays(1.0), arrays(0.5)
        self.opt = fastopt.Adam(lr=lambda step: 0.1 / step, average_decay=0.5,
                                per_param=lambda key, param: {"eps": 0.1} if key else {}, **options)
        for _ in range(steps):
            self.update()

    def update(self):
        self.opt.update(self.params, self.grads)

    def rebind(self):
        """Other arrays under one of the keys, a new key, and one that rests."""
        params = {1: self.params[1][:], 2: self.params[0]}
        self.opt.update(params, {1: self.grads[1], 2: self.grads[0]})

    def without_one(self):
        """A gradient that is None, for the first time: its group is divided."""
        self.opt.update(self.params, [self.grads[0], None])

    def one(self):
        """A parameter that was bound with others."""
        self.opt.update_one(1, self.params[1], self.grads[1])

    def in_turn(self):
        """Models that stay bound."""
        params, grads = dict(enumerate(self.params)), dict(enumerate(self.grads))
        for key in (0, 1, 0):
            self.opt.update({key: params[key]}, {key: grads[key]})
        return lambda: self.opt.update({1: params[1]}, {1: grads[1]})

    def one_in_turn(self):
        for key in (0, 1, 0):
            self.opt.update_one(key, self.params[key], self.grads[key])
        return lambda: self.opt.update_one(1, self.params[1], self.grads[1])

    def new_array(self):
        """In place of one that is bound."""
        self.opt._per_param, self.opt._replaces = None, True
        self.opt.update_one(0, self.params[0], self.grads[0])
        self.params[0] = self.params[0].copy()
        return lambda: self.opt.update_one(0, self.params[0], self.grads[0])

    def load(self):
        twin = Model(3)
        saved = twin.opt.state_dict()
        return lambda: self.opt.load_state_dict(saved)


CALLS = {
    "first update": (0, {}, lambda model: model.update),
    "update": (2, {}, lambda model: model.update),
    "update with clip_norm": (2, {"clip_norm": 0.1}, lambda model: model.update),
    "update of other arrays": (2, {}, lambda model: model.rebind),
    "update without one gradient": (2, {}, lambda model: model.without_one),
    "update_one": (2, {}, lambda model: model.one),
    "first update_one": (0, {}, lambda model: model.one),
    "update of models in turn": (1, {}, lambda model: model.in_turn()),
    "update_one in turn": (1, {}, lambda model: model.one_in_turn()),
    "update_one in turn with clip_norm": (1, {"clip_norm": 0.1}, lambda model: model.one_in_turn()),
    "update_one of a new array": (1, {}, lambda model: model.new_array()),
    "load_state_dict": (2, {}, lambda model: model.load()),
    "load_state_dict before the first update": (0, {}, lambda model: model.load()),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_done_or_not(name):
    steps, options, call_of = CALLS[name]
    model = Model(steps, **options)
    call = call_of(model)
    before = contents(model.opt, model.params)
    call()
    after = contents(model.opt, model.params)
    assert before != after
    seen, at, goes_on = [], 1, True
    while goes_on:
        model = Model(steps, **options)
        call = call_of(model)
        goes_on = interrupted(call, at)
        now = contents(model.opt, model.params)
        assert now in (before, after), f"bytecode {at}"
        seen.append(now == after)
        if goes_on and now == before:
            call()                      # nothing is left running
            assert contents(model.opt, model.params) == after, f"after bytecode {at}"
        at += 1
    assert seen == sorted(seen)
    assert seen[-1]
    assert at > 10


def test_sophias_update_hessian():
    def fresh():
        opt, params = fastopt.Sophia(lr=0.1), arrays(1.0)
        return opt, params, lambda: opt.update_hessian(params, arrays(0.5))

    opt, params, call = fresh()
    before = contents(opt, params)
    call()
    after = contents(opt, params)
    at, goes_on = 1, True
    while goes_on:
        opt, params, call = fresh()
        goes_on = interrupted(call, at)
        now = contents(opt, params)
        assert now in (before, after), f"bytecode {at}"
        at += 1
    assert at > 10
    opt.update(params, arrays(0.5))


def test_an_assigned_lr_is_the_old_or_the_new_one():
    def assign(opt, lr):
        opt.lr = lr

    at, goes_on, seen = 1, True, set()
    while goes_on:
        opt = fastopt.SGD(lr=0.5)
        goes_on = interrupted(lambda opt=opt: assign(opt, 0.25), at)
        seen.add(opt.lr)
        at += 1
    assert seen == {0.5, 0.25}
    assert opt.lr == 0.25


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, RuntimeError])
def test_a_schedule_that_raises_is_not_assigned(error):
    def lr(step):
        raise error

    param, opt = np.zeros(1, F), fastopt.SGD(lr=0.5)
    with pytest.raises(error):
        opt.lr = lr
    assert opt.lr == 0.5
    opt.update(param, np.ones(1, F))
    assert param[0] == -0.5
