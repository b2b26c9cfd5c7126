"""The documentation site: it builds without a warning, has an entry for each public name, and its links resolve."""

import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pages
import pytest

import fastopt
from fastopt import _options, _typing

for _package in ("sphinx", "furo", "myst_parser", "numpydoc"):
    pytest.importorskip(_package)
from sphinx.util.inventory import InventoryFile  # noqa: E402

if not (pages.ROOT / "setup.py").exists():
    pytest.skip("the source tree is elsewhere", allow_module_level=True)

MODULES = ("schedules", "init", "convert", "adapters", "reference")
ADAPTERS = {"fastopt.adapters.sklearn.use", "fastopt.adapters.thinc.Optimizer"}
PUBLIC = ({f"fastopt.{name}" for name in fastopt.__all__}
          | {f"fastopt.{module}.{name}" for module in MODULES for name in getattr(fastopt, module).__all__} | ADAPTERS)


class Page(HTMLParser):
    """The ids, the links, what is loaded, and the signatures (the text of each dt by its id) of an HTML file."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.signatures = set(), set(), set(), {}
        self._open = None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "dt":
            self._open = given.get("id")
        address = given.get({"a": "href", "form": "action"}.get(tag))
        if address:
            self.links.add(address)
        elif tag in ("link", "script", "img", "iframe"):
            self.loads |= {given[name] for name in ("src", "href") if given.get(name)}

    def handle_endtag(self, tag):
        if tag == "dt":
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.signatures[self._open] = self.signatures.get(self._open, "") + data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built once, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-t", "without_lessons", "-d", folder / "doctrees",
         "-c", "docs", ".", folder / "html"],
        cwd=pages.ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def html(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="module")
def inventory(site):
    """The entry of each documented name: its kind."""
    with open(site / "objects.inv", "rb") as file:
        found = InventoryFile.load(file, "", lambda base, target: target)
    return {name: kind for kind, names in found.items() if kind.startswith("py:") for name in names}


def test_every_public_name_has_an_entry(inventory):
    missing = sorted(PUBLIC - inventory.keys())
    assert not missing, f"docs/api/: no entry for {', '.join(missing)}"


def test_no_entry_is_stale(inventory):
    """An entry is a public name, a member of one, a module, a type in signatures, or what a forward pass returns.

    Sphinx itself fails on an entry whose object is gone, except for types.rst. A class has a second entry under the
    module that defines it.
    """
    for name, kind in inventory.items():
        owner, _, last = name.rpartition(".")
        if kind == "py:type":
            assert hasattr(_typing, last) or hasattr(_options, last), f"docs/api/types.rst: no type {last}"
        elif not re.match(r"fastopt\.(reference\.)?_", name):
            assert name in PUBLIC or owner in PUBLIC or kind == "py:module", f"docs/api/: {name} is no public name"


@pytest.mark.parametrize("name", ["adam", "Adam", "batch_norm_forward", "activation_forward", "softmax_cross_entropy"])
def test_signatures_are_complete_and_short(name, html):
    """Every parameter, with aliases for the types of arrays, and one signature in spite of overloads."""
    page = next(page for page in html.values() if f"fastopt.{name}" in page.signatures)
    shown = page.signatures[f"fastopt.{name}"]
    function = getattr(fastopt, name)
    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    assert re.findall(r"[(,]\s+\**(\w+): ", shown) == parameters
    assert "dtype[" not in shown
    assert shown.count("→") <= 1


def test_links_and_anchors_resolve(site, html):
    """Also those that Sphinx does not check: downloads, pictures, the sidebar, the index."""
    for path, page in html.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.relative_to(site)}: no file {link}"
            if parts.fragment and target in html:
                assert unquote(parts.fragment) in html[target].ids, f"{path.relative_to(site)}: no anchor {link}"


def test_nothing_is_loaded_from_elsewhere(html):
    for path, page in html.items():
        assert not [address for address in page.loads if urlsplit(address).netloc], path


def test_every_page_is_reached_from_the_index(site, html):
    reached, new = {site / "_modules" / "index.html"}, {site / "index.html"}      # the list of sources
    while new:
        reached |= new
        targets = {(path.parent / unquote(urlsplit(link).path)).resolve() for path in new for link in html[path].links}
        new = (targets & html.keys()) - reached
    assert html.keys() == reached


def test_every_page_and_example_is_part_of_the_site(html, site):
    for page in pages.PAGES:
        assert (site / page).with_suffix(".html") in html, page
    text = (pages.ROOT / "docs" / "examples.rst").read_text("utf-8")
    for example in (pages.ROOT / "examples").glob("*.py"):
        assert f"literalinclude:: ../examples/{example.name}\n" in text, f"docs/examples.rst: {example.name} is missing"


def test_without_lessons_the_page_says_so(site):
    text = (site / "docs" / "lessons.html").read_text("utf-8")
    assert "built without them" in text
    assert not (site / "lessons").exists()
