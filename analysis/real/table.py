"""Tables of the rows: means of each arm at each budget, and how well an error tells their order."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from scipy.stats import bootstrap

from analysis.benchmarks.tables import table
from analysis.real import arms
from analysis.real.drawings import STYLES
from analysis.real.rows import Row
from analysis.study.bootstrap import Interval
from analysis.study.correlations import spearman

#: Pictures below which no interval is given.
LEAST = 8
RESAMPLES = 2000
#: What may predict the order of arms: larger is worse.
PREDICTORS = (
    "error 1",
    "error 2",
    "error 4",
    "error 8",
    "error 16",
    "error inf",
    "lost attention",
    "lost gradient",
)


class Means:
    """Rows of the pictures that the model answers with confidence from all tokens, as arrays.

    Attributes
    ----------
    pictures : list of str
        Fingerprints.
    arms, budgets : list
    values : dict of array (arms, budgets, pictures)
        By column; a picture counts only if every arm was measured at every budget.
    """

    def __init__(self, rows: Sequence[Row]):
        cells = {(row["content"], row["arm"], row["keep"]): row for row in rows if row["arm"] != arms.ALL}
        self.arms = list(dict.fromkeys(arm for _, arm, _ in cells))
        self.budgets = sorted({k for _, _, k in cells}, reverse=True)
        right = [row["content"] for row in rows if row["arm"] == arms.ALL and row["exact"] == 1]
        grid = [(arm, k) for arm in self.arms for k in self.budgets]
        self.pictures = [
            one for one in dict.fromkeys(right) if grid and all((one, *c) in cells for c in grid)
        ]
        numbers = [
            {name for name, value in row.items() if isinstance(value, float)} for row in cells.values()
        ]
        columns = set.intersection(*numbers) if numbers else set()  # strings were not written for every row
        self.values = {
            name: np.array(
                [
                    [[cells[one, arm, k][name] for one in self.pictures] for k in self.budgets]
                    for arm in self.arms
                ]
            )
            for name in sorted(columns)
            if self.pictures
        }

    def mean(self, column: str, arm: str, keep: int) -> float:
        """Return the mean over pictures."""
        return float(self.values[column][self.arms.index(arm), self.budgets.index(keep)].mean())

    def order(self, predictor: str, outcome: str, keep: int, sign: float = 1.0) -> Interval:
        """Return Spearman's correlation, over arms that see tokens alone, of mean predictor and mean outcome at a budget.

        Pictures are resampled; the interval is the bias-corrected and accelerated one (Efron, JASA 1987), of 95 %.
        """
        chosen = [i for i, arm in enumerate(self.arms) if arm in arms.BLIND]
        at = self.budgets.index(keep)
        x, y = (self.values[name][chosen, at] for name in (predictor, outcome))
        return interval(lambda picks, axis=-1: sign * _order(x, y, picks), len(self.pictures))

    def gap(self, column: str, arm: str, other: str, keep: int) -> Interval:
        """Return the mean of a column of one arm minus that of another, paired by picture, with its interval."""
        i, j, at = self.arms.index(arm), self.arms.index(other), self.budgets.index(keep)
        difference = self.values[column][i, at] - self.values[column][j, at]
        return interval(lambda picks, axis=-1: difference[picks].mean(-1), len(self.pictures))


def _order(x: np.ndarray, y: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Rank correlation over arms of means over the picked pictures (..., n)."""
    means = (np.moveaxis(v[:, picks].mean(-1), 0, -1) for v in (x, y))
    return spearman(*means)


def interval(statistic, n: int) -> Interval:
    """Return a statistic of picked pictures (..., n) with its BCa interval; none from fewer than `LEAST` or without spread."""
    value = float(statistic(np.arange(n)))
    if n < LEAST:
        return Interval(value, float("nan"), float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a statistic without spread, whose interval is NaN
        found = bootstrap(
            (np.arange(n),), statistic, n_resamples=RESAMPLES, batch=200, vectorized=True, method="BCa", rng=0
        ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def pages(rows: Sequence[Row], title: str) -> str:
    """Return the page of all rows, and of every style of drawings where there are several."""
    styles = list(dict.fromkeys(row["group"] for row in rows if row["group"] in STYLES))
    if len(styles) < 2:
        return page(rows, title)
    own = (page([row for row in rows if row["group"] == style], f"{title}, {style}") for style in styles)
    return "\n".join([page(rows, f"{title}, all styles"), *own])


def page(rows: Sequence[Row], title: str) -> str:
    """Return everything about one model as Markdown."""
    every = [row for row in rows if row["arm"] == arms.ALL]
    means = Means(rows)
    if not means.pictures:
        return f"## {title}\n\nNo picture was measured with every arm and budget.\n"
    parts = [
        f"## {title}",
        f"{len(every)} pictures; {len(means.pictures)} are counted below, which the model answers rightly (photographs: with confidence) from all tokens.",
        *(f"{name}\n\n{table(lines)}" for name, lines in _tables(means)),
        f"Rank correlations over the tokens of a picture: median (least to largest) over pictures\n\n{table(relations(every))}",
    ]
    return "\n\n".join(parts) + "\n"


def _tables(means: Means) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    head = ("arm", *(f"{k} tokens" for k in means.budgets))
    written = partial(_cell, means)
    for name, columns in (
        ("Relative error of exponent 2 / same answer / accuracy", ("error 2", "same", "accuracy")),
        ("Mean loss of the answer, nats a symbol", ("loss",)),
        (
            "Relative errors of exponents 1 / 4 / 8 / 16 / inf",
            ("error 1", "error 4", "error 8", "error 16", "error inf"),
        ),
    ):
        yield name, [head, *((arm, *(written(arm, k, columns) for k in means.budgets)) for arm in means.arms)]
    for outcome, sign in (("accuracy", 1.0), ("loss", -1.0)):
        lines = [
            (one, *(str(means.order(one, outcome, k, sign).written("{:+.2f}")) for k in means.budgets))
            for one in PREDICTORS
        ]
        yield (
            f"Spearman's correlation of predictor and {outcome}{' (sign turned)' if sign < 0 else ''} over arms that see tokens alone",
            [("predictor", *head[1:]), *lines],
        )
    lines = (
        [
            (
                other,
                *(means.gap("accuracy", "residual", other, k).written("{:+.1f}", 100) for k in means.budgets),
            )
            for other in means.arms
            if other != "residual"
        ]
        if "residual" in means.arms
        else []
    )
    if lines:
        yield "Accuracy of `residual` minus that of another arm, points", [("other arm", *head[1:]), *lines]


def _cell(means: Means, arm: str, keep: int, columns: Iterable[str]) -> str:
    return " / ".join(f"{means.mean(column, arm, keep):.3f}".replace("0.", ".", 1) for column in columns)


def relations(every: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the lines of a table of the rank correlations noted of each picture."""
    names = [name for name in every[0] if " and " in name]
    lines: list[tuple[str, ...]] = [("tokens' numbers", "median", "least", "largest", "pictures")]
    for name in names:
        values = np.array([row[name] for row in every if name in row])
        low, middle, high = np.nanquantile(values, (0, 0.5, 1))
        lines.append((name, f"{middle:+.2f}", f"{low:+.2f}", f"{high:+.2f}", str(len(values))))
    return lines
