"""The lesson on schedules: what it states."""

import math

import lesson_runs
import numpy as np
import pytest

import fastopt
from fastopt.demo.lessons import schedules
from fastopt.demo.settings import SCHEDULES, Settings


@pytest.fixture(scope="module")
def facts():
    return lesson_runs.facts("schedules")


def test_every_schedule_is_shown(facts):
    assert facts["rates"].keys() == set(fastopt.schedules.__all__)
    for name in fastopt.schedules.__all__:
        assert f"`{name}`" in schedules.TEXT
    assert {settings["schedule"] for settings in schedules.CONTENDERS.values()} == set(SCHEDULES)


def test_formulas(facts):
    """Those of the table, from t = step − 1 updates made before."""
    t, n, w = np.arange(schedules.STEPS + 1), schedules.STEPS, 100
    expected = {
        "constant": np.ones(n + 1), "exponential_decay": 0.01 ** (t / n), "inverse_time_decay": 1 / (1 + 99 * t / n),
        "inv_scaling": 1 / np.sqrt(1 + t), "cosine": (1 + np.cos(np.pi * t / n)) / 2,
        "linear_warmup": np.minimum(t / w, 1), "noam": 10 * np.minimum((t + 1) ** -0.5, (t + 1) * w**-1.5),
        "inverse_sqrt": np.where(t < w, t / w, np.sqrt(w / np.maximum(t, 1))),
        "piecewise_constant": np.select([t < n // 3, t < 2 * n // 3], [1, 0.1], 0.01),
        "join": np.where(t < w, t / w, (1 + np.cos(np.pi * (t - w) / (n - w))) / 2),
    }
    assert expected.keys() == facts["rates"].keys()
    for name, rates in expected.items():
        np.testing.assert_allclose(facts["rates"][name], rates, rtol=1e-12, atol=1e-15, err_msg=name)
        assert rates.max() == pytest.approx(1)


def test_halfway(facts):
    assert facts["halfway"]["cosine"] == pytest.approx(0.5)
    assert facts["halfway"]["exponential_decay"] == pytest.approx(0.1)
    assert facts["halfway"]["inverse_time_decay"] == pytest.approx(1 / 50.5)
    assert facts["last"]["exponential_decay"] == pytest.approx(0.01)
    assert facts["last"]["inverse_time_decay"] == pytest.approx(0.01)


def test_effect(facts):
    losses = {name: train for name, train, _ in facts["table"]}
    large, small = "constant, 0.2", "constant, 0.002"
    assert losses[small] > 5 * losses[large]
    assert losses["inverse-time"] > losses[large]
    assert losses["piecewise"] == pytest.approx(losses["cosine"], rel=0.15)
    assert max(losses["piecewise"], losses["cosine"]) < 0.8 * losses["exponential"]
    assert facts["ratio"] == losses["cosine"] / losses[large] < 0.8
    validation = {name: loss for name, _, loss in facts["table"]}
    assert min(validation, key=validation.get) in ("cosine", "piecewise")
    assert facts["restless"] > 5 * facts["calm"]


def test_change():
    losses = 0.5 ** np.arange(schedules.EPOCHS)[None]
    assert schedules.change(losses) == pytest.approx(0.5)
    assert schedules.change(np.ones((3, schedules.EPOCHS))) == 0


def test_warm_up(facts):
    (_, high, without), (_, low, warmed) = facts["warmed_table"]
    assert high > 2 * facts["know_nothing"] == pytest.approx(2 * math.log(10))
    assert low < 1.2 * facts["know_nothing"]
    assert warmed < without / 2
    assert facts["warmed_wins"] >= facts["warmed_seeds"] - 1     # a fair coin does so once in 28 times
    assert Settings().warmup == 0.05
    assert Settings().final_lr == 0.01
