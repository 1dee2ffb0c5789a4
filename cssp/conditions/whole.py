"""Groups of columns chosen whole, and columns chosen by what they bring per cost.

A unit is a group, or a column. With E the residuals of all columns, E_g those of unit g, F those of what is to be
reconstructed, and c_g the cost of the unit (1 without costs), a pick of

- "residual" is the unit with the largest ‖E_g‖_F² / c_g, not divided by the number of columns: costs of 1 a column do that;
- "greedy" is the unit with the largest ‖P_{E_g} F‖_F² / c_g, by which the squared error falls.

Of groups of one column without costs these are column-pivoted QR [businger1965] and the greedy gain of Farahat, Ghodsi and
Kamel [farahat2011]; the residuals are explicit, in double precision on the host. See docs/theory/conditions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cssp.linalg import adjoint, basis, column_norms2, frobenius2, project_off, squares, triangle
from cssp.pivoting import norm_slack, stale_level
from cssp.problem import Problem

__all__ = ["Whole"]


class Whole:
    """The choice of units, step by step.

    Parameters
    ----------
    p : Problem
    rule : {"residual", "greedy"}
    codes : int array, shape (n,)
        The unit of each column.
    allowed : callable
        ``allowed(chosen)``: which columns may follow, bool, shape (n,).
    price : float array, shape (units,), optional
        What scores are divided by.
    saving : bool
        End where no unit brings anything.

    Attributes
    ----------
    picks : list of int
        Columns, each unit's in ascending order.
    ends : list of int
        Number of columns after 0, 1, ... units.
    blocked : bool
        Whether what may be chosen was not allowed any more when it ended.
    """

    def __init__(
        self,
        p: Problem,
        rule: str,
        codes: np.ndarray,
        allowed: Callable[[Sequence[int]], np.ndarray],
        price: np.ndarray | None = None,
        saving: bool = False,
    ) -> None:
        self.p, self.d, self.rule, self.allowed, self.saving = p, p.numpy("double"), rule, allowed, saving
        order = np.argsort(codes, kind="stable")
        self.members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
        self.codes, self.size = codes, np.array([J.size for J in self.members])
        price = np.ones(self.size.size) if price is None else price
        self.price = np.ldexp(
            price, -int(np.frexp(price.max())[1])
        )  # quotients stay in range, whatever the unit
        self.picks: list[int] = []
        self.ends, self.blocked = [0], False
        self.open = self._every(self.d.candidates)
        self.E, self.F = _reduced(self.d.A, self.d.target, rule)
        self.room = np.empty_like(self.E)
        self.before = column_norms2(self.E)
        self.N = self.before.copy()
        self.nothing = 4 * min(self.d.B.shape) * self.d.eps**2 * frobenius2(self.d.B)
        self.Q = self.E[:, :0]
        self._form_products()
        for g in dict.fromkeys(codes[list(p.include)].tolist()):
            self.add(g)

    def run(self, units: int | None) -> None:
        """Choose until there are so many units, the tolerance is met, or no unit is left that adds to the span."""
        most = self.size.size if units is None else units
        while len(self.ends) <= most and not self.reached():
            g = self.best()
            if g is None:
                break
            self.add(g)

    def fill(self, units: int) -> None:
        """Complete with the first units that are allowed."""
        while (
            len(self.ends) <= units
            and (g := next(filter(self.may_follow, np.flatnonzero(self.open).tolist()), None)) is not None
        ):
            self._take(g)
        self.blocked = len(self.ends) <= units

    def reached(self) -> bool:
        """Return whether the tolerance may be met."""
        return self.d.tol is not None and len(self.ends) > 1 and frobenius2(self.F) <= self.d.goal

    def best(self) -> int | None:
        """Return the unit to choose next, None where none is left; `blocked` says whether that is for the constraint."""
        d = self.d
        columns = d.eligible(self.N, self.open[self.codes])
        adds = self._any(columns)
        open_ = adds & self._every(self.allowed(self.picks))
        self.blocked = bool(adds.any()) and not open_.any()
        while open_.any():
            if self.rule == "residual":
                score, slack = self._sum(self.N), self._sum(self._norm_slack())
                g = d.argmax(score / self.price, open_, slack / self.price)
            elif frobenius2(self.F) <= self.nothing:
                if self.saving:
                    return None
                g = int(np.argmax(open_))
            else:
                gain, slack = self.gains(open_, columns)
                g = d.best_gain(
                    gain / self.price,
                    self._sum(self.N),
                    open_,
                    slack / self.price,
                    self._sum(self._norm_slack()),
                )
            if self.may_follow(g):
                return g
            open_[g] = False
            self.blocked = not open_.any()
        return None

    def may_follow(self, g: int) -> bool:
        """Return whether the constraint allows the columns of the unit one after the other."""
        chosen = list(self.picks)
        for j in self.members[g].tolist():
            if not self.allowed(chosen)[j]:
                return False
            chosen.append(j)
        return True

    def gains(self, open_: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ‖P_{E_g} F‖_F² of the open units, zero elsewhere, and its rounding."""
        d = self.d
        cut = d.floor if np.any(self.N[columns] > d.floor**2) else d.noise
        phi = frobenius2(self.F)
        self._refresh(columns, phi)
        gain = np.zeros(self.size.size)
        least = np.ones(self.size.size)  # squared heights over columns as given
        alone = open_ & (self.size == 1)
        J = np.flatnonzero(alone[self.codes])
        if J.size and self.T is not None:
            gain[self.codes[J]] = column_norms2(self.T[:, J]) / self.N[J]
            least[self.codes[J]] = self.N[J] / self.before[J]
        wide = np.flatnonzero(open_ & ~alone)
        found = [
            part for s in np.unique(self.size[wide]) for part in self._bases(wide[self.size[wide] == s], cut)
        ]
        if found:  # one product for all
            owner, blocks, heights2 = (np.concatenate(x, axis=-1) for x in zip(*found, strict=True))
            explained = column_norms2(adjoint(self.F) @ blocks)
            gain += np.bincount(owner, weights=explained, minlength=gain.size)
            least[wide] = np.inf
            np.minimum.at(least, owner, heights2)
        angle = np.sqrt(norm_slack(self.size, d.eps) * d.eps / least)
        return gain, 2 * angle * np.sqrt(gain * phi) + norm_slack(gain, d.eps)

    def _bases(self, units: np.ndarray, cut: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield orthonormal bases (m, r) of the residuals of units of one size, with the unit of each direction and its squared height.

        A height is the part of a column that is orthogonal to those before, over the column as it was given: rounding turns a
        direction by as much as the unit over that, whatever the columns' lengths are.
        """
        J = np.array([self.members[g] for g in units])
        X, s = np.moveaxis(self.E[:, J], 0, 1), J.shape[1]
        clear = np.zeros(len(units), dtype=bool)
        if (
            s <= X.shape[1]
        ):  # pivots are no smaller than the last singular value, so that one QR decomposition is enough
            Q, R = np.linalg.qr(X)
            clear = np.linalg.svd(R, compute_uv=False)[:, -1] > 2 * cut
            blocks = np.moveaxis(Q[clear], 0, 1).reshape(X.shape[1], -1)
            heights2 = squares(np.diagonal(R[clear], axis1=1, axis2=2)) / self.before[J[clear]]
            yield np.repeat(units[clear], s), blocks, heights2.ravel()
        for g, E, columns in zip(units[~clear], X[~clear], J[~clear], strict=True):
            U, independent = basis(E, cut)
            heights2 = squares(np.einsum("ij,ij->j", U.conj(), E[:, independent]))
            yield (
                np.repeat(g, U.shape[1]),
                U,
                np.maximum(heights2, cut**2) / self.before[columns[independent]],
            )

    def add(self, g: int) -> None:
        """Choose the unit, and take its directions from the residuals."""
        d = self.d
        J = self.members[g]
        open_ = np.zeros(d.n, dtype=bool)
        open_[J] = True
        cut = d.floor if np.any(d.eligible(self.N, open_) & (d.floor**2 < self.N)) else d.noise
        U, _ = basis(project_off(self.E[:, J], self.Q), cut)
        self._take(g)
        if not U.shape[1]:
            return
        R = adjoint(U) @ self.E
        if self.T is not None:
            self.T -= (adjoint(self.F) @ U) @ R
        if self.F is not self.E:
            self.F -= U @ (adjoint(U) @ self.F)
        self.E -= np.matmul(U, R, out=self.room)
        self.E[:, J] = 0
        self.N = column_norms2(self.E)
        self.Q = np.concatenate([self.Q, U], axis=1)

    def _take(self, g: int) -> None:
        self.picks += self.members[g].tolist()
        self.ends.append(len(self.picks))
        self.open[g] = False
        self.p.progress(len(self.ends) - 1, None)

    def _refresh(self, columns: np.ndarray, phi: float) -> None:
        """Form T = FᴴE anew where downdating has cost half of the digits of a column that may be chosen."""
        if np.any(self.N[columns] * phi < stale_level(self.N0[columns] * self.phi0, self.d.eps)):
            self._form_products()

    def _form_products(self) -> None:
        alone = self.rule == "greedy" and np.any(self.size == 1)
        self.T = adjoint(self.F) @ self.E if alone else None
        self.N0, self.phi0 = self.N.copy(), frobenius2(self.F)

    def _norm_slack(self) -> np.ndarray:
        return norm_slack(np.sqrt(self.before * self.N), self.d.eps)

    def _sum(self, x: np.ndarray) -> np.ndarray:
        return np.bincount(self.codes, weights=x)

    def _any(self, mask: np.ndarray) -> np.ndarray:
        return self._sum(mask) > 0

    def _every(self, mask: np.ndarray) -> np.ndarray:
        return self._sum(mask) == self.size


def _reduced(A: np.ndarray, B: np.ndarray | None, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Return matrices with the same AᴴA and AᴴBBᴴA, and few rows and, where gains are formed, few columns: nothing else matters here."""
    if B is None:
        if A.shape[0] > A.shape[1]:
            A = triangle(A)
        E = np.array(A)
        same = rule == "residual" or A.shape[0] == A.shape[1]
        return E, E if same else np.array(adjoint(triangle(A)))
    n, both = A.shape[1], np.concatenate([A, B], axis=1)
    if both.shape[0] > both.shape[1]:
        both = triangle(both)
    A, B = both[:, :n], both[:, n:]
    return np.array(A), np.array(adjoint(triangle(B)) if B.shape[1] > B.shape[0] else B)
