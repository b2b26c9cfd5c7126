"""The lesson on searching hyper-parameters: what it states."""

import math

import lesson_runs
import numpy as np
import pytest

from fastopt.demo.lessons import hyperparameters


@pytest.fixture(scope="module")
def facts():
    return lesson_runs.facts("hyperparameters")


def test_decades(facts):
    """Shares of 10,000 draws, within four standard deviations of what they are drawn from."""
    for (_, linear, logarithmic), expected in zip(facts["decades"], facts["linear_expected"], strict=True):
        assert linear == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / facts["draws"]))
        assert logarithmic == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / facts["draws"]))
    assert sum(facts["linear_expected"]) == pytest.approx(1)
    assert facts["linear_expected"][3] == pytest.approx(0.9 / 0.9999)
    assert sum(linear for _, linear, _ in facts["decades"]) == pytest.approx(1)


def test_momentum(facts):
    """The median of 10,000 draws of log(1 − β) is within four standard errors of the middle, here 0.18."""
    middle = math.log(math.sqrt(0.1 * 0.001))
    assert math.log(1 - facts["median_momentum"]) == pytest.approx(middle, abs=4 * math.log(100) / 2 / 100)
    assert facts["steps_905"] == pytest.approx(10.53, abs=0.01)


def test_distinct_values(facts):
    assert facts["trials"] == 27
    assert facts["distinct"]["grid"] == {"lr": 3, "l2": 3, "dropout": 3}
    assert facts["distinct"]["random"]["lr"] == facts["distinct"]["random"]["l2"] == 27
    assert facts["distinct"]["random"]["dropout"] >= 26      # three digits: two of 27 may be equal
    assert facts["per_value"] == 9
    assert [len(facts["points"][name]) for name in ("grid", "random")] == [27, 27]


def test_learning_rate_decides(facts):
    assert facts["explained"]["lr"] > 0.4
    assert facts["explained"]["l2"] < 0.1
    assert facts["explained"]["dropout"] < 0.1
    assert facts["pooled"] == facts["trials"] * facts["searches"]


def test_explained():
    """All of a parabola, and of noise two in n: the linear and the quadratic term fit that much by chance."""
    positions = list(np.linspace(0, 1, 1000))
    assert hyperparameters.explained(positions, np.exp(3 * np.square(positions))) == pytest.approx(1)
    noise = np.random.default_rng(0).standard_normal(1000)
    assert 0 < hyperparameters.explained(positions, np.exp(noise)) < 0.01


def test_grid_and_random(facts):
    """The mean and the worst of the five ranges; the lucky grid is within a third of a decade of the random best."""
    grid, random = (np.array(column) for column in list(zip(*facts["compared"], strict=True))[2:])
    assert facts["mean"] == {"grid": grid.mean(), "random": random.mean()}
    assert facts["worst"] == {"grid": grid.max(), "random": random.max()}
    assert facts["mean"]["random"] < facts["mean"]["grid"]
    assert facts["worst"]["random"] < facts["worst"]["grid"]
    assert len(grid) == facts["searches"]
    assert grid.argmin() == facts["searches"] // 2
    best = facts["points"]["random"][int(facts["losses"]["random"].argmin())]["lr"]
    assert abs(math.log10(facts["lucky"] / best)) < 1 / 3
    rates = sorted({point["lr"] for point in facts["points"]["grid"]})
    spacing = np.diff(np.log10(rates))
    np.testing.assert_allclose(spacing, facts["apart"], rtol=0.01)
    assert facts["farthest"] == facts["apart"] / 2
    for low, high, _, _ in facts["compared"]:
        assert math.log10(high / low) == pytest.approx(4, abs=0.01)
    np.testing.assert_allclose(np.diff(hyperparameters.SHIFTS), spacing.mean() / facts["searches"], rtol=0.01)


def test_mean_distance_of_random_points(facts):
    """n uniform points cut a range into n + 1 parts of equal mean."""
    draws = np.random.default_rng(0).uniform(0, 4, (4000, facts["trials"]))
    assert np.diff(np.sort(draws), axis=1).mean() == pytest.approx(facts["spacing"], rel=0.01)


def test_coarse_to_fine(facts):
    assert facts["widths"][0] == pytest.approx(4)
    assert facts["widths"][0] > 2 * facts["widths"][1] > facts["widths"][2]
    assert facts["widths"] == sorted(facts["widths"], reverse=True)
    assert facts["medians"] == sorted(facts["medians"], reverse=True)
    assert facts["medians"][2] < facts["medians"][0] / 4
    for space, points, losses in facts["rounds"]:
        assert len(points) == len(losses) == facts["per_round"] == facts["trials"] // 3
        low, high = space.parameters[0].low, space.parameters[0].high
        assert all(low <= point["lr"] <= high for point in points)
    assert facts["fine_best"] == min(min(losses) for _, _, losses in facts["rounds"])


def test_a_training_that_diverges_counts_as_knowing_nothing():
    space = hyperparameters.space_of(0)
    data = hyperparameters.digits()
    assert hyperparameters.loss_of(data, space, {"lr": 1e20, "l2": 0.0, "dropout": 0.0}) == math.log(10)
