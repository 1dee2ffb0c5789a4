"""Slow versions that are obviously right: explicit residual matrices, enumeration, plain least squares."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def residual_matrix(A, S, B=None):
    """B (or A) minus its projection on the columns S of A, in double precision, by SVD of the columns."""
    wide = np.complex128 if np.iscomplexobj(A) else np.float64
    A = np.asarray(A).astype(wide)
    B = A if B is None else np.asarray(B).astype(wide)
    C = A[:, list(S)]
    norms = np.linalg.norm(C, axis=0)
    C = C[:, norms > 0] / norms[norms > 0]
    U, s, _ = np.linalg.svd(C, full_matrices=False)
    U = U[:, s > 1e-13 * max(1, s.size)] if s.size else U
    R = B - U @ (U.conj().T @ B)
    return R - U @ (U.conj().T @ R)


def squared_error(A, S, B=None):
    """Squared Frobenius residual of B (or A) on the columns S of A."""
    return float(np.linalg.norm(residual_matrix(A, S, B)) ** 2)


def greedy_residual(A, k, candidates=None):
    """argmax of the explicit residual's column norms, k times, lowest index first."""
    E = np.array(A, dtype=np.result_type(A, np.float64))
    open_ = np.ones(E.shape[1], dtype=bool) if candidates is None else candidates.copy()
    picks = []
    for _ in range(k):
        N = np.where(open_, np.linalg.norm(E, axis=0), -1.0)
        j = int(np.argmax(N.max() * (1 - 1e-13) <= N))
        q = E[:, j] / np.linalg.norm(E[:, j])
        E = E - np.outer(q, q.conj() @ E)
        E[:, j] = 0
        open_[j] = False
        picks.append(j)
    return picks


def gains(A, S, B=None):
    """Decrease of the squared error by each column not in S; -inf for those in S."""
    before = squared_error(A, S, B)
    n = A.shape[1]
    return np.array([-np.inf if j in S else before - squared_error(A, [*S, j], B) for j in range(n)])


def best_subset(A, k, B=None):
    """Subset of least error by enumeration, and that error squared."""
    error, S = min((squared_error(A, S, B), S) for S in combinations(range(A.shape[1]), k))
    return S, error


def graded(m, n, depth, rng, dtype=np.float64):
    """Haar singular vectors, singular values from 1 down to 10**-depth."""
    U, _ = np.linalg.qr(rng.standard_normal((m, n)))
    V, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return ((U * np.logspace(0, -depth, n)) @ V.T).astype(dtype)


def kahan(n, theta=1.2, nudge=1e-9):
    """Kahan's matrix, columns nudged so that pivoting keeps their order."""
    s, c = np.sin(theta), np.cos(theta)
    K = np.diag(s ** np.arange(n)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    return K * (1 - nudge * np.arange(n))
