"""The spaces of `fastopt search`: scales, draws, grids, zooming in, and what is refused."""

import math

import numpy as np
import pytest

from fastopt.demo.search.space import KINDS, WIDE, Space, SpaceError
from fastopt.demo.settings import OPTIMIZERS, Settings


def draws(word, n=4000):
    space, rng = Space.parse([word]), np.random.default_rng(0)
    return [value for _ in range(n) for value in space.sample(rng).values()]


@pytest.mark.parametrize(("word", "scaled"), [
    ("lr=1e-5..1", math.log10), ("batch-size=64..4096", math.log), ("dropout=0.1..0.6", float),
    ("units=16..512", float), ("momentum=0..0.999", lambda beta: -math.log10(1 - beta)), ("l2=1e-6..1e-1", math.log10)])
def test_draws_are_uniform_on_the_scale(word, scaled):
    """The Kolmogorov-Smirnov distance of 4000 draws from the uniform distribution: 1.63 / √4000 at the level of 1 %."""
    low, high = (scaled(float(end)) for end in word.partition("=")[2].split(".."))
    positions = np.sort((np.array([scaled(value) for value in draws(word)]) - low) / (high - low))
    assert positions.min() >= 0
    assert positions.max() <= 1
    steps = np.arange(len(positions)) / len(positions)
    assert max(np.abs(positions - steps).max(), np.abs(positions - steps - 1 / len(positions)).max()) < 0.03


def test_integers_and_choices_are_equally_likely():
    for word, values in (("layers=1..3", [1, 2, 3]), ("activation=relu,gelu", ["relu", "gelu"]),
                         ("batch-size=16,32,64,128", [16, 32, 64, 128])):
        drawn = draws(word)
        assert {type(value) for value in drawn} == {type(values[0])}
        assert all(abs(drawn.count(value) / len(drawn) - 1 / len(values)) < 0.04 for value in values)
        assert set(drawn) == set(values)


def test_a_linear_scale_would_draw_nine_of_ten_learning_rates_from_the_last_decade():
    linear = np.random.default_rng(0).uniform(1e-4, 1, 10_000)
    assert abs((linear > 0.1).mean() - 0.9) < 0.01
    assert abs((np.array(draws("lr=1e-4..1")) > 0.1).mean() - 0.25) < 0.02


@pytest.mark.parametrize("word", [word for word in WIDE if "=" in word] + ["batch-size=1..700", "beta2=0.9..0.9999"])
def test_position_is_the_inverse_of_at(word):
    (parameter,) = Space.parse([word]).parameters
    for position in np.linspace(0, 1, 31):
        value = parameter.at(position)
        assert parameter.low <= value <= parameter.high
        assert parameter.at(parameter.position(value)) == value


def test_values_are_short():
    """So that the command that repeats a trial can be read."""
    assert all(len(f"{value!r}") <= 8 for value in draws("lr=1e-5..1", 300))
    assert all(len(f"{value!r}") <= 8 for value in draws("momentum=0..0.9999", 300))


def test_grid():
    space = Space.parse(["lr=1e-4..1", "dropout=0..0.6", "activation=relu,gelu"])
    grid = space.grid(18)
    assert len(grid) == 18
    assert sorted({point["lr"] for point in grid}) == [0.000464, 0.01, 0.215]   # the middles of thirds of four decades
    assert sorted({point["dropout"] for point in grid}) == [0.1, 0.3, 0.5]
    assert {point["activation"] for point in grid} == {"relu", "gelu"}
    assert len({tuple(point.values()) for point in grid}) == 18


@pytest.mark.parametrize("n", [1, 2, 5, 16, 30, 100])
def test_grid_has_at_most_n_points_and_as_many_as_another_part_allows(n):
    space = Space.wide(Settings())
    grid = space.grid(n)
    assert len(grid) <= n
    fewest = min(len({point[name] for point in grid}) for name in space.names)
    assert len(grid) // fewest * (fewest + 1) > n


def test_zoom_takes_the_box_of_the_best_quarter():
    space = Space.parse(["lr=1e-5..1", "units=0..100", "activation=relu,gelu,tanh"])
    points = [{"lr": 10.0**-k, "units": 10 * k, "activation": "gelu" if k % 2 else "relu"} for k in range(1, 6)]
    points += [{"lr": 1e-1, "units": 0, "activation": "tanh"}] * 3
    zoomed = space.zoom(points, [0, 3, 2, 0, 0, 0, 0, 0])      # 2 of 8: lr 1e-2 and 1e-3
    lr, units, activation = zoomed.parameters
    assert lr.low == pytest.approx(1e-3 / 10**0.5, rel=0.01)   # a tenth of five decades is half a decade
    assert lr.high == pytest.approx(1e-2 * 10**0.5, rel=0.01)
    assert (units.low, units.high) == (10, 40)
    assert activation.choices == ("relu", "gelu")


def test_zoom_stays_inside():
    space, rng = Space.wide(Settings()), np.random.default_rng(1)
    for _ in range(20):
        points = [space.sample(rng) for _ in range(12)]
        zoomed = space.zoom(points, rng.random(12))
        for before, after in zip(space.parameters, zoomed.parameters, strict=True):
            assert before.low <= after.low <= after.high <= before.high
        zoomed.sample(rng)
        space = zoomed


def test_best_points_are_in_the_zoomed_space():
    space, rng = Space.wide(Settings()), np.random.default_rng(2)
    points = [space.sample(rng) for _ in range(20)]
    zoomed = space.zoom(points, [point["lr"] for point in points])
    for point in sorted(points, key=lambda point: -point["lr"])[:5]:
        for parameter in zoomed.parameters:
            assert parameter.low <= point[parameter.name] <= parameter.high


def test_settings_of_a_point():
    point = {"lr": 0.01, "momentum": 0.95, "layers": 3, "units": 40, "batch-size": 64, "activation": "gelu"}
    settings = Space.parse(["lr=1e-3..1"]).settings(Settings(seed=3), point)
    assert settings == Settings(seed=3, lr=0.01, momentum=0.95, hidden=(40, 40, 40), batch_size=64, activation="gelu")
    assert Space(()).settings(Settings(hidden=(8, 8)), {"units": 9}).hidden == (9, 9)
    assert Space(()).settings(Settings(hidden=(8,)), {"layers": 3}).hidden == (8, 8, 8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_wide_space_fits_every_optimizer(optimizer):
    settings = Settings(optimizer=optimizer)
    space = Space.wide(settings)
    space.check(settings)
    assert ("momentum" in space.names) == (settings.choice.momentum is not None)
    assert "lr" not in Space.wide(settings, ["lr"]).names


@pytest.mark.parametrize(("words", "message"), [
    ("speed=1..2", f"expected some of {', '.join(KINDS)}, got 'speed'"),
    ("lr", "lr: expected LOW..HIGH, or two or more different values with commas, got ''"),
    ("lr=0.1", "lr: expected LOW..HIGH, or two or more different values with commas, got '0.1'"),
    ("lr=0.1,0.1", "lr: expected LOW..HIGH, or two or more different values with commas, got '0.1,0.1'"),
    ("lr=0.1..0.1", "lr: expected LOW..HIGH with LOW below HIGH, got '0.1..0.1'"),
    ("lr=1..0.1", "lr: expected LOW..HIGH with LOW below HIGH, got '1..0.1'"),
    ("lr=0..0.1", "lr: expected a range above 0, its scale is logarithmic, got '0..0.1'"),
    ("lr=..0.1", "lr: expected finite numbers, got ''"),
    ("lr=nan..1", "lr: expected finite numbers, got 'nan'"),
    ("lr=0.1..inf", "lr: expected finite numbers, got 'inf'"),
    ("momentum=0.5..1", "momentum: expected a range below 1, the scale is that of log(1 − momentum), got '0.5..1'"),
    ("momentum=-1..0.5", "momentum: expected a number in [0, 1), got -1"),
    ("units=16.5..32", "units: expected ints, got '16.5'"),
    ("units=0..32", "hidden: expected ints in [1, 1000000000], got 0 0"),
    ("layers=-1..3", "layers: expected a range of ints from 0 on, got '-1..3'"),
    ("layers=0..2 dropout=0..0.5", "dropout: expected 0 without hidden layers, got 0.25"),
    ("dropout=0..1", "dropout: expected a number in [0, 1), got 1"),
    ("l2=-1..1", "l2: expected a range above 0, its scale is logarithmic, got '-1..1'"),
    ("batch-size=1..64", "batch-size: expected at least 2 with BatchNorm, whose statistics are those of a batch"),
    ("activation=relu", "activation: expected two or more different values with commas, got 'relu'"),
    ("activation=relu,swish", "activation: expected some of relu, tanh, sigmoid, gelu, got 'swish'"),
    ("activation=0..1", "activation: expected two or more different values with commas, got '0..1'"),
    ("optimizer=adam,adadelta momentum=0.5..0.9", "momentum: expected none, because adadelta has none, got 0.5"),
    ("optimizer=adam,adamw l2=1e-5..1e-2", "l2: expected none for adamw, whose weight decay is decoupled"),
    ("lr=0.1..1 lr=0.2..1", "expected each name once, got lr 2 times"),
    ("", "expected at least one parameter, got none")])
def test_refused(words, message):
    with pytest.raises(SpaceError) as caught:
        Space.parse(words.split()).check(Settings())
    assert str(caught.value).startswith(message)


def test_layers_alone_need_units():
    for word in ("layers=1..2", "units=8..16"):
        with pytest.raises(SpaceError, match="expected layers and units, or --hidden with at least one layer"):
            Space.parse([word]).check(Settings(hidden=()))
    Space.parse(["layers=1..2", "units=8..16"]).check(Settings(hidden=()))
