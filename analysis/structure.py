"""The structure of the code in numbers: ``python -m analysis structure``.

Packages with the imports between them, and those that import each other, with the modules that do so in the direction
that fewer take; functions of more than 60 lines of code, modules of more than 350 lines, and lines in all. What
``__init__`` and ``__main__`` import of packages below their own is what these offer to users, and makes no pair. Lines of code are
those with more than a comment or docstring. Imports may be relative, as in older checkouts.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

TOPS = ("cssp", "vlm_bridge", "analysis")
LONG_FUNCTION, LONG_MODULE = 60, 350
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--root", type=Path, default=Path(), help="a checkout (default: this folder)")


def main(arguments: argparse.Namespace) -> int:
    """Print the numbers of a checkout."""
    root = arguments.root
    files = {p.relative_to(root): p.read_text() for top in TOPS for p in sorted((root / top).rglob("*.py"))}
    modules = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): text for p, text in files.items()}
    packages = {".".join(p.parent.parts) for p in files}
    arrows = imports(modules, packages)
    total = sum(found.total() for found in arrows.values())
    print(f"{len(packages)} packages, {len(arrows)} arrows, {total} imports across packages")
    for (start, end), importers in sorted(arrows.items()):
        print(f"  {start} -> {end}: {importers.total()}")
    print("packages that import each other:", *(mutual(arrows) or ["none"]), sep="\n  ")
    lines = {path: code_lines(text) for path, text in files.items()}
    print(f"functions of more than {LONG_FUNCTION} lines of code:")
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                count = len(lines[path] & set(range(node.lineno, (node.end_lineno or 0) + 1)))
                if count > LONG_FUNCTION:
                    print(f"  {path}: {node.name} {count}")
    print(f"modules of more than {LONG_MODULE} lines:")
    for path, text in files.items():
        if text.count("\n") > LONG_MODULE:
            print(f"  {path} {text.count(chr(10))}")
    tests = sum(len(code_lines(p.read_text())) for p in (root / "tests").rglob("*.py"))
    totals = {top: sum(len(found) for p, found in lines.items() if p.parts[0] == top) for top in TOPS}
    print("lines of code:", *(f"{name} {count}," for name, count in totals.items()), f"tests {tests}")
    return 0


def imports(modules: dict[str, str], packages: set[str]) -> dict[tuple[str, str], Counter[str]]:
    """Return the modules that import from one package to another, with counts, in functions and for type checkers, too."""
    found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for module, text in modules.items():
        here = module if module in packages else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                above = here.split(".")[: here.count(".") + 2 - node.level] if node.level else []
                start = ".".join([*above, *([node.module] if node.module else [])])
                full = [f"{start}.{a.name}" for a in node.names]
                names = [name if name in modules else start for name in full]
            for name in dict.fromkeys(names):
                there = name if name in packages else name.rpartition(".")[0]
                if there in packages and there != here:
                    found[here, there][module] += 1
    return dict(found)


def mutual(arrows: dict[tuple[str, str], Counter[str]]) -> list[str]:
    """Return a line for each two packages that import each other, with the importers in the direction that fewer take."""
    needs = {
        (start, end): sorted(
            module
            for module in importers
            if not (module in (start, f"{start}.__main__") and end.startswith(f"{start}."))
        )
        for (start, end), importers in arrows.items()
    }
    pairs = [(a, b) for a, b in sorted(needs) if a < b and needs[a, b] and needs.get((b, a))]
    fewer = {(a, b): min(needs[a, b], needs[b, a], key=len) for a, b in pairs}
    return [f"{a} <-> {b} (by {', '.join(fewer[a, b])})" for a, b in pairs]


def code_lines(text: str) -> set[int]:
    """Return the numbers of the lines of code: neither blank, nor comment, nor docstring."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return found
