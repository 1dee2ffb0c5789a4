"""The saved state of an interrupted residual run: what is in the file, and what a run on the same problem can have left there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cssp import checkpoints
from cssp.checkpoints import reading, require
from cssp.passes.fingerprint import fingerprint
from cssp.passes.problem import PassProblem

__all__ = ["State"]

#: What the file is of; the number is that of the format.
KIND = "residual 3"


@dataclass(frozen=True, eq=False)
class State:
    """A run between two passes.

    Attributes
    ----------
    indices : int64 array, shape (s,)
        Picks so far.
    heights : float64 array, shape (s - included,)
        Their residual norms, included columns left out.
    closed : int64 array
        Columns that will not be picked any more: picks, excluded and dependent columns.
    Q : array, shape (m, r)
        Orthonormal basis of the picks, in the precision the run has come to.
    N, exact : float64 arrays, shape (n,)
        Squared residual norms, and what they were when last formed from the columns.
    length : int
        Length of the next guess.
    passes : float
        How often A was read.
    """

    indices: np.ndarray
    heights: np.ndarray
    closed: np.ndarray
    Q: np.ndarray
    N: np.ndarray
    exact: np.ndarray
    length: int
    passes: float

    def save(self, path: Path, p: PassProblem) -> None:
        """Keep the state for this problem; the file is replaced in one step."""
        arrays = {name: np.asarray(value) for name, value in vars(self).items()}
        checkpoints.save(path, KIND, arrays, fingerprint(p))

    @classmethod
    def load(cls, path: Path, p: PassProblem, longest: int) -> State:
        """Return the state kept for this problem; anything else is refused.

        Raises
        ------
        ArgumentError
            The file is damaged, or belongs to another matrix, other arguments or another version.
        """
        arrays = checkpoints.load(path, KIND, fingerprint(p))
        with reading(path, KIND):
            require(set(arrays) == set(cls.__annotations__), f"it holds {', '.join(sorted(arrays))}")
            _check_types(arrays, p)
            length, passes = (arrays.pop(name).item() for name in ("length", "passes"))
            state = cls(**arrays, length=length, passes=passes)
            state._check(p, longest)
        return state

    def _check(self, p: PassProblem, longest: int) -> None:
        """Refuse a state that no run on the problem can have saved."""
        s, r, given = self.indices.size, self.Q.shape[1], len(p.include)
        require(s <= p.k and tuple(self.indices[:given].tolist()) == p.include, "other columns are included")
        for name, places in (("indices", self.indices), ("closed", self.closed)):
            require(np.unique(places).size == places.size, f"{name} holds a column twice")
            require(((places >= 0) & (places < p.n)).all(), f"{name} holds a column that is not there")
        require(p.candidates[self.indices[given:]].all(), "a pick must not be chosen")
        closed = np.zeros(p.n, dtype=bool)
        closed[self.closed] = True
        require(closed[self.indices].all() and (closed | p.candidates).all(), "closed lacks a column")
        require(r <= min(s, p.m) and s - r <= given, f"{r} directions of {s} picks")
        require(1 <= self.length <= longest, f"length = {self.length}")
        require(0 <= self.passes < math.inf, f"passes = {self.passes}")
        top = p.largest * (1 + p.unit**0.5)
        require(
            self.heights.size == s - given and ((self.heights > 0) & (self.heights <= top)).all(),
            "heights are out of range",
        )
        half = math.sqrt(np.finfo(self.Q.dtype).eps)  # rounding of a run stays far below this
        off = np.abs(self.Q.conj().T @ self.Q - np.eye(r))
        require(not r or off.max() <= half, "Q is not orthonormal")
        least, top = half * p.largest**2, 1 + half
        require((self.N >= 0).all() and (top * self.exact >= self.N).all(), "N is out of range")
        require((self.exact <= top * p.norms2 + least).all(), "exact is out of range")
        picked = closed & (p.candidates | np.isin(np.arange(p.n), self.indices))
        require((self.N[picked] <= least).all(), "a column is closed that is neither picked nor dependent")


def _check_types(arrays: dict[str, np.ndarray], p: PassProblem) -> None:
    """Check types and shapes; later comparisons check that measurements and counts are finite."""
    places = {name: ("int64", (arrays[name].size,)) for name in ("indices", "closed")}
    norms = dict.fromkeys(("N", "exact"), ("float64", (p.n,)))
    norms["heights"] = ("float64", (arrays["heights"].size,))
    numbers = {"length": ("int64", ()), "passes": ("float64", ())}
    for name, (dtype, shape) in {**places, **norms, **numbers}.items():
        x = arrays[name]
        require(x.dtype == dtype and x.shape == shape, f"{name} has dtype {x.dtype}, shape {x.shape}")
    Q = arrays["Q"]
    require(Q.dtype in (p.A.dtype, p.A.wide), f"Q has dtype {Q.dtype}")
    require(Q.ndim == 2 and len(Q) == p.m, f"Q has shape {Q.shape}")
