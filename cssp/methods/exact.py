"""The best k columns, by branch and bound.

Arai, Maung and Schweitzer, "Optimal column subset selection by A-star search", AAAI 2015 [arai2015]: a partial set with
r columns to come and residual E can reach no error below Σ_{i>r} σ_i(E)². Here the bound also counts what columns
already passed over take with them; where that does not end a branch, a convex relaxation is asked (`_relaxation`,
[li2020]). The search is depth first from a good incumbent. The problem is NP-complete [shitov2021]: the number of nodes
is limited, and exceeding it is an error, never a worse answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cssp import bounds
from cssp.errors import ArgumentError, check_integer
from cssp.linalg import basis, frobenius2, project_off
from cssp.methods._relaxation import relaxed
from cssp.methods._shared import CLEAR, completed, rest, shortest
from cssp.methods.local_search import searched
from cssp.methods.row import FORCED, Guarantee, Method
from cssp.problem import Picks, Problem
from cssp.progress import Deadline, silent

#: A subset has to be better by more than this share of the squared error to replace the incumbent.
EQUAL = 1e-12


#: Seconds that all nodes may take before the log says so, and nodes after which that is estimated.
LONG, MEASURED = 30, 200

_log = logging.getLogger("cssp")


def exact(p: Problem, *, nodes: int = 50_000, time_limit: float | None = None) -> Picks:
    """Take a column or forbid it; drop every branch whose bound is not below the incumbent.

    What a matrix takes grows fast with n, and with the flatness of its spectrum. With n = 30, Gaussian matrices of 60,
    30 and 20 rows, decaying spectra, low rank with noise and clusters took up to 20,200 nodes of about 1 ms at k = 3, 5,
    8, 10, 12, 13, 15, 20, 25: seconds. The hardest k lie between n/3 and n/2. With a target the spectral bound alone is
    at work, and such k of n = 30 are mostly out of reach.

    Parameters
    ----------
    nodes : int
        Partial sets that may be expanded; more of them needed is an error.
    time_limit : float, optional
        Seconds for each matrix, after which the best columns found so far are returned and a `TimeLimitWarning` says that
        others may be better. They are never worse than those of method "volume_derandomized", so that (k + 1) OPT_k holds;
        that first choice is not cut short.
    """
    nodes = check_integer("nodes", nodes)
    deadline = Deadline(time_limit, "the columns are the best found so far, others may be better")
    return shortest(p, lambda q: _Search(q, nodes, deadline).run())


@dataclass(frozen=True)
class _Node:
    """Columns chosen, residuals E of those still allowed and B of what is to be reconstructed, both in coordinates.

    ``lost`` is the part of the squared error outside these coordinates, ``bound`` what no completion goes below,
    ``spectrum`` the squared singular values of B, ``shares`` where the relaxation starts.
    """

    bound: float
    lost: float
    spectrum: np.ndarray
    chosen: tuple[int, ...]
    allowed: np.ndarray
    E: np.ndarray
    B: np.ndarray
    shares: np.ndarray


#: Nodes expanded before their children are bounded together, so many at once.
NODES_PER_STEP, BOUNDED = 32, 128

#: After this many nodes the incumbent is tried to be improved, from this many random starts.
SEARCH_AFTER, STARTS = 100, 8


class _Search:
    def __init__(self, p: Problem, nodes: int, deadline: Deadline) -> None:
        self.p, self.a, self.nodes, self.expanded = p, rest(p), nodes, 0
        self.deadline, self.begun = deadline, time.monotonic()
        self.square = p.target is None  # B Bᴴ is at least E Eᴴ, which the relaxation needs
        self.best: tuple[int, ...] = ()
        self.error, self.total = np.inf, frobenius2(self.a.B)
        self._try("volume_derandomized" if self.square else "residual")

    def _try(self, start: str, rng: int = 0) -> None:
        p = replace(self.p, tol=None, rng=np.random.default_rng(rng), progress=silent)
        self._offer(tuple(searched(p, start, self.deadline).indices)[len(p.include) :])

    def _error(self, S: Sequence[int]) -> float:
        Q, _ = basis(self.a.E[:, list(S)], self.a.noise)
        return frobenius2(project_off(self.a.B, Q))

    def run(self) -> Picks:
        a = self.a
        place = np.flatnonzero(a.open)
        # Only B Bᴴ matters: at most m columns.
        E, B = a.E[:, place], a.B
        if B.shape[1] > B.shape[0]:
            B = np.linalg.qr(B.conj().T)[1].conj().T
        stack = [_Node(0.0, 0.0, np.full(a.k, np.inf), (), place, E, B, np.full(place.size, 0.5))]
        while stack and a.k and self.error > a.noise**2 and not self.deadline.over():
            r = a.k - len(stack[-1].chosen)
            children: list[_Node] = []
            for _ in range(NODES_PER_STEP):
                if not stack or a.k - len(stack[-1].chosen) != r or self.deadline.over():
                    break
                node = stack.pop()
                if node.bound < self.error * (1 - EQUAL):
                    self._count()
                    children = self._children(node, r) + children
            for i in range(0, len(children), BOUNDED):
                stack += self._tightened(children[i : i + BOUNDED], r - 1)
        return completed(self.p, sorted(self.best))

    def _count(self) -> None:
        self.expanded += 1
        if self.expanded > self.nodes:
            raise ArgumentError(
                f"nodes = {self.nodes} do not suffice to find the best {self.a.k} of {int(self.a.open.sum())} columns: "
                "raise nodes, give time_limit= for the best found in that time, or use method 'local_search', which comes close at little cost"
            )
        self.p.progress(self.expanded, self.nodes)
        if self.expanded == MEASURED:
            self._announce()
        if self.expanded == SEARCH_AFTER:  # a good incumbent begins to pay
            for seed in range(STARTS):
                self._try("random_pivot" if np.iscomplexobj(self.a.E) else "uniform", seed)

    def _announce(self) -> None:
        """Log what the search may cost, where that is long."""
        node = (time.monotonic() - self.begun) / self.expanded
        if node * self.nodes > LONG and self.deadline.seconds is None:
            _log.warning(
                "exact: about %.2g s a node, %.2g s for all %d that it may take; time_limit= ends it with the best columns "
                "found so far, progress=True shows how far it is",
                node,
                node * self.nodes,
                self.nodes,
            )

    def _offer(self, S: tuple[int, ...]) -> None:
        error = self._error(S)
        if error < self.error * (1 - EQUAL):
            self.best, self.error = S, error

    def _children(self, node: _Node, r: int) -> list[_Node]:
        """Return the partial sets with one column more that may still win.

        Child t takes the t-th column and forbids those before it, so that each set is met once. The column of
        least promise comes first: its child ends soon, and no other has to consider it. The cuts stand in one function, as
        each narrows the same arrays for the next, dearer one.
        """
        B, enough = node.B, self.error * (1 - EQUAL)
        norms = np.sqrt(np.sum(_sq(node.E), axis=0))
        alive = np.flatnonzero(norms > CLEAR * self.a.noise)
        if alive.size <= r:
            self._offer((*node.chosen, *node.allowed[alive].tolist()))
            return []
        q = node.E[:, alive] / norms[alive]
        X = q.conj().T @ B
        gain = np.sum(_sq(X), axis=1)
        if r == 1:
            self._last(node, alive, q, X, gain)
            return []
        # A column goes out where no set that contains it can win: first by interlacing, the spectrum of a child lying
        # below its parent's, then by the child's own spectrum.
        total = np.sum(_sq(B))
        hope = node.lost + total * (1 - 1e-12) - gain - np.sum(node.spectrum[: r - 1]) < enough
        alive, q, X, gain = alive[hope], q[:, hope], X[hope], gain[hope]
        if alive.size < r:
            return []
        left = B - q.T[:, :, None] * X[:, None, :]
        spectra = _spectrum(left, self.error)
        bound = node.lost + np.sum(spectra[:, r - 1 :], axis=1)
        order = np.argsort(-bound, kind="stable")
        order = order[bound[order] < enough]
        if order.size < r:
            return []
        alive, q, gain, left = alive[order], q[:, order], gain[order], left[order]
        bound, spectra = bound[order], spectra[order]
        # Orthonormal coordinates in which the columns t, t + 1, ... fill the first ones: what B has beyond them is
        # lost once the columns before t are forbidden.
        Q, _ = np.linalg.qr(q[:, ::-1])
        QB, q, E = Q.conj().T @ B, Q.conj().T @ q, Q.conj().T @ node.E[:, alive]
        rows = np.append(np.sum(_sq(QB), axis=1), np.sum(_sq(B - Q @ QB)))
        beyond = node.lost + np.cumsum(rows[::-1])[::-1]  # with the first h coordinates kept
        t = np.arange(alive.size - r + 1)
        h = np.minimum(alive.size - t, rows.size - 1)
        t = t[np.maximum(bound[t], beyond[h]) < enough]
        if not t.size:
            return []
        h, spectra, bound = h[t], spectra[t], np.maximum(bound[t], beyond[h[t]])
        left = Q.conj().T @ left[t]
        cut = np.flatnonzero(h < B.shape[0])  # what these children may use spans fewer coordinates
        if cut.size:
            left[cut] = np.where(np.arange(rows.size - 1)[:, None] < h[cut][:, None, None], left[cut], 0)
            if not self._relaxes(r - 1):  # which would find out itself
                x = _spectrum(left[cut], self.error)
                spectra[cut] = 0
                spectra[cut, : x.shape[1]] = x
                bound[cut] = np.maximum(bound[cut], beyond[h[cut]] + np.sum(x[:, r - 1 :], axis=1))
        children = []
        for i in np.flatnonzero(bound < enough)[::-1]:
            c, hc = int(t[i]), int(h[i])
            others = E[:hc, c + 1 :]
            children.append(
                _Node(
                    bound=float(bound[i]),
                    lost=float(beyond[hc]),
                    spectrum=spectra[i],
                    chosen=(*node.chosen, int(node.allowed[alive[c]])),
                    allowed=node.allowed[alive[c + 1 :]],
                    E=others - np.outer(q[:hc, c], q[:hc, c].conj() @ others),
                    B=left[i, :hc],
                    shares=node.shares[alive[c + 1 :]],
                )
            )
        return children

    def _relaxes(self, r: int) -> bool:
        """Return whether the relaxation pays, and has enough digits."""
        return r > 1 and self.square and self.error > 1e-7 * self.total

    def _tightened(self, nodes: list[_Node], r: int) -> list[_Node]:
        """Return the nodes with bounds raised by the relaxation, all at once, without those that cannot win."""
        if not nodes or not self._relaxes(r) or self.deadline.over():
            return nodes
        need = self.error * (1 - EQUAL) - np.array([x.lost for x in nodes])
        h, u = (max(x.E.shape[axis] for x in nodes) for axis in (0, 1))
        E = np.zeros((len(nodes), h, u), dtype=nodes[0].E.dtype)
        M = np.zeros((len(nodes), h, h), dtype=E.dtype)
        shares, allowed = np.ones((len(nodes), u)), np.zeros((len(nodes), u), dtype=bool)
        for i, x in enumerate(nodes):
            h, u = x.E.shape
            E[i, :h, :u], M[i, :h, :h], shares[i, :u], allowed[i, :u] = (
                x.E,
                x.B @ x.B.conj().T,
                x.shares,
                True,
            )
        more, shares = relaxed(M, E, allowed, r, need, shares, self.deadline.over)
        return [
            replace(x, bound=max(x.bound, x.lost + float(more[i])), shares=shares[i, : x.E.shape[1]])
            for i, x in enumerate(nodes)
            if more[i] < need[i]
        ]

    def _last(self, node: _Node, alive: np.ndarray, q: np.ndarray, X: np.ndarray, gain: np.ndarray) -> None:
        """Choose the best last column, by explicit residuals where gains differ by rounding only."""
        total = np.sum(_sq(node.B))
        if node.lost + total * (1 - 1e-13) - gain.max() >= self.error:
            return
        last = np.flatnonzero(gain >= gain.max() - 1e-12 * total)
        left = [np.sum(_sq(node.B - np.outer(q[:, t], X[t]))) for t in last]
        if node.lost + min(left) < self.error * (1 + 1e-6):
            self._offer((*node.chosen, int(node.allowed[alive[last[int(np.argmin(left))]]])))


def _sq(X: np.ndarray) -> np.ndarray:
    return (X.conj() * X).real


def _spectrum(X: np.ndarray, error: float) -> np.ndarray:
    """Return the squared singular values, largest first, of a stack of matrices, never too large by rounding.

    From the Gram matrices, which takes a fraction of the time, unless errors as small as ``error`` would be lost to rounding.
    """
    total = np.max(np.sum(_sq(X), axis=(1, 2)))
    if error < 1e-9 * total:
        return np.maximum(np.linalg.svd(X, compute_uv=False) - 4e-16 * np.sqrt(total), 0) ** 2
    x = np.linalg.eigvalsh(X @ np.swapaxes(X.conj(), 1, 2))[:, ::-1]
    return np.maximum(x - 1e-14 * total, 0)


ROW = Method(
    name="exact",
    function=exact,
    summary="the best k columns by branch and bound, n up to about 30",
    citation="arai2015",
    cost="exponential in n; at most nodes SVDs",
    supports=FORCED | {"tol", "target", "complex"},
    guarantee=Guarantee(
        "min over all k columns; F <= (k + 1) OPT_k, hence T <= (k + 1)(min(m, n) - k) s_{k+1}²",
        "deshpande2006",
        "every run",
        frobenius=lambda m, n, k, **options: bounds.exact(k),
        spectral=lambda m, n, k, **options: bounds.volume_spectral(m, n, k),
        name="the best choice",
    ),
)
