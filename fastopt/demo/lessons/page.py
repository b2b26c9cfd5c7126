"""A lesson as HTML: facts, pictures and code in Markdown, and that in a page."""

from __future__ import annotations

import functools
import html
import importlib
import inspect
import io
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jinja2
import matplotlib.style
import numpy
import pygments
from latex2mathml.converter import convert as mathml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

import fastopt
from fastopt.demo.lessons.style import STYLE

GENERATOR = "fastopt lessons"
"""What a page's meta element of this name says."""
JOINED = "\N{NO-BREAK SPACE}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Lesson:
    """A lesson that has been run, without what depends on other lessons."""

    name: str
    title: str
    summary: str
    body: str
    """HTML."""
    source: str
    """The module's source as HTML."""
    pictures: dict[str, bytes]
    """SVG by the file's name."""


@dataclass(frozen=True)
class Heading:
    """A lesson as other pages name it."""

    name: str
    title: str
    summary: str


def load(name: str) -> ModuleType:
    """The module of a lesson."""
    return importlib.import_module(f"fastopt.demo.lessons.{name}")


def heading(name: str) -> Heading:
    """A lesson's title and summary."""
    module = load(name)
    return Heading(name, module.TITLE, first_line(module))


def make(name: str) -> Lesson:
    """Run a lesson and render its text."""
    module = load(name)
    return render(name, module, module.run())


def render(name: str, module: ModuleType, facts: dict[str, Any]) -> Lesson:
    """Render the text of a lesson that has been run, and draw its pictures."""
    pictures: dict[str, bytes] = {}

    def figure(function: str) -> str:
        file = f"{name}_{function}.svg"
        pictures[file] = draw(getattr(module, function), facts)
        caption = html.escape(first_line(getattr(module, function)), quote=True)
        # An empty line would end the block for Markdown.
        return (f'\n\n<figure><div class="picture"><img src="{file}" alt="{caption}"></div>'
                f"<figcaption>{caption}</figcaption></figure>\n\n")

    def code(function: str) -> str:
        return f"\n\n```python\n{inspect.getsource(getattr(module, function)).rstrip()}\n```\n\n"

    text = environment().from_string(module.TEXT).render({**facts, "figure": figure, "code": code})
    return Lesson(name, module.TITLE, first_line(module), as_html(text),
                  highlight(inspect.getsource(module), "python"), pictures)


def draw(picture: Any, facts: dict[str, Any]) -> bytes:
    """The SVG of a picture, the same bytes in every run."""
    file = io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):     # a user's matplotlibrc changes no lesson
        picture(facts).savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


@functools.cache
def environment() -> jinja2.Environment:
    """For the texts, where numbers are written as a reader writes them."""
    texts = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=readable, trim_blocks=True,
                               lstrip_blocks=True)
    texts.filters |= {"fixed": fixed, "percent": percent, "digits": readable}
    return texts


def fixed(number: float, decimals: int) -> str:
    """A number with so many decimals, and zero without a sign."""
    text = f"{number:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent."""
    return f"{fixed(100 * share, decimals)}{JOINED}%"


def readable(value: Any, digits: int = 4) -> Any:
    """A number with at most so many significant digits, and a power of ten as such; anything else as it is."""
    if isinstance(value, numpy.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return str(value).replace("-", "−")
    mantissa, _, exponent = f"{float(value):.{digits}g}".partition("e")
    if exponent:
        power = f"10{str(int(exponent)).translate(SUPERSCRIPTS)}"
        mantissa = {"1": power, "-1": f"-{power}"}.get(mantissa, f"{mantissa}{JOINED}·{JOINED}{power}")
    return mantissa.replace("-", "−")


def as_html(text: str) -> str:
    """Markdown as HTML, with no line break between a formula and the comma after it."""
    return re.sub(r"</math></span>([.,:;)]+)", r"</math>\1</span>", markdown().render(text))   # style.css: one line


@functools.cache
def markdown() -> MarkdownIt:
    """CommonMark with tables, `$…$` as MathML and highlighted code."""
    parser = MarkdownIt("commonmark", {"highlight": lambda code, language, _: highlight(code, language)})
    parser.enable("table")

    def formula(latex: str, options: dict[str, Any]) -> str:
        latex = re.sub(r"([(\[,]\s*)-([\d.]+)", r"\1{-\2}", latex.replace("−", "-"))    # a sign, not a difference
        latex = re.sub(r"\\(log|ln)\b", r"\\\1\\,", latex)                              # a space before the argument
        return mathml(latex, display="block" if options["display_mode"] else "inline")

    def code_inline(_: Any, tokens: Sequence[Any], index: int, *_rest: Any) -> str:
        words = (f"<span>{html.escape(word)}</span>" for word in tokens[index].content.split(" "))
        return f"<code>{' '.join(words)}</code>"

    parser.add_render_rule("code_inline", code_inline)

    return parser.use(dollarmath_plugin, renderer=formula, allow_space=False, double_inline=True)


def highlight(code: str, language: str) -> str:
    """A program as HTML with a class for each kind of token."""
    lexer = get_lexer_by_name(language or "text")
    return f'<pre class="code"><code>{pygments.highlight(code, lexer, HtmlFormatter(nowrap=True))}</code></pre>'


@functools.cache
def pages() -> jinja2.Environment:
    """The templates; what is not marked safe there is escaped."""
    loader = jinja2.PackageLoader("fastopt.demo.lessons", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)


def lesson_page(lesson: Lesson, contents: Sequence[Heading]) -> str:
    """A lesson's page, with links to those before and after it."""
    position = [entry.name for entry in contents].index(lesson.name)
    return pages().get_template("lesson.html").render(
        common(), lesson=lesson, number=position + 1, previous=contents[position - 1] if position else None,
        next=contents[position + 1] if position + 1 < len(contents) else None)


def index_page(contents: Sequence[Heading]) -> str:
    """The page that lists the lessons."""
    return pages().get_template("index.html").render(common(), contents=contents)


def common() -> dict[str, Any]:
    """What the templates of all pages need."""
    return {"generator": GENERATOR, "version": fastopt.__version__, "numpy": numpy.__version__,
            "light": HtmlFormatter(style="friendly").get_token_style_defs(".code"),
            "dark": HtmlFormatter(style="github-dark").get_token_style_defs(".code")}
