"""The Markdown files of the source tree: their code blocks, headings, links and commands."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt

ROOT = Path(__file__).parents[1]
MAIN = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [path.relative_to(ROOT).as_posix()
         for path in (*(ROOT / name for name in MAIN), *sorted(ROOT.glob("docs/*.md")),
                      *(ROOT / folder / "README.md" for folder in ("bench", "kernels"))) if path.exists()]

_BLOCK = re.compile(r"^```(\w*)(?: (\w+))?\n(.*?)^```$", re.M | re.S)
"""Its language, the library that it needs (```python torch), and its lines."""
_IMPORTS = "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n    import {}\n"


def text(page):
    return (ROOT / page).read_text("utf-8")


def libraries(page):
    """Those that blocks of the page need."""
    return sorted({block[2] for block in _BLOCK.finditer(text(page)) if block[2]})


def program(page, library=None):
    """The page's Python blocks, those that need another library than this one excepted, in the lines where they stand.

    A line number in a traceback is therefore one of the page.
    """
    source, lines = text(page), ""
    for block in _BLOCK.finditer(source):
        if block[1] == "python" and block[2] in (None, library):
            lines += "\n" * (source.count("\n", 0, block.start(3)) - lines.count("\n")) + block[3]
    return lines


def run(source, name, folder, library=None, arguments=(), seconds=120):
    """Run a program as a process of its own in a folder, every warning of its own an error; return what it printed.

    The warnings that a library gives when it is imported are the library's.
    """
    code = f"{_IMPORTS.format(library) if library else ''}exec(compile({source!r}, {name!r}, 'exec'), " \
           "{'__name__': '__main__'})"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(fastopt.__path__[0]), "PYTHONWARNINGS": "",
                   "OPENBLAS_NUM_THREADS": "1"}     # small matrices: a second thread only waits for a busy core
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{name}\n{done.stdout}{done.stderr}"
    return done.stdout


def without_blocks(page):
    return _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text(page))


def anchors(page):
    """GitHub's names of the headings: lower case, words joined by hyphens, other signs left out."""
    headings = re.findall(r"^#+ +(.*)$", without_blocks(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """The targets of links and pictures that are no addresses: (path relative to the page, anchor), either empty."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(page))
    return [target.partition("#")[::2] for target in targets if not re.match(r"[a-z]+:", target)]


def commands(page):
    """The lines of shell blocks, indented ones included, and code spans that call fastopt."""
    rest = without_blocks(page)
    blocks = [block[3] for block in _BLOCK.finditer(text(page)) if block[1] == "sh"]
    indented = re.findall(r"^ {4}(?:fastopt|python|pip|pytest|\.ci/) ?.*$", rest, re.M)
    spans = re.findall(r"`((?:fastopt|python|pytest) [^`\n]+)`", rest)
    lines = [line for block in (*blocks, *indented, *spans) for line in block.splitlines()]
    return [command.strip() for line in lines for command in line.split("  #")[0].split("&&")]


def need(library):
    """Skip the test where the library is not installed."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
