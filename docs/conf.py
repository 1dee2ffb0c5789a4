"""Sphinx: Markdown pages with formulas, one bibliography, warnings as errors (``make docs``).

The pages are plain Markdown. Functions, tests and bibliography keys that they name become links here.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging
from sphinx.util.display import status_iterator

import cssp

#: A writer of pages needs neither: the bridge is documented all the same, and examples that need them are shown, but not run.
ABSENT = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
with mock(ABSENT):
    import vlm_bridge

DOCS = Path(__file__).parent
ROOT = Path(cssp.__file__).parent.parent
sys.path[:0] = [str(ROOT), str(DOCS)]  # examples import analysis

import method_example  # noqa: E402

project = "cssp"
author = "the cssp authors"
version = release = cssp.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["deflist", "dollarmath"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
autodoc_typehints = "none"
autodoc_mock_imports = ABSENT
autosummary_generate = True
templates_path = ["_templates"]
html_math_renderer = "mathml"
napoleon_use_ivar = True
# edges.md is part of contract.md
exclude_patterns = [
    "edges.md",
    "examples",
    "_templates",
    "**/sg_execution_times.rst",
    "sg_execution_times.rst",
]
html_theme = "pydata_sphinx_theme"
html_title = "cssp"
html_theme_options = {
    "show_prev_next": False,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "which": []},
}
copyright = author
# Pages of wide tables have no list of their neighbours beside them.
WIDE = [
    p.relative_to(DOCS).with_suffix("").as_posix()
    for d in (".", "theory", "guide")
    for p in (DOCS / d).glob("*.md")
]
html_sidebars = {page: [] for page in WIDE} | {"**": ["sidebar-nav-bs"]}
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False

SHOWN = [p.stem for p in (DOCS / "examples").glob("*.py") if ABSENT and "import torch" in p.read_text()]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"(?<!{')(?<!'.join(SHOWN)})\.py$" if SHOWN else r"\.py$",
    "abort_on_example_error": True,
    "backreferences_dir": "gallery/uses",
    "doc_module": ("cssp", "vlm_bridge"),
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1000,
    "show_signature": False,
}

KEYS = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.M))
TESTS = {p.stem: p.read_text() for p in sorted((ROOT / "tests" / "cssp").glob("test_*.py"))}
#: Words of the page that lists the public names.
LISTED = set(re.findall(r"[\w.]+", (DOCS / "api.md").read_text()))
LOGGER = logging.getLogger("docs")
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


def formula(text: str, block: bool) -> str:
    """MathML, which browsers draw without a script and without a network."""
    text = re.sub(
        r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text.replace(r"\dots", r"\ldots").replace(r"\mathrel", "")
    )
    return tex2mathml(text, as_block=block)


def inline_formula(writer, node) -> None:
    writer.body.append(f'<span class="math">{formula(node.astext(), False)}</span>')
    raise nodes.SkipNode


def block_formula(writer, node) -> None:
    writer.body.append(f'<div class="math">{formula(node.astext(), True)}</div>')
    raise nodes.SkipNode


def methods(app) -> None:
    """A page for every row of METHODS, and the page that lists them; what is newer than the code stays as it is."""
    folder = DOCS / "methods"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.stem not in {*cssp.METHODS, "index"}:
            old.unlink()
    for old in (DOCS / "gallery").glob("*.rst"):  # of examples that have gone
        if old.stem != "index" and not (DOCS / "examples" / f"{old.stem}.py").exists():
            old.unlink()
    for old in (DOCS / "api").glob("*.rst"):  # of names that have gone
        if old.stem not in LISTED:
            old.unlink()
    code = [*(ROOT / "cssp").rglob("*.py"), Path(__file__), Path(method_example.__file__), FORMULAS]
    newest = max(file.stat().st_mtime for file in code)
    rows = status_iterator(
        cssp.METHODS.values(),
        "pages of methods... ",
        "brown",
        len(cssp.METHODS),
        stringify_func=lambda r: r.name,
    )
    for row in rows:
        drawn = folder / f"{row.name}.png"  # drawn last, so that its age is that of the page
        if not drawn.exists() or drawn.stat().st_mtime < newest:
            update(folder / f"{row.name}.md", page(row))
            method_example.picture(row, drawn)
    listed = "\n".join(
        f"| [`{name}`]({name}.md) | {row.summary} | {'yes' if row.deterministic else 'no'} "
        f"| {PROMISE[row.guarantee.holds] if row.guarantee else '–'} |"
        for name, row in cssp.METHODS.items()
    )
    update(
        folder / "index.md",
        "# Methods\n\n[Which one when](../which.md) is measured. The table is\n\n"
        "```{eval-rst}\n.. py:data:: cssp.METHODS\n\n   Names to rows, each a `cssp.Method`.\n```\n\n"
        f"| method | what it does | same in every run | theorem holds |\n|---|---|---|---|\n{listed}\n\n"
        "```{toctree}\n:hidden:\n\n" + "\n".join(cssp.METHODS) + "\n```\n",
    )


def update(path: Path, text: str) -> None:
    """Write what has changed; a file that is written is a page that is built again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


#: In mathematics; a method that has none here shows its line.
FORMULAS = DOCS / "theorems.toml"
THEOREMS = tomllib.loads(FORMULAS.read_text())
PROMISE = {"every run": "in every run", "expectation": "on average"}


def page(row: cssp.Method) -> str:
    """The page of a method: its row, its module's docstring, its call."""
    seed = "" if row.deterministic else ", rng=0"
    options = ", ".join(f"`{name}={value!r}`" for name, value in row.options.items()) or "none"
    facts = {
        "work": row.cost,
        "same in every run": "yes" if row.deterministic else "with the same `rng`",
        "nested": "the first t of k picks are the picks for t" if row.nested else "no",
        "options": options,
        "honours": ", ".join(f"`{name}`" for name in sorted(row.supports - {"complex"}))
        + (", complex matrices" if "complex" in row.supports else ""),
        "works in": ", ".join(row.backends),
    }
    if row.citation:
        facts["source"] = f"{{cite:t}}`{row.citation}`"
    table = "\n".join(f"* - {what}\n  - {fact}" for what, fact in facts.items())
    law = ""
    if row.guarantee:
        g = row.guarantee
        source = f" {{cite:p}}`{g.source}`" if g.source else ""
        formula = THEOREMS.get(row.name, f"`{g.text}`").strip()
        law = (
            f"## Theorem\n\nHolds {PROMISE[g.holds]}{source}, with $F=\\|A-P_SA\\|_F^2$ and $T=\\|A-P_SA\\|_2^2$; the other symbols are those of "
            f"[the theory](../theory/index.md).\n\n{formula}\n\n"
        )
    module = row.function.__module__
    return (
        f"# {row.name}\n\n{row.summary[0].upper()}{row.summary[1:]}.\n\n"
        f"```python\nsel = cssp.select(A, k, {row.name!r}{seed})\n```\n\n"
        f"```{{list-table}}\n{table}\n```\n\n{law}## Example\n\n{method_example.example(row)}\n"
        f"![Relative error of {row.name} by the number of columns]({row.name}.png)\n\n## How it works\n\n"
        f"```{{eval-rst}}\n.. automodule:: {module}\n   :no-index:\n\n"
        f".. autofunction:: {module}.{row.function.__name__}\n```\n"
    )


def documented(app, env) -> None:
    """Every public name has a place in these pages and a docstring, or the build fails."""
    known = {name.removeprefix("cssp.select.") for name in env.domaindata["py"]["objects"]}
    for home in (cssp, cssp.bounds, cssp.matrices, vlm_bridge):
        for name in home.__all__:
            thing = getattr(home, name)
            if inspect.ismodule(thing) or name.startswith("__"):
                continue
            full = f"{home.__name__}.{name}"
            if full not in known:
                LOGGER.warning("%s is public and stands nowhere in the docs", full)
            if callable(thing) and not thing.__doc__:
                LOGGER.warning("%s has no docstring", full)
            for member, what in vars(thing).items() if inspect.isclass(thing) else ():
                own = inspect.isfunction(what) and what.__name__ == member and not member.startswith("_")
                if own and not inspect.getdoc(getattr(thing, member)):
                    LOGGER.warning("%s.%s has no docstring", full, member)


def skipped(app, what: str, name: str, thing, skip: bool, options) -> bool | None:
    """Methods that scikit-learn makes for its own routing."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    app.connect("builder-inited", methods, priority=100)
    app.connect("autodoc-skip-member", skipped)
    app.connect("env-check-consistency", documented)
    app.connect("source-read", link)
    app.connect("autodoc-process-docstring", plain)
    app.connect("html-collect-pages", tests)
