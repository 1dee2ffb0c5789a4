"""``cssp methods``: the table of methods for a terminal."""

from __future__ import annotations

import inspect
import json
import textwrap

from cssp.arguments import find_method
from cssp.methods import METHODS, Method

__all__ = ["show"]

WIDTH, INDENT = 100, 21


def show(name: str | None = None) -> str:
    """Return the text about all methods with their options and defaults, or about one."""
    return _one(find_method(name)) if name else "\n".join(["method", *map(_line, METHODS.values())])


def _line(row: Method) -> str:
    said = row.summary + ("" if row.deterministic else " (draws: --rng)")
    lines = _wrapped(f"{row.name:<{INDENT}}{said}")
    return "\n".join(
        [lines, _wrapped(" " * INDENT + "--option " + _options(row))] if row.options else [lines]
    )


def _one(row: Method) -> str:
    promise = row.guarantee
    parts = {
        "draws": "no" if row.deterministic else "yes: --rng makes it repeatable",
        "options": _options(row) or "none",
        "cost": row.cost,
        "honours": ", ".join(sorted(row.supports)) or "none of include, exclude, tol, target, complex",
        "works on": ", ".join(row.backends),
        "theorem": "none" if promise is None else f"{promise.text} ({promise.holds}; {promise.source})",
        "citation": row.citation or "none",
    }
    about = inspect.getdoc(inspect.getmodule(row.function)) or ""
    facts = [_wrapped(f"{name:<{INDENT}}{value}") for name, value in parts.items()]
    prose = "\n\n".join(textwrap.fill(paragraph, WIDTH) for paragraph in about.split("\n\n"))
    return "\n".join([_wrapped(f"{row.name:<{INDENT}}{row.summary}"), *facts, "", prose])


def _options(row: Method) -> str:
    """Return the options as --option takes them."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in row.options.items()
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * INDENT, replace_whitespace=False)
