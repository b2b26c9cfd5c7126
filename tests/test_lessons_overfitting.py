"""The lesson on overfitting: what it states."""

import lesson_runs
import numpy as np
import pytest

from fastopt.demo.lessons import overfitting

REMEDIES = ("L2", "L1", "dropout", "augmentation")


@pytest.fixture(scope="module")
def facts():
    return lesson_runs.facts("overfitting")


@pytest.fixture(scope="module")
def results(facts):
    return facts["results"]


def test_images(facts):
    """The images that validate are training images of the data set, and others than those trained with."""
    data = overfitting.digits()
    some = overfitting.few(data, 3)
    assert len(some.train.x) == facts["images"] == 300
    assert len(some.validation.x) == facts["others"] == len(data.train.x) - 300
    rows = {row.tobytes() for row in data.train.x}
    assert {row.tobytes() for part in (some.train, some.validation) for row in part.x} == rows
    assert facts["weights"] == 64 * 256 + 256 * 128 + 128 * 10


def test_by_heart(facts, results):
    none = results["none"]
    assert none["train_accuracy"] == 1
    assert none["accuracy"] < 0.96
    assert none["loss"] > 20 * none["train_loss"]
    assert facts["best_epoch"] < 0.4 * facts["epochs"]
    assert facts["lowest"] < none["loss"]


def test_remedies(results):
    """Each is better than none in the mean and in most seeds; augmentation most, then dropout."""
    none = results["none"]
    for name in REMEDIES:
        result = results[name]
        assert result["gap"] == result["loss"] - result["train_loss"] < none["gap"]
        assert result["loss"] < none["loss"]
        assert result["wins"] >= 3
    for name in ("L1", "L2"):
        assert abs(results[name]["accuracy"] - none["accuracy"]) < 0.005
        assert results["dropout"]["loss"] < results[name]["loss"]
    assert results["dropout"]["accuracy"] > none["accuracy"] + 0.005
    assert results["dropout"]["train_loss"] < 0.01
    assert results["augmentation"]["accuracy"] > results["dropout"]["accuracy"]
    assert results["augmentation"]["loss"] < 0.9 * results["dropout"]["loss"]


def test_zeros(facts, results):
    assert [results[name]["zero"] for name in ("none", "L2", "L1")] == [0, 0, 0]
    assert results["L1"]["small"] > 0.2
    assert results["L2"]["small"] < 0.02
    assert results["none"]["small"] < 0.01
    assert results["L2"]["norm"] < results["L1"]["norm"] < results["none"]["norm"]
    assert facts["pruned"] == pytest.approx(results["L1"]["accuracy"], abs=0.003)


def test_small_weights_are_as_small_as_the_last_pulls(facts, results):
    """With momentum 0.9 pulls add up to ten: most of the small weights are within a few times that."""
    weights = results["L1"]["weights"]
    small = weights[weights < facts["small"]]
    assert facts["pull"] == pytest.approx(0.05 * 3e-4)
    assert facts["last_pull"] == pytest.approx(facts["pull"] / 100)
    assert np.median(small) < 10 * facts["last_pull"]
    assert np.mean(small < 100 * facts["last_pull"]) > 0.8


def test_crossing(facts):
    """L1 falls by the pull each step and then jumps to and fro; L2 leaves 1 − ηλ of the weight each step."""
    l1, l2 = facts["crossing"]
    np.testing.assert_allclose(np.abs(np.diff(l1)), facts["pull"], rtol=1e-10)
    near = l1[np.abs(l1) <= facts["pull"]]
    assert set(np.sign(near)) == {-1, 1}
    np.testing.assert_allclose(l2, l2[0] * (1 - 0.05 * facts["l2"]) ** np.arange(len(l2)), rtol=1e-12)
