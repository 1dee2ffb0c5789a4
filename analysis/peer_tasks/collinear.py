"""Collinear columns: the logic of caret's findLinearCombos, a recipe of statsmodels users, variance inflation factors."""

from __future__ import annotations

import numpy as np

import cssp
from analysis.peer_tasks.task import Task, script

#: R's qr() calls a column dependent below this share of its norm.
R_TOLERANCE = 1e-7


def tasks() -> list[Task]:
    """Return the tasks: dummies of two factors, a design with an empty cell, Longley's table."""
    import patsy
    import statsmodels.api as sm
    from statsmodels.stats.outliers_influence import variance_inflation_factor

    rng = np.random.default_rng(0)
    factors = [rng.integers(0, levels, 2000) for levels in (12, 20, 30)]
    dummies = np.column_stack([np.ones(2000), *[np.eye(x.max() + 1)[x] for x in factors]])
    a, b = rng.integers(0, 6, 3000), rng.integers(0, 8, 3000)
    some = {"a": a[a != b], "b": b[a != b]}  # cells without observations, which a formula cannot know
    cells = np.asarray(patsy.dmatrix("C(a) * C(b)", some))
    longley = sm.datasets.longley.load_pandas().exog
    Z = np.asarray((longley - longley.mean()) / longley.std())

    def deficit(X: np.ndarray):
        rank = int(np.linalg.matrix_rank(X))
        return lambda kept: float(rank - np.linalg.matrix_rank(X[:, kept]) + len(kept) - rank)

    def by_factor(_: int) -> np.ndarray:
        kept = np.arange(Z.shape[1])
        while True:
            with_intercept = np.column_stack([np.ones(len(Z)), Z[:, kept]])
            factor = [variance_inflation_factor(with_intercept, i + 1) for i in range(len(kept))]
            if max(factor) <= 10:
                return kept
            kept = np.delete(kept, int(np.argmax(factor)))

    def largest_factor(kept: np.ndarray) -> float:
        return float(np.diag(np.linalg.inv(np.corrcoef(Z[:, kept].T))).max())

    return [
        Task(
            title="caret: the linear combinations among dummies",
            text="An intercept and all dummies of three factors with 12, 20 and 30 levels, 2,000 rows. The first run is "
            "findLinearCombos' logic in NumPy: QR with R's rule of pivoting, solve for each dependent column, drop the last "
            "column of each combination, repeat until none is left.",
            page="https://topepo.github.io/caret/pre-processing.html",
            measure="columns too many or too few for a basis, 0 is right",
            runs={
                "caret's logic": lambda _: find_linear_combos(dummies)[1],
                "cssp independent_columns": lambda _: np.asarray(cssp.independent_columns(dummies).indices),
            },
            result=deficit(dummies),
        ),
        Task(
            title="statsmodels and patsy: interactions with empty cells",
            text="`C(a) * C(b)` of 6 and 8 levels, where patsy codes for full rank but six cells have no observation. The first "
            "run is a recipe from statsmodels' tracker: keep what has |R_jj| ≥ 1e-10 in a QR decomposition without pivoting.",
            page="https://www.statsmodels.org/stable/example_formulas.html",
            measure="columns too many or too few for a basis, 0 is right",
            runs={
                "diagonal of R": lambda _: np.flatnonzero(
                    np.abs(np.diag(np.linalg.qr(cells, mode="r"))) >= 1e-10
                ),
                "cssp independent_columns": lambda _: np.asarray(cssp.independent_columns(cells).indices),
            },
            result=deficit(cells),
        ),
        Task(
            title="statsmodels: variance inflation factors of Longley's table",
            text="Six economic series. The first run drops the column of the largest factor until none is above 10; ours keeps "
            "columns until each one has R² ≥ 0.9 on those kept.",
            page="https://www.statsmodels.org/stable/examples/notebooks/generated/ols.html",
            measure="the largest factor among the columns kept, 10 at most",
            runs={
                "largest VIF first": by_factor,
                "cssp tol_each": lambda _: np.sort(
                    cssp.select(Z, tol_each=np.sqrt(0.1), scale="norm").indices
                ),
            },
            result=largest_factor,
        ),
    ]


def find_linear_combos(X: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """Return the combinations among the columns, dependent one first, and the columns that stay, as caret's function finds them."""
    kept, combinations = np.arange(X.shape[1]), []
    while True:
        found = _dependent(X[:, kept])
        if not found:
            return combinations, kept
        combinations += [kept[columns].tolist() for columns in found]
        kept = np.delete(kept, sorted({columns[0] for columns in found}))


def _dependent(X: np.ndarray) -> list[list[int]]:
    """Return for each dependent column itself and the columns that it combines: LINPACK's QR moves such columns to the end."""
    Q, pivot, moved = np.zeros((len(X), 0)), [], []
    for j, x in enumerate(X.T):
        r = x - Q @ (Q.T @ x)
        r -= Q @ (Q.T @ r)
        if np.linalg.norm(r) <= R_TOLERANCE * np.linalg.norm(x):
            moved.append(j)
        else:
            Q = np.column_stack([Q, r / np.linalg.norm(r)])
            pivot.append(j)
    if not moved:
        return []
    T = np.linalg.lstsq(Q.T @ X[:, pivot], Q.T @ X[:, moved], rcond=None)[0]
    return [
        [j, *[i for i, c in zip(pivot, t, strict=True) if abs(c) > 1e-6]]
        for j, t in zip(moved, T.T, strict=True)
    ]


if __name__ == "__main__":
    script(tasks())
