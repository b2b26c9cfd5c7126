"""The lesson on softmax: what it states."""

import math

import lesson_runs
import numpy as np
import pytest

from fastopt.demo.lessons import softmax


@pytest.fixture(scope="module")
def facts():
    return lesson_runs.facts("softmax")


def test_table(facts):
    powers = [math.exp(z) for z in (5, 2, -1, 3)]
    assert [row[1] for row in facts["table"]] == [5, 2, -1, 3]
    for (_, _, power, by_hand, computed), expected in zip(facts["table"], powers, strict=True):
        assert power == pytest.approx(expected, rel=1e-15)
        assert by_hand == pytest.approx(expected / sum(powers), rel=1e-14)
        assert computed == pytest.approx(by_hand, rel=3e-7)
    assert facts["total"] == pytest.approx(176.2556, abs=1e-4)
    assert facts["ratio"] == pytest.approx(math.exp(3), rel=1e-12)


def test_temperature(facts):
    powers = np.exp([5, 2, -1, 3])
    for t, probabilities in facts["temperatures"].items():
        np.testing.assert_allclose(probabilities, powers ** (1 / t) / (powers ** (1 / t)).sum(), rtol=1e-6)
        assert probabilities.argsort().tolist() == [2, 1, 3, 0]
    sure = [probabilities[0] for probabilities in facts["temperatures"].values()]
    assert sure == sorted(sure, reverse=True)


def test_large_logits(facts):
    assert facts["naive"] == "nan"
    assert facts["overflow"] == pytest.approx(math.log(2.0**128), abs=1e-5)     # float32 ends just below 2¹²⁸
    np.testing.assert_allclose(facts["stable"], facts["probabilities"], rtol=3e-7)
    np.testing.assert_allclose(facts["stable_by_hand"], facts["probabilities"], rtol=3e-7)


def test_losses(facts):
    for (_, p, loss), z in zip(facts["losses"], (5, 2, -1, 3), strict=True):
        assert loss == pytest.approx(math.log(facts["total"]) - z, rel=1e-7)
        assert loss == pytest.approx(-math.log(p), rel=1e-6)
    assert facts["know_nothing"] == pytest.approx(-math.log(0.1))


def test_gradient(facts):
    """The central difference is off by at most h²/6 · max|third derivative|, below 0.1, and by rounding of the loss."""
    for _, expected, gradient, slope in facts["gradients"]:
        assert gradient == pytest.approx(expected, abs=1e-7)
        assert slope == pytest.approx(expected, abs=facts["h"] ** 2 / 6 * 0.1 + 1e-6)
    assert facts["worst"] == max(abs(slope - gradient) for _, _, gradient, slope in facts["gradients"])
    assert facts["worst"] > 0


def test_squared_error(facts):
    """Against finite differences of ½ Σ (ŷ − y)² in float64."""
    def error(z):
        p = softmax.stable_softmax(np.array([z, 0.0]))
        return 0.5 * ((p[0] - 1) ** 2 + p[1] ** 2)

    z = math.log(facts["sure"] / (1 - facts["sure"]))
    assert facts["squared_gradient"] == pytest.approx((error(z + 1e-5) - error(z - 1e-5)) / 2e-5, rel=1e-6)
    p = np.linspace(0, 1, 101)
    np.testing.assert_allclose(-softmax.squared_error_gradient(p), 2 * p * (1 - p) ** 2, atol=1e-15)
    assert facts["cross_gradient"] == facts["sure"] - 1


def test_hard_example(facts):
    assert facts["accuracy"] > 0.95
    assert facts["hard_guess"] != facts["hard_label"]
    assert facts["hard_loss"] == pytest.approx(-math.log(facts["hard_p"]), rel=1e-6)
    assert facts["hard_probabilities"].sum() == pytest.approx(1, rel=1e-6)
    assert facts["hard_share"] > 10 / facts["images"]
