"""Every optimizer function against the reference, bit by bit: the calls of optimizer_cases.py."""

import itertools

import numpy as np
import pytest
from helpers import SPECIAL, THREADS, assert_same_bits, random_bits, unaligned
from optimizer_cases import CALLS

import fastopt

STEPS = (1, 2, 7, 987, 7067, 2**24 - 1, 2**24 + 1, 2**31 + 1)
SHARED = (
    {},
    {"weight_decay": 0.01},
    {"l1": 0.003},
    {"weight_decay": 0.01, "l1": 0.003, "decoupled_weight_decay": 0.1, "clip_value": 0.5},
    {"maximize": True, "grad_scale": 0.37},
)
"""Sets of shared options; the average is one more state array."""


class Rule:
    """One call of one function, and the checks' inputs for it."""

    def __init__(self, call):
        self.call, self.name, self.states = call, call.row.function, call.states
        self.stepped = "step" in call.row.taken

    def __str__(self):
        return str(self.call)

    def run(self, module, arrays, options):
        options = {name: value for name, value in options.items() if name in self.call.row.taken}
        getattr(module, self.name)(**{**arrays, **options, **self.call.options})

    def kernel(self, arrays, **options):
        self.run(fastopt, arrays, options)

    def reference(self, arrays, **options):
        with np.errstate(all="ignore"):
            self.run(fastopt.reference, arrays, options)

    def random(self, rng, shape, average):
        names = ("param", "grad", *self.states, *(["average"] if average else []))
        return {name: random_bits(rng, shape) for name in names}

    def normal(self, rng, shape, average):
        arrays = self.random(rng, shape, average)
        for name, array in arrays.items():
            array[...] = rng.standard_normal(shape)
            if name not in ("param", "grad"):
                np.abs(array, out=array)
        return arrays

    def check(self, arrays, what="", **options):
        """Run both on copies of `arrays` and compare every array, the gradient included."""
        ours = {name: array.copy() for name, array in arrays.items()}
        theirs = {name: array.copy() for name, array in arrays.items()}
        self.kernel(ours, **options)
        self.reference(theirs, **options)
        for name in arrays:
            assert_same_bits(ours[name], theirs[name], f"{self} {what} {name}")
        assert_same_bits(ours["grad"], arrays["grad"], f"{self}: grad was written")


def averaging(average):
    return {"average_decay": 0.99} if average else {}


def pytest_generate_tests(metafunc):
    """`rule` runs over the class's rules."""
    if "rule" in metafunc.fixturenames:
        metafunc.parametrize("rule", metafunc.cls.rules, ids=str)


class TestElementwise:
    rules = tuple(Rule(call) for call in CALLS if not call.row.layerwise)

    @pytest.mark.parametrize("average", [False, True])
    @pytest.mark.parametrize("shared", SHARED, ids=str)
    def test_random_bits(self, rule, level, shared, average, rng):
        arrays = rule.random(rng, 5000, average)
        for step in STEPS if rule.stepped else (1,):
            rule.check(arrays, f"step {step}", lr=0.01, step=step, **shared, **averaging(average))

    @pytest.mark.parametrize("shared", SHARED, ids=str)
    def test_normal_values(self, rule, level, shared, rng):
        for n in (1, 1000):
            rule.check(rule.normal(rng, n, True), lr=0.01, step=3, **shared, **averaging(True))

    def test_every_length_at_every_offset(self, rule, level, rng):
        """The step is elementwise: the reference is computed once and its slices compared."""
        arrays = rule.normal(rng, 300, True)
        options = {"lr": 0.01, "step": 2, "weight_decay": 0.01, **averaging(True)}
        expected = {name: array.copy() for name, array in arrays.items()}
        rule.reference(expected, **options)
        room = {name: unaligned(np.empty(300, np.float32), 0) for name in arrays}
        for offset in range(16):
            for n in range(258):
                inside = slice(offset, offset + n)
                for name, array in arrays.items():
                    room[name][...] = -7.0
                    room[name][inside] = array[:n]
                rule.kernel({name: array[inside] for name, array in room.items()}, **options)
                for name, array in room.items():
                    assert_same_bits(array[inside], expected[name][:n], f"{rule} {name} n={n} offset={offset}")
                    assert (array[:offset] == -7.0).all()
                    assert (array[offset + n :] == -7.0).all(), f"{rule} {name}: written past the end, n={n}"

    def test_special_values(self, rule, level):
        """Every combination of special values over param, grad and the first two states."""
        names = ("param", "grad", *rule.states)
        grid = np.array(list(itertools.product(SPECIAL, repeat=min(len(names), 4))), np.float32).T
        arrays = {name: np.ascontiguousarray(grid[i % len(grid)]) for i, name in enumerate(names)}
        for options in ({}, {"weight_decay": 0.1, "l1": 0.1}, {"clip_value": 1.0, "decoupled_weight_decay": 0.1}):
            for step in (1, 2):
                rule.check(arrays, str(options), lr=0.1, step=step, **options)

    def test_trajectory(self, rule, level, rng):
        """A thousand steps with the state that they leave."""
        ours = rule.normal(rng, 67, True)
        for state in rule.states:
            ours[state][...] = 0.0
        theirs = {name: array.copy() for name, array in ours.items()}
        for step in range(1, 1001):
            grad = rng.standard_normal(67, dtype=np.float32)
            ours["grad"][...] = theirs["grad"][...] = grad
            options = {"lr": 0.1 / step, "step": step, "weight_decay": 1e-3, **averaging(True)}
            rule.kernel(ours, **options)
            rule.reference(theirs, **options)
        for name in ours:
            assert_same_bits(ours[name], theirs[name], f"{rule} {name}")

    chunks = (16, 1008, 8192, 2**20)

    def test_threads_and_chunks(self, rule, level, rng, always_parallel, chunk):
        arrays = rule.normal(rng, 20011, True)
        expected = {name: array.copy() for name, array in arrays.items()}
        options = {"lr": 0.01, "step": 5, "l1": 0.01, **averaging(True)}
        rule.reference(expected, **options)
        for size in self.chunks:
            chunk(size)
            for threads in THREADS:
                ours = {name: array.copy() for name, array in arrays.items()}
                with fastopt.num_threads(threads):
                    rule.kernel(ours, **options)
                for name in ours:
                    assert_same_bits(ours[name], expected[name], f"{rule} {name} threads={threads} chunk={size}")

    def test_shapes(self, rule, level, rng):
        for shape in ((), (0,), (3, 0, 2), (1,), (5, 7), (2, 3, 4, 5)):
            rule.check(rule.normal(rng, shape, True), str(shape), lr=0.01, step=1, **averaging(True))


class TestLayerwise(TestElementwise):
    """Steps that depend on the tensor's norms: a slice has other norms, and sums are in blocks of 8192."""

    rules = tuple(Rule(call) for call in CALLS if call.row.layerwise)
    chunks = (8192,)

    def test_every_length_at_every_offset(self, rule, level, rng):
        for n in (*range(80), 255, 256, 257, 8191, 8192, 8193, 16500):
            arrays = rule.normal(rng, n, True)
            for offset in (0, 1, 7):
                rule.check({name: unaligned(array, offset) for name, array in arrays.items()}, f"n={n} offset={offset}",
                           lr=0.01, step=2, weight_decay=0.01, **averaging(True))
