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
from analysis import command_lines, corruptions, damage, data_frames
from cssp.errors import RankDeficientError, UnknownNameError, UnsupportedError

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
    changed: dict[str, Any] | None = None


def wrong_options(call: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return options that may make the call a wrong one."""
    junk = st.dictionaries(st.sampled_from(OPTIONS), strategies.junk, min_size=1, max_size=2)
    junk = junk.filter(lambda o: not callable(o.get("progress")))  # which may raise what it likes
    return strategies.wrong(*call.A.shape).map(lambda pair: pair[0]) | junk


def answer_to_changed(call: Any, A: Any, options: dict[str, Any]) -> str:
    """Return the outcome of a call with changed options."""
    try:
        s = cssp.select(A, **{"method": call.method} | call.native(call.options) | options)
    except cssp.CsspError:
        return "refused"
    distinct(answers.host(s.indices))
    return "changed but right"


def distinct(indices: np.ndarray) -> None:
    """Check that no index occurs twice in an item; padding is negative."""
    for line in indices.reshape(-1, indices.shape[-1]) if indices.size else ():
        chosen = line[line >= 0]
        assert len(set(chosen.tolist())) == chosen.size, "distinct"


# --- arrays in memory -----------------------------------------------------------------------------------


def draw_array(draw: Draw) -> Case:
    """Draw a call on an array in memory."""
    call = draw(
        strategies.calls(shape=SHAPE, kinds=draw(st.sampled_from([strategies.KINDS, strategies.DEPENDENT])))
    )
    place = draw(st.integers(0, 3)) if draw(st.booleans()) else None
    changes = wrong_options(call).map(lambda o: {"options": o}) | strategies.wrong_matrix(call.A).map(
        lambda pair: {"A": pair[0]}
    )
    changed = draw(changes) if draw(st.integers(0, 2)) == 0 else None
    deficient = draw(st.sampled_from([None, None, "fill", "truncate", "raise"]))
    return Case(call if deficient is None else call.but(deficient=deficient), place, changed)


def judge_array(case: Case) -> str:
    """Run a call on an array and return its outcome in a word; raise AssertionError where it breaks the contract."""
    call, deficient = case.call, case.call.options.get("deficient")
    if case.changed is not None:
        return answer_to_changed(call, case.changed.get("A", call.matrix()), case.changed.get("options", {}))
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
    """Check that the same call as one item among others gives the same bits."""
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
BLOCK_FAULTS: dict[str, Callable[[Any], Any]] = {
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
    """A call whose matrix is stored elsewhere, drawn from a seed; ``fault`` is what its blocks are."""

    storage: str = ""
    seed: int = 0
    fault: str | None = None

    def matrix(self, stack: ExitStack) -> Any:
        """Return the matrix in its storage, which ``stack`` closes."""
        A = storages.STORAGES[self.storage](self.call.A, random.Random(self.seed), stack)
        if self.fault is None:
            return A
        wrong = BLOCK_FAULTS[self.fault]
        if self.storage == "dask":
            return A.map_blocks(wrong, dtype=A.dtype, meta=A._meta)
        A.matvec, A.matmat = (lambda X, f=f: wrong(f(X)) for f in (A.matvec, A.matmat))
        return A


def draw_stored(storage: str, draw: Draw) -> Stored:
    """Draw a call on a matrix in this storage."""
    methods = st.sampled_from(sorted(cssp.passes.METHODS)) | strategies.names
    kinds = (*strategies.KINDS, *strategies.DEPENDENT)
    if storage == "operator":  # its products are the caller's, and may overflow
        kinds = (*strategies.PLAIN, *strategies.DEPENDENT)
    types = ("float64", "float32", "int64", "int8", "bool", "complex128", "complex64")
    call = draw(strategies.calls(methods, kinds, types, ("numpy",), shape=SHAPE))
    if storage != "operator" and call.A.dtype.kind in "fc" and draw(st.integers(0, 9)) == 0:
        call.A[draw(st.integers(0, len(call.A) - 1)), -1] = draw(st.sampled_from([np.nan, np.inf]))
    changed = draw(wrong_options(call)) if draw(st.integers(0, 4)) == 0 else None
    able = storage in ("dask", "operator") and draw(st.integers(0, 4)) == 0
    fault = draw(st.sampled_from(sorted(BLOCK_FAULTS))) if able else None
    return Stored(call, None, changed, storage, draw(st.integers(0, 2**16)), fault)


def judge_stored(case: Stored) -> str:
    """Run a call on a stored matrix and return its outcome in a word; raise AssertionError where it breaks the contract."""
    call = case.call
    with storages.small_tiles(), ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        A = case.matrix(stack)
        if case.changed is not None:
            return answer_to_changed(call, A, case.changed)
        try:
            expected = call.run()
        except cssp.CsspError:
            expected = None
        try:
            s = cssp.select(A, method=call.method, **call.options)
        except (UnsupportedError, UnknownNameError):
            return "unsupported"
        except cssp.CsspError:
            if expected is not None and case.fault is None and np.isfinite(call.A).all():
                raise
            return "refused"
        if case.fault is not None:  # in padding, or no fault after all
            distinct(s.indices)
            return f"{case.fault}, unseen"
        assert expected is not None, "refused in memory"
        answers.check_contract(call, s)
        answers.check_numbers(call, s)
    if answers.owes_the_same(call, case.storage):
        return answers.check_same(call, s, expected)
    return "answer"


# --- kept state -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damaged:
    """A file of kept state, damaged in a way of `analysis.corruptions` and then byte by byte."""

    which: tuple[int, int]
    damage: str
    seed: int
    edits: tuple[tuple[int, int], ...]

    def content(self) -> bytes:
        """Return the bytes of the damaged file."""
        one, other = (kept()[i % len(kept())] for i in self.which)
        content = bytearray(
            dict(corruptions.CORRUPTIONS)[self.damage](one, other, np.random.default_rng(self.seed))
        )
        for place, byte in self.edits if content else ():
            content[place % len(content)] = byte
        return bytes(content)


@lru_cache(None)
def kept() -> list[corruptions.Kept]:
    """Return the files that are damaged, made once."""
    return damage.states()


def draw_damaged(draw: Draw) -> Damaged:
    """Draw a damaged file of saved state."""
    place = st.integers(0, 2**16)
    edits = st.lists(st.tuples(place, st.integers(0, 255)), max_size=3).map(tuple)
    return Damaged(
        draw(st.tuples(place, place)),
        draw(st.sampled_from([name for name, _ in corruptions.CORRUPTIONS])),
        draw(place),
        draw(edits),
    )


def judge_damaged(case: Damaged) -> str:
    """Continue from a damaged file and return the outcome; raise AssertionError where it is neither refused nor harmless."""
    with tempfile.TemporaryDirectory() as folder:
        outcome, why = kept()[case.which[0] % len(kept())].outcome(case.content(), Path(folder) / "state.npz")
    assert outcome in ("refused", "harmless"), f"{outcome}: {why}"
    return outcome


def _stored(storage: str) -> Kind:
    return Kind(lambda draw: draw_stored(storage, draw), judge_stored)


#: Every kind of input.
KINDS: dict[str, Kind] = {
    "array": Kind(draw_array, judge_array),
    "frame": Kind(data_frames.draw, data_frames.judge),
    **{storage: _stored(storage) for storage in storages.STORAGES},
    "kept state": Kind(draw_damaged, judge_damaged),
    "plain table": Kind(command_lines.draw_plain, command_lines.judge),
    "command line": Kind(command_lines.draw, command_lines.judge),
}
