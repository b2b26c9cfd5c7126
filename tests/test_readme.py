"""README.md: the commands that .ci/run extracts are there, and the examples run."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)


@pytest.mark.parametrize("command", ['pip install -e ".[demo]" && fastopt train', 'pip install -e ".[test]" && pytest'])
def test_commands(command):
    assert command in README.read_text("utf-8").splitlines()


def test_examples(capsys):
    """In order and in one namespace, as a reader would paste them."""
    assert len(EXAMPLES) == 2
    namespace = {}
    for example in EXAMPLES:
        exec(example, namespace)
    assert re.match(r"loss \d\.\d{4} after 200 updates\n$", capsys.readouterr().out)
