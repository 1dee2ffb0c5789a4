"""The study as one self-contained HTML page."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import cssp
from analysis.scenes import SKILLS
from analysis.study.arms import ARMS, FULL
from analysis.study.bootstrap import Draws, Interval, full_and_blind, interval, ranks
from analysis.study.drawing import DARK, HIGHLIGHTED, percent, variable
from analysis.study.figures import Figure
from analysis.study.predictors import NAMES
from analysis.study.recommend import Recommendation
from analysis.study.results import Results
from analysis.study.verdict import TIGHT, Verdict

#: Groups of arms, in words.
GROUPS = {
    "published": "published pruner", "baseline": "baseline", "cssp": "method of cssp", "relevance": "with relevance",
    "swaps": "improved by swaps", "factorial": "norms and rules", "twin": "same tokens, others folded or filled in",
    "recent": "published after the plan",
}  # fmt: skip


def write(
    draws: Draws, rows: Sequence[Mapping[str, Any]], found: Sequence[Verdict], figures: Sequence[Figure], path: Path,
    confirmed: Sequence[Verdict] = (), headline: str = "", own: Recommendation | None = None,
) -> None:  # fmt: skip
    """Write the page: verdicts, figures and tables with the counts that they rest on; nothing is loaded from elsewhere.

    Parameters
    ----------
    rows : sequence of mappings
        As `report.summary` returns them.
    confirmed : sequence of Verdict
        What the confirmation set says, in the order of `found`.
    headline : str
        How much was asked.
    own : Recommendation, optional
        For a user's own questions: comes first.
    """
    results = draws.results
    full, blind = full_and_blind(draws)
    again = list(confirmed) + [None] * (len(found) - len(confirmed))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "written": written,
        "count": "{:,}".format,
        "known": np.isfinite,
    }
    page = environment.get_template("report.html.j2").render(
        headline=headline, own=own, today=date.today().isoformat(), version=cssp.__version__, command=command(),
        cards=list(zip(found, again, strict=True)), full=full, blind=blind, everything=results.counts(), keeps=results.keeps,
        figures=[(figure, results.counts(figure.cells)) for figure in figures], accuracy=accuracy(results, rows),
        skills=skills(draws), ranking=ranking(draws), strata=strata(results), names=NAMES,
        colours={variable(light): (light, dark) for light, dark in DARK.items()},
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")


def command() -> str:
    """Return the command that is running, as it was typed; what makes the page from rows, where it is another program."""
    words = sys.orig_argv
    at = words.index("-m") + 1 if "-m" in words else len(words)
    typed = words[at:] if words[at : at + 1] == ["analysis"] else ["analysis", "figures"]
    return shlex.join(["python", "-m", *typed])


def written(bar: Interval, pattern: str = "{:.3f}", scale: float = 1) -> str:
    """Return an interval as text in which zero has no sign and minus signs are as wide as plus signs."""
    return re.sub(r"[-+](0(?:\.0+)?)(?![\d.])", r"\1", bar.written(pattern, scale)).replace("-", "−")


def accuracy(results: Results, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a dictionary an arm: its cells by budget, counts by budget, and at which budgets it is the best of those that only drop."""
    table: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        if row["arm"] in ARMS and row["keep"] in results.keeps:
            table.setdefault(row["arm"], {})[row["keep"]] = row
    plain = [a for a in table if not (ARMS[a].fold or ARMS[a].fill or ARMS[a].inside)]
    best = {
        k: max((table[a][k]["accuracy"] for a in plain if k in table[a]), default=None) for k in results.keeps
    }
    found = []
    for arm, cells in table.items():
        asked = {k: results.counts([(arm, k)]) for k in cells}
        first = {k for k, row in cells.items() if arm in plain and row["accuracy"] == best[k]}
        group = GROUPS.get(ARMS[arm].group, ARMS[arm].group)
        found.append({"arm": arm, "group": group, "cells": cells, "asked": asked, "best": first})
    return found


def skills(draws: Draws) -> dict[str, Any] | None:
    """Return the points lost against all tokens, arm by skill, at a tight budget; None where nothing can be compared."""
    results = draws.results
    full = results.index(FULL, 1.0)
    if full is None or not results.keeps:
        return None
    keep = min(results.keeps, key=lambda k: abs(k - 0.06))
    names = [s for s in SKILLS if s in results.skills]
    names += [s for s in results.skills if s not in names]
    rows = []
    for arm in results.arms:
        cell = results.index(arm, keep)
        if cell is None or arm not in ARMS:
            continue
        if not (arm in HIGHLIGHTED or arm.endswith(" + fold") or ARMS[arm].group == "published"):
            continue
        gaps = [interval(draws.mean(lambda s, c=cell, k=skill: s.gap(c, full, [k]))) for skill in names]
        mean = float(np.mean([gap.value for gap in gaps if np.isfinite(gap.value)] or [np.nan]))
        cells = [points(gap) for gap in (*gaps, Interval(mean, np.nan, np.nan))]
        rows.append({"arm": arm, "cells": cells, "mean": mean, "asked": results.counts([(arm, keep)])})
    if not rows:
        return None
    rows.sort(key=lambda row: -row["mean"] if np.isfinite(row["mean"]) else np.inf)
    return {"keep": keep, "asked": {skill: results.counts(skill=skill) for skill in names}, "rows": rows}


def points(gap: Interval) -> dict[str, Any]:
    """Return a difference as a cell: text, interval, and what colours it, unless it is zero as written."""
    if not np.isfinite(gap.value):
        return {"text": "–", "title": "not asked", "sign": "", "by": 0, "value": ""}
    rounded = round(100 * gap.value)
    return {
        "text": written(gap, "{:+.0f}", 100).split()[0],
        "title": f"{written(gap, '{:+.1f}', 100)} points",
        "sign": "lost" if rounded < 0 else "gained" if rounded > 0 else "",
        "by": min(abs(rounded), 80),
        "value": 100 * gap.value,
    }


def ranking(draws: Draws, most: int = 12) -> dict[str, Any] | None:
    """Return the mean ranks over skills of the pruners that only drop, at tight budgets, the best ones first."""
    results = draws.results
    tight = [k for k in results.keeps if k <= TIGHT]
    plain = [
        a
        for a in results.arms
        if a in ARMS
        and not (ARMS[a].fold or ARMS[a].fill or ARMS[a].inside)
        and all(results.index(a, k) is not None for k in results.keeps)
    ]
    if len(plain) < 2 or not tight:
        return None
    values = ranks(draws, plain, tight)
    first = np.mean(values[1:].argmin(1)[:, None] == np.arange(len(plain)), axis=0)
    order = np.argsort(values[0], kind="stable")[:most]
    rows = [{"arm": plain[i], "rank": interval(values[:, i]), "first": float(first[i])} for i in order]
    cells = {(a, k) for a in plain for k in tight}
    return {"rows": rows, "of": len(plain), "keeps": tight, "asked": results.counts(cells)}


def strata(results: Results) -> list[dict[str, Any]]:
    """Return what was asked of each model on each family of scenes, and what it answers with all tokens and with none."""
    found = []
    for model, family in results.strata():
        part = results.only(model, family)
        full, blind = full_and_blind(Draws(part))
        asked = {"name": f"{model}, {family}", "scenes": len(part.units), "questions": len(part.owner)}
        found.append({"model": model, "family": family, "full": full, "blind": blind} | asked)
    return found
