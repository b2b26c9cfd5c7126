"""The lesson on batch sizes: what it states. Times, measured anew by each run, are compared with wide margins."""

import lesson_runs
import numpy as np
import pytest

from fastopt.demo.lessons import batches


@pytest.fixture(scope="module")
def facts():
    return lesson_runs.facts("batches")


def test_noise_follows_the_formula(facts):
    """An RMS of 200 draws scatters by about 5 %, as the squares' standard deviation is at most about their mean."""
    sizes = np.array(list(facts["noise"]))
    np.testing.assert_allclose(list(facts["noise"].values()), batches.theory(facts, sizes), rtol=0.1)
    assert batches.theory(facts, np.array([facts["images"]])) == 0
    assert facts["single"] > 5
    assert facts["noise"][1] == pytest.approx(facts["single"], rel=0.1)
    assert facts["noise"][8] / facts["noise"][32] == pytest.approx(2, rel=0.1)


def test_updates(facts):
    images = facts["images"]
    assert facts["updates"] == {1: images, 32: images // 32, None: 1}
    assert facts["work"] == images / 32
    assert facts["at_100"][32] == pytest.approx(facts["at_100"][None], rel=0.05)
    assert facts["at_100"][1] > 1.3 * facts["at_100"][None]


def test_which_curves_are_rough(facts):
    """Every recorded loss of all images is below the one before; many of one image are above."""
    rises = {size: np.mean(np.diff(run["losses"]) > 0) for size, run in facts["runs"].items()}
    assert rises[None] == 0
    assert rises[1] > 0.2


def test_small_batches_win_per_epoch(facts):
    losses = [loss for _, _, loss in facts["after"]]
    assert [updates for _, updates, _ in facts["after"]] == [5 * count for count in facts["updates"].values()]
    assert 5 * losses[0] < losses[1]
    assert 3 * losses[1] < losses[2]


def test_learning_rates(facts):
    one, few, everything = ((small, large) for _, small, large in facts["rates"])
    assert one[0] < 0.1
    assert one[1] > facts["know_nothing"] == pytest.approx(np.log(10))
    assert few[1] < few[0] / 2
    assert everything[1] < everything[0]


def test_times(facts):
    milliseconds = facts["milliseconds"]
    assert milliseconds[1] > 5 * milliseconds[32]
    assert milliseconds[32] > milliseconds[None]


def test_only_times_differ_in_another_run(facts):
    with lesson_runs.threadpoolctl.threadpool_limits(1):
        again = batches.run()
    assert batches.MEASURED == ("milliseconds",)
    np.testing.assert_equal(again | {"milliseconds": None}, facts | {"milliseconds": None})
