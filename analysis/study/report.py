"""The study as text on the terminal, a CSV, verdicts in Markdown and JSON, and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from analysis.study.arms import ARMS, FULL
from analysis.study.bootstrap import Draws, full_and_blind, interval, ranks, retained
from analysis.study.predictors import NAMES
from analysis.study.results import Results
from analysis.study.verdict import Verdict

CAPTIONS = {
    "error_and_accuracy": (
        "Does a lower error go with more right answers?",
        "Each panel is a budget, each point a pruner; error grows to the right. If error told accuracy, points would fall along a line. ρ is "
        "Spearman's correlation, with its 95 % interval; the dotted line is the accuracy with all tokens. Pruners that read the question, "
        "merge tokens or act inside the language model are left out here: error does not describe what they hand on.",
    ),
    "retained_accuracy": (
        "What is left when tokens go",
        "Accuracy as a share of that with all tokens, against the number of tokens kept (logarithmic). Bands are 95 % intervals over scenes. On the "
        "right the same kept tokens three ways: the others dropped; folded into the nearest kept one; or put back as their projection "
        "on the span of the kept ones, so that every position stays filled.",
    ),
    "predictors": (
        "What predicts accuracy best?",
        "Twelve numbers that need no answers. Correlations are turned so that to the right of 0 means the number points the way its author meant. "
        "Left: over pruners, at a given budget. Middle: over pruners, for one image. Right: over images, for one pruner.",
    ),
    "skills": (
        "Which questions suffer",
        "Percentage points lost against all tokens. Rows are ordered by their mean.",
    ),
    "plane": (
        "One family, two exponents",
        "Greedy residual on tokens of length ‖x‖ᵝ times relevanceᵅ. Published pruners are single cells of this plane: outlined. Formed on a part of the scenes.",
    ),
    "tightness": (
        "How far theorems are from what happens",
        "Squared error over the least that any subspace of as many dimensions allows: measured on every image (bar and median), and the factor "
        "that the method's theorem grants (dash). Both axes are logarithmic; 1 is the best possible.",
    ),
    "kept_tokens": (
        "What the pruners look at",
        "Patches dropped before the language model are faded. Under each name: what the model then answers to the question on the left.",
    ),
}
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
        group = ARMS[arm].group if arm in ARMS else ("plane" if arm.startswith("family ") else "")
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
) -> str:
    """Return the text for the terminal: accuracy (error) of every arm and budget, and the verdicts."""
    results = draws.results
    cells = {(r["arm"], r["keep"]): r for r in rows}
    arms = [a for a in results.arms if a in ARMS]
    full, blind = full_and_blind(draws)
    width = max([len(a) for a in arms], default=0) + 2
    lines = [
        headline(results),
        f"all tokens: accuracy {full}; none: {blind}",
        "accuracy (relative reconstruction error)",
    ]
    lines.append("".ljust(width) + "".join(f"{k:.0%} kept".rjust(15) for k in results.keeps))
    for arm in arms:
        shown = [cells.get((arm, k)) for k in results.keeps]
        lines.append(
            arm.ljust(width)
            + "".join((f"{c['accuracy']:.3f} ({c['error']:.3f})" if c else "–").rjust(15) for c in shown)
        )
    lines.append("")
    lines += [f"{i}. {v.question}\n   {v.verdict.upper()}. {v.statement}" for i, v in enumerate(found, 1)]
    if confirmed:
        lines += ["", "On the confirmation set:"]
        lines += [f"{i}. {v.verdict.upper()}. {v.statement}" for i, v in enumerate(confirmed, 1)]
    return "\n".join(lines)


def headline(results: Results) -> str:
    """Return how much was asked."""
    models, families = ({u[i] for u in results.units} for i in (0, 1))
    scenes = len({u[1:] for u in results.units})
    words = [
        f"{len([a for a in results.arms if a in ARMS])} ways of pruning", f"{len(results.keeps)} budgets",
        f"{scenes} images of {_count(len(families), 'family', 'families')}",
        f"{len(results.owner):,} questions", _count(len(models), "model", "models"),
    ]  # fmt: skip
    return ", ".join(words)


def _count(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"


def strata(results: Results) -> list[dict[str, Any]]:
    """Return what was asked of each model on each family of scenes, and what it answers with all tokens and with none."""
    found = []
    for model, family in results.strata():
        part = results.only(model, family)
        full, blind = full_and_blind(Draws(part))
        counts = {"scenes": len(part.units), "questions": len(part.owner)}
        found.append({"model": model, "family": family, "full": full, "blind": blind} | counts)
    return found


def html(
    draws: Draws, rows: Sequence[dict[str, Any]], found: Sequence[Verdict], figures: dict[str, Path], path: Path,
    confirmed: Sequence[Verdict] = (),
) -> None:  # fmt: skip
    """Write the page; figures are embedded, nothing is loaded from elsewhere."""
    results = draws.results
    cells = {(r["arm"], r["keep"]): r for r in rows}
    arms = [a for a in results.arms if a in ARMS]
    full, blind = full_and_blind(draws)
    pictures = {
        name: {
            "title": CAPTIONS[name][0],
            "caption": CAPTIONS[name][1],
            "data": base64.b64encode(p.read_bytes()).decode(),
        }
        for name, p in figures.items()
    }
    order = [n for n in CAPTIONS if n in pictures]
    plain = [
        a
        for a in arms
        if not (ARMS[a].fold or ARMS[a].fill or ARMS[a].inside)
        and all((a, k) in cells for k in results.keeps)
    ]
    ranking = []
    tight = [k for k in results.keeps if k <= 0.15]
    if len(plain) > 1 and tight:
        values = ranks(draws, plain, tight)
        first = np.mean(values[1:].argmin(1)[:, None] == np.arange(len(plain)), axis=0)
        ranking = sorted(
            (
                {"arm": a, "rank": interval(values[:, i]), "first": float(first[i])}
                for i, a in enumerate(plain)
            ),
            key=lambda r: r["rank"].value,
        )[:12]
    best = {
        k: max((cells[a, k]["accuracy"] for a in plain if (a, k) in cells), default=None)
        for k in results.keeps
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        headline=headline(results), verdicts=found, confirmed=confirmed, pictures=[pictures[n] for n in order], keeps=results.keeps,
        arms=arms, cells=cells, best=best, full=full, blind=blind, ranking=ranking, strata=strata(results), groups={a: ARMS[a].group for a in arms},
        names=NAMES, full_name=FULL,
    )  # fmt: skip
    path.write_text(page)
