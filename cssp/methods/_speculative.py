"""Speculative pivoting: the picks of greedy residual in a few passes over A, on the host.

Textbook pivoting reads A once per pick, to find the next residual norms. Here p picks are guessed, then verified
with one matrix product:

1. The b columns of largest residual norm make a block C. Pivoted Cholesky on the Gram matrix of its residuals, which is
   that of the columns less what QᴴA says, guesses p picks; the first is right by the rule itself.
2. The guessed columns become orthonormal directions V (Cholesky QR, twice, and once more against Q).
3. R = VᴴA is the one pass. N - |R₁|² - ... - |R_s|² are the squared residual norms of *all* columns after s guesses.
4. The longest prefix is kept in which each guess is the pick of the textbook rule. A wrong guess costs time only.

A norm that has lost half of its digits to downdating since it was last formed from its column, and could still win, ends
the prefix and is formed anew: the rule of LAPACK Working Note 176 [drmac2008], applied where it can matter. See
docs/theory/speculation.md for the proof and the cost.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from cssp import linalg
from cssp.linalg import basis, blocks, column_norms2, orthogonalise, residual_norms2, squares, take_columns
from cssp.methods._gram import DenseColumns, gram_picks
from cssp.problem import DOWNDATE_SLACK, SINGLE_REACH, TIE_BAND, Picks, Problem

#: First guess, longest guess, and columns in the block for each pick guessed.
FIRST, LONGEST, WIDTH = 32, 128, 3

#: Fewest columns in a block.
NARROWEST = 192

#: Residuals of the block are formed explicitly where their squared norms are below this share of those of the columns.
FRESH = 2.0**-10

#: A guess ends where its squared residual falls below this share of the first one's: beyond, Cholesky QR is not safe.
DROP = 1e-4

#: Cholesky QR is taken where it adds no more than this factor to the rounding of textbook orthogonalisation.
CANCELLED = 16

#: A guess costs VERIFY_COST + BLOCK_COST / n textbook picks: its product, and its block, whose cost does not grow with n.
VERIFY_COST, BLOCK_COST = 4, 24_000

#: After a guess that was right in part the next one is this many times as long as that part.
GROW = 2.0

#: Bytes of a matrix that is widened as a whole; of a larger one only blocks are.
WIDENED = 1 << 26

#: Bytes of a matrix that stays in the cache: products are cheaper than guesses there.
CACHE = 1 << 22

#: The Gram matrix is cheapest from this many columns on, and up to this many times k columns (fewer in the cache).
GRAM_FROM, GRAM, GRAM_CACHED = 256, 10, 6


def speculative(p: Problem, guesses: bool | None = None) -> Picks:
    """Return the picks of greedy residual, found on the host.

    The default is what costs least: the Gram matrix where k is not small beside n, guesses where A is larger than the cache,
    one product per pick otherwise. ``guesses=True`` forces guesses, ``guesses=False`` one product per pick.
    """
    with np.errstate(invalid="ignore"):  # all numbers are finite; BLAS flags lanes that it does not use
        return _speculative(p.numpy(), guesses)


def _speculative(p: Problem, guesses: bool | None) -> Picks:
    A = _fit_for_blas(p.A)
    in_cache = A.nbytes <= CACHE
    whole, heights = p, None
    if guesses is None:
        guesses = not in_cache
        most = (GRAM_CACHED if in_cache else GRAM) * p.k
        if GRAM_FROM <= p.n <= most and p.n**2 * A.itemsize <= CACHE and not p.include:
            found = gram_picks(p, DenseColumns(A, min(p.k, p.m)))
            begun, heights = list(found.picks.indices), found.heights
            if found.final:
                return found.picks
            left = p.candidates.copy()
            left[begun] = False
            p = replace(p, include=tuple(begun), candidates=left)
    run = _Run(p, A, heights)
    while len(run.indices) < p.k and run.ready():
        run.advance(guesses)
        p.progress(len(run.indices), p.k)
    return whole.pivots(run.indices, run.heights)


class _Run:
    """A, the basis Q[:, :r] of the picks, and the squared residual norms N of all columns.

    ``exact`` is N where it was last formed from the columns themselves; picks have N = 0. ``heights`` are the residual
    norms of the picks, included columns left out.
    """

    def __init__(self, p: Problem, A: np.ndarray, heights: list[float] | None = None) -> None:
        self.p, self.A, self.eps, self.dtype = p, A, p.eps, A.dtype
        self.single = A.dtype in (np.float32, np.complex64)
        self.indices, self.heights = list(p.include), heights or []
        self.open = p.candidates.copy()
        self.break_even = VERIFY_COST + min(8, BLOCK_COST // max(1, p.n))
        self.length, self.steps_before_guess, self.pause = FIRST, 1, self.break_even
        # A tie goes to the lowest index: norms are multiplied by a factor that falls a little with the index.
        self.tie_bias = 1 - TIE_BAND * self.eps * np.linspace(0, 1, p.n)
        self.given = list(p.include)  # included columns that add a direction
        if heights is None:
            self._drop_dependent(self._columns(self.given))
        self._start(self.given)

    def _drop_dependent(self, C: np.ndarray) -> None:
        """Drop the included columns C that depend on those before them, as they add no direction."""
        independent = basis(C, self.p.floor)[1]
        self.given = [j for j, yes in zip(self.given, independent, strict=True) if yes]

    @property
    def directions(self) -> list[int]:
        """The columns that brought the directions of Q."""
        return self.given + self.indices[len(self.p.include) :]

    def _start(self, directions: list[int]) -> None:
        """Form Q and N for these columns."""
        p, A = self.p, self.A
        # Zeros: kernels of BLAS may load what lies after the columns in use, and set floating-point flags for it.
        self.Q = np.zeros((p.m, min(p.k, p.m)), dtype=self.dtype, order="F")
        self.W = np.zeros((min(p.k, p.m), p.n), dtype=self.dtype)  # QᴴA
        self.exact = np.array(p.norms2)
        if self.dtype != p.A.dtype:
            self.exact = np.concatenate([column_norms2(A[:, part].astype(self.dtype)) for part in blocks(A)])
        self.N, self.r = self.exact.copy(), 0
        if directions:
            have = _basis(self._columns(directions), p.noise)
            self.r = have.shape[1]
            self.Q[:, : self.r] = have
            self.W[: self.r] = self._products(self.basis)
            self.N -= column_norms2(self.W[: self.r])
            np.maximum(self.N, 0, out=self.N)
        self.N[self.indices] = 0

    @property
    def basis(self) -> np.ndarray:
        return self.Q[:, : self.r]

    def ready(self) -> bool:
        """Return whether there is a column to pick, after forming anew the norms that decide about it."""
        p = self.p
        if p.tol is not None and self.r and float(np.sum(self.N)) <= p.goal:
            unseen = np.ones(p.n, dtype=bool)
            unseen[self.indices] = False
            self._form(unseen)
            if float(np.sum(self.N)) <= p.goal:
                return False
        if self.r == p.m or not self.open.any():
            return False
        while True:
            score, slack = np.where(self.open, self.N, -math.inf), DOWNDATE_SLACK * self.eps * self.exact
            top = float(score.max())
            contend = score + slack >= top * (1 - TIE_BAND * self.eps)
            if not np.any(contend & self._stale(self.N)):
                break
            self._form(self.open & self._stale(self.N))
        if not top > p.noise**2:
            return False
        if self.single and top < (SINGLE_REACH * p.largest) ** 2:
            self._double()
            return self.ready()
        self.first = int(np.argmax(contend))
        return True

    def _stale(self, N: np.ndarray) -> np.ndarray:
        """Return which norms have lost half of their digits to downdating."""
        return (math.sqrt(self.eps) * self.exact >= N) & (self.exact > self.p.noise**2)

    def _form(self, which: np.ndarray) -> None:
        """Form the norms of these columns from the columns themselves."""
        place = np.flatnonzero(which)
        for part in np.array_split(place, max(1, place.size * self.p.m // linalg.BLOCK)):
            self.N[part] = self.exact[part] = residual_norms2(self._columns(part.tolist()), self.basis)

    def _double(self) -> None:
        """Continue in double precision."""
        self.dtype = np.dtype(np.complex128 if self.A.dtype.kind == "c" else np.float64)
        if self.A.nbytes <= WIDENED:
            self.A = self.A.astype(self.dtype)
        self.eps, self.single = float(np.finfo(np.float64).eps), False
        self._start(self.directions)

    def _columns(self, columns: Any) -> np.ndarray:
        """Return columns of A in the precision of the computation."""
        return take_columns(self.A, columns).astype(self.dtype, copy=False)

    def _products(self, V: np.ndarray) -> np.ndarray:
        """Return VᴴA, block by block where A is in another precision."""
        if self.A.dtype == self.dtype:
            return (self.A.T @ V.conj()).T  # n × p is faster than p × n where A lies by columns
        parts = (self.A[:, part].astype(self.dtype) for part in blocks(self.A))
        return np.concatenate([V.conj().T @ X for X in parts], axis=1)

    def advance(self, guesses: bool) -> None:
        """Pick at least one more column, or find that the first candidate is dependent."""
        length = min(self.length, self.p.k - len(self.indices), self.p.m - self.r, int(self.open.sum()))
        if self.steps_before_guess or length < 2 or not guesses:
            steps = self.steps_before_guess if guesses else self.p.k
            self.steps_before_guess = max(
                0, self.steps_before_guess - max(1, self._pivot_one_by_one(steps) or self._step())
            )
            return
        guess, V = self._guess(length)
        taken = self._verify(guess, V) if guess.size > 1 else self._step()
        if taken < self.break_even < length:
            self.pause = min(2 * self.pause, self.p.k)
            self.steps_before_guess = self.pause
        elif taken == length:
            self.length, self.pause = min(2 * self.length, LONGEST), self.break_even
        else:
            self.length, self.pause = (
                max(self.break_even + 1, min(self.length, int(GROW * taken))),
                self.break_even,
            )

    def _pivot_one_by_one(self, steps: int) -> int:
        """Make up to ``steps`` textbook picks, one product each, and return how many were made.

        This stops at whatever `ready` must settle first: a norm that may be stale, a residual too small for single precision, a
        dependent column.
        """
        p, A, Q, W, N, r = self.p, self.A.T, self.Q, self.W, self.N, self.r
        score = np.where(self.open, N, -math.inf)
        slack = DOWNDATE_SLACK * self.eps * self.exact
        band = 1 - TIE_BAND * self.eps
        # Above this bound no norm that may win is stale.
        least = (
            math.sqrt(self.eps) * float(self.exact.max(where=self.open, initial=0)) + float(slack.max())
        ) / band
        least = max(least, p.noise**2, (SINGLE_REACH * p.largest) ** 2 if self.single else 0.0)
        noise2, complex_ = p.noise**2, A.dtype.kind == "c"
        fair, fallen = np.empty_like(score), np.empty_like(score)
        if A.dtype != self.dtype:
            return 0
        for taken in range(min(steps, p.k - len(self.indices), p.m - r)):
            top = float(score.max())
            if not top > least or (p.tol is not None and float(N.sum()) <= p.goal):
                return taken
            np.add(score, slack, out=fair)
            j = int((fair >= top * band).argmax())
            e = A[j]
            if r:
                V = Q[:, :r]
                Vh = V.conj().T
                e = e - V @ (Vh @ e)
                e -= V @ (Vh @ e)
            norm2 = float(np.vdot(e, e).real)
            if not norm2 > noise2:
                return taken
            q = e / math.sqrt(norm2)
            Q[:, r] = q
            if complex_:
                W[r] = A @ q.conj()
                fallen[:] = squares(W[r])
            else:
                np.matmul(A, q, out=W[r])
                np.square(W[r], out=fallen)
            N -= fallen
            score -= fallen
            N[j], score[j], self.open[j] = 0, -math.inf, False
            np.maximum(N, 0, out=N)
            self.indices.append(j)
            self.r = r = r + 1
            self.heights.append(math.sqrt(norm2))
        return steps

    def _step(self) -> int:
        """Make one textbook pick, with one product."""
        e, norm = orthogonalise(self._columns([self.first])[:, 0], self.basis)
        if norm > self.p.noise:
            return self._verify(np.array([self.first]), (e / norm)[:, None])
        self.open[self.first], self.N[self.first] = False, 0
        return 0

    def _guess(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return up to ``length`` columns that may come next, and orthonormal directions for them."""
        Q = self.basis
        C = self._largest_norms(max(NARROWEST, WIDTH * length))
        E, G = self._block(C)
        order, R = self._pivot(G, C, length)
        E = take_columns(E, order)
        if order.size < 2:
            return C[order], E
        if self.r:
            E = E - Q @ (Q.conj().T @ E)
        V = _orthonormal(np.ascontiguousarray(E.T), R[:, order])
        if self.r:
            V -= (V @ Q.conj()) @ Q.T
        V = _reorthonormalised(V)
        return C[order[: len(V)]], V.T

    def _block(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return columns C or their residuals, and the Gram matrix of the residuals.

        The Gram matrix is that of the columns minus that of their projections, as long as the difference has enough digits,
        and otherwise that of residuals formed explicitly.
        """
        E, W = self._columns(C), self.W[: self.r, C]
        if self.r and float(self.N[C].max()) < FRESH * float(self.exact[C].max()):
            E -= self.basis @ W
            G = E.conj().T @ E
        else:
            G = E.conj().T @ E - W.conj().T @ W
        np.fill_diagonal(G, self.N[C])  # the norms that the verification uses
        return E, G

    def _largest_norms(self, b: int) -> np.ndarray:
        """Return the b columns of largest residual norm, in ascending order."""
        if b >= int(np.count_nonzero(self.open)):
            return np.flatnonzero(self.open)
        score = np.where(self.open, self.N * self.tie_bias, -1.0)
        score[self.first] = math.inf
        return np.sort(np.argpartition(score, -b)[-b:])

    def _pivot(self, G: np.ndarray, C: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pivots and rows of the pivoted Cholesky factor of G, with the ties of the rule."""
        R, order = np.empty((length, C.size), dtype=G.dtype), np.empty(length, dtype=np.int64)
        d = G.diagonal().real.copy()
        fair = d + DOWNDATE_SLACK * self.eps * self.exact[C]
        j = int(np.searchsorted(C, self.first))
        band, least = 1 - TIE_BAND * self.eps, DROP * float(d[j])
        for s in range(length):
            row = R[s]
            if s:
                np.dot(R[:s, j].conj(), R[:s], out=row)
                np.subtract(G[j], row, out=row)
            else:
                row[:] = G[j]
            height = float(row[j].real)
            if not height > least:
                return order[:s], R[:s]
            row /= math.sqrt(height)
            order[s] = j
            loss = squares(row)
            d -= loss
            fair -= loss
            d[j] = fair[j] = -math.inf
            j = int((fair >= float(d.max()) * band).argmax())
        return order, R

    def _verify(self, guess: np.ndarray, V: np.ndarray) -> int:
        """Keep the longest prefix of the guess that the rule would pick, and return its length, at least 1."""
        p, size, taken = self.p, guess.size, 1
        R = self.W[self.r : self.r + size]
        R[:] = self._products(V)
        fallen = squares(R)
        top = np.array([self.N[self.first]])
        if size > 1:
            np.cumsum(fallen, axis=0, out=fallen)
            score = np.where(self.open, self.N, -math.inf) - fallen[:-1]  # after 1, 2, ... guesses
            for s in range(1, size):
                score[s - 1 :, guess[s - 1]] = -math.inf
            top = np.append(top, score.max(axis=1))
            bar = (top[1:] * (1 - TIE_BAND * self.eps))[:, None]
            contend = score + DOWNDATE_SLACK * self.eps * self.exact >= bar
            right = np.argmax(contend, axis=1) == guess[1:]
            right &= top[1:] > p.noise**2
            if self.single:
                right &= top[1:] >= (SINGLE_REACH * p.largest) ** 2
            stale = contend & (score <= math.sqrt(self.eps) * self.exact)
            right &= ~stale.any(axis=1)
            taken += size - 1 if right.all() else int(np.argmin(right))
        chosen = guess[:taken]
        self.Q[:, self.r : self.r + taken] = V[:, :taken]
        self.r += taken
        self.heights += np.sqrt(top[:taken]).tolist()
        self.N -= fallen[taken - 1]
        np.maximum(self.N, 0, out=self.N)
        self.N[chosen] = 0
        self.open[chosen] = False
        self.indices += chosen.tolist()
        return taken


def _orthonormal(E: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return rows that span the first 1, 2, ... rows of E, orthonormal where R, the Cholesky factor of their Gram matrix, is accurate.

    Rows are combined with weights R⁻¹, or by Householder QR where these weights cancel more than the residuals themselves do.
    """
    X = np.triu(np.linalg.inv(R))
    norms = np.sqrt(np.sum(squares(R), axis=0))
    cancelled = (norms @ np.abs(X)) * R.diagonal().real / norms
    if float(cancelled.max()) > CANCELLED:
        return np.linalg.qr(E.T)[0].T
    return X.T @ E


def _reorthonormalised(V: np.ndarray) -> np.ndarray:
    """Orthonormalise nearly orthonormal rows by Cholesky QR, cut where they are no longer nearly orthonormal."""
    s = len(V)
    G = V.conj() @ V.T
    off = np.abs(G - np.eye(s))
    if float(off.max()) > 1 / (4 * s):
        s = int(np.argmax(np.max(np.tril(off), axis=1) > 1 / (4 * s)))
        if s < 2:
            return V[:s]
    return np.linalg.inv(np.linalg.cholesky(G[:s, :s])).conj() @ V[:s]


def _basis(C: np.ndarray, noise: float) -> np.ndarray:
    """Return an orthonormal basis of the columns of C: by Cholesky QR, twice, where clearly independent, else one by one."""
    V, clear = C.T, float(np.finfo(C.dtype).eps) ** 0.25
    try:
        for _ in range(2):
            L = np.linalg.cholesky(V.conj() @ V.T)
            d = L.diagonal().real  # residual norms of the columns, in order
            if not float(d.min()) > max(noise, clear * float(d.max())):
                return basis(C, noise)[0]
            V, noise = np.linalg.inv(L).conj() @ V, 0.0
    except np.linalg.LinAlgError:
        return basis(C, noise)[0]
    return V.T


def _fit_for_blas(A: np.ndarray) -> np.ndarray:
    """Return A itself where a matrix product reads it without a copy, else a copy."""
    rows, columns = A.strides
    size = A.itemsize
    if (columns == size and rows >= size * A.shape[1]) or (rows == size and columns >= size * A.shape[0]):
        return A
    return np.ascontiguousarray(A)
