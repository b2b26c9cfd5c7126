"""The package as a whole: names, signatures, docstrings, version, compiled instructions."""

import doctest
import importlib.metadata
import inspect
import shutil
import subprocess
import typing
from pathlib import Path

import pytest
from helpers import run

import fastopt
from fastopt._runtime import dispatch

CALLABLES = [name for name in fastopt.__all__
             if callable(getattr(fastopt, name)) and not typing.is_typeddict(getattr(fastopt, name))]
RECORDS = [name for name in CALLABLES if isinstance(getattr(fastopt, name), type)
           and issubclass(getattr(fastopt, name), tuple)]
NOT_IN_REFERENCE = {
    *RECORDS, "Optimizer", "get_num_threads", "num_threads", "set_num_threads", "show_config", "save_state",
    "load_state", "keep_heap", "cast",
}


def test_public_names():
    """The optimizers' are those of test_completeness.py."""
    names = """BatchNorm dropout_forward dropout_backward
        batch_norm_forward batch_norm_backward batch_norm_inference layer_norm_forward layer_norm_backward
        rms_norm_forward rms_norm_backward log_softmax softmax_cross_entropy
        embedding_forward embedding_backward
        set_num_threads get_num_threads num_threads show_config schedules init reference""".split()
    assert set(names) <= set(fastopt.__all__)
    assert all(hasattr(fastopt, name) for name in fastopt.__all__)
    schedules = "constant piecewise_constant exponential_decay inverse_time_decay cosine linear_warmup join".split()
    assert set(schedules) <= set(dir(fastopt.schedules))
    assert {"he_normal", "he_uniform", "xavier_normal", "xavier_uniform", "normal"} <= set(dir(fastopt.init))


@pytest.mark.parametrize("name", [name for name in CALLABLES if name not in NOT_IN_REFERENCE])
def test_the_reference_has_the_same_names_and_signatures(name):
    """The annotations of arrays may differ: the reference takes float64, too."""
    ours, theirs = ([(p.name, p.kind, p.default, p.kind is p.VAR_KEYWORD and p.annotation)
                     for p in inspect.signature(getattr(module, name)).parameters.values()]
                    for module in (fastopt, fastopt.reference))
    assert ours == theirs


@pytest.mark.parametrize("name", CALLABLES)
def test_public_docstrings(name):
    text = inspect.getdoc(getattr(fastopt, name))
    first, _, rest = text.partition("\n")
    assert first.endswith((".", "``.", "``)."))
    parameters = [p for p in inspect.signature(getattr(fastopt, name)).parameters.values() if p.name != "self"]
    if name not in RECORDS and parameters:
        assert "Parameters\n----------" in rest
        for parameter in parameters:
            assert parameter.name in rest, f"{name}: {parameter.name} is not described"


def test_every_shared_option_is_described():
    for name in fastopt.Options.__annotations__:
        assert name in fastopt.Options.__doc__


def test_examples_in_docstrings():
    for module in {inspect.getmodule(getattr(fastopt, name)) for name in CALLABLES}:
        assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_an_import_loads_only_what_most_programs_use():
    """Each of these takes milliseconds; some versions of NumPy load some of them, too."""
    run("""
    import sys, numpy
    slow = {"fastopt.adapters", "fastopt.convert", "fastopt.reference", "fastopt.schedules", "dataclasses", "difflib",
            "json", "numpy.ma", "numpy.random", "pathlib", "pkgutil", "secrets", "urllib.parse", "zipfile"}
    slow -= sys.modules.keys()
    import fastopt
    assert not slow & sys.modules.keys(), slow & sys.modules.keys()
    assert {name for name in dir(fastopt) if not name.startswith("_")} == set(fastopt.__all__)
    assert fastopt.reference.adam and fastopt.load_state and fastopt.save_state
    assert not hasattr(fastopt, "no_such_name")
    """)


def test_version():
    try:
        installed = importlib.metadata.version("fastopt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fastopt is built in place, not installed")
    assert fastopt.__version__ == installed


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.parametrize("level", dispatch.available())
def test_no_fused_or_approximate_instructions(level):
    """A fused multiply-add rounds once where lower levels round twice; a reciprocal estimate is not exact."""
    kernels = dispatch.load(level)
    assert "adam" in dir(kernels)
    for name in dir(kernels):
        listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", getattr(kernels, name).__file__],
                                 capture_output=True, text=True, check=True).stdout
        wrong = [line for line in listing.splitlines()
                 if any(word in line for word in ("vfmadd", "vfmsub", "vfnmadd", "vfnmsub", "rsqrt", "rcp"))]
        assert listing.count("\n") > 1000
        assert wrong == [], f"{name} at {level}: {wrong[:3]}"


@pytest.mark.skipif(not (Path(__file__).parents[1] / "setup.py").exists(), reason="needs the source tree")
def test_no_flags_that_relax_arithmetic():
    root = Path(__file__).parents[1]
    for path in (root / "setup.py", root / "pyproject.toml", *(root / "kernels").iterdir()):
        for flag in ("-ffast-math", "-Ofast", "-funsafe-math", "-march=native", "omp_set_num_threads"):
            assert flag not in path.read_text()
