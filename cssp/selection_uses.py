"""What one does with a selection besides asking for its errors: extend it, name it, save it, show it."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

import array_api_compat
import numpy as np

from cssp import linalg, passes
from cssp.arguments import check_supported
from cssp.errors import ArgumentError, MissingFileError, UnsupportedError, check_integer, speaking_of
from cssp.files import as_path, written
from cssp.finish import solved, warn_of_dependence
from cssp.methods import METHODS
from cssp.missing_values import Missing
from cssp.part import Kept, Part, relative
from cssp.scaling import default_floating_errors

if TYPE_CHECKING:
    from cssp.selection import Selection

__all__ = ["SelectionUses", "load"]

Array = Any

#: What the first entry of a saved file says.
FORMAT = "cssp.Selection 1"

#: Picks that are shown.
SHOWN = 20


class SelectionUses:
    """Methods of `cssp.Selection`."""

    @property
    def names(self: Any) -> list[str] | None:
        """Names of the chosen columns, in order of choice, where A was a data frame; None elsewhere."""
        return None if self._names is None else [self._names[j] for j in self._parts[0].indices]

    @default_floating_errors
    def extend(self: Any, k: int) -> Selection:
        """Return a selection of k columns in all, these first and the others chosen by the same method after them.

        What ``select(A, k, method, include=indices)`` gives, without repeating the arguments. A tolerance is no longer asked for.

        Parameters
        ----------
        k : int
            At least the number of columns there are.

        Raises
        ------
        CsspError
            The selection is of a batch, was pickled or loaded, or its method cannot start from given columns.

        Warns
        -----
        RankDeficientWarning
            k exceeds the numerical rank.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> A = np.diag([1.0, 4.0, 3.0, 2.0])
        >>> cssp.select(A, 2).extend(3).indices
        array([1, 2, 3])
        """
        part, row = self._only("extend"), METHODS[self.method]
        check_supported(row, "include", "extend (which includes the columns chosen so far)")
        p = part.problem
        if self.conditional:
            raise UnsupportedError(
                "extend of a choice under groups, a constraint or costs, which it would ignore: call cssp.select with them again, "
                "and include=indices"
            )
        if p.in_passes:
            row = replace(row, function=passes.METHODS[row.name])
        free = np.array(linalg.host(p.candidates))
        free[list(part.picks)] = False
        k = check_integer("k", k, len(part.picks), len(part.picks) + int(free.sum()))
        if k == len(part.picks):
            return self
        candidates = p.xp.asarray(free, device=p.device)
        longer = replace(p, include=part.picks, candidates=candidates, k=k, tol=None)
        options = {name: value for name, value in self.options.items() if name != "checkpoint"}
        with speaking_of(self.axis):
            found, short = solved(longer, row, options, "fill", True)
            if short:
                warn_of_dependence([found], 0)
        found = replace(found, live=part.live)
        return replace(self, indices=self._gather(found.indices), rank=found.rank, k=k, _parts=(found,))

    @default_floating_errors
    def representatives(self: Any) -> Array:
        """Return for each column the chosen one nearest to it in direction, int64, shape (..., n).

        That of the largest |cosine| between the columns of A·diag(w), the earliest choice in a tie; a chosen column stands for
        itself. -1 for zero columns and padding, which have no direction.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> A = np.array([[4.0, 0.0, -1.0, 0.1], [0.0, 3.0, 0.2, 1.0]])
        >>> cssp.select(A, 2).representatives()
        array([0, 1, 0, 1])
        """
        rows = [_nearest(part) for part in self._parts]
        width = self._parts[0].width if self._parts else 0
        return self._gather(np.reshape(np.asarray(rows, dtype=np.int64), (*self._batch, width)))

    def summary(self: Any) -> str:
        """Return the picks, with the relative error after each, as lines of text."""
        width = max([len("column"), *(len(name) for _, name, _ in self._picked())])
        lines = [self._headline(), f"{'pick':>4}  {self.axis[:-1]:<{width}}  relative error"]
        lines += [f"{t:>4}  {name:<{width}}  {error:.4g}" for t, name, error in self._picked()]
        more = len(self._parts[0].picks) - SHOWN
        return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])

    def _repr_html_(self: Any) -> str:
        if self._batch:
            return f"<pre>{html.escape(repr(self))}</pre>"
        rows = "".join(
            f"<tr><td>{t}</td><td>{html.escape(name)}</td><td>{error:.4g}</td></tr>"
            for t, name, error in self._picked()
        )
        more = len(self._parts[0].picks) - SHOWN
        last = f"<p>and {more} more</p>" if more > 0 else ""
        head = f"<tr><th>pick</th><th>{self.axis[:-1]}</th><th>relative error</th></tr>"
        return f"<p>{html.escape(self._headline())}</p><table>{head}{rows}</table>{last}"

    def save(self: Any, path: str | os.PathLike[str]) -> None:
        """Write the selection as JSON, without A; `load` reads it.

        Errors come with it. All that needs A is refused by the loaded one, as by a pickled one. A file of that name is replaced,
        when all is written.

        Raises
        ------
        CsspError
            The path cannot be written to.

        Examples
        --------
        >>> import numpy as np, cssp
        >>> cssp.select(np.eye(3), 2).save("picked.json")
        >>> cssp.Selection.load("picked.json").indices
        array([0, 1])
        """
        parts = [
            {
                "picks": list(part.picks),
                "indices": part.indices.tolist(),
                "width": part.width,
                "rank": part.rank,
                "method_picks": list(part.method_picks),
                "trace": part.trace.tolist(),
                "wanted_exponent": part.wanted_exponent,
            }
            for part in self._parts
        ]
        record = {
            "format": FORMAT,
            "method": self.method,
            "options": dict(self.options),
            "passes": self.passes,
            "batch": list(self._batch),
            "names": self._names,
            "groups": self.groups,
            "cost": self.cost,
            "conditional": self.conditional,
            "axis": self.axis,
            "missing": None if self.missing is None else asdict(self.missing),
            "parts": parts,
        }
        with written(path) as file:
            file.write_text(json.dumps(record, default=_plain), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the selection that `save` wrote, its indices as NumPy arrays."""
        return cls(**load(path))

    def _only(self: Any, what: str) -> Part:
        if self._batch:
            raise UnsupportedError(
                f"{what} of a batch of shape {self._batch}: expected a selection of one matrix; select each alone"
            )
        (part,) = self._parts
        return part

    def _headline(self: Any) -> str:
        part = self._only("summary")
        return (
            f"{len(part.picks)} of {part.width} {self.axis} by {self.method}, "
            f"relative error {self.relative_error:.4g}, rank {self.rank}"
        )

    def _picked(self: Any) -> list[tuple[int, str, float]]:
        """Return number, name and error of the first picks."""
        part = self._only("summary")
        names = self.names or [str(j) for j in part.indices]
        errors = relative(part.trace)[1:]
        return list(zip(range(1, len(names) + 1), names, errors, strict=True))[:SHOWN]


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of the selection in a file.

    Raises
    ------
    MissingFileError, ArgumentError
        There is no such file, or `SelectionUses.save` did not write it.
    """
    place = as_path("path", path)
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(record["format"])
        return _fields(record)
    except FileNotFoundError:
        raise MissingFileError(f"path = {str(path)!r}: there is no such file") from None
    except OSError as reason:
        raise ArgumentError(f"path = {str(path)!r} cannot be read: {reason.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise ArgumentError(
            f"path = {str(path)!r}: expected a file that Selection.save wrote, of format {FORMAT!r}"
        ) from None


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    parts = tuple(
        Kept(
            tuple(x["picks"]),
            np.asarray(x["indices"], dtype=np.int64),
            x["width"],
            x["rank"],
            tuple(x["method_picks"]),
            np.asarray(x["trace"], dtype=np.float64),
            x["wanted_exponent"],
        )
        for x in record["parts"]
    )
    batch = tuple(record["batch"])
    length = max((len(part.picks) for part in parts), default=0)
    indices = np.full((len(parts), length), -1, dtype=np.int64)
    for line, part in zip(indices, parts, strict=True):
        line[: len(part.picks)] = part.indices
    rank, k = np.array([(part.rank, len(part.picks)) for part in parts], dtype=np.int64).reshape(-1, 2).T
    return {
        "indices": indices.reshape((*batch, length)),
        "method": record["method"],
        "rank": rank.reshape(batch) if batch else int(rank[0]),
        "k": k.reshape(batch) if batch else int(k[0]),
        "options": record["options"],
        "passes": record["passes"],
        "_parts": parts,
        "_batch": batch,
        "_like": np.empty((0,)),
        "_names": record["names"],
        "groups": _as_tuples(record.get("groups"), batch),
        "cost": np.asarray(record["cost"])
        if batch and record.get("cost") is not None
        else record.get("cost"),
        "conditional": record.get("conditional", False),
        "axis": record.get("axis", "columns"),
        "missing": Missing(**record["missing"]) if record.get("missing") else None,
    }


def _as_tuples(groups: Any, batch: tuple[int, ...]) -> Any:
    """Return lists of labels as the tuples that they were."""
    return groups and ([tuple(x) for x in groups] if batch else tuple(groups))


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python, and a path or the like as text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def _nearest(part: Part) -> np.ndarray:
    """Return the chosen column nearest to each column, as the caller numbers them."""
    p, C = part.reduced, part.chosen
    xp = array_api_compat.array_namespace(C)
    norms = xp.sqrt(linalg.column_norms2(C))
    U = C / xp.where(norms > 0, norms, xp.ones_like(norms))
    if p.in_passes:
        G = p.A.sweep(linalg.host(U))[0].whole()
    else:
        parts = [linalg.host(linalg.adjoint(U) @ linalg.widen(p.A[:, part])) for part in linalg.blocks(p.A)]
        G = np.concatenate(parts, axis=1)
    size, alive = np.abs(G), linalg.host(p.norms2) > 0
    tied = size >= (1 - 1e-12) * np.max(size, axis=0)
    picks = np.asarray(part.picks)
    nearest = picks[np.argmax(tied, axis=0)]
    nearest[picks] = picks
    columns = np.arange(p.n) if p.columns is None else p.columns
    result = np.full(part.width, -1, dtype=np.int64)
    result[columns[alive]] = columns[nearest[alive]]
    return result
