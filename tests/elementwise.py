"""The checks that every elementwise optimizer goes through: the kernel's bits are the reference's.

A family's test module lists its functions as Rule rows and inherits the checks:

    RULES = [Rule("adam", ("m", "v"), {"step": 3}), …]
    class TestBits(Elementwise):
        rules = RULES
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers import SPECIAL, THREADS, assert_same_bits, random_bits, unaligned

import fastopt

STEPS = (1, 2, 7, 987, 7067, 2**24 - 1, 2**24 + 1, 2**31 + 1)
COMMON = (
    {},
    {"weight_decay": 0.01},
    {"l1": 0.003},
    {"weight_decay": 0.01, "l1": 0.003, "decoupled_weight_decay": 0.1, "clip_value": 0.5},
    {"maximize": True, "grad_scale": 0.37},
)
"""Option sets of what every optimizer has; the average is a state array and always on in half of the rules."""


@dataclass(frozen=True)
class Rule:
    """One function with one choice of its own options."""

    name: str
    states: tuple
    options: dict = field(default_factory=dict)
    stepped: bool = True
    """Whether the function takes a step."""
    lacks: tuple = ()
    """Options of the other optimizers that this one does not take; the checks leave them out."""

    def __str__(self):
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    def call(self, module, arrays, options):
        options = {name: value for name, value in options.items() if name not in self.lacks}
        getattr(module, self.name)(**arrays, **self.options, **options)

    def kernel(self, arrays, **options):
        self.call(fastopt, arrays, options)

    def reference(self, arrays, **options):
        with np.errstate(all="ignore"):
            self.call(fastopt.reference, arrays, options)

    def step(self, step):
        return {"step": step} if self.stepped else {}

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
    """For the family's module to import: `rule` runs over the class's rules."""
    if "rule" in metafunc.fixturenames:
        metafunc.parametrize("rule", metafunc.cls.rules, ids=str)


class Elementwise:
    rules = ()

    @pytest.mark.parametrize("average", [False, True])
    @pytest.mark.parametrize("common", COMMON, ids=str)
    def test_random_bits(self, rule, level, common, average, rng):
        arrays = rule.random(rng, 5000, average)
        for step in STEPS if rule.stepped else (1,):
            rule.check(arrays, f"step {step}", lr=0.01, **rule.step(step), **common, **averaging(average))

    @pytest.mark.parametrize("common", COMMON, ids=str)
    def test_normal_values(self, rule, level, common, rng):
        for n in (1, 1000):
            rule.check(rule.normal(rng, n, True), lr=0.01, **rule.step(3), **common, **averaging(True))

    def test_every_length_at_every_offset(self, rule, level, rng):
        """Elementwise: the reference is computed once and its slices compared."""
        arrays = rule.normal(rng, 300, True)
        options = {"lr": 0.01, **rule.step(2), "weight_decay": 0.01, **averaging(True)}
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
                rule.check(arrays, str(options), lr=0.1, **rule.step(step), **options)

    def test_trajectory(self, rule, level, rng):
        """A thousand steps with the state that they leave."""
        ours = rule.normal(rng, 67, True)
        for state in rule.states:
            ours[state][...] = 0.0
        theirs = {name: array.copy() for name, array in ours.items()}
        for step in range(1, 1001):
            grad = rng.standard_normal(67, dtype=np.float32)
            ours["grad"][...] = theirs["grad"][...] = grad
            options = {"lr": 0.1 / step, **rule.step(step), "weight_decay": 1e-3, **averaging(True)}
            rule.kernel(ours, **options)
            rule.reference(theirs, **options)
        for name in ours:
            assert_same_bits(ours[name], theirs[name], f"{rule} {name}")

    chunks = (16, 1008, 8192, 2**20)

    def test_threads_and_chunks(self, rule, level, rng, always_parallel, chunk):
        arrays = rule.normal(rng, 20011, True)
        expected = {name: array.copy() for name, array in arrays.items()}
        options = {"lr": 0.01, **rule.step(5), "l1": 0.01, **averaging(True)}
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
            rule.check(rule.normal(rng, shape, True), str(shape), lr=0.01, **rule.step(1), **averaging(True))


class Layerwise(Elementwise):
    """For rules that look at the tensor's norms: a slice's result is another, and a sum's order is by 8192."""

    chunks = (8192,)

    def test_every_length_at_every_offset(self, rule, level, rng):
        for n in (*range(80), 255, 256, 257, 8191, 8192, 8193, 16500):
            arrays = rule.normal(rng, n, True)
            for offset in (0, 1, 7):
                rule.check({name: unaligned(array, offset) for name, array in arrays.items()}, f"n={n} offset={offset}",
                           lr=0.01, **rule.step(2), weight_decay=0.01, **averaging(True))
