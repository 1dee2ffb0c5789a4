"""Sphinx: Markdown pages with formulas, one bibliography, warnings as errors (``make docs``).

The pages are plain Markdown. Functions, tests and bibliography keys that they name become links here.
"""

from __future__ import annotations

import re
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import cssp

project = "cssp"
author = "the cssp authors"
version = release = cssp.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.mathjax",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
]
myst_enable_extensions = ["dollarmath"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
autodoc_typehints = "none"
exclude_patterns = ["edges.md"]  # part of contract.md
html_theme = "pydata_sphinx_theme"
html_title = "cssp"
html_theme_options = {"show_prev_next": False}
html_sidebars = {"*": []}
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False

DOCS = Path(__file__).parent
KEYS = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.M))
TESTS = {p.stem: p.read_text() for p in sorted((DOCS.parent / "tests" / "cssp").glob("test_*.py"))}
#: Test -> file and line.
PLACES = {
    line[4:].partition("(")[0]: (file, number)
    for file, text in TESTS.items()
    for number, line in enumerate(text.splitlines(), 1)
    if line.startswith("def test_")
}


def named(match: re.Match) -> str:
    """What stands in backticks, with a link if it is a function, a matrix or a test."""
    word = match[1].removeprefix("cssp.bounds.").removeprefix("cssp.matrices.")
    if word in PLACES:
        file, number = PLACES[word]
        shown = word.replace("_", "_<wbr>")
        return f'<a href="ROOTtests/{file}.html#L-{number}"><code>{shown}</code></a>'
    home = next((m for m in ("bounds", "matrices") if hasattr(getattr(cssp, m), word)), None)
    return match[0] if home is None else f"{{py:func}}`~cssp.{home}.{word}`"


def cited(match: re.Match) -> str:
    """A key of the bibliography as a citation."""
    return f"{{cite:t}}`{match[0]}`" if match[0] in KEYS else match[0]


def link(app, page: str, source: list[str]) -> None:
    """Before a page is parsed: make the links."""
    if page == "contract":
        source[0] = re.sub(r"`(test_\w+)`", named, source[0])
    elif page.startswith("theory/"):
        source[0] = re.sub(r"(?<!`)\b[a-z]+\d{4}[a-z]?\b", cited, re.sub(r"`([\w.]+)`", named, source[0]))
    source[0] = source[0].replace('href="ROOT', f'href="{"../" * page.count("/")}')


def plain(app, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Docstrings are plain text: bars are moduli, not substitutions, and keys in brackets are sources."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            line = re.sub(r"\[(\w+)\]", lambda m: f":cite:t:`{m[1]}`" if m[1] in KEYS else m[0], line)
            lines[i] = line.replace("|", r"\|")


def tests(app):
    """The files of tests as pages, a mark at each line."""
    for file, text in TESTS.items():
        body = highlight(text, PythonLexer(), HtmlFormatter(lineanchors="L", cssclass="highlight"))
        yield f"tests/{file}", {"title": file, "body": f"<h1>{file}.py</h1>{body}"}, "page.html"


def setup(app) -> None:
    app.connect("source-read", link)
    app.connect("autodoc-process-docstring", plain)
    app.connect("html-collect-pages", tests)
