"""Groups, constraints and budgets against brute force: the best that any choice under the conditions could have."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import cssp
from analysis.theory.instances import EPS, Instance, instances
from cssp import RankDeficientWarning, bounds

__all__ = ["SETTINGS", "Case", "Setting", "cases"]

#: How many points one more can displace, by dimension.
DISPLACED = {1: 2, 2: 5, 3: 12}


@dataclass(frozen=True)
class Case:
    """A small matrix X, a target B, and conditions of all kinds."""

    name: str
    X: np.ndarray
    k: int
    codes: np.ndarray
    parts: np.ndarray
    q: int
    points: np.ndarray
    r: float
    costs: np.ndarray
    budget: float

    @property
    def n(self) -> int:
        """Number of columns."""
        return int(self.X.shape[1])

    @cached_property
    def energies(self) -> np.ndarray:
        """f(S) = ‖P_S X‖_F² for each S, numbered by its bits."""
        return np.array([captured(self.X, self.X[:, self.bits(s)]) for s in range(2**self.n)])

    def bits(self, s: int) -> np.ndarray:
        """Return the columns of a subset."""
        return np.flatnonzero([s >> j & 1 for j in range(self.n)])

    @cached_property
    def total(self) -> float:
        """‖X‖_F²."""
        return float(np.sum(self.X**2))

    @cached_property
    def slack(self) -> float:
        """Rounding of energies."""
        return 1e3 * EPS * self.total

    def best(self, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Return the subset of largest f among those that fit."""
        every = [s for s in range(1, 2**self.n) if fits(self.bits(s))]
        return self.bits(max(every, key=lambda s: self.energies[s]))

    def f(self, S: np.ndarray) -> float:
        """Return f of these columns."""
        return float(self.energies[sum(1 << int(j) for j in S)])

    def left(self, S: np.ndarray) -> float:
        """Return the squared error of these columns."""
        return max(0.0, self.total - self.f(S))


def captured(B: np.ndarray, C: np.ndarray) -> float:
    """Return ‖P_C B‖_F²."""
    U, s, _ = np.linalg.svd(C, full_matrices=False)
    U = U[:, s > max(C.shape) * EPS * max(s, default=0.0)]
    return float(np.sum((U.T @ B) ** 2))


def cases(seed: int, largest: int = 7) -> Iterator[Case]:
    """Return cases without end: the matrices of `instances`, conditions drawn."""
    rng = np.random.default_rng(seed)
    for at in instances(seed, largest=largest):
        if at.n >= 2 and np.isrealobj(at.X) and tame(at):
            n, d = at.n, int(rng.integers(1, 4))
            costs = rng.random(n) ** 2 + 0.05
            least = costs[
                np.linalg.norm(at.X, axis=0) > 1e-6 * at.s[0]
            ].min()  # one can be paid that is not zero
            yield Case(
                name=at.name,
                X=at.X / at.s[0],
                k=int(rng.integers(1, n)),
                codes=np.unique(rng.integers(0, int(rng.integers(2, n + 1)), n), return_inverse=True)[1],
                parts=rng.integers(0, int(rng.integers(1, n)), n),
                q=int(rng.integers(1, 3)),
                points=rng.random((n, d)),
                r=float(rng.random() * 0.8 + 0.05),
                costs=costs,
                budget=float(least + rng.random() * (costs.sum() - least)),
            )


def tame(at: Instance) -> bool:
    """Return whether rounding decides nothing: singular values are far from it, or zero."""
    s = at.s[at.s > 1e3 * EPS * at.s[0]]
    return bool(at.s[0] > 0 and s.min() > 1e-5 * at.s[0])


def chosen(case: Case, method: str, k: int | None, **conditions: object) -> np.ndarray:
    """Return the picks of `cssp.select`; fewer than k where the constraint or the rank ends it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        return np.asarray(cssp.select(case.X, k, method, deficient="truncate", **conditions).indices)


Scores = Callable[[Case], float | None]


@dataclass(frozen=True)
class Setting:
    """A statement about a method under conditions; its score is at most 1 where it holds, None where it says nothing."""

    method: str
    conditions: str
    statement: str
    source: str
    score: Scores


def _groups(case: Case) -> int:
    return int(case.codes.max()) + 1


def _by_definition(method: str) -> Scores:
    """Return how far a pick is from the best group by its definition: at most 1 where each is the best."""

    def score(case: Case) -> float:
        G = _groups(case)
        k = min(case.k, G)
        S = chosen(case, method, k, groups=case.codes)
        order = list(dict.fromkeys(case.codes[S].tolist()))
        worst = 0.0
        for t, g in enumerate(order):
            before = np.flatnonzero(np.isin(case.codes, order[:t]))
            E = rest(case.X, case.X[:, before])
            value = (
                (lambda c, E=E: float(np.sum(E[:, case.codes == c] ** 2)))
                if method == "residual"
                else (lambda c, b=before: case.f(np.union1d(b, np.flatnonzero(case.codes == c))) - case.f(b))
            )
            best = max(value(c) for c in range(G) if c not in order[:t])
            worst = max(worst, (best - case.slack) / max(value(g), 1e-300))
        return worst

    return score


def rest(B: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Return B without its projection on the columns of C."""
    if not C.shape[1]:
        return B
    U, s, _ = np.linalg.svd(C, full_matrices=False)
    U = U[:, s > max(C.shape) * EPS * max(s, default=0.0)]
    return B - U @ (U.T @ B)


def _group_residual(case: Case) -> float:
    G = _groups(case)
    k = min(case.k, G)
    S = chosen(case, "residual", k, groups=case.codes)
    k = len(np.unique(case.codes[S]))  # no other group adds to the span
    s = np.linalg.svd(case.X, compute_uv=False)
    bound = bounds.group_residual(G, k, int(np.bincount(case.codes).max())) * float(np.sum(s[k:] ** 2))
    return max(0.0, case.left(S) - case.slack) / max(bound, 1e-300)


def _group_share(method: str) -> Scores:
    def score(case: Case) -> float:
        G = _groups(case)
        S = chosen(case, method, min(case.k, G), groups=case.codes)
        bound = bounds.share_left(G, len(np.unique(case.codes[S]))) * case.total
        return max(0.0, case.left(S) - case.slack) / max(bound, 1e-300)

    return score


def _group_gain(case: Case) -> float:
    G = _groups(case)
    k = min(case.k, G)
    S = chosen(case, "greedy", k, groups=case.codes)
    subsets = [np.flatnonzero(np.isin(case.codes, T)) for T in itertools.combinations(range(G), k)]
    best = max(subsets, key=case.f)
    both = np.union1d(S, best)
    gamma = bounds.block_eigenvalues(case.X[:, both], case.codes[both])[0]
    return bounds.weak_submodularity(gamma) * case.f(best) / (case.f(S) + case.slack)


def _under(constraint: Callable[[Case], object], displaced: Callable[[Case], int]) -> Scores:
    """Return the score of greedy gain under a constraint, against the best set of at most k that it allows."""

    def score(case: Case) -> float:
        limit = constraint(case)
        S = chosen(case, "greedy", case.k, constraint=limit)
        best = case.best(lambda T: T.size <= case.k and fits(limit, T))
        both = np.union1d(S, best)
        low, high = bounds.block_eigenvalues(case.X[:, both])[0], bounds.block_eigenvalues(case.X[:, best])[1]
        if not fits(limit, S):
            return np.inf
        share = bounds.constrained_greedy(low, high, max(len(S), len(best)), displaced(case))
        return share * case.f(best) / (case.f(S) + case.slack)

    return score


def fits(limit: object, T: np.ndarray) -> bool:
    """Return whether a constraint allows this set, one column after the other."""
    return all(limit.allowed(T[:t])[j] for t, j in enumerate(T))  # type: ignore[attr-defined]


def _budget(case: Case) -> float | None:
    if case.costs.max() > case.budget:
        return None
    S = chosen(case, "greedy", None, costs=case.costs, budget=case.budget)
    best = case.best(lambda T: case.costs[T].sum() <= case.budget)
    gamma = bounds.block_eigenvalues(case.X[:, np.union1d(S, best)])[0]
    share = bounds.budget_greedy(gamma, 1 - case.costs.max() / case.budget)
    if case.costs[S].sum() > case.budget * (1 + 1e-12):
        return np.inf
    return share * case.f(best) / (case.f(S) + case.slack)


def orthogonal(case: Case) -> Case:
    """Return the case with orthogonal columns of the same norms, for which f is submodular."""
    return Case(**vars_of(case) | {"X": np.diag(np.linalg.norm(case.X, axis=0))})


def vars_of(case: Case) -> dict:
    """Return the fields."""
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}


def _budget_submodular(case: Case) -> float:
    case = orthogonal(case)
    S = chosen(case, "greedy", None, costs=case.costs, budget=case.budget)
    best = case.best(lambda T: case.costs[T].sum() <= case.budget)
    return bounds.budget_greedy_submodular() * case.f(best) / (case.f(S) + case.slack)


def _constraint_submodular(case: Case) -> float:
    case = orthogonal(case)
    limit = cssp.MinDistance(case.points, case.r)
    S = chosen(case, "greedy", None, tol=1e-9, constraint=limit)
    best = case.best(lambda T: fits(limit, T))
    p = DISPLACED[case.points.shape[1]]
    return bounds.constrained_greedy_submodular(p) * case.f(best) / (case.f(S) + case.slack)


def _cost_share(method: str) -> Scores:
    """Return the score of the share left while every column can be afforded."""

    def score(case: Case) -> float:
        S = chosen(case, method, case.k, costs=case.costs)
        bound = bounds.share_left(float(case.costs.sum()), float(case.costs[S].sum())) * case.total
        return max(0.0, case.left(S) - case.slack) / max(bound, 1e-300)

    return score


SETTINGS = [
    Setting(
        "residual", "groups", "each pick has the largest ‖E_g‖_F", "definition", _by_definition("residual")
    ),
    Setting("greedy", "groups", "each pick has the largest gain", "definition", _by_definition("greedy")),
    Setting("residual", "groups", "group_residual: F <= (G-k) b M OPT_k", "businger1965", _group_residual),
    Setting("residual", "groups", "share_left: F <= (1 - k/G)‖A‖²", "farahat2011", _group_share("residual")),
    Setting("greedy", "groups", "share_left: F <= (1 - k/G)‖A‖²", "farahat2011", _group_share("greedy")),
    Setting("greedy", "groups", "weak_submodularity against the best k groups", "das2011", _group_gain),
    Setting(
        "greedy",
        "AtMost",
        "constrained_greedy against the best set",
        "das2011",
        _under(lambda case: cssp.AtMost(case.parts, case.q), lambda case: 1),
    ),
    Setting(
        "greedy",
        "MinDistance",
        "constrained_greedy against the best set",
        "das2011",
        _under(
            lambda case: cssp.MinDistance(case.points, case.r), lambda case: DISPLACED[case.points.shape[1]]
        ),
    ),
    Setting("greedy", "MinDistance", "constrained_greedy_submodular", "fisher1978", _constraint_submodular),
    Setting("greedy", "costs", "budget_greedy against the best set", "das2011", _budget),
    Setting("greedy", "costs", "budget_greedy_submodular", "leskovec2007", _budget_submodular),
    Setting(
        "residual", "costs", "share_left: F <= (1 - spent/total)‖A‖²", "farahat2011", _cost_share("residual")
    ),
    Setting(
        "greedy", "costs", "share_left: F <= (1 - spent/total)‖A‖²", "farahat2011", _cost_share("greedy")
    ),
]
