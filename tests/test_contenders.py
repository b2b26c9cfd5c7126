"""The registry of contenders: one entry makes a row of every benchmark; a case's states follow from the signature."""

import inspect
import re

import bench_adam
import bench_adaptive
import bench_layerwise
import bench_sgd
import bench_sign
import measure_ratios
import numpy as np
import pytest
import rows

import fastopt
from fastopt.bench import activation, timing
from fastopt.bench.contenders import CONTENDERS, ROOF, Contender, WrongResultError, contender, library, prepare
from fastopt.bench.optimizers import ADAM, Case, one_tensor
from fastopt.bench.table import Table

CASES = [case for family in (bench_sgd, bench_adaptive, bench_adam, bench_sign, bench_layerwise)
         for case in family.CASES]


@pytest.fixture
def mine(monkeypatch):
    """One more contender for Adam, registered as bench/README.md says."""
    monkeypatch.setitem(CONTENDERS, "adam", dict(CONTENDERS["adam"]))

    @contender("mylibrary", "adam")
    def mylibrary_adam(problem):
        fastopt.adam(*problem.streams, step=1)
        return Contender(lambda: fastopt.adam(*problem.streams, step=2), lambda _: problem.params)

    return mylibrary_adam


def test_a_registered_contender_has_rows(mine, capsys, monkeypatch):
    workload = one_tensor(ADAM, "1k", 1000)
    assert "mylibrary" in [row.values[1] for row in rows.rows([workload]).args[1]]
    assert prepare(workload, "mylibrary")[1] < 1e-6
    monkeypatch.setattr(timing, "WARM", 0.0)
    monkeypatch.setattr(measure_ratios, "contenders", lambda workload: ["fastopt", "mylibrary"])
    measure_ratios.main(["adam", "--sizes", "100", "--rounds", "2"])
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    column = [title.strip() for title in head.split("|")].index("mylibrary")
    assert re.match(r"[\d.]+ \(", row.split("|")[column].strip())


def test_a_slow_library_does_not_take_part_in_large_workloads(mine):
    names = rows.contenders(one_tensor(ADAM, "100M", 100_000_000))
    assert names == ["fastopt", ROOF, "torch"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_are_those_of_both_signatures(case):
    """NumPy's form names them as fastopt's function does, in its order."""
    parameters = [name for name, parameter in list(inspect.signature(case.numpy).parameters.items())[2:]
                  if parameter.default is parameter.empty]
    assert tuple(parameters) == case.states
    assert all(len(letters) == 2 + len(case.states) for group in case.passes for letters in group.split())


@pytest.mark.parametrize(("form", "states"), [
    (lambda p, g: None, ("m", "v")),
    (lambda p, g, m, v: None, ("m", "v")),
    (lambda p, g, m, v, vmax: None, ("m", "v", "vmax")),
])
def test_optional_states_are_those_that_numpy_takes(form, states):
    assert Case("adam", form).states == states
    assert Case("adam", form).stepped
    assert not Case("sgdm", lambda p, g, m: None).stepped


def test_race_takes_contenders_in_turn():
    order = []
    times = timing.race({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, turn=0.0)
    assert {name: len(column) for name, column in times.items()} == {"a": 3, "b": 3}
    assert "".join(order) == "ab" + 3 * "ab"        # one call of each to see how long it takes, then the rounds


def test_ratio():
    found = timing.ratio([2.0, 4.0, 9.0], [1.0, 1.0, 3.0])
    assert (found.median, found.best) == (3.0, 2.0)
    assert found.low <= found.median <= found.high


def test_tables():
    markdown = Table(("name", "ns"), "lr")
    assert markdown.lines([("a", 1)]) == "| name | ns |\n|---|---:|\n| a | 1 |"
    plain = Table(("name", "ns"), "lr", (6, 4))
    assert plain.lines([("a", 1)]) == "name     ns\na         1"
    with pytest.raises(ValueError, match="expected 2 cells, got 1"):
        plain.row("a")
    with pytest.raises(ValueError, match="expected an alignment and a width for each of 1 titles"):
        Table(("name",), "lr")


def test_the_roof_moves_what_the_passes_say():
    workload = one_tensor(ADAM, "100", 100)
    made, error = prepare(workload, ROOF)
    assert (made.call(), error, workload.moved) == ([0.0], 0.0, 28)
    assert np.isfinite(error)


def test_every_form_of_activation_is_right():
    for workload in (activation.workload(direction, name, (40, 30), p) for direction in activation.DIRECTIONS
                     for name in activation.FUNCTIONS for p in (0.0, 0.3)):
        for name in CONTENDERS[workload.kernel]:
            if library(name) in ("fastopt", "reference", "numpy"):
                prepare(workload, name)


@pytest.mark.parametrize(("direction", "spoil"), [
    ("activation_forward", lambda y: [np.where(y == y.max(), 0.999 * y, y)]),
    ("activation_forward", lambda y: [y * (np.random.default_rng(0).random(y.shape) >= 0.5)]),    # dropped twice
    ("activation_forward", lambda y: [np.where(y == y.max(), np.nan, y)]),
    ("activation_backward", lambda dx, dbias: [dx, dbias + 0.01]),
    ("activation_backward", lambda dx, dbias: [0.7 * dx, 0.7 * dbias]),
])
def test_a_wrong_activation_is_refused(monkeypatch, direction, spoil):
    workload = activation.workload(direction, "relu", (100, 80), 0.3)
    made = CONTENDERS[workload.kernel]["fastopt"]

    def wrong(problem):
        contender = made(problem)
        return Contender(contender.call, lambda returned: spoil(*contender.result(returned)))

    monkeypatch.setitem(CONTENDERS[workload.kernel], "fastopt", wrong)
    with pytest.raises(WrongResultError):
        prepare(workload, "fastopt")
