"""docs/curriculum.md: every name, call, option and lesson of its tables exists."""

import argparse
import ast
import re

import pages
import pytest

import fastopt
from fastopt.__main__ import make_parser
from fastopt.demo.lessons import LESSONS

PAGE = pages.text("docs/curriculum.md")
HEAD = "| term | 中文 | in fastopt | option | lesson |"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")]
        for table in PAGE.split(HEAD + "\n")[1:] for line in table.split("\n\n")[0].splitlines()[1:]]
COMMANDS = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)).choices


def code(cell):
    """What a cell's code span has, or None where the cell is a dash."""
    if cell == "–":
        return None
    span = re.fullmatch(r"`([^`]+)`", cell)
    assert span, f"expected one code span or –, got {cell}"
    return span[1]


def found(expression):
    """The object that a name or a dotted name is in fastopt."""
    value = fastopt
    for part in ast.unparse(expression).split("."):
        value = getattr(value, part)
    return value


def test_rows():
    assert len(ROWS) == PAGE.count("\n| ") - PAGE.count(HEAD) > 50
    assert all(len(row) == 5 for row in ROWS)
    terms, chinese = (["".join(row[i].split()) for row in ROWS] for i in (0, 1))
    assert len(set(terms)) == len(terms)
    assert len(set(chinese)) == len(chinese)
    assert all(re.search(r"[\u4e00-\u9fff]", text) for text in chinese)
    assert all(any(code(cell) for cell in row[2:]) for row in ROWS)


@pytest.mark.parametrize("call", sorted({row[2] for row in ROWS} - {"–"}))
def test_names_of_fastopt(call, rng):
    """A call is made, as all of them only create something; a name without arguments exists."""
    expression = ast.parse(code(call), mode="eval").body
    if isinstance(expression, ast.Call):
        made = eval(code(call), vars(fastopt) | {"rng": rng})
        assert isinstance(made, found(expression.func))
    else:
        assert callable(found(expression))


@pytest.mark.parametrize("option", sorted({row[3] for row in ROWS} - {"–"}))
def test_options(option):
    """The command takes them, with these values."""
    words = code(option).split()
    command = words[1] if words[0] == "fastopt" else "train"
    words = words[2:] if words[0] == "fastopt" else words
    parser = COMMANDS[command]
    for word in words:
        if word.startswith("--"):
            assert word in parser._option_string_actions, f"fastopt {command} has no {word}"
    parser.parse_args(words)


def test_an_unknown_option_is_seen():
    with pytest.raises(AssertionError, match="fastopt train has no --dropuot"):
        test_options("`--dropuot 0.5`")


def test_lessons():
    shown = {code(row[4]) for row in ROWS} - {None}
    assert shown == set(LESSONS)
