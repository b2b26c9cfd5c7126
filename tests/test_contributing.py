"""CONTRIBUTING.md's recipe for an optimizer names every file that mentions one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").exists(), reason="the source tree is elsewhere")


OTHERS = ("fastopt/convert/", "tests/test_convert", "fastopt/demo/", "tests/test_train",
          "tests/test_search", "tests/test_lessons")
"""The conversions, which depend on what other libraries have, and the demo, whose table says what it offers."""


def recipe(family):
    """The files of the numbered steps, and those that the sentences after them name."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Adding an optimizer\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d+\. `(.*?)`", section, re.M)
    assert len(steps) == len(re.findall(r"^\d+\.", section, re.M)), "a step does not begin with its file"
    besides = re.findall(r"`(tests/golden/.*?)`", section)
    return [name.replace("<family>", family) for name in steps], besides


def files_that_mention(name):
    """Of the source tree, but for OTHERS, docs/ and bench/'s programs, which follow at the next measurement."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.py"), *ROOT.glob("bench/bench_*.py"),
             *(path for folder in ("kernels", "fastopt", "tests", "scripts") for path in (ROOT / folder).rglob("*")
               if path.suffix in (".py", ".pyx", ".pxd", ".h"))]
    mentioned = {path.relative_to(ROOT).as_posix() for path in files
                 if re.search(rf"\b{name}\b", path.read_text("utf-8"), re.I)}
    return {name for name in mentioned if not name.startswith(("tests/test_contributing.py", *OTHERS))}


@pytest.mark.parametrize(("name", "family"), [("adamax", "adam"), ("asgd", "sgd")])
def test_the_recipe_names_every_file_of_an_elementwise_optimizer(name, family):
    steps, besides = recipe(family)
    assert len(steps) <= 10
    mentioned = files_that_mention(name)
    named = {*steps, *besides}      # torch.optim has both
    assert mentioned - named == set(), f"CONTRIBUTING.md does not name files in which {name} stands"
    assert named - mentioned == set(), f"CONTRIBUTING.md names files in which {name} does not stand"
