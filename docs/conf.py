"""Sphinx's settings for the site: `sphinx-build -W -c docs . site` in the root of the source tree.

The root is Sphinx's source folder, so that a link between README.md, docs/ and CONTRIBUTING.md is the same on GitHub
and in the site. Pages that only the site needs are .rst; the text of every other page is Markdown.
"""

import importlib.util
import sys
from pathlib import Path

import fastopt

sys.path.insert(0, str(Path(__file__).parent))      # for site_hooks

project = "fastopt"
author = copyright = "the fastopt developers"
version = release = fastopt.__version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/*.rst", "docs/api/*.rst", "bench/README.md", "kernels/README.md"]
exclude_patterns = [".*", "build", "dist", "site", "venv", "tests", "fastopt", "examples", "licenses", "scripts"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "site_hooks"]
myst_heading_anchors = 4            # GitHub's names of the headings, to which the pages link
smartquotes = False                 # "none" is a string, --plot an option
highlight_language = "none"         # what a docstring sets apart by :: is a formula

# Names in single backticks are links to the API. Without a dot, they may be an argument's or an attribute's. What is
# outside of fastopt has no entry here, and neither have the private classes of the reference.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r"\w+"),
    ("py:.*", r"(numpy|collections|os|copy|pickle|sklearn|fastopt\.reference\._\w+)\b.*"),
    ("py:class", r"fastopt\.adapters\.sklearn\.Network"),
]

add_module_names = False
autodoc_preserve_defaults = True    # 1e-3, not 0.001
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("sklearn", "thinc") if importlib.util.find_spec(name) is None]
numpydoc_show_class_members = False
python_maximum_signature_line_length = 88
viewcode_follow_imported_members = True

html_theme = "furo"
html_title = "fastopt"
html_extra_path = ["redirect"]      # index.html of the site's root
html_copy_source = False

# What `fastopt lessons` writes is part of the site, unless `sphinx-build -t without_lessons` leaves it out.
if "without_lessons" not in tags:   # noqa: F821
    tags.add("lessons")     # noqa: F821
