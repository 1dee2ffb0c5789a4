"""The docs: every function, matrix, test and source they name exists; built, no formula or link is left unrendered."""

from __future__ import annotations

import html
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cssp

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = ("api", "gallery", "methods", "sg_execution_times.rst", "__pycache__")  # by the build
PAGES = {
    p.relative_to(DOCS).as_posix(): p.read_text()
    for p in sorted(DOCS.rglob("*.md"))
    if p.relative_to(DOCS).parts[0] not in MADE
}
TESTS = {
    name: p.relative_to(ROOT).as_posix()
    for p in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", p.read_text(), re.M)
}
FILES = {p.stem for p in (ROOT / "tests").rglob("test_*.py")}
KEYS = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.M))


def rows(page):
    """Cells of the table rows of a page, headers and rules left out."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for above, row in zip([None, *cells], cells, strict=False) if above and "---" not in row[0]]


def test_every_theorem_has_a_formula():
    formulas = tomllib.loads((DOCS / "theorems.toml").read_text())
    proven = {name for name, row in cssp.METHODS.items() if row.guarantee}
    assert set(formulas) == proven - {"power_norm"}  # the guide's, in a copy, shows its line
    assert all(text.count("$$") >= 2 and text.count("$") % 2 == 0 for text in formulas.values())


@pytest.mark.parametrize("name", PAGES)
def test_every_test_that_is_named_exists(name):
    missing = set(re.findall(r"`(test_\w+)(?:\.py)?`", PAGES[name])) - set(TESTS) - FILES
    assert not missing


def test_every_row_of_the_contract_names_a_test():
    table = rows(PAGES["contract.md"].split("\n## ")[0])
    assert len(table) > 40
    for what, result, test in table:
        assert re.fullmatch(r"\*\*.+\*\*", what) or (
            result and re.fullmatch(r"`test_\w+`(, `test_\w+`)*", test)
        )


@pytest.mark.parametrize(
    "name", [n for n in PAGES if n.startswith("theory/") and "| statement |" in PAGES[n]]
)
def test_every_statement_has_function_test_and_source(name):
    for row in rows(PAGES[name]):
        if len(row) < 4:
            continue
        functions = re.findall(r"`(\w+)(?:\(.*?\))?`", row[1])
        assert functions or row[1] == "–", row
        assert set(functions) <= {*cssp.bounds.BOUNDS, *cssp.METHODS, *cssp.__all__}, row
        if name.endswith("lower.md"):
            assert all(hasattr(cssp.matrices, m) for m in re.findall(r"`(\w+)`", row[2])), row
            assert re.search(r"`test_\w+`|the same", row[3]), row
        else:
            assert re.search(r"`test_\w+`|the same", row[2]), row
            assert set(re.findall(r"\b[a-z]+\d{4}[a-z]?\b", row[3])) <= KEYS, row
            assert row[3], row


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_resolve(name):
    for link in re.findall(r"\]\(([^)#]+\.md)[^)]*\)", PAGES[name]):
        if re.search(r"(^|/)methods/", link):
            assert Path(link).stem in {*cssp.METHODS, "index"}, link
            continue
        assert (DOCS / name).parent.joinpath(link).exists(), link


def test_every_page_is_in_a_table_of_contents_or_included():
    listed = set()
    for name, text in PAGES.items():
        folder = Path(name).parent
        for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.S):
            entries = [e for e in block.split() if not e.startswith(":")]
            listed |= {posixpath.normpath((folder / entry).as_posix()) + ".md" for entry in entries}
        listed |= {(folder / file).as_posix() for file in re.findall(r"```\{include\} (\S+)", text)}
    assert set(PAGES) - {"index.md"} <= listed


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("docs") / "docs", tmp_path_factory.mktemp("html")
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns(*MADE))
    build(source, out)
    return source, out


@pytest.fixture(scope="module")
def pages(built):
    return {p.relative_to(built[1]).as_posix(): p.read_text() for p in sorted(built[1].rglob("*.html"))}


def build(source, out):
    """What sphinx prints."""
    options = ["-W", "--keep-going", "-D", "plot_gallery=0"]  # test_gallery.py runs the examples
    command = [sys.executable, "-m", "sphinx", *options, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_second_build_reads_only_what_has_changed(pages, built):
    source, out = built
    (source / "api" / "cssp.gone.rst").write_text("A name that has gone\n====================\n")
    (source / "methods" / "gone.png").touch()
    faq = source / "faq.md"
    faq.write_text(faq.read_text() + "\nOne more line.\n")
    printed = build(source, out)
    assert "0 added, 1 changed, 0 removed" in printed
    assert "One more line." in (out / "faq.html").read_text()
    assert not (source / "methods" / "gone.png").exists()


def test_no_formula_or_link_is_left_unrendered(pages):
    assert {n.replace(".md", ".html") for n in PAGES if n != "edges.md"} <= set(pages)
    formulas = 0
    for name, page in pages.items():
        body = re.search(r"<article.*?</article>", page, re.S)
        if body is None:
            continue
        inline = re.findall(r'class="math[^"]*">(.*?)</(?:span|div)>', body[0], re.S)
        formulas += len(inline)
        text = re.sub(r'<(span|div) class="math[^"]*">.*?</\1>', "", body[0], flags=re.S)
        text = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<(code|pre)\b.*?</\1>", "", text, flags=re.S)))
        assert not re.search(r"\$|\\[a-z]+\{|\]\(|^#+ |\{cite|\{include", text, re.M), (name, text)
    assert formulas > 200


def test_every_link_in_the_html_resolves(pages):
    for name, page in pages.items():
        ids = set(re.findall(r'\bid="([^"]+)"', page))
        for link in re.findall(r'href="([^"]+)"', page):
            target, _, anchor = html.unescape(link).partition("#")
            if re.match(r"\w+:", target) or target.startswith(("_static", "../_static")):
                continue
            if not target:
                assert not anchor or anchor in ids, (name, link)
                continue
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if place.endswith(".html") and place not in ("search.html", "genindex.html"):
                assert place in pages, (name, link)
                assert not anchor or f'id="{anchor}"' in pages[place], (name, link)
