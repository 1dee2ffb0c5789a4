"""The example and the picture of a method's page: one matrix for all methods, so that pages can be compared."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import cssp

#: Numbers of columns that are chosen; `exact` searches all sets and gets fewer.
COUNTS, FEW = (1, 2, 4, 6, 8, 10, 12, 14, 16), (1, 2, 3, 4)

CODE = """import numpy as np
import cssp

rng = np.random.default_rng(0)
A = rng.standard_normal((60, 40)) * 0.8 ** np.arange(40)  # a decaying spectrum,
A = A @ np.linalg.qr(rng.standard_normal((40, 40)))[0]  # turned, so that every column has a part of it
sel = cssp.select(A, 6, {method!r}{seed})
print(sel.indices, round(sel.relative_error, 3))
print(sel.certificate())
"""


def matrix() -> np.ndarray:
    """Return the matrix of the example."""
    names: dict = {}
    exec(CODE.split("sel = ")[0], names)
    return names["A"]


def example(row: cssp.Method) -> str:
    """Return the example with what it prints, as Markdown."""
    code = CODE.format(method=row.name, seed="" if row.deterministic else ", rng=0")
    printed: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, {"print": lambda *words: printed.append(" ".join(map(str, words)))})
    return f"```python\n{code}```\n\n```text\n" + "\n".join(printed) + "\n```\n"


def picture(row: cssp.Method, path: Path) -> None:
    """Draw the error of the method beside that of pivoted QR and the SVD; of methods that draw, the range of ten runs, too."""
    A = matrix()
    s2 = np.linalg.svd(A, compute_uv=False) ** 2
    counts = FEW if row.name == "exact" else COUNTS
    runs = range(1 if row.deterministic else 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = np.array(
            [
                [
                    cssp.select(A, k, row.name, **({} if row.deterministic else {"rng": r})).relative_error
                    for k in counts
                ]
                for r in runs
            ]
        )
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    ax = figure.subplots()
    best = [np.sqrt(s2[k:].sum() / s2.sum()) for k in COUNTS]
    ax.semilogy(COUNTS, best, "k--", label="SVD: no columns can do better")
    if row.name != "residual":
        plain = cssp.select(A, COUNTS[-1])
        ax.semilogy(
            COUNTS,
            [np.sqrt(plain.errors[k] / plain.errors[0]) for k in COUNTS],
            color="0.6",
            label="residual",
        )
    ax.semilogy(counts, np.median(errors, axis=0), "o-", color="#0072b2", label=row.name)
    if len(errors) > 1:
        ax.fill_between(
            counts, errors.min(axis=0), errors.max(axis=0), color="#0072b2", alpha=0.2, label="ten runs"
        )
    ax.set(xlabel="columns k", ylabel="relative error")
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
