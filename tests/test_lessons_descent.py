"""The numbers of the lessons on parabolas, paths and averages, against what theory says."""

import math

import numpy as np
import pytest
from lesson_runs import facts

import fastopt
from fastopt.demo.lessons import averages, descent, minimising, paths


class TestMinimising:
    def test_gradient_descent(self):
        """w = 5 (1 − 0.8ᵗ), by hand and by fastopt."""
        f = facts("minimising")
        assert f["factor"] == pytest.approx(0.8)
        for step, gradient, w, computed in f["parabola"]:
            assert w == pytest.approx(5 * (1 - 0.8**step), rel=1e-12)
            assert gradient == pytest.approx(-10 * 0.8 ** (step - 1), rel=1e-12)
            assert computed == pytest.approx(w, rel=1e-6)

    def test_learning_rates(self):
        for lr, w in facts("minimising")["rates"].items():
            np.testing.assert_allclose(w - 5, -5 * (1 - 2 * lr) ** np.arange(len(w)), rtol=1e-4, atol=1e-5)
        ends = {lr: abs(w[-1] - 5) for lr, w in facts("minimising")["rates"].items()}
        assert ends[1.05] > 5 > ends[0.02] > ends[0.1] > ends[0.5]

    def test_momentum_steps(self):
        """The course's numbers: 0.1, then 0.9 · 0.1 + 0.1 · 0.9 = 0.18."""
        f = facts("minimising")
        np.testing.assert_allclose(f["first_steps"], [0.1, 0.18], rtol=1e-6)
        velocities = [row[2] for row in f["rolling"]]
        assert velocities == pytest.approx([-0.1, -0.18, -0.234, -0.2592, -0.25596])
        for _step, _gradient, _v, w, computed in f["rolling"]:
            assert computed == pytest.approx(w, rel=1e-5)

    def test_swing(self):
        """w[t+1] = 1.8 w[t] − 0.9 w[t−1]: the roots of z² − 1.8 z + 0.9 give the period and the factor a step."""
        f = facts("minimising")
        root = np.roots([1, -1.8, 0.9])[0]
        assert f["shrinks"] == pytest.approx(abs(root))
        assert f["period"] == pytest.approx(2 * math.pi / abs(np.angle(root)))
        assert f["half_turn"] == pytest.approx(f["period"] / 2, rel=0.05)
        exact = np.array([1.0, 0.9, *[0.0] * 79])
        for t in range(1, 80):
            exact[t + 1] = 1.8 * exact[t] - 0.9 * exact[t - 1]
        np.testing.assert_allclose(f["ball"], exact, atol=1e-6)

    @pytest.mark.parametrize(("name", "step"), [
        ("SGD", 1.0), ("ASGD", 1.0), ("Momentum", 1.0), ("Nesterov", 1.9), ("SGDM", 0.1), ("RAdam", 1.0), ("LARS", 1.0),
        ("Adam", 0.1), ("Adamax", 0.1), ("Adan", 0.1), ("Adagrad", 0.1), ("Lion", 0.1), ("Rprop", 0.1), ("LAMB", 0.1),
        ("RMSprop", 0.1 / math.sqrt(1 - 0.9)),
        ("Adadelta", 0.1 * math.sqrt(1e-6 / (0.1 * 100 + 1e-6)) * 10),
        ("Sophia", 0.1 * (1 - 0.9) * 10 / 2),
    ])
    def test_first_step(self, name, step):
        """Of (w − 5)² from 0 with lr = 0.1: the gradient is −10."""
        assert facts("minimising")["first"][name] == pytest.approx(step, rel=1e-4)

    def test_first_step_of_nadam(self):
        """Dozat's formula for t = 1, from momentum schedule mu."""
        mu1, mu2 = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * t)) for t in (1, 2))
        step = 0.1 * (mu2 * (1 - 0.9) / (1 - mu1 * mu2) + (1 - mu1) / (1 - mu1))
        assert facts("minimising")["first"]["NAdam"] == pytest.approx(step, rel=1e-3)

    def test_arrivals(self):
        f = facts("minimising")
        arrived = {name: step for name, _first, step in f["arrivals"]}
        assert set(arrived) == set(descent.OPTIMIZERS)
        assert arrived["SGD"] == math.ceil(math.log(f["near"] / 5) / math.log(0.8)) == 18
        for name, step in arrived.items():
            error = np.abs(f["runs"][name] - 5)
            if step is None:
                assert (error[minimising.STEPS:] >= f["near"]).any()
            else:
                assert error[step - 1] >= f["near"] > error[step:].max()
        assert arrived["Lion"] is None
        np.testing.assert_allclose(np.abs(np.diff(f["runs"]["Lion"])), f["lion_steps"], rtol=1e-4)
        assert f["lion_steps"] == pytest.approx(0.1)


class TestPaths:
    def test_theory(self):
        f = facts("paths")
        assert f["limit"] == 1
        assert f["condition"] == pytest.approx(20)
        assert f["best_rate"] == pytest.approx(2 / 2.1)
        assert f["best_factor"] == pytest.approx((f["condition"] - 1) / (f["condition"] + 1))
        np.testing.assert_allclose(f["gradient"], [-0.7, 4.0], rtol=1e-6)

    def test_gradient_descent_is_two_geometric_sequences(self):
        for lr, path in facts("paths")["zigzags"].items():
            t = np.arange(len(path))
            exact = np.column_stack([-7 * (1 - 0.1 * lr) ** t, 2 * (1 - 2 * lr) ** t])
            np.testing.assert_allclose(path, exact, rtol=1e-4, atol=1e-6)

    def test_table(self):
        f = facts("paths")
        assert {name for name, _lr, _steps in f["table"]} == set(descent.OPTIMIZERS)
        for name, lr, steps in f["table"]:
            path = f["tuned"][name][2]
            distance = np.hypot(*path.T)
            assert len(path) == steps + 1
            assert distance[-1] < f["near"] <= distance[-2]
            assert (np.abs(path) <= paths.FRAME).all()
            assert steps < paths.LATER
            assert f["lowest"] <= lr <= f["highest"]

    def test_sgd_arrives_when_theory_says(self):
        """Of the rates tried, the one for which max(7 |1 − 0.1 lr|ᵗ, …) is small soonest."""
        def steps(lr):
            t = np.arange(paths.LATER + 1)
            far = np.hypot(7 * (1 - 0.1 * lr) ** t, 2 * (1 - 2 * lr) ** t) >= 0.1
            return int(np.flatnonzero(far)[-1]) + 1
        lr, arrived, _path = facts("paths")["tuned"]["SGD"]
        assert arrived == steps(lr) == min(steps(lr) for lr in paths.RATES if lr < 1)

    def test_rprop_and_adagrad_set_off_diagonally(self):
        for name in ("Adagrad", "Adam", "Adamax", "RMSprop", "Lion", "Rprop"):
            first = np.diff(facts("paths")["tuned"][name][2][:2], axis=0)[0]
            assert first[0] == pytest.approx(-first[1], rel=1e-3)


class TestAverages:
    def test_windows(self):
        f = facts("averages")
        assert f["window"] == pytest.approx({0.9: 10, 0.98: 50})
        for beta, window in ((0.9, 10), (0.98, 50)):
            weights = (1 - beta) * beta ** np.arange(window)
            assert f["inside"][beta] == pytest.approx(weights.sum())
            assert f["inside"][beta] == pytest.approx(f["one_minus_e"], abs=0.025)
        assert f["share"] == pytest.approx({0.9: 0.1, 0.98: 0.02})

    def test_noise(self):
        """Theory, and 2000 measured channels: the standard error of their standard deviation is 1 / √4000."""
        f = facts("averages")
        for beta, noise in f["noise"].items():
            assert noise**2 == pytest.approx(sum(((1 - beta) * beta**k) ** 2 for k in range(5000)))
            assert f["measured"][beta] == pytest.approx(noise, rel=4 / math.sqrt(2 * f["channels"]))

    def test_losses(self):
        f = facts("averages")
        assert len(f["losses"]) == f["steps"] == 111
        assert 2 < f["losses"][0] < 4
        for beta in averages.BETAS:
            m = 0.0
            for t, loss in enumerate(f["losses"].astype(float), start=1):
                m = beta * m + (1 - beta) * loss
                assert f["plain"][beta][t - 1] == pytest.approx(m, rel=1e-5)
                assert f["corrected"][beta][t - 1] == pytest.approx(m / (1 - beta**t), rel=1e-5)
        tenth = f["tenth"]
        assert tenth["plain"] == pytest.approx(tenth["corrected"] * (1 - 0.98**10), rel=1e-5)
        assert tenth["corrected"] == pytest.approx(tenth["mean"], rel=0.02)
        assert (f["corrected"][0.98][30:] > f["losses"][30:]).mean() > 0.95     # the delay

    def test_adam(self):
        f = facts("averages")
        t = np.arange(1, 101)
        np.testing.assert_allclose(f["adam"][True], f["lr"], rtol=1e-3)
        np.testing.assert_allclose(f["adam"][False] / f["lr"], (1 - 0.9**t) / np.sqrt(1 - 0.999**t), rtol=1e-3)
        assert f["ratio"] == pytest.approx(math.sqrt(10))
        assert f["longest_step"] == int(np.argmax((1 - 0.9**t) / np.sqrt(1 - 0.999**t))) + 1 == 12
        assert f["longest"] == pytest.approx(6.57, abs=0.01)
        assert f["last"] == pytest.approx(1 / math.sqrt(1 - 0.999**100), rel=1e-3)


def test_every_optimizer_is_in_the_lessons():
    """AdamW without weight decay is Adam; Nesterov is an option of Momentum."""
    classes = {name for name in fastopt.__all__ if isinstance(getattr(fastopt, name), type)
               and issubclass(getattr(fastopt, name), fastopt.Optimizer)} - {"Optimizer", "AdamW"}
    assert classes | {"Nesterov"} == set(descent.OPTIMIZERS)
    assert [name for names in descent.FAMILIES.values() for name in names] == list(descent.OPTIMIZERS)
    for name in classes:
        assert type(descent.OPTIMIZERS[name](0.1)).__name__ == name
