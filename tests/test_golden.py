"""Trajectories of torch.optim, recorded by tests/golden/record.py: the formulas are torch's, the rounding no worse.

Two comparisons with torch in float64. The reference's formula computed in float64 must agree to float64's rounding.
The float32 optimizer may be one and a half times as far off as torch in float32 is: both round every operation, torch
in another order and with other fusions. Distances are counted in units that a sum of rounded steps has: the
parameter's last place (each step rounds it) and the last place of the path it went.
"""

import numpy as np
import pytest
from golden.record import FILE, ROWS, STEPS, gradients, start, texts

import fastopt

WITH = np.load(FILE)
RECORDED32, RECORDED64 = WITH["float32"], WITH["float64"].astype(np.float64)
each_row = pytest.mark.parametrize("row", range(len(ROWS)), ids=texts())


def arguments(row):
    """The row's arguments as fastopt's class takes them."""
    options = dict(ROWS[row][1])
    if options.get("decoupled_weight_decay"):
        options["decoupled_weight_decay"] = options.pop("weight_decay")
    return ROWS[row][0], options, ROWS[row][2] if len(ROWS[row]) > 2 else "param"


def trajectory(row, module, dtype):
    """Every position from the start on."""
    name, options, what = arguments(row)
    opt, param = getattr(module, name)(**options), start().astype(dtype)
    positions = [param.copy()]
    for grad in gradients().astype(dtype):
        opt.update(param, grad)
        positions.append((param if what == "param" else opt.state[0][what]).copy())
    return np.array(positions)


def units(row):
    """For each recorded step and element the unit in which distances are counted."""
    positions = trajectory(row, fastopt.reference, np.float64)
    path = np.cumsum(np.abs(np.diff(positions, axis=0)), axis=0)
    largest = np.maximum.accumulate(np.abs(positions), axis=0)[1:]
    at = np.array(STEPS) - 1
    return np.spacing(largest[at].astype(np.float32)) + 2.0**-23 * path[at]


def test_the_file_is_of_these_rows():
    assert WITH["rows"].tolist() == texts()
    assert WITH["steps"].tolist() == list(STEPS)
    assert RECORDED32.dtype == np.float32
    assert FILE.stat().st_size < 250_000


def test_the_problem_is_not_trivial():
    """Every row moves, and no two rows are alike; gradients and start have the same values in float32."""
    assert (gradients() == gradients().astype(np.float32)).all()
    assert (start() == start().astype(np.float32)).all()
    last = RECORDED64[:, -1]
    assert (np.abs(last - start()).max(axis=1) > 1e-3).all()
    assert len({row.tobytes() for row in last}) == len(ROWS)


@each_row
def test_formula_in_float64(row):
    ours = trajectory(row, fastopt.reference, np.float64)[np.array(STEPS)]
    np.testing.assert_allclose(ours, RECORDED64[row], rtol=1e-13, atol=1e-13)


@each_row
def test_rounding_in_float32(row, level):
    unit = units(row)
    ours = trajectory(row, fastopt, np.float32)[np.array(STEPS)]
    ours = (np.abs(ours - RECORDED64[row]) / unit).max(axis=1)
    theirs = (np.abs(RECORDED32[row] - RECORDED64[row]) / unit).max(axis=1)
    assert (ours <= 1.5 * theirs + 0.5).all()
