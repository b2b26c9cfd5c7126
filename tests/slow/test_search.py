"""docs/search.md: with ten seeds the default budget finds at least the default settings' validation accuracy."""

import pytest

pytest.importorskip("optuna")
pytest.importorskip("sklearn")

from search_runs import found


@pytest.mark.parametrize("seed", range(10))
def test_finds_at_least_the_defaults_accuracy(seed):
    best, default, epochs = found("--seed", str(seed))
    assert best >= default > 95
    assert 400 < epochs < 800
