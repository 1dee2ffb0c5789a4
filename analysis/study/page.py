"""From rows to verdicts, figures and report, without a model: ``python -m analysis figures``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from analysis import reference
from analysis.study import decimer, figures, html, report
from analysis.study.bootstrap import Draws
from analysis.study.encoding import Checkpoint
from analysis.study.plan import pack
from analysis.study.recommend import recommend
from analysis.study.results import EMPTY, Results, join, read
from analysis.study.rules import verdicts
from analysis.training.card import write_table

SHIPPED = Path(__file__).parent / "rows.npz"
NOT_RUN = (
    "The study has not been run yet: there are no rows of this edition. Its questions and rules are below, fixed beforehand in [the plan](plan.md); "
    "what the first edition said, and what was wrong with it, is in [the corrections](corrections.md)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--rows", type=Path, help="packed rows (default: those in OUT)")
    parser.add_argument("--docs", type=Path, help="put the verdicts into this folder, too")
    parser.add_argument("--out", type=Path, default=Path("out/study"))


def main(arguments: argparse.Namespace) -> int:
    """Make the page; 2 where the rows cannot be read."""
    try:
        return make(arguments.rows, arguments.out, arguments.docs)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


def make(rows: Path | None, out: Path, docs: Path | None = None, checkpoint: Checkpoint | None = None) -> int:
    """Write ``rows.npz``, ``verdicts.json`` and ``.md``, ``summary.csv``, figures and ``report.html`` into `out`.

    Parameters
    ----------
    rows : Path, optional
        Packed rows; without, those of the units in `out`, or an earlier ``rows.npz`` there, or the shipped ones.
        Those of the confirmation set lie beside them as ``confirm.npz``, and those of DECIMER, unless they are shipped, as ``decimer.npz``.
    docs : Path, optional
        The page of verdicts goes there, and the table of models beside it; where there are no rows at all, it says so.
    checkpoint : Checkpoint, optional
        To draw the kept tokens; without, an earlier picture is used.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (
        rows is None
        and docs is not None
        and not (SHIPPED.exists() or (out / "rows").is_dir() or (out / "rows.npz").exists())
    ):
        report.write_verdicts(verdicts(EMPTY), out, docs, NOT_RUN)
        write_table(reference.measured(), docs / "models.md")
        return 0
    if rows is None:
        rows = out / "rows.npz"
        if not (out / "rows").is_dir() and not rows.exists() and SHIPPED.exists():
            rows = SHIPPED
        elif (out / "rows").is_dir() or not rows.exists():
            pack(out, rows)
    drawings = decimer.beside(rows)
    results = read(rows)
    draws = Draws(results)
    every, headline = _with_drawings(results, drawings)
    found = verdicts(every)
    once = rows.with_name("confirm.npz")
    if (out / "confirm" / "rows").is_dir():
        once = pack(out / "confirm", out / "confirm.npz")
    confirmed, note = [], f"{headline}."
    if once.exists():
        again, asked = _with_drawings(read(once), drawings, confirm=True)
        confirmed = verdicts(again)
        note += f" The confirmation set: {asked}."
    table = report.summary(draws)
    saved = _saved(rows)
    own = None if saved is None else recommend(draws, dict(zip(results.cells, saved, strict=True)))
    print(report.text(draws, table, found, confirmed, own))
    report.write_summary(table, out / "summary.csv")
    note += " Rules and statistics: [the plan](plan.md), written before the run."
    report.write_verdicts(found, out, docs, note, confirmed)
    if docs is not None:
        write_table(reference.measured(), docs / "models.md")
    if confirmed:
        report.write_verdicts(confirmed, out / "confirmed")
    drawn = figures.draw(draws, out, checkpoint, None if every is results else Draws(every))
    html.write(draws, table, found, drawn, out / "report.html", confirmed, headline, own)
    print(f"\nreport: {out / 'report.html'}\nrows: {rows}\nverdicts: {out / 'verdicts.md'}")
    return 0


def _with_drawings(results: Results, path: Path, confirm: bool = False) -> tuple[Results, str]:
    """Return the results with those of drawings, where there are any, and how much was asked."""
    asked = report.headline(results)
    if not path.exists():
        return results, asked
    drawn = decimer.read(path, confirm)
    return join(results, drawn), f"{asked}; on drawings that DECIMER reads: {report.headline(drawn)}"


def _saved(rows: Path) -> list[float] | None:
    """Return the seconds that each cell saves a question; None where the rows are not of a user's own questions."""
    with np.load(rows) as file:
        return file["saved"].tolist() if "saved" in file.files else None
