"""docs/recipe.md: what it promises, by one seed; slow/test_recipe.py tries several."""

import pages
import pytest
import recipe

for package in ("scipy", "sklearn", "threadpoolctl", "tqdm"):
    pytest.importorskip(package)


def test_page_says_what_is_promised():
    assert f"at least {recipe.PROMISED * 100:g} %" in " ".join(pages.text("docs/recipe.md").split())


def test_one_seed():
    assert recipe.accuracy(0) >= recipe.PROMISED
