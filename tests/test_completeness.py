"""Nothing is left out: every optimizer and function is listed wherever users and tests look for it."""

import inspect
import re
from pathlib import Path

import pytest
from arguments import FUNCTIONS
from golden.record import ROWS as RECORDED
from optimizer_cases import ROWS, taken_by

import fastopt
from fastopt._options import MODEL_DEFAULTS
from fastopt._runtime import dispatch

ROOT = Path(__file__).parents[1]
CLASSES = [name for name in fastopt.__all__ if isinstance(getattr(fastopt, name), type)
           and issubclass(getattr(fastopt, name), fastopt.Optimizer) and name != "Optimizer"]
LAYERS = [name for name in fastopt.__all__ if isinstance(getattr(fastopt, name), type)
          and issubclass(getattr(fastopt, name), fastopt.Layer)]
PUBLIC = [name for name in fastopt.__all__ if inspect.isfunction(getattr(fastopt, name))]
WITHOUT_ARRAYS = {"get_num_threads", "set_num_threads", "num_threads", "show_config", "load_state", "save_state",
                  "keep_heap"}
WITH_TESTS_OF_THEIR_OWN = {"batch_norm_fold", "batch_norm_merge", "batch_norm_merge_sums", "cast"}


def text(*patterns):
    """What the files of the source tree hold, of which some are absent where only the tests are."""
    return "\n".join(path.read_text("utf-8") for pattern in patterns for path in ROOT.glob(pattern))


def benchmarks():
    return text("bench/*.py") + "\n".join(
        path.read_text("utf-8") for path in Path(fastopt.__file__).parent.glob("bench/*.py"))


def test_every_optimizer_class_is_public():
    made = {kind.__name__ for base in (fastopt.Optimizer, *fastopt.Optimizer.__subclasses__())
            for kind in base.__subclasses__() if kind.__module__.startswith("fastopt.")}
    assert made <= set(fastopt.__all__), f"fastopt/__init__.py: {made - set(fastopt.__all__)} not in __all__"


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_row(name):
    assert name in {row.name for row in ROWS}, f"{name} has no row in tests/optimizer_cases.py"


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - WITHOUT_ARRAYS - WITH_TESTS_OF_THEIR_OWN))
def test_every_function_has_a_row_of_bad_input(name):
    assert name in {function.name for function in FUNCTIONS}, f"{name} has no row in tests/arguments.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
class TestEveryOptimizer:
    def test_is_public(self, row):
        for name in (row.name, row.function):
            assert name in fastopt.__all__, f"fastopt/__init__.py: {name} is not in __all__"
            assert name in fastopt.reference.__all__, f"fastopt/reference/__init__.py: {name} is not in __all__"

    def test_has_a_kernel(self, row, level):
        assert hasattr(getattr(dispatch.active, row.family), row.function), \
            f"kernels/{row.family}.pyx has no {row.function} at {level}"

    def test_is_compared_with_the_reference(self, row):
        assert any(other.calls for other in ROWS if other.function == row.function), \
            f"tests/optimizer_cases.py: no calls of {row.function}"

    def test_has_its_loops_counted(self, row):
        """A layerwise one may have loops of its own: test_vectorised.py."""
        assert row.layerwise or any(other.loops for other in ROWS if other.function == row.function), \
            f"tests/optimizer_cases.py: {row.function} has no loops"

    def test_every_hyper_parameter_is_refused_some_value(self, row):
        """Those of bool type need no row: TypeError is the rule's, for True or False alone."""
        refused = {name for function in FUNCTIONS if function.name == row.function for name, _ in function.refused}
        function = getattr(fastopt, row.function)
        numbers = {name for name, p in inspect.signature(function).parameters.items()
                   if p.kind is p.KEYWORD_ONLY and p.annotation is not bool and p.default is not None}
        assert numbers <= refused, f"tests/optimizer_cases.py: {row.function} has no refused {numbers - refused}"

    def test_function_and_class_have_the_same_hyper_parameters(self, row):
        """Except those of the whole model, which only the class has, and the optional arrays and the step."""
        of_function = taken_by(getattr(fastopt, row.function)) - {"step", "grad_scale", "average", *row.optional_states}
        of_class = taken_by(getattr(fastopt, row.name)) - {*MODEL_DEFAULTS}
        assert of_function - of_class <= {"decoupled_weight_decay"}
        assert of_class - of_function <= {"lr", "amsgrad", "centered", "initial_accumulator_value"}

    def test_lr_is_the_only_positional_argument_of_the_class(self, row):
        for module in (fastopt, fastopt.reference):
            (name, *_), *others = (
                (p.name, p.default) for p in inspect.signature(getattr(module, row.name)).parameters.values()
                if p.kind is p.POSITIONAL_OR_KEYWORD)
            assert (name, others) == ("lr", []), f"{module.__name__}.{row.name}"

    def test_has_steps_computed_by_hand(self, row):
        path = f"tests/test_{row.family}.py"
        assert f"fastopt.{row.function}(" in text(path), f"{path}: no test calls fastopt.{row.function}"

    def test_is_measured(self, row):
        assert f'"{row.function}"' in benchmarks(), f"bench/bench_{row.family}.py: no Case measures {row.function}"

    def test_is_in_the_readme(self, row):
        for name in (row.name, row.function):
            assert f"`{name}`" in text("README.md"), f"README.md: no line has `{name}`"

    @pytest.mark.skipif(not (ROOT / "CHANGELOG.md").exists(), reason="the source tree is elsewhere")
    def test_is_in_the_changelog(self, row):
        assert row.name in text("CHANGELOG.md"), f"CHANGELOG.md does not mention {row.name}"

    def test_has_torchs_trajectories(self, row):
        assert (row.name in {recorded[0] for recorded in RECORDED}) == row.torch, \
            f"tests/golden/record.py: {row.name} should {'' if row.torch else 'not '}have a row"


@pytest.mark.parametrize("name", [*(name for name in PUBLIC if name.endswith("_forward")), *LAYERS])
def test_forwards_and_layers_are_in_the_readme_and_the_changelog(name):
    for file in ("README.md", "CHANGELOG.md"):
        assert f"`{name}`" in text(file) or not (ROOT / file).exists(), f"{file}: no line has `{name}`"


REFERENCE = Path(fastopt.reference.__file__).parent


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("_[!_]*.py")), ids=lambda path: path.name)
def test_the_reference_stands_alone(path):
    """It shares no computation with the kernels, only the table of options and types."""
    imported = re.findall(r"^(?:from|import) (fastopt\S*)", path.read_text("utf-8"), re.M)
    assert {name for name in imported if not name.startswith("fastopt.reference.")} <= {
        "fastopt._options", "fastopt._typing"}
