"""Which compiled ISA level is used, and what FASTOPT_ISA does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run

import fastopt
from fastopt._runtime import cpu, dispatch

LEVELS = dispatch.LEVELS
LEVEL = "import fastopt; print(fastopt.show_config(mode='dicts')['isa']['level'])"


def test_the_highest_available_level_is_the_default():
    assert run(LEVEL, FASTOPT_ISA=None) == dispatch.available()[-1]
    assert run(LEVEL, FASTOPT_ISA="") == dispatch.available()[-1]


@pytest.mark.parametrize("ceiling", LEVELS)
def test_fastopt_isa_is_a_ceiling(ceiling):
    expected = [level for level in dispatch.available() if LEVELS.index(level) <= LEVELS.index(ceiling)][-1]
    assert run(LEVEL, FASTOPT_ISA=ceiling) == expected


@pytest.mark.parametrize("bad", ["avx2", "V3", "v5", "none"])
def test_any_other_value_is_refused(bad):
    with pytest.raises(AssertionError, match=rf"FASTOPT_ISA: expected one of baseline, v3, v4, got '{bad}'"):
        run(LEVEL, FASTOPT_ISA=bad)


def test_load_takes_every_kernel_built_at_the_level():
    for level in dispatch.available():
        kernels = dispatch.load(level)
        for name in dispatch.kernels_at(level):
            assert getattr(kernels, name).__name__ == f"fastopt._isa.{level}.{name}"


def test_a_kernel_not_built_at_a_level_comes_from_the_next_lower_one(monkeypatch):
    built = {"baseline": {"sgd", "adam"}, "v3": {"adam"}, "v4": set()}
    monkeypatch.setattr(dispatch, "kernels_at", built.__getitem__)
    monkeypatch.setattr(cpu, "level", lambda: "v4")
    assert dispatch.available() == ["baseline", "v3"]
    assert dispatch.choose(None) == "v3"
    assert dispatch.choose("baseline") == "baseline"


def test_a_kernel_is_imported_when_it_is_first_used_and_at_one_level():
    """Importing all kernels, at all levels, would take several times as long as the rest of the import."""
    loaded = run("""
    import sys, numpy, fastopt

    def loaded():
        names = [name.split(".") for name in sys.modules if name.startswith("fastopt._isa.")]
        return [name[3] for name in names if len(name) == 4]

    print(loaded())
    fastopt.softmax(numpy.zeros(3, numpy.float32))
    fastopt.softmax(numpy.zeros(3, numpy.float32))
    print(loaded())
    """, FASTOPT_ISA=None).split("\n")
    assert loaded == ["[]", "['softmax']"]


def test_a_kernel_that_is_not_built_is_no_attribute():
    with pytest.raises(AttributeError, match="no kernel 'adagard' is built"):
        dispatch.active.adagard  # noqa: B018


def test_the_processor_limits_the_level(monkeypatch):
    monkeypatch.setattr(cpu, "level", lambda: "baseline")
    assert dispatch.available() == ["baseline"]
    assert dispatch.choose("v4") == "baseline"


def test_nothing_built(monkeypatch):
    monkeypatch.setattr(dispatch, "kernels_at", lambda level: set())
    with pytest.raises(ImportError, match=r"^fastopt: not built .*: run `pip install -e \.` in the source tree"):
        dispatch.choose(None)


def test_a_source_tree_without_a_build_says_what_to_run_in_one_line(tmp_path):
    """Only the .py files, as in a fresh clone."""
    shutil.copytree(fastopt.__path__[0], tmp_path / "fastopt",
                    ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    done = subprocess.run([sys.executable, "-c", "import fastopt"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": ""}, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastopt: not built")
    assert "run `pip install -e .` in the source tree" in last
    assert "During handling" not in done.stderr


@pytest.mark.skipif(cpu.level() == "baseline", reason="this machine supports baseline only")
def test_levels_really_differ():
    """Each level's modules were compiled with its own flags."""
    flags = fastopt.show_config(mode="dicts")["build"]["level_flags"]
    assert len(set(flags.values())) == len(LEVELS)
    contents = [Path(dispatch.load(level).sgd.__file__).read_bytes() for level in dispatch.available()]
    assert len(set(contents)) == len(contents)
