"""The study as text on the terminal, a CSV, and verdicts in Markdown and JSON; `html` writes the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study.arms import ARMS
from analysis.study.bootstrap import Draws, full_and_blind, interval, retained
from analysis.study.predictors import NAMES, error_name
from analysis.study.recommend import Recommendation
from analysis.study.results import Results
from analysis.study.verdict import Verdict

COLUMNS = ("arm", "group", "keep", "tokens", "accuracy", "low", "high", "retained", *NAMES)


def summary(draws: Draws) -> list[dict[str, Any]]:
    """Return one dictionary a cell: tokens, accuracy with interval, retained accuracy, predictors (means over strata)."""
    results = draws.results
    kept = retained(draws)
    numbers = {n: draws.mean(lambda s, n=n: s.predictor(n))[0] for n in NAMES}
    found = []
    for i, (arm, keep) in enumerate(results.cells):
        bar = interval(draws.accuracy[:, i])
        tokens = results.tokens[i][results.ran[i]].mean()
        group = ARMS[arm].group if arm in ARMS else ""
        row = {
            "arm": arm,
            "group": group,
            "keep": keep,
            "tokens": tokens,
            "accuracy": bar.value,
            "low": bar.low,
            "high": bar.high,
        }
        found.append(row | {"retained": kept[0, i]} | {n: numbers[n][i] for n in NAMES})
    return found


def write_summary(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows of `summary` as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def write_verdicts(
    found: Sequence[Verdict],
    folder: Path,
    docs: Path | None = None,
    note: str = "",
    confirmed: Sequence[Verdict] = (),
) -> None:
    """Write ``verdicts.json`` and ``verdicts.md`` into the folder; the page for the documentation too, where asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdicts.json").write_text(
        json.dumps([_known(asdict(v)) for v in found], indent=1, ensure_ascii=False) + "\n"
    )
    page = markdown(found, note, confirmed)
    (folder / "verdicts.md").write_text(page)
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "verdicts.md").write_text(page)


def _known(value: Any) -> Any:
    """Return the same with None for NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_known(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def markdown(found: Sequence[Verdict], note: str = "", confirmed: Sequence[Verdict] = ()) -> str:
    """Return the verdicts as Markdown, strata beside the whole, and what the confirmation set says to each."""
    lines = [
        "# Verdicts",
        "",
        note or "Rules and statistics: [the plan](plan.md), written before the run.",
        "",
    ]
    for i, v in enumerate(found, 1):
        lines += [
            f"## {i}. {v.question}",
            "",
            f"**{v.verdict.capitalize()}.** {v.plain + ' ' if v.plain else ''}{v.statement}",
            "",
            *_once(confirmed[i - 1 : i]),
            f"*Rule:* {v.rule}",
            "",
        ]
        if not v.numbers:
            continue
        strata = list(v.numbers[0].strata)
        lines += [
            f"| | all | {' | '.join(strata)} |" if strata else "| | all |",
            "|---" * (2 + len(strata)) + "|",
        ]
        for n in v.numbers:
            cells = [str(n.all), *(str(n.strata[s]) if s in n.strata else "–" for s in strata)]
            lines.append(f"| {n.name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *_agreement(found)])


def _agreement(found: Sequence[Verdict]) -> list[str]:
    """Return what the rules look at, in every stratum."""
    known = [(i, n) for i, v in enumerate(found, 1) for n in v.agreement]
    if not known:
        return []
    lines = [
        "## Do models and families agree?",
        "",
        "Of the strata (a model on a family of scenes), how many have the sign of the whole, and in which the interval lies on the "
        "other side of zero.",
        "",
        "| | number | all | same sign | certainly the other |",
        "|---|---|---|---|---|",
    ]
    for i, n in known:
        lines.append(
            f"| {i} | {n.name} | {n.all} | {len(n.same)} of {len(n.strata)} | {'; '.join(n.against) or '–'} |"
        )
    return [*lines, ""]


def _once(confirmed: Sequence[Verdict]) -> list[str]:
    return [line for v in confirmed for line in (f"*Confirmation set:* **{v.verdict}**. {v.statement}", "")]


def text(
    draws: Draws,
    rows: Sequence[dict[str, Any]],
    found: Sequence[Verdict],
    confirmed: Sequence[Verdict] = (),
    own: Recommendation | None = None,
) -> str:
    """Return the text for the terminal: what to keep, accuracy (error) of every arm and budget, and the verdicts."""
    results = draws.results
    cells = {(r["arm"], r["keep"]): r for r in rows}
    arms = [a for a in results.arms if a in ARMS]
    full, blind = full_and_blind(draws)
    width = max([len(a) for a in arms], default=0) + 2
    lines = [
        *([own.sentence, own.rule, ""] if own else []),
        headline(results),
        f"all tokens: accuracy {full}; none: {blind}",
        "accuracy (relative Frobenius error)",
    ]
    lines.append("".ljust(width) + "".join(f"{k:.0%} kept".rjust(15) for k in results.keeps))
    for arm in arms:
        shown = [cells.get((arm, k)) for k in results.keeps]
        lines.append(
            arm.ljust(width)
            + "".join(
                (f"{c['accuracy']:.3f} ({c[error_name(2)]:.3f})" if c else "–").rjust(15) for c in shown
            )
        )
    lines.append("")
    lines += [f"{i}. {v.question}\n   {v.verdict.upper()}. {v.statement}" for i, v in enumerate(found, 1)]
    if confirmed:
        lines += ["", "On the confirmation set:"]
        lines += [f"{i}. {v.verdict.upper()}. {v.statement}" for i, v in enumerate(confirmed, 1)]
    return "\n".join(lines)


def headline(results: Results) -> str:
    """Return how much was asked."""
    asked = results.counts()
    words = [
        f"{len([a for a in results.arms if a in ARMS])} ways of pruning", f"{len(results.keeps)} budgets",
        f"{asked['scenes']} images of {_count(len({u[1] for u in results.units}), 'family', 'families')}",
        f"{asked['questions']:,} questions", _count(asked["models"], "model", "models"),
    ]  # fmt: skip
    return ", ".join(words)


def _count(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"
