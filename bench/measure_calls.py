"""What a call of an optimizer costs beside its arithmetic: `python bench/measure_calls.py` prints the table.

Adam on arrays of 100 elements, of which the arithmetic takes 0.03 µs each. All forms of a call are timed in turn, round
by round; medians.
"""

import argparse
import itertools

import numpy as np

import fastopt
from fastopt.bench import timing
from fastopt.bench.table import Table

KEYS = [f"layer{i}" for i in range(10)]


def arrays():
    return [np.ones(100, np.float32) for _ in KEYS]


def model():
    return dict(zip(KEYS, arrays(), strict=True))


def pairs(arrays):
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def calls():
    """For each form of the call its name, the parameters that one takes, and a function of no arguments."""
    grads = arrays()
    one, keyed = grads[0], model()
    absent = {**keyed, KEYS[3]: None}

    def updates(params, grads, **options):
        opt = fastopt.Adam(**options)
        return lambda: opt.update(params, grads)

    def in_turn(call, params):
        items = itertools.cycle(params)
        return lambda: call(*next(items))

    def by_update():
        opt = fastopt.Adam()
        return in_turn(opt.update, [({key: array}, {key: one}) for key, array in model().items()])

    def by_update_one(*models):
        opt = fastopt.Adam()
        return in_turn(opt.update_one, [(key, array, one) for params in models for key, array in params.items()])

    def replaced(*models):
        opt = fastopt.Adam()
        return in_turn(opt.update, [(params, keyed) for params in models])

    m, v, param = arrays()[:3]
    yield "`fastopt.adam`", 1, lambda: fastopt.adam(param, one, m, v, step=3, lr=1e-3)
    yield "`update_one`", 1, by_update_one(model())
    yield "`update_one`, a new array each time", 1, by_update_one(model(), model())
    yield "`update` of one array", 1, updates(arrays()[0], one)
    yield "`update` of one key, ten of them in turn", 1, by_update()
    yield "`update` of a dict", 10, updates(model(), keyed)
    yield "`update` of a dict, a gradient is None", 10, updates(model(), absent)
    yield "`update` of a list of five (W, b)", 10, updates(pairs(arrays()), pairs(grads))
    yield "`update` of a dict, a schedule", 10, updates(model(), keyed, lr=fastopt.schedules.constant(1e-3))
    yield "`update` of a dict, `clip_norm`", 10, updates(model(), keyed, clip_norm=1.0)
    yield "`update` of a dict, new arrays each time", 10, replaced(model(), model())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=101)
    options = parser.parse_args(argv)
    table = Table(("call", "parameters", "µs", "of `fastopt.adam`"), "lrrr")
    print(table.head())
    rows = list(calls())
    for _, _, call in rows:
        timing.seconds(call, 30)            # binds the arrays
    times = timing.medians(timing.race({name: call for name, _, call in rows}, rounds=options.rounds, turn=2e-4))
    function = times[rows[0][0]]
    for name, count, _ in rows:
        print(table.row(name, count, f"{times[name] * 1e6:.2f}", f"{times[name] / function:.2f}"))


if __name__ == "__main__":
    main()
