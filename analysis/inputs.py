"""Kinds of input that `analysis fuzz` makes of bytes, and how the answer to each is judged.

A judge returns a word for what came out, and raises where that is neither an answer that passes the checks of
``tests/cssp/answers.py`` nor a `CsspError` that is called for.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import cssp
from cssp.errors import RankDeficientError, UnknownNameError, UnsupportedError

from . import command_lines, damage, damages

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "cssp")]

import answers  # noqa: E402
import storages  # noqa: E402
import strategies  # noqa: E402

Draw = Callable[[st.SearchStrategy[Any]], Any]

SHAPE = st.tuples(st.integers(1, 8), st.integers(1, 9))


@dataclass(frozen=True)
class Kind:
    """How a case is drawn, and what becomes of it in a word; a case shows itself by its ``repr``."""

    draw: Callable[[Draw], Any]
    judge: Callable[[Any], str]


# --- options and matrices that are wrong ----------------------------------------------------------------

OPTIONS = (
    "k", "tol", "weights", "scale", "include", "exclude", "valid", "deficient", "rng", "target", "progress", "rank", "f", "start"
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A call, the place of its matrix in a batch, and what is wrong with its options or its matrix."""

    call: Any
    place: int | None = None
    spoilt: dict[str, Any] | None = None


def wrong_options(call: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Options that may make the call a wrong one."""
    junk = st.dictionaries(st.sampled_from(OPTIONS), strategies.junk, min_size=1, max_size=2)
    return strategies.wrong(*call.A.shape).map(lambda pair: pair[0]) | junk


def spoilt_answer(call: Any, A: Any, options: dict[str, Any]) -> str:
    """What becomes of a call with changed options."""
    try:
        s = cssp.select(A, **{"method": call.method} | call.native(call.options) | options)
    except cssp.CsspError:
        return "refused"
    distinct(answers.host(s.indices))
    return "spoilt but right"


def distinct(indices: np.ndarray) -> None:
    for line in indices.reshape(-1, indices.shape[-1]) if indices.size else ():
        chosen = line[line >= 0]
        assert len(set(chosen.tolist())) == chosen.size, "distinct"


# --- arrays in memory -----------------------------------------------------------------------------------


def draw_array(draw: Draw) -> Case:
    call = draw(
        strategies.calls(shape=SHAPE, kinds=draw(st.sampled_from([strategies.KINDS, strategies.DEPENDENT])))
    )
    place = draw(st.integers(0, 3)) if draw(st.booleans()) else None
    changes = wrong_options(call).map(lambda o: {"options": o}) | strategies.wrong_matrix(call.A).map(
        lambda pair: {"A": pair[0]}
    )
    spoilt = draw(changes) if draw(st.integers(0, 2)) == 0 else None
    deficient = draw(st.sampled_from([None, None, "fill", "truncate", "raise"]))
    return Case(call if deficient is None else call.but(deficient=deficient), place, spoilt)


def judge_array(case: Case) -> str:
    call, deficient = case.call, case.call.options.get("deficient")
    if case.spoilt is not None:
        return spoilt_answer(call, case.spoilt.get("A", call.matrix()), case.spoilt.get("options", {}))
    before = call.A.copy()
    try:
        s = call.run()
    except RankDeficientError:
        assert deficient == "raise"
        return "deficient"
    assert call.A.tobytes() == before.tobytes(), "A untouched"
    answers.check_numbers(call, s)
    if deficient == "truncate":
        distinct(answers.host(s.indices))
        return "truncated"
    answers.check_contract(call, s)
    if "tol" not in call.options:
        answers.check_independent(call, s)
    if case.place is None:
        return "answer"
    check_batch(call, case.place, s)
    return "batch"


def check_batch(call: Any, place: int, alone: Any) -> None:
    """The same call as one item among others gives the same bits."""
    g = np.random.default_rng(place)
    others = [strategies.cast(kind(g, *call.A.shape), "float64") for kind in strategies.KINDS[place::4]]
    with np.errstate(all="ignore"):
        others = [np.clip(X, -6e4, 6e4).astype(call.A.dtype) for X in others][:3]
    items = [*others[:place], call.A, *others[place:]]
    i = min(place, len(others))
    many = replace(call, A=np.stack(items), options=dict(call.options))
    if "target" in many.options:
        many.options["target"] = np.stack([many.options["target"]] * len(items))
    if many.options.get("deficient") == "raise":
        many.options["deficient"] = "fill"
    rng = call.options.get("rng")
    if rng is not None:
        seeds = np.random.default_rng(rng).spawn(len(items))
        alone = call.run(rng=seeds[i])
    batch = many.run()
    k = alone.k
    assert answers.host(batch.indices)[i, :k].tolist() == answers.listed(alone), (
        "an item of a batch is the item alone"
    )
    ours, theirs = answers.host(batch.errors)[i, : k + 1], answers.host(alone.errors)
    assert ours.tobytes() == theirs.tobytes(), "errors in a batch"


# --- matrices read in passes ----------------------------------------------------------------------------

#: What goes wrong in a block of a matrix read in passes.
TROUBLES: dict[str, Callable[[Any], Any]] = {
    "masked": lambda X: np.ma.masked_array(X, mask=np.ones(np.shape(X), dtype=bool)),
    "a row short": lambda X: X[:-1],
    "a column more": lambda X: np.hstack([X, X]),
    "of objects": lambda X: np.asarray(X).astype(object),
    "text": lambda X: np.asarray(X).astype(str),
    "no array": lambda X: None,
    "a list": lambda X: np.asarray(X).tolist(),
    "not finite": lambda X: np.asarray(X) + np.inf,
    "complex": lambda X: np.asarray(X).astype(complex),
}


@dataclass(frozen=True)
class Stored(Case):
    """A call whose matrix is stored elsewhere, drawn from a seed; ``trouble`` is what its blocks are."""

    storage: str = ""
    seed: int = 0
    trouble: str | None = None

    def matrix(self, stack: ExitStack) -> Any:
        A = storages.STORAGES[self.storage](self.call.A, random.Random(self.seed), stack)
        if self.trouble is None:
            return A
        wrong = TROUBLES[self.trouble]
        if self.storage == "dask":
            return A.map_blocks(wrong, dtype=A.dtype, meta=A._meta)
        A.matvec, A.matmat = (lambda X, f=f: wrong(f(X)) for f in (A.matvec, A.matmat))
        return A


def draw_stored(storage: str, draw: Draw) -> Stored:
    methods = st.sampled_from(sorted(cssp.passes.METHODS)) | strategies.names
    kinds = (*strategies.KINDS, *strategies.DEPENDENT)
    if storage == "operator":  # its products are the caller's, and may overflow
        kinds = (*strategies.PLAIN, *strategies.DEPENDENT)
    types = ("float64", "float32", "int64", "int8", "bool", "complex128", "complex64")
    call = draw(strategies.calls(methods, kinds, types, ("numpy",), shape=SHAPE))
    if storage != "operator" and call.A.dtype.kind in "fc" and draw(st.integers(0, 9)) == 0:
        call.A[draw(st.integers(0, len(call.A) - 1)), -1] = draw(st.sampled_from([np.nan, np.inf]))
    spoilt = draw(wrong_options(call)) if draw(st.integers(0, 4)) == 0 else None
    able = storage in ("dask", "operator") and draw(st.integers(0, 4)) == 0
    trouble = draw(st.sampled_from(sorted(TROUBLES))) if able else None
    return Stored(call, None, spoilt, storage, draw(st.integers(0, 2**16)), trouble)


def judge_stored(case: Stored) -> str:
    call = case.call
    with storages.small_tiles(), ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        A = case.matrix(stack)
        if case.spoilt is not None:
            return spoilt_answer(call, A, case.spoilt)
        try:
            expected = call.run()
        except cssp.CsspError:
            expected = None
        try:
            s = cssp.select(A, method=call.method, **call.options)
        except (UnsupportedError, UnknownNameError):
            return "unsupported"
        except cssp.CsspError:
            if expected is not None and case.trouble is None and np.isfinite(call.A).all():
                raise
            return "refused"
        if case.trouble is not None:  # in padding, or no trouble after all
            distinct(s.indices)
            return f"{case.trouble}, unseen"
        assert expected is not None, "refused in memory"
        answers.check_contract(call, s)
        answers.check_numbers(call, s)
    if answers.owes_the_same(call, case.storage):
        return answers.check_same(call, s, expected)
    return "answer"


# --- data frames ----------------------------------------------------------------------------------------

#: Types of columns: those that are numbers with the array they are, others with None.
PANDAS: dict[str, str | None] = {
    "float64": "float64", "float32": "float32", "float16": "float16", "int64": "int64", "int8": "int8", "uint8": "uint8",
    "bool": "bool", "Int64": "float64", "Float32": "float64", "boolean": "float64", "Sparse[float64]": "float64",
    "double[pyarrow]": "float64", "int32[pyarrow]": "float64", "complex128": "complex128",
    "object": None, "str": None, "category": None, "datetime64[ns]": None, "timedelta64[ns]": None,
}  # fmt: skip
POLARS: dict[str, str | None] = {
    "Float64": "float64", "Int64": "float64", "UInt8": "float64", "Int8": "float64", "Boolean": "float64",
    "String": None, "Date": None, "Null": None,
}  # fmt: skip
LIBRARIES = {"pandas": PANDAS, "polars": POLARS}

#: Types that can say that a cell is missing.
NULLABLE = (
    "float64",
    "Int64",
    "Float32",
    "boolean",
    "double[pyarrow]",
    "Float64",
    "UInt8",
    "Int8",
    "Boolean",
)

NAMES = ("a", "", "a,b", "é", " ", '"', "0", 0, 1.5, None, ("x", 1), "A", "indices")


@dataclass(frozen=True)
class Frame(Case):
    """A call whose matrix is a data frame."""

    library: str = "pandas"
    types: tuple[str, ...] = ()
    names: tuple[Any, ...] = ()
    missing: tuple[int, int] | None = None

    def matrix(self) -> Any:
        m = len(self.call.A)
        columns = []
        for j, kind in enumerate(self.types):
            plain = LIBRARIES[self.library][kind]
            column = self.call.A[:, j]
            values = (column if plain == "complex128" else column.real).astype(plain or "int64").tolist()
            if (
                plain == "float64"
                and kind != "float64"
                and not kind.startswith(("Float", "double", "Sparse"))
            ):
                values = [bool(x) if kind.lower() == "boolean" else int(x) for x in values]
            if self.missing is not None and self.missing[1] == j:
                values[self.missing[0]] = None
            columns.append([str(x) for x in values] if kind in ("str", "String") else values)
        if self.library == "pandas":
            import pandas as pd

            frame = pd.concat(
                [pd.Series(x, dtype=kind) for x, kind in zip(columns, self.types, strict=True)], axis=1
            )
            frame.columns = pd.Index(self.names, tupleize_cols=False)
            return frame
        import polars as pl

        made = [
            pl.Series(str(j), [None] * m if kind == "Null" else x).cast(getattr(pl, kind))
            for j, (x, kind) in enumerate(zip(columns, self.types, strict=True))
        ]
        return pl.DataFrame(made)

    @property
    def wrong(self) -> bool:
        return self.missing is not None or any(LIBRARIES[self.library][kind] is None for kind in self.types)


def draw_frame(draw: Draw) -> Frame:
    kinds = (strategies.integers, strategies.one_hot, strategies.integer_low_rank, strategies.equal_norms)
    call = draw(strategies.calls(kinds=kinds, dtypes=("int8",), backends=("numpy",), shape=SHAPE)).but(
        target=None
    )
    library = draw(st.sampled_from(sorted(LIBRARIES)))
    types, n = LIBRARIES[library], call.A.shape[1]
    own = [
        kind
        for kind, plain in types.items()
        if plain is not None and (plain != "complex128" or "complex" in cssp.METHODS[call.method].supports)
    ]
    if draw(st.integers(0, 3)) == 0:
        own = list(types)
    drawn = tuple(draw(st.lists(st.sampled_from(own), min_size=n, max_size=n)))
    plain = [np.dtype(types[kind] or "int64") for kind in drawn]
    columns = [
        call.A[:, j] > 0 if kind in ("bool", "boolean", "Boolean") else abs(call.A[:, j])
        for j, kind in enumerate(drawn)
    ]
    A = np.stack([x.astype(p) for x, p in zip(columns, plain, strict=True)], axis=1)
    able = [j for j, kind in enumerate(drawn) if kind in NULLABLE]
    missing = (
        (draw(st.integers(0, len(A) - 1)), draw(st.sampled_from(able)))
        if able and draw(st.integers(0, 3)) == 0
        else None
    )
    names = tuple(draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n)))
    return Frame(replace(call, A=A), None, None, library, drawn, names, missing)


def judge_frame(case: Frame) -> str:
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
    valid = call.options.get("valid", np.ones(len(case.types), dtype=bool))
    assert not case.wrong or (case.missing is not None and not valid[case.missing[1]]), "no numbers"
    expected = call.run()
    answers.check_numbers(call, s)
    return answers.check_same(call, s, expected)


# --- kept state -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damaged:
    """A file of kept state, damaged in a way of `analysis.damages` and then byte by byte."""

    which: tuple[int, int]
    damage: str
    seed: int
    edits: tuple[tuple[int, int], ...]

    def content(self) -> bytes:
        one, other = (kept()[i % len(kept())] for i in self.which)
        content = bytearray(dict(damages.DAMAGES)[self.damage](one, other, np.random.default_rng(self.seed)))
        for place, byte in self.edits if content else ():
            content[place % len(content)] = byte
        return bytes(content)


@lru_cache(None)
def kept() -> list[damage.Kept]:
    return damage.states()


def draw_damaged(draw: Draw) -> Damaged:
    place = st.integers(0, 2**16)
    edits = st.lists(st.tuples(place, st.integers(0, 255)), max_size=3).map(tuple)
    return Damaged(
        draw(st.tuples(place, place)),
        draw(st.sampled_from([name for name, _ in damages.DAMAGES])),
        draw(place),
        draw(edits),
    )


def judge_damaged(case: Damaged) -> str:
    with tempfile.TemporaryDirectory() as folder:
        outcome, why = kept()[case.which[0] % len(kept())].outcome(case.content(), Path(folder) / "state.npz")
    assert outcome in ("refused", "harmless"), f"{outcome}: {why}"
    return outcome


def _stored(storage: str) -> Kind:
    return Kind(lambda draw: draw_stored(storage, draw), judge_stored)


#: Every kind of input.
KINDS: dict[str, Kind] = {
    "array": Kind(draw_array, judge_array),
    "frame": Kind(draw_frame, judge_frame),
    **{storage: _stored(storage) for storage in storages.STORAGES},
    "kept state": Kind(draw_damaged, judge_damaged),
    "command line": Kind(command_lines.draw, command_lines.judge),
}
