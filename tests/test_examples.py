"""Every program in examples/ runs, as its first lines say, and prints what it promises."""

import re

import pages
import pytest

EXAMPLES = pages.ROOT / "examples"
WITHOUT_TORCH = """
import sys
class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == "torch":
            raise ModuleNotFoundError
sys.meta_path.insert(0, Finder)
"""
ACCURACY = r"epoch (\d+)   loss (\d\.\d{4})   test accuracy (\d+\.\d\d)%\n"


def run(name, tmp_path, *arguments, library="sklearn"):
    if library:
        pages.need(library)
    return pages.run((EXAMPLES / name).read_text("utf-8"), name, tmp_path, library, arguments)


@pytest.mark.parametrize(("name", "least"), [("mlp_digits.py", 95.0), ("convnet_digits.py", 94.0)])
def test_digits(name, least, tmp_path):
    printed = run(name, tmp_path, "--epochs", "3")
    epochs = re.findall(ACCURACY, printed)
    assert [int(epoch) for epoch, _, _ in epochs] == [1, 2, 3]
    assert float(epochs[2][1]) < float(epochs[0][1])
    assert float(epochs[2][2]) >= least


def test_char_model(tmp_path):
    printed = run("char_model.py", tmp_path, "--steps", "500", library=None)
    losses = [float(loss) for loss in re.findall(r"^step \d00   loss (\d\.\d{4})$", printed, re.M)]
    assert len(losses) == 5
    assert max(losses) < 1.0        # 3.3 for letters drawn at random
    (valid,) = re.findall(r"^(\d+) of 40 samples are numbers, \d+ of them not in the text$", printed, re.M)
    assert int(valid) >= 15


def test_word2vec(tmp_path):
    printed = run("word2vec.py", tmp_path, "--epochs", "3", library=None)
    losses = [float(loss) for loss in re.findall(r"^epoch \d   loss (\d\.\d{4})$", printed, re.M)]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3
    assert re.search(r"^cat: \w+, \w+, \w+$", printed, re.M)
    (same,) = re.findall(r"^(\d+)% of the nearest words are of the same kind$", printed, re.M)
    assert int(same) >= 90


def test_sklearn_mlp(tmp_path):
    printed = run("sklearn_mlp.py", tmp_path)
    contenders = re.findall(r"^(\S.*?) +(\d+) epochs   \d+\.\d s   test accuracy (\d+\.\d\d)%$", printed, re.M)
    assert [name for name, _, _ in contenders] == ["scikit-learn's Adam", "the same of fastopt", "AdamW, cosine"]
    accuracies = [float(accuracy) for _, _, accuracy in contenders]
    assert min(accuracies) >= 95.0
    assert abs(accuracies[0] - accuracies[1]) <= 1.0


def test_from_torch(tmp_path):
    pages.need("sklearn")
    printed = run("from_torch.py", tmp_path, "--steps", "20", library="torch")
    losses = [float(loss) for loss in re.findall(r"^(?:torch|fastopt) +loss (\d\.\d{4})$", printed, re.M)]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3
    (apart,) = re.findall(r"^the parameters end within (\S+) of those", printed, re.M)
    assert float(apart) < 1e-5


def test_from_torch_says_what_is_missing(tmp_path):
    pages.need("sklearn")
    with pytest.raises(AssertionError, match=r"from_torch.py\nexamples/from_torch.py needs torch: pip install torch\n"):
        pages.run(WITHOUT_TORCH + (EXAMPLES / "from_torch.py").read_text("utf-8"), "from_torch.py", tmp_path)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_is_short_and_says_how_it_is_run(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) < 80
    assert re.search(rf"^    python examples/{path.name}", source, re.M)
    assert f"def test_{path.stem}(" in pages.text("tests/test_examples.py") or f'"{path.name}"' in \
        pages.text("tests/test_examples.py"), f"no test runs {path.name}"
