"""The numbers of the lessons on starts, BatchNorm and gradients: derived ones, and limits of trainings."""

import math

import numpy as np
import pytest
from lesson_runs import facts

from fastopt.demo.data import digits
from fastopt.demo.lessons import batchnorm, batchnorm_inference, gradients, initialisation


def relu_signal(layers):
    """The standard deviations over inputs behind He's weights, for infinitely many units (Cho and Saul 2009).

    The correlation r of two inputs becomes (√(1 − r²) + r (π − arccos r)) / π; a unit's mean square stays 1.
    """
    r, expected = 0.0, []
    for _ in range(layers):
        r = (math.sqrt(1 - r * r) + r * (math.pi - math.acos(r))) / math.pi
        expected.append(math.sqrt(1 - r))
    return np.array(expected)


class TestInitialisation:
    def test_standard_deviations_of_weights(self):
        f = facts("initialisation")
        assert f["xavier_std"] == pytest.approx(1 / 16)
        assert f["he_std"] == pytest.approx(math.sqrt(2) / 16)

    def test_relu(self):
        signal = facts("initialisation")["signal"]["relu"]
        expected = relu_signal(5)
        np.testing.assert_allclose(signal["he"], expected, rtol=0.06)
        layers = np.arange(1, 6)
        np.testing.assert_allclose(signal["xavier"], expected * 0.5 ** (layers / 2), rtol=0.06)
        np.testing.assert_allclose(signal["normal"], expected * math.sqrt(256 * 1e-4 / 2) ** layers, rtol=0.15)
        assert signal["zero"] == [0] * 5

    def test_mean_squares(self):
        """1 behind each of He's layers, halved by each of Xavier's; 256 units leave some noise."""
        f = facts("initialisation")
        np.testing.assert_allclose(f["square"]["he"], 1, rtol=0.15)
        np.testing.assert_allclose(f["square"]["xavier"], 0.5 ** np.arange(1, 6), rtol=0.15)
        assert f["halved"] == 1 / 32
        assert f["square"]["normal"][1] < 2e-4

    def test_sigmoid(self):
        """Its slope is at most 1/4, so that a layer multiplies the signal by std(w) √n / 4 at most."""
        f = facts("initialisation")
        for init, std in (("normal", 0.01), ("xavier", 1 / 16), ("he", math.sqrt(2) / 16)):
            signal = np.array(f["signal"]["sigmoid"][init])
            ratio = signal[1:] / signal[:-1]
            assert (ratio < std * 16 / 4 * 1.05).all()
        assert f["sigmoid_ratio"] == pytest.approx(0.25, rel=0.08)
        assert f["sigmoid_ratio"] < 0.25
        for init in ("normal", "xavier", "he"):
            assert f["outputs"]["sigmoid"][init][-1].mean() == pytest.approx(0.5, abs=0.03)

    def test_tanh(self):
        """Behind Xavier's weights the signal of tanh shrinks slowly, behind He's it stays."""
        signal = facts("initialisation")["signal"]["tanh"]
        assert 0.25 < signal["xavier"][-1] < signal["he"][-1] < 0.65
        np.testing.assert_allclose(signal["normal"][4] / signal["normal"][3], 0.16, rtol=0.1)

    def test_last(self):
        f = facts("initialisation")
        assert f["last"] == {activation: {init: stds[-1] for init, stds in starts.items()}
                             for activation, starts in f["signal"].items()}

    def test_training(self):
        f = facts("initialisation")
        assert f["guessing"] == pytest.approx(math.log(10))
        assert f["lr"] == 0.1
        largest_class = np.bincount(digits().validation.labels).max() / 240
        for activation, starts in f["accuracy"].items():
            for init, accuracy in starts.items():
                if activation == "sigmoid" or init in ("zero", "normal"):
                    assert accuracy <= largest_class
                    np.testing.assert_allclose(f["losses"][activation][init], math.log(10), rtol=0.03)
                else:
                    assert accuracy > 0.93
                    assert f["losses"][activation][init][-1] < 0.15
        assert f["distinct"]["zero"] == 1
        assert f["distinct"]["xavier"] == 100

    def test_settings(self):
        f = facts("initialisation")
        assert (f["images"], f["width"], f["layers"], f["epochs"]) == (1000, 256, 5, 15)
        assert len(f["losses"]["relu"]["he"]) == initialisation.EPOCHS


class TestBatchNorm:
    def test_normalised(self):
        f = facts("batchnorm")
        assert f["rows"] == 64
        np.testing.assert_allclose(f["units"][:, 2], 0, atol=1e-6)
        np.testing.assert_allclose(f["units"][:, 3], 1, atol=1e-3)
        error = np.array([0.1, 1, 5]) / 8       # standard errors of the means of 64 rows
        assert (np.abs(f["units"][:, 0] - [-3, 0.5, 20]) < 4 * error).all()
        np.testing.assert_allclose(f["units"][:, 1], [0.1, 1, 5], rtol=0.3)

    def test_learning_rates(self):
        f = facts("batchnorm")
        assert f["rates"] == 9
        assert (f["lowest"], f["highest"]) == pytest.approx((1e-3, 10))
        for batch_norm, (low, high) in f["span"].items():
            for lr in batchnorm.RATES:
                works = min(f["accuracies"][batch_norm, lr]) >= f["enough"]
                assert works == (low <= lr <= high), "the rates that work have a gap"
            assert f["ratio"][batch_norm] == pytest.approx(high / low)
        assert f["gain"] == pytest.approx(f["span"][True][1] / f["span"][False][1])
        assert f["gain"] >= 3
        assert all(math.isinf(loss) for loss in f["losses"][False, 10.0])
        assert all(math.isfinite(loss) for lr in batchnorm.RATES for loss in f["losses"][True, lr])

    def test_starts(self):
        f = facts("batchnorm")
        for (activation, batch_norm), reached in f["starts"].items():
            assert reached["zero"] < 0.15
            if batch_norm:
                assert min(reached[init] for init in ("normal", "xavier", "he")) > 0.85
            else:
                assert reached["normal"] < 0.15
                assert (reached["he"] < 0.15) == (activation == "sigmoid")
        assert (f["start_lr"], f["start_epochs"], f["epochs"]) == (0.1, 8, 6)


class TestInference:
    def test_batches(self):
        f = facts("batchnorm_inference")
        assert f["images"] == 240
        assert all(f["images"] % size == 0 for size in f["sizes"])
        accuracy = [f["accuracy"][size] for size in f["sizes"]]
        assert accuracy == sorted(accuracy)
        assert f["accuracy"][2] < 0.6 < 0.9 < f["accuracy"][30]
        assert f["running"] > 0.95
        assert f["accuracy"][240] == pytest.approx(f["running"], abs=0.015)
        assert f["changed"][240] == 0
        assert f["changed"][2] > 0.5
        assert 0 < f["changed"][30] < 0.1
        assert f["trained_with"] == 32

    def test_refusal(self):
        assert facts("batchnorm_inference")["refusal"].startswith("x: expected more than one value per channel")

    def test_running_statistics(self):
        f = facts("batchnorm_inference")
        assert f["same_weights"]
        assert f["steps"] == 1197 // 32 == 37
        assert f["remaining"] == pytest.approx({0.1: 0.9**37, 0.01: 0.99**37})
        first = f["first_epoch"]
        assert first["batch"] > 0.88
        assert first[0.1] == pytest.approx(first["batch"], abs=0.05)
        assert first[0.01] < first["batch"] - 0.2
        for curve in f["curves"].values():
            assert len(curve) == batchnorm_inference.PROBED * f["steps"]
        assert min(f["last_epoch"].values()) > 0.95
        assert f["last_epoch"][0.1] == f["running"]
        assert f["epochs"] == 10


class TestGradients:
    def test_layers(self):
        f = facts("gradients")
        assert f["distance"] == 2**-7
        assert f["layers"]["Dense, tanh"].keys() == {"x", "weight", "bias"}
        for layer in ("BatchNorm", "LayerNorm"):
            assert f["layers"][layer].keys() == {"x", "gamma", "beta"}
        assert max(error for errors in f["layers"].values() for error in errors.values()) < 1e-3

    def test_mistake(self):
        """The mistake is what the derivation leaves out: (γ / σ) (mean(dy) + x̂ mean(dy x̂)) of each unit."""
        f = facts("gradients")
        assert f["right_error"] < 1e-9
        assert f["wrong_error"] > 0.5
        lesson = gradients.Normalisation("float64")
        normalised, _ = lesson.kernels.batch_norm_forward(lesson.x, lesson.gamma, lesson.beta)
        dy = lesson.c * normalised
        left_out = dy.mean(axis=0) + normalised * (dy * normalised).mean(axis=0)
        left_out /= np.sqrt(lesson.x.var(axis=0) + 1e-5)
        np.testing.assert_allclose(f["wrong"] - left_out, f["right"], atol=1e-12)

    def test_distances(self):
        """Powers of h where the formula's error rules, and of 1/h where rounding does; the least error in between."""
        f = facts("gradients")

        def power(name, first, last):
            log = np.log2(f["curves"][name])
            return (log[first] - log[last]) / (last - first)
        assert power("float64", 3, 12) == pytest.approx(2, abs=0.1)
        assert power("one direction", 3, 20) == pytest.approx(1, abs=0.1)
        assert power("float64", 20, 38) == pytest.approx(-1, abs=0.2)
        for dtype, epsilon in (("float64", 2.0**-53), ("float32", 2.0**-24)):
            assert 1 / 8 < f["best"][dtype] / np.cbrt(epsilon) < 8
            assert f["least"][dtype] == min(f["curves"][dtype])
        assert f["least"]["float64"] < 1e-9 < 1e-5 < f["least"]["float32"] < 1e-3

    def test_relative_error(self):
        a = np.array([1.0, 2.0])
        assert gradients.relative_error(a, a) == 0
        assert gradients.relative_error(a, -a) == pytest.approx(1)
