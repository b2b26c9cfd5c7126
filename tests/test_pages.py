"""Every Markdown page: its Python blocks run, its commands name what exists, its links and anchors resolve."""

import re
from pathlib import PurePosixPath

import pages
import pytest

from fastopt.__main__ import make_parser

SOURCE_TREE = (pages.ROOT / "setup.py").exists()    # elsewhere the pages are there, but not all that they name
TESTED = [page for page in pages.PAGES if not page.startswith(("bench/", "kernels/"))]
"""A block in bench/ or kernels/ is part of a file."""


@pytest.mark.parametrize("command", ['pip install -e ".[demo]" && fastopt train', 'pip install -e ".[test]" && pytest'])
def test_readme_has_the_commands_that_ci_extracts(command):
    assert command in pages.text("README.md").splitlines()


@pytest.mark.parametrize("page", [page for page in TESTED if pages.program(page).strip()])
def test_blocks(page, tmp_path):
    """In order and in one namespace, as a reader would paste them."""
    printed = pages.run(pages.program(page), page, tmp_path)
    if page == "README.md":
        assert re.match(r"loss \d\.\d{4} after 200 updates\n$", printed)


@pytest.mark.parametrize(("page", "library"), [(page, library) for page in TESTED for library in pages.libraries(page)])
def test_blocks_that_need(page, library, tmp_path):
    """Together with the page's other blocks, where the library is installed."""
    pages.need(library)
    pages.run(pages.program(page, library), page, tmp_path, library)


def test_blocks_keep_their_lines():
    source, program = (text.splitlines() for text in (pages.text("README.md"), pages.program("README.md")))
    assert sum("import numpy" in line for line in program) == sum("fastopt.AdamW(" in line for line in program) == 1
    assert all(line in ("", source[i]) for i, line in enumerate(program))


@pytest.mark.skipif(not SOURCE_TREE, reason="the source tree is elsewhere")
@pytest.mark.parametrize("page", pages.PAGES)
def test_links(page):
    for path, anchor in pages.links(page):
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert target.exists(), f"{page}: no file {path}"
        if anchor:
            assert anchor in pages.anchors(target.resolve().relative_to(pages.ROOT).as_posix()), \
                f"{page}: no heading #{anchor} in {target.name}"


@pytest.mark.skipif(not SOURCE_TREE, reason="the source tree is elsewhere")
@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.commands(page)])
def test_commands(page):
    """`fastopt`'s subcommands and options parse; files that python and pytest get exist."""
    for command in pages.commands(page):
        name, *words = command.split()
        if name == "fastopt":
            arguments = [word.replace("FILE", "file.svg") for word in words]
            make_parser().parse_args(arguments)
        elif name in ("python", "pytest") and words[:1] != ["-m"]:
            files = [word for word in words if PurePosixPath(word).suffix == ".py" or word in ("bench", "tests")]
            for file in files:
                assert (pages.ROOT / file).exists(), f"{page}: {command}: no file {file}"


def test_every_promise_has_tests():
    rows = re.findall(r"^\| (?!promise)([^|]*) \|[^|]*\|(.*)\|$", pages.text("docs/promises.md"), re.M)
    assert rows
    for promise, tests in rows:
        files = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)\)", tests)
        assert files, f"docs/promises.md: no tests: {promise}"
        for file in files:
            assert re.search(r"^ *def test_", pages.text(file), re.M), f"docs/promises.md: no test in {file}"


def test_links_and_anchors_are_found():
    assert ("docs/threads.md", "") in pages.links("README.md")
    assert ("", "optimizers") in pages.links("README.md")
    assert "page-faults-and-huge-pages" in pages.anchors("docs/speed.md")
    assert "fastopt train" in pages.commands("README.md")
