"""The tables of scripts/mutants fit the code: the runs themselves take a quarter of an hour."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "scripts/mutants/run.py"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the source tree is elsewhere")


def test_every_mutant_applies():
    spec = importlib.util.spec_from_file_location("mutants", PROGRAM)
    mutants = sys.modules["mutants"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    texts = {}
    for mutant in mutants.read_tables():
        if mutant.file not in texts:
            texts[mutant.file] = (ROOT / mutant.file).read_text("utf-8")
        mutant.applied(texts[mutant.file])      # or an error that names the mutant
    assert len(texts) > 30
