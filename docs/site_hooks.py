"""What the site does beside Sphinx's own: the API by families, short signatures, links, the lessons."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
from docutils import nodes
from numpy.typing import DTypeLike, NDArray
from sphinx import addnodes
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

import fastopt
from fastopt import _typing

ROOT = Path(__file__).parents[1]
PUBLIC = {f"fastopt.{name}" for name in fastopt.__all__} | {
    f"fastopt.{module}.{name}" for module in ("schedules", "init", "convert", "reference")
    for name in getattr(fastopt, module).__all__}

_ALIASES = ("Float32Array", "FloatArray", "Params", "Grads", "Labels", "Schedule", "LearningRate", "PerParam", "State",
            "StateDict")
_WRITTEN = {stringify_annotation(getattr(_typing, name), "smart"): f"~fastopt.{name}" for name in _ALIASES}
_WRITTEN[stringify_annotation(DTypeLike, "smart")] = "~numpy.typing.DTypeLike"
_ARRAY = re.escape(stringify_annotation(NDArray[np.float64], "smart")).replace(r"\~numpy\.float64", r"([\w~.]+)")


class Family(SphinxDirective):
    """`.. family:: adam`: an entry for each public name that fastopt/_adam.py defines, in its order."""

    required_arguments = 1

    def run(self):
        module, lines = f"fastopt._{self.arguments[0]}", []
        for name, entry in vars(import_module(module)).items():
            if f"fastopt.{name}" in PUBLIC and getattr(entry, "__module__", "") == module:
                kind = "class" if isinstance(entry, type) else "function"
                members = kind == "class" and not issubclass(entry, tuple)      # whose docstring names its fields
                lines += [f".. auto{kind}:: fastopt.{name}", "   :members:" if members else "", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def _short(text):
    for written in sorted(_WRITTEN, key=len, reverse=True):
        text = text.replace(written, _WRITTEN[written])
    text = re.sub(_ARRAY, r"~numpy.typing.NDArray[\1]", text)
    return re.sub(r"\bfastopt\._\w+\.(?=[A-Z]\w+(?<!Cache)\b)", "fastopt.", text)


def shorten(app, what, name, obj, options, signature, returns):
    """Write aliases for the types that they stand for, and public names without the private module."""
    return signature and _short(signature), returns and _short(returns)


def without_overloads(app, env, docnames):
    """Show the signature of the function itself, not those that type checkers choose from."""
    for module in ("_cross_entropy", "_runtime.config"):
        analyzer = ModuleAnalyzer.for_module(f"fastopt.{module}")
        analyzer.analyze()
        analyzer.overloads = {}


def _link(domain, kind, target, children):
    """A link that Sphinx resolves when all pages have been read, with what it shows."""
    link = addnodes.pending_xref("", refdomain=domain, reftype=kind, reftarget=target, refexplicit=True, refwarn=True)
    link += children
    return link


def link_folders(app, doctree):
    """Links to folders of the source tree: to the page about the folder, or plain text."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        target = link["reftarget"]
        if link["reftype"] != "myst" or not (ROOT / app.env.docname).parent.joinpath(target).is_dir():
            continue
        examples = Path(target).name == "examples"
        link.replace_self(_link("std", "doc", "/docs/examples", link.children) if examples else link.children)


def link_names(app, doctree):
    """Link `fastopt.adam` and `fastopt.adam(…)` in any Markdown page, and `adam` in the README, to the API."""
    docname = app.env.docname
    for literal in [] if docname.startswith("docs/api/") else list(doctree.findall(nodes.literal)):
        name = re.sub(r"\(.*\)$|\.…$", "", literal.astext())
        name = name if name.startswith("fastopt.") or docname != "README" else f"fastopt.{name}"
        linked = isinstance(literal.parent, addnodes.pending_xref | nodes.reference | nodes.title)
        if name in PUBLIC and not linked:
            literal.replace_self(_link("py", "obj", name, [literal.deepcopy()]))


def without_types(app, doctree):
    """Properties without the types that `shorten` does not get; their docstrings say what they are."""
    for entry in doctree.findall(addnodes.desc):
        for annotation in list(entry[0].findall(addnodes.desc_annotation)) if entry["objtype"] == "property" else []:
            if annotation.astext().startswith(":"):
                annotation.parent.remove(annotation)


def without_source(app, doctree):
    """No links to the source of classes in private modules: viewcode's way back supposes one name for a module."""
    if app.env.docname == "docs/api/caches":
        for signature in doctree.findall(addnodes.desc_signature):
            signature["module"] = None


def write_lessons(app, error):
    """Add the lessons to the site that has been written."""
    if error is None and "lessons" in app.tags and app.builder.name == "html":
        command = [sys.executable, "-m", "fastopt", "lessons", str(Path(app.outdir) / "lessons")]
        folder = Path(fastopt.__file__).parents[1]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExtensionError(f"fastopt lessons failed; -t without_lessons leaves them out. {done.stderr.strip()}")


def setup(app):
    app.add_directive("family", Family)
    app.connect("autodoc-process-signature", shorten)
    app.connect("env-before-read-docs", without_overloads)
    app.connect("doctree-read", link_folders)
    app.connect("doctree-read", link_names)
    app.connect("doctree-read", without_types)
    app.connect("doctree-read", without_source, priority=100)   # ahead of viewcode
    app.connect("build-finished", write_lessons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
