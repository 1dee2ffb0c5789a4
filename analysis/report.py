"""The study as a table on the terminal, a CSV and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from . import statistics
from .statistics import Interval, Results

CAPTIONS = {
    "error_and_accuracy": "Each point is a method; the nearer the points lie to a falling line, the better error predicts "
    "accuracy at that budget. ρ leaves out folded twins (hollow): their kept rows are means, not columns.",
    "retained_accuracy": "Accuracy over the accuracy of the unpruned model on the same questions. Dashed lines are the "
    "folded twins: same tokens kept, each replaced by the mean of its cluster.",
    "kept_tokens": "The tightest budget on three held-out scenes. Faded patches were dropped before the language model.",
}


def summary(results: Results) -> list[dict]:
    """One dictionary a cell: method, keep, tokens, error, accuracy and retained accuracy with intervals."""
    accuracy, retained = statistics.accuracies(results), statistics.retained(results)
    return [
        {
            "method": method,
            "keep": keep,
            "tokens": float(results.tokens[i]),
            "error": float(results.error[i].mean()),
            "accuracy": accuracy[i],
            "retained": retained[i],
        }
        for i, (method, keep) in enumerate(results.cells)
    ]


def text(results: Results) -> str:
    """The table for the terminal: a row a method, a column a budget, accuracy and (error)."""
    keeps = [k for k in results.keeps if k < 1]
    cells = {(row["method"], row["keep"]): row for row in summary(results)}
    full = next(row for row in cells.values() if row["keep"] == 1)
    width = max(len(m) for m in results.methods) + 2
    lines = [
        f"{len(results.scenes)} held-out scenes, {int(results.asked[0].sum())} questions; "
        f"all tokens: accuracy {full['accuracy']}",
        "accuracy (relative reconstruction error)",
        "".ljust(width) + "".join(f"{k:.1%} kept".rjust(18) for k in keeps),
    ]
    for method in results.methods:
        if method != full["method"]:
            row = "".join(
                f"{cells[method, k]['accuracy'].value:.3f} ({cells[method, k]['error']:.3f})".rjust(18)
                for k in keeps
            )
            lines.append(method.ljust(width) + row)
    lines += ["", "Spearman correlation of error with accuracy, 95 % interval:"]
    lines += [f"  {name}: {value}" for name, value in statistics.correlations(results).items()]
    return "\n".join(lines)


def write_summary(results: Results, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "method",
                "keep",
                "tokens",
                "error",
                "accuracy",
                "low",
                "high",
                "retained",
                "retained_low",
                "retained_high",
            ]
        )
        for row in summary(results):
            a, r = row["accuracy"], row["retained"]
            numbers = (row["tokens"], row["error"], a.value, a.low, a.high, r.value, r.low, r.high)
            writer.writerow([row["method"], row["keep"], *(f"{v:.6g}" for v in numbers)])


def verdict(found: dict[str, Interval]) -> list[str]:
    """What the correlations say, in sentences; nothing is claimed where an interval contains zero."""
    sentences = []
    for name, rho in found.items():
        if rho.value != rho.value:
            sentences.append(f"{name}: too few cells to say.")
        elif rho.high < 0:
            sentences.append(f"{name}: lower error goes with higher accuracy (ρ = {rho}).")
        elif rho.low > 0:
            sentences.append(f"{name}: lower error goes with lower accuracy, against the theory (ρ = {rho}).")
        else:
            sentences.append(f"{name}: no relation that these data can tell from chance (ρ = {rho}).")
    return sentences


def html(results: Results, figures: dict[str, Path], card: dict | None, path: Path) -> None:
    """Write the page; figures are embedded, nothing is loaded from elsewhere."""
    keeps = [k for k in results.keeps if k < 1]
    rows = {(r["method"], r["keep"]): r for r in summary(results)}
    pictures = [
        {"name": name, "caption": CAPTIONS[name], "data": base64.b64encode(p.read_bytes()).decode()}
        for name, p in figures.items()
    ]
    methods = [m for m in results.methods if m != "full"]
    base = "random" if "random" in methods else methods[0]
    gaps = {k: statistics.differences(results, base, k) for k in keeps}
    best = {k: max(rows[m, k]["accuracy"].value for m in methods) for k in keeps}
    skills = {
        skill: {i: counts[0, i] / max(counts[1, i], 1) for i in range(len(results.cells))}
        for skill, counts in results.skills.items()
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html", "j2"])
    )
    page = environment.get_template("report.html.j2").render(
        results=results, keeps=keeps, rows=rows, methods=methods, pictures=pictures, gaps=gaps, base=base, best=best,
        full=rows["full", 1.0], verdict=verdict(statistics.correlations(results)), card=card, skills=skills,
        questions=int(results.asked[0].sum()),
    )  # fmt: skip
    path.write_text(page)


def read_card(folder: Path) -> dict | None:
    path = folder / "measured.json"
    return json.loads(path.read_text()) if path.exists() else None
