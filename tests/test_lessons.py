"""`fastopt lessons`: the command, the folder it writes, and what every page must have."""

import html.parser
import os
import pathlib
import signal
import subprocess
import sys
import urllib.parse
from concurrent.futures.process import BrokenProcessPool

import lesson_runs
import matplotlib
import numpy as np
import pytest

from fastopt.__main__ import main
from fastopt.demo.lessons import LESSONS, command, page, report, style

QUICK = ("minimising", "averages")


def run(*argv):
    """The exit status of `fastopt lessons` with arguments."""
    return main(["lessons", *map(str, argv)])


class Page(html.parser.HTMLParser):
    """A page's links, resources, pictures, headings, code, and the text outside of code and formulas."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.code, self.blocks = [], [], "", "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "link", "br", "mspace"):
            self.tags.append(tag)
        if tag == "pre":
            self.blocks.append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if "pre" in self.tags:
            self.blocks[-1] += data
        elif not {"style", "code", "math"} & set(self.tags):
            self.text += data

    def all(self, tag, name):
        return [attributes[name] for element, attributes in self.attributes if element == tag and name in attributes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of all lessons. tests/slow has one that processes make; the lessons' runs here serve all tests."""
    folder = tmp_path_factory.mktemp("lessons") / "report"
    report.write(folder, [page.render(name, page.load(name), lesson_runs.facts(name)) for name in LESSONS])
    return folder


@pytest.fixture(params=LESSONS)
def name(request):
    return request.param


def test_page(folder, name):
    text = (folder / f"{name}.html").read_text()
    found = Page(text)
    assert not found.tags
    assert text.startswith("<!DOCTYPE html>")
    assert found.all("html", "lang") == ["en"]
    assert [tag for tag, _ in found.attributes].count("h1") == 1
    assert page.load(name).TITLE in found.text
    for tag, attributes in found.attributes:
        assert tag not in ("script", "iframe", "object")
        for attribute in ("src", "href"):
            target = attributes.get(attribute, "data:,")
            if target != "data:,":
                assert not urllib.parse.urlparse(target).scheme
                assert (folder / target).is_file()
    pictures = found.all("img", "src")
    assert pictures
    assert len(pictures) == len(found.all("img", "alt"))
    assert all(len(alt) > 20 and alt.endswith(".") for alt in found.all("img", "alt"))
    assert len(set(pictures)) == len(pictures)
    for left in ("{{", "}}", "{%", "$", "**", "| -", "np.float", "nan", "None", "True", "False", "array("):
        assert left not in found.text


def test_pictures_have_no_external_parts(folder, name):
    for path in folder.glob(f"{name}_*.svg"):
        text = path.read_text()
        for attribute in ("href=", "src=", "url("):
            for rest in text.split(attribute)[1:]:
                assert rest.lstrip("\"'").startswith(("#", "data:")), path
        assert len(text) < 1_500_000


def test_links_lead_through_all_lessons(folder):
    index = Page((folder / "index.html").read_text())
    assert index.all("a", "href") == [f"{name}.html" for name in LESSONS]
    current, visited = LESSONS[0], []
    while current:
        visited.append(current)
        found = Page((folder / f"{current}.html").read_text())
        links = [attributes for tag, attributes in found.attributes if tag == "a"]
        following = {link["href"] for link in links if link.get("rel") == "next"}
        before = {link["href"] for link in links if link.get("rel") == "prev"}
        assert before == ({f"{visited[-2]}.html"} if len(visited) > 1 else set())
        assert "index.html" in {link["href"] for link in links}
        current = following.pop().removesuffix(".html") if following else None
    assert visited == list(LESSONS)


def test_same_bytes_in_other_processes():
    """Another run in another process: the same text and pictures. tests/slow compares all lessons in this way."""
    for lesson, seconds in report.run_lessons(QUICK, processes=2):
        assert lesson == page.render(lesson.name, page.load(lesson.name), lesson_runs.facts(lesson.name))
        assert seconds > 0


def test_code_shown_is_the_modules(folder, name):
    source = pathlib.Path(page.load(name).__file__).read_text()
    *parts, whole = Page((folder / f"{name}.html").read_text()).blocks
    assert whole == source
    assert parts
    for part in parts:
        if part.startswith(("def ", "class ")):
            assert part in source


@pytest.mark.parametrize("name", QUICK)
def test_code_shown_runs(folder, name):
    *_, whole = Page((folder / f"{name}.html").read_text()).blocks
    namespace = {"__name__": name}
    exec(compile(whole, name, "exec"), namespace)
    with lesson_runs.threadpoolctl.threadpool_limits(1):
        facts = namespace["run"]()
    assert facts.keys() == lesson_runs.facts(name).keys()
    np.testing.assert_equal(facts, lesson_runs.facts(name))


def test_facts_of_every_name(name):
    """A text that names a fact which its lesson does not have fails to render."""
    module = page.load(name)
    text = page.environment().from_string("{{ no_such_fact }}")
    with pytest.raises(Exception, match="no_such_fact"):
        text.render(lesson_runs.facts(name))
    assert module.TITLE
    assert page.first_line(module).endswith(".")


def test_command(tmp_path, capsys):
    target = tmp_path / "new" / "report"
    assert run(target, "--only", *reversed(QUICK), QUICK[0]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert printed[-1].startswith("2 lessons in ")
    assert printed[-1].endswith(str(target / "index.html"))
    assert {path.name for path in target.glob("*.html")} == {"index.html", "minimising.html", "averages.html"}
    assert 'rel="next" href="averages.html"' in (target / "minimising.html").read_text()
    assert not list(target.glob(".*"))
    # An earlier report is written anew, and its other pages stay in the contents.
    (target / "minimising.html").write_text("old")
    assert run(target, "--only", "minimising") == 0
    assert "Minimising" in (target / "minimising.html").read_text()
    assert 'href="averages.html"' in (target / "index.html").read_text()
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 lesson in ")


def test_open(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert run(tmp_path, "--only", "minimising", "--open") == 0
    assert opened == [(tmp_path / "index.html").as_uri()]


def refused(capsys, code, message, *argv):
    assert run(*argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fastopt lessons: ")
    assert message in captured.err


@pytest.fixture
def never_run(monkeypatch):
    """Lessons that fail when they are run: what is refused is refused before."""
    monkeypatch.setattr(report, "run_lessons", lambda names: pytest.fail("lessons were run"))


@pytest.mark.usefixtures("never_run")
class TestRefusals:
    def test_other_files(self, tmp_path, capsys):
        (tmp_path / "thesis.txt").write_text("mine")
        refused(capsys, 2, "which has other files", tmp_path)
        (tmp_path / "index.html").write_text("<html>another site</html>")
        refused(capsys, 2, "which has other files", tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["index.html", "thesis.txt"]

    def test_file(self, tmp_path, capsys):
        file = tmp_path / "file"
        file.write_text("mine")
        refused(capsys, 2, "expected a folder, got the file", file)
        refused(capsys, 2, "Not a directory", file / "below" / "it")
        assert file.read_text() == "mine"

    def test_unwritable(self, tmp_path, capsys):
        tmp_path.chmod(0o500)
        if os.geteuid():
            refused(capsys, 2, "Permission denied", tmp_path / "report")
            refused(capsys, 2, "Permission denied", tmp_path)
        assert not list(tmp_path.iterdir())
        if sys.platform == "linux":     # where not even root can write
            refused(capsys, 2, "expected a folder that can be written, got '/proc/report'", "/proc/report")

    def test_name_too_long(self, tmp_path, capsys):
        refused(capsys, 2, "File name too long", tmp_path / ("x" * 300))

    def test_unknown_lesson(self, tmp_path, capsys):
        with pytest.raises(SystemExit) as stopped:
            run(tmp_path / "report", "--only", "cooking")
        assert stopped.value.code == 2
        assert "minimising" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("module", command.MODULES)
    def test_missing_package(self, tmp_path, capsys, monkeypatch, module):
        monkeypatch.setitem(sys.modules, module, None)
        package = {"sklearn": "scikit-learn", "markdown_it": "markdown-it-py"}.get(module, module.replace("_", "-"))
        refused(capsys, 2, f'{package} is not installed; run: pip install "fastopt[lessons]"', tmp_path / "report")
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupt(tmp_path):
    """Ctrl-C reaches all processes of a terminal: they end at once, with one line, and nothing is written."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FASTOPT_NUM_THREADS": "2"}
    process = subprocess.Popen([sys.executable, "-m", "fastopt", "lessons", tmp_path / "report"], text=True,
                               start_new_session=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline()        # a lesson has been run, others are running
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert error == "fastopt lessons: stopped; nothing is written before all lessons have run\n"
    assert process.returncode == 130
    assert not (tmp_path / "report").exists()


def test_killed_process(tmp_path, capsys, monkeypatch):
    def killed(_names):
        raise BrokenProcessPool
    monkeypatch.setattr(report, "run_lessons", killed)
    refused(capsys, 1, "was killed", tmp_path / "report")
    assert not list(tmp_path.iterdir())


def test_disk_full(tmp_path, capsys, monkeypatch):
    """A write that fails: one line, no page in pieces, no temporary file."""
    assert run(tmp_path, "--only", "minimising") == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, _data):
        path.touch()
        raise OSError(28, "No space left on device", str(path))
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert run(tmp_path, "--only", "minimising") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_lesson_depends_on_a_users_matplotlibrc(folder):
    module, facts = page.load("averages"), lesson_runs.facts("averages")
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "lines.linewidth": 9}):
        picture = page.draw(module.weights, facts)
    assert picture == (folder / "averages_weights.svg").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_style():
    figure, axes = style.subplots(2, 3, height=4)
    assert axes.shape == (2, 3)
    assert tuple(figure.get_size_inches()) == (style.WIDTH, 4)


@pytest.mark.parametrize(("value", "text"), [
    (0.1, "0.1"), (np.float32(0.1), "0.1"), (-0.5, "−0.5"), (1 / 3, "0.3333"), (1e-5, "10⁻⁵"), (-1e-5, "−10⁻⁵"),
    (1.25e-7, "1.25\xa0·\xa010⁻⁷"), (3e8, "3\xa0·\xa010⁸"), (12, "12"), (-12, "−12"), (np.int64(3), "3"), (0.0, "0"),
    (np.array(2.5), "2.5"), ("as-is", "as-is"), (123456, "123456"),
])
def test_readable(value, text):
    assert page.environment().from_string("{{ value }}").render(value=value) == text


def test_filters():
    render = page.environment().from_string(
        "{{ a | fixed(2) }} {{ b | fixed(2) }} {{ c | percent }} {{ c | percent(0) }} {{ a | digits(2) }}").render
    assert render(a=-1.005, b=-0.001, c=0.125) == "−1.00 0.00 12.5\xa0% 12\xa0% −1"


def test_markdown():
    text = page.markdown().render("| a |\n| --- |\n| $x^2$ |\n\n```python\nx = '<b>'\n```\n\n5 $ and 6")
    assert "<table>" in text
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in text
    assert "&lt;b&gt;" in text
    assert "5 $ and 6" in text


def test_formulas_are_spaced():
    """A minus sign belongs to its number, a logarithm is apart from what it is of."""
    text = page.markdown().render(r"$(-7, −2.5)$ $x - 1$ $\log 10$")
    assert "<mrow><mo>&#x02212;</mo><mn>7</mn></mrow>" in text
    assert "<mrow><mo>&#x02212;</mo><mn>2.5</mn></mrow>" in text
    assert "<mi>x</mi><mo>&#x02212;</mo><mn>1</mn>" in text
    assert '<mi>log</mi><mspace width="0.167em" /><mn>10</mn>' in text


def test_where_lines_break():
    """Between the words of a command, and not between a formula and the comma after it."""
    text = page.as_html("`train --l1 0.1<b`, $x$, and $y$ here\n\n$$z,$$")
    assert "<code><span>train</span> <span>--l1</span> <span>0.1&lt;b</span></code>" in text
    assert "</math>,</span> and <span" in text
    assert "</math></span> here" in text
