"""Data frames of pandas and polars for `analysis fuzz`: columns of any type and name, with missing cells."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import cssp

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "cssp")]

import answers  # noqa: E402
import strategies  # noqa: E402

#: Types of columns: that of the array which such a column is, None where it is no number, and what its cells are.
TYPES: dict[str, dict[str, tuple[str | None, Callable[[Any], Any]]]] = {
    "pandas": {
        **{name: (name, int) for name in ("int64", "int8", "uint8")},
        **{name: (name, float) for name in ("float64", "float32", "float16")},
        **dict.fromkeys(("Float32", "Sparse[float64]", "double[pyarrow]"), ("float64", float)),
        **dict.fromkeys(("Int64", "int32[pyarrow]"), ("float64", int)),
        **{"bool": ("bool", bool), "boolean": ("float64", bool), "complex128": ("complex128", complex)},
        **dict.fromkeys(("object", "category", "datetime64[ns]", "timedelta64[ns]"), (None, int)),
        "str": (None, str),
    },
    "polars": {
        **dict.fromkeys(("Int64", "UInt8", "Int8"), ("float64", int)),
        **{"Float64": ("float64", float), "Boolean": ("float64", bool)},
        **{"String": (None, str), "Date": (None, int), "Null": (None, lambda x: None)},
    },
}

#: Types that can say that a cell is missing.
NULLABLE = ("float64", "Int64", "Float32", "boolean", "double[pyarrow]", *TYPES["polars"])

NAMES = ("a", "", "a,b", "é", " ", '"', "0", 0, 1.5, None, ("x", 1), "A", "indices")


@dataclass(frozen=True)
class Frame:
    """A call whose matrix is a data frame, with a missing cell or without."""

    call: Any
    library: str
    types: tuple[str, ...]
    names: tuple[Any, ...]
    missing: tuple[int, int] | None

    def column(self, j: int) -> list[Any]:
        """Return the cells of column j, None where one is missing."""
        cell = TYPES[self.library][self.types[j]][1]
        column = self.call.A[:, j] if cell is complex else self.call.A[:, j].real
        values = [cell(x) for x in column.tolist()]
        if self.missing is not None and self.missing[1] == j:
            values[self.missing[0]] = None
        return values

    def matrix(self) -> Any:
        """Return the data frame of the library."""
        columns = [(self.column(j), kind) for j, kind in enumerate(self.types)]
        if self.library == "polars":
            import polars as pl

            return pl.DataFrame(
                [pl.Series(str(j), x).cast(getattr(pl, kind)) for j, (x, kind) in enumerate(columns)]
            )
        import pandas as pd

        frame = pd.concat([pd.Series(x, dtype=kind) for x, kind in columns], axis=1)
        frame.columns = pd.Index(self.names, tupleize_cols=False)
        return frame

    @property
    def wrong(self) -> bool:
        """Whether it is to be refused: for text anywhere, a missing cell where it counts, or complex numbers that the method does not take."""
        if self.call.A.dtype.kind == "c" and self.call.method not in strategies.able("complex"):
            return True
        text = any(TYPES[self.library][kind][0] is None for kind in self.types)
        valid = self.call.options.get("valid", np.ones(len(self.types), dtype=bool))
        return text or (self.missing is not None and bool(valid[self.missing[1]]))


def draw(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Frame:
    """Draw a call whose matrix is a data frame."""
    kinds = (strategies.integers, strategies.one_hot, strategies.integer_low_rank, strategies.equal_norms)
    shape = st.tuples(st.integers(1, 8), st.integers(1, 9))
    call = draw(strategies.calls(kinds=kinds, dtypes=("int8",), backends=("numpy",), shape=shape)).but(
        target=None
    )
    library = draw(st.sampled_from(sorted(TYPES)))
    rows, n = TYPES[library], call.A.shape[1]
    fit = [
        kind
        for kind, (plain, _) in rows.items()
        if plain and (plain[0] != "c" or call.method in strategies.able("complex"))
    ]
    usable = list(rows) if draw(st.integers(0, 3)) == 0 else fit
    types = tuple(draw(st.lists(st.sampled_from(usable), min_size=n, max_size=n)))
    columns = [
        abs(x) > 0 if rows[kind][1] is bool else abs(x) for x, kind in zip(call.A.T, types, strict=True)
    ]
    plain = [rows[kind][0] or "int64" for kind in types]
    A = np.stack([x.astype(kind) for x, kind in zip(columns, plain, strict=True)], axis=1)
    able = [j for j, kind in enumerate(types) if kind in NULLABLE]
    cells = st.tuples(st.integers(0, len(A) - 1), st.sampled_from(able)) if able else st.none()
    missing = draw(cells) if draw(st.integers(0, 3)) == 0 else None
    names = tuple(draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n)))
    return Frame(replace(call, A=A), library, types, names, missing)


def judge(case: Frame) -> str:
    """Select from the frame and return the outcome in a word; raise AssertionError where it breaks the contract."""
    call, frame = case.call, case.matrix()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        try:
            s = cssp.select(frame, method=call.method, **call.options)
        except cssp.CsspError:
            if not case.wrong:
                raise
            return "refused"
    assert not case.wrong, "these are no numbers"
    answers.check_numbers(call, s)
    return answers.check_same(call, s, call.run())
