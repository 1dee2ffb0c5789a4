"""Measure arms at budgets on pictures, and keep the rows in a file that a later run goes on with.

A row is a line of JSON. It belongs to the pixels of its picture, an arm and a number of kept tokens: whatever is there
already is not measured again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cssp
from analysis.real import arms
from analysis.real.cases import Case, Model, content

#: Of the errors that are measured.
EXPONENTS = (1, 2, 4, 8, 16, math.inf)

Row = dict[str, Any]
Key = tuple[str, str, int]


def read(path: Path) -> list[Row]:
    """Return the rows of a file, the last of each key; a last line that was cut off, or is being written, does not count."""
    rows = map(json.loads, _whole(path.read_text()).splitlines()) if path.exists() else ()
    return list({_key(row): row for row in rows}.values())


def _whole(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def run(
    model: Model, path: Path, rules: Mapping[str, arms.Rule] = arms.ARMS, say: Callable[[str], None] = print
) -> list[Row]:
    """Measure what is missing, and return all rows of the model's pictures.

    Parameters
    ----------
    model : Model
    path : Path
        JSON lines; made where it is missing.
    rules : mapping of str to Rule
    say : callable
        Gets a line of progress for every picture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[Key, Row] = {_key(row): row for row in read(path)}
    if path.exists() and (text := path.read_text()) != _whole(text):
        path.write_text(_whole(text))
    found = []
    names = model.names()
    for i, name in enumerate(names):
        start, picture = time.perf_counter(), model.picture(name)
        fingerprint = content(picture)
        wanted = [(arm, k) for k in model.budgets for arm in rules]
        missing = [
            (arm, k)
            for arm, k in wanted
            if not set(model.columns) <= known.get((fingerprint, arm, k), {}).keys()
        ]
        if missing or not any(key[:2] == (fingerprint, arms.ALL) for key in known):
            case = model.look(name, picture)
            n = len(case.tokens)
            fresh = [
                {"arm": arms.ALL, "keep": n, **case.facts},
                *measure(case, missing, rules, seed=int(fingerprint, 16)),
            ]
            fresh = [{"content": fingerprint, **name, **row} for row in fresh]
            with path.open("a") as file:
                file.write("".join(f"{json.dumps(row)}\n" for row in fresh))
            known |= {_key(row): row for row in fresh}
            say(
                f"{i + 1}/{len(names)} {name['group']} {name['number']}: {len(fresh)} rows, {time.perf_counter() - start:.1f} s"
            )
        found += [row for key, row in known.items() if key[0] == fingerprint]
    return found


def measure(
    case: Case, wanted: Sequence[tuple[str, int]], rules: Mapping[str, arms.Rule], seed: int
) -> list[Row]:
    """Return a row for every arm and number of tokens kept."""
    columns = case.tokens.double().mT.numpy()
    budgets = {arm: [k for other, k in wanted if other == arm] for arm, _ in wanted}
    kept = {
        arm: arms.kept(arm, rules[arm], case.tokens, ks, seed, case.signals) for arm, ks in budgets.items()
    }
    rows = []
    for k in sorted({k for _, k in wanted}, reverse=True):
        names = [arm for arm in budgets if k in budgets[arm]]
        answers = case.answer(torch.stack([kept[arm][k] for arm in names]))
        for arm, answer in zip(names, answers, strict=True):
            chosen = cssp.select(columns, k, include=kept[arm][k].tolist())
            errors = {f"error {p:g}": float(chosen.error_p(p)) for p in EXPONENTS}
            rows.append({"arm": arm, "keep": k, **errors, **_lost(case, kept[arm][k]), **answer})
    return rows


def _lost(case: Case, kept: torch.Tensor) -> dict[str, float]:
    """Share of each signal that the dropped tokens had."""
    return {
        f"lost {name}": float(1 - signal.abs()[kept].sum() / signal.abs().sum())
        for name, signal in case.signals.items()
    }


def _key(row: Row) -> Key:
    return row["content"], row["arm"], row["keep"]


def pack(rows: list[Row], path: Path) -> None:
    """Write rows as one compressed NumPy file: names as text, numbers in half precision."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers = {n for n in names if all(isinstance(row.get(n, 0.0), float) for row in rows)}
    columns = {
        name: np.array([row.get(name, np.nan) for row in rows], np.float16)
        if name in numbers
        else np.array([row.get(name, "") for row in rows])
        for name in names
    }
    np.savez_compressed(path, allow_pickle=False, **columns)


def packed(path: Path) -> list[Row]:
    """Return the rows that `pack` wrote, without what they lack."""
    with np.load(path) as file:
        columns = {name: file[name].tolist() for name in file.files}
    every = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return [{name: value for name, value in row.items() if value != "" and value == value} for row in every]
