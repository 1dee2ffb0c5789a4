"""What an answer of `select` owes, each number computed again in the plainest way."""

from __future__ import annotations

import numpy as np
import oracles
import scipy.linalg
from optional import torch

from cssp.pivoting import CLEAR, FEW, MANY

EPS = float(np.finfo(float).eps)

#: Rank is a matter of rounding where a pivot is so close to the threshold, by this factor.
NEAR = 4


def host(x):
    return x.numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def listed(s):
    return host(s.indices).tolist()


def weighted(call):
    """A·diag(w) as select works on it, up to a power of two that brings its largest entry near 1.

    Padding is zero. None where the product leaves the range of double precision by much.
    """
    A = call.A.astype(complex if call.A.dtype.kind == "c" else float)
    w = np.asarray(call.options.get("weights", np.ones(A.shape[1])), dtype=float)
    valid = np.asarray(call.options.get("valid", np.ones(A.shape[1], dtype=bool)))
    A, w = np.where(valid, A, 0), np.where(valid, w, 0)
    if call.options.get("scale") is not None:
        A = unit(A, -np.frexp(np.maximum(np.abs(A.real), np.abs(A.imag)).max(axis=0))[1])
        lengths = np.linalg.norm(A, axis=0)
        A = A / np.where(lengths > 0, lengths, 1)
    top = max(np.abs(A.real).max(), np.abs(A.imag).max())
    for x in (top, w.max()):
        if x == 0:
            return np.zeros_like(A)
    columns = np.maximum(np.abs(A.real), np.abs(A.imag)).max(axis=0)
    e, f = np.frexp(columns)[1], np.frexp(w)[1]
    alive = (columns > 0) & (w > 0)
    if not alive.any():
        return np.zeros_like(A)
    shift = np.where(alive, e + f, 0) - (e + f)[alive].max()
    return unit(A, -e) * (np.ldexp(w, -f) * np.ldexp(1.0, np.where(alive, shift, 0))) * alive


def unit(A, e):
    """A·2**e, column by column, in two steps."""
    return (A * np.ldexp(1.0, e // 2)) * np.ldexp(1.0, e - e // 2)


def precision(call):
    """Unit of rounding of the data."""
    single = call.A.dtype.itemsize <= (8 if call.A.dtype.kind == "c" else 4) and call.A.dtype.kind in "fc"
    return float(np.finfo(np.float32).eps) if single else EPS


def check_contract(call, s):
    """All that any result owes, whatever the method and the options."""
    o, n = call.options, call.A.shape[1]
    indices, valid = listed(s), np.asarray(o.get("valid", np.ones(n, dtype=bool)))
    admissible = set(np.flatnonzero(valid).tolist()) - set(o.get("exclude", ()))
    assert len(set(indices)) == len(indices) == s.k, "distinct"
    assert set(indices) <= admissible, "admissible"
    include = list(o.get("include", ()))
    assert indices[: len(include)] == include, "included first"
    if "tol" not in o:
        assert s.k == o["k"], "as many as wanted"
    elif "k" in o:
        assert s.k == o["k"] or s.relative_error <= o["tol"] + 8 * EPS, "k or the tolerance"
    assert 0 <= s.rank <= min(call.A.shape[0], s.k), "rank in range"
    errors = host(s.errors)
    assert errors.shape == (s.k + 1,)
    assert errors.dtype == np.float64
    assert np.all(errors[1:] <= errors[:-1]), "errors never rise"
    assert errors[-1] >= 0
    assert 0 <= s.relative_error <= 1, "relative error in range"
    assert s.error >= 0
    assert not np.isnan(s.error)
    if "tol" in o and s.rank == s.k > max(1, len(include)) and s.relative_error <= o["tol"]:
        before = np.sqrt(errors[-2] / errors[0]) if 0 < errors[0] < np.inf and errors[-2] > 1e-290 else 1
        assert before > o["tol"] * (1 - 1e-12) - 8 * EPS, "the shortest that meets the tolerance"
    T = host(s.coefficients())
    target = o.get("target")
    assert T.shape == (s.k, n if target is None else target.shape[1])
    assert s.mask().shape == (n,)
    assert np.flatnonzero(host(s.mask())).tolist() == sorted(indices)
    assert not np.any(np.isnan(T))
    if target is None:
        check_errors(call, s, T)


def swollen(C, T, rank):
    """What rounding of CT is relative to: column by column, but for the solution of least norm where columns are dependent."""
    dependent = rank < C.shape[1]
    return np.linalg.norm(C) * np.linalg.norm(T) if dependent else np.linalg.norm(np.abs(C) @ np.abs(T))


def check_errors(call, s, T):
    """The error against a plain recomputation and against the coefficients."""
    X = weighted(call)
    total = np.linalg.norm(X)
    if total == 0:
        assert s.error == 0
        return
    indices = listed(s)
    C = X[:, indices]
    lengths = np.linalg.norm(C, axis=0)
    C = C[:, lengths > 0] / lengths[lengths > 0]
    sigma = np.linalg.svd(C, compute_uv=False) if C.size else np.ones(1)
    if sigma.min() > 1e-6 and (lengths > 1e-12 * total).all():  # the span is certain
        T = np.asarray(T, dtype=np.result_type(T, np.float64))
        # The product with the weights is rounded to the dtype of A, and all products in double.
        swell = 1 + swollen(X[:, indices], T, s.rank) / total
        allowed = max(1e-9, 8 * (precision(call) if "weights" in call.options else EPS) * swell)
        expected = np.linalg.norm(oracles.residual_matrix(X, indices)) / total
        assert abs(s.relative_error - expected) <= allowed, "the error is that of the columns"
        if "weights" not in call.options and 1e-140 < float(np.abs(call.A[:, indices[0]]).max()) < 1e140:
            unit = np.linalg.norm(call.A[:, indices[0]].astype(X.dtype)) / np.linalg.norm(X[:, indices[0]])
            assert abs(s.error / unit - expected * total) <= allowed * total, "in the unit of the data"
        left = np.linalg.norm(X - X[:, indices] @ T) / total
        assert abs(s.relative_error - left) <= allowed, "and of the coefficients"


# --- rank, errors and coefficients ----------------------------------------------------------------------


def pivots(X):
    """Pivots of column-pivoted QR, descending."""
    return np.abs(np.diagonal(scipy.linalg.qr(X, mode="r", pivoting=True)[0]))


def admissible(call):
    """Places of the columns that are included or may be chosen."""
    allowed = np.array(call.options.get("valid", np.ones(call.A.shape[1])), dtype=bool)
    allowed[list(call.options.get("exclude", ()))] = False
    return np.flatnonzero(allowed)


def in_range(call):
    """Whether columns that may be chosen are not so far below all others that their squares leave the range."""
    lengths = np.linalg.norm(weighted(call), axis=0)
    return lengths[admissible(call)].max() >= lengths.max() * (
        2.0**-40 if precision(call) > EPS else 2.0**-400
    )


def threshold(call):
    """Residual norm up to which a column of `weighted` counts as dependent."""
    n = int(np.sum(call.options.get("valid", np.ones(call.A.shape[1]))))
    largest = np.linalg.norm(weighted(call)[:, admissible(call)], axis=0).max()
    return max(FEW, call.A.shape[0], min(n, MANY)) * precision(call) * largest


def goal(call):
    """What is reconstructed: `weighted`, or the target as select works on it, its largest entry near 1."""
    B = call.options.get("target")
    if B is None:
        return weighted(call)
    B = unit(B, np.full(B.shape[1], -exponent(B)))
    if precision(call) > EPS:
        B = B.astype(np.complex64 if B.dtype.kind == "c" else np.float32)
    return B.astype(np.complex128 if B.dtype.kind == "c" else float)


def exponent(X):
    """That of the largest entry."""
    return int(np.frexp(max(np.abs(X.real).max(), np.abs(X.imag).max()))[1])


def unit_of_coefficients(call):
    """What coefficients are to be multiplied by to be those of `weighted` and `goal`; NaN where it is out of range."""
    if call.options.get("target") is None:
        return 1.0
    X = weighted(call)
    i, j = np.unravel_index(np.argmax(np.abs(X)), X.shape)
    with np.errstate(all="ignore"):
        own = X / np.linalg.norm(X[:, j]) if "scale" in call.options else call.A.astype(X.dtype)
        true = abs(own[i, j]) * call.options.get("weights", np.ones(X.shape[1]))[j]
        ratio = np.ldexp(true / abs(X[i, j]), -exponent(call.options["target"]))
        return ratio if 1e-100 < true < 1e100 and 1e-100 < ratio < 1e100 else np.nan


def check_numbers(call, s):
    """Rank, error and coefficients are those of the chosen columns: one notion of dependence in all three."""
    if not in_range(call):
        return
    X, indices, floor = weighted(call), listed(s), threshold(call)
    C, B = X[:, indices], goal(call)
    heights = pivots(C)
    assert np.sum(heights > NEAR * floor) <= s.rank <= np.sum(heights > floor / NEAR), "rank of pivoted QR"
    total = np.linalg.norm(B)
    rounded = {"weights", "scale"} & set(call.options)
    if (
        total == 0 or floor == 0 or (rounded and precision(call) > EPS)
    ):  # in double, products in single are others
        return
    floor *= EPS / precision(call)  # errors are of the exact numbers, in double precision
    Q, _, order = scipy.linalg.qr(C, mode="economic", pivoting=True)
    kept = heights > floor
    Q = Q[:, : kept.sum()]
    lengths = np.linalg.norm(C, axis=0)[order][: heights.size]
    unsure = floor / NEAR < heights
    turned = EPS * np.max(lengths[unsure] / heights[unsure], initial=1)  # an angle, of the span
    turned += heights[~kept].max(initial=0) / heights[kept].min(initial=np.inf)
    noise = 16 * max(C.shape) * turned
    E = B - Q @ (Q.conj().T @ B)
    expected = np.linalg.norm(E - Q @ (Q.conj().T @ E)) / total
    assert abs(s.relative_error - expected) <= noise + ACCURACY * expected, (
        "the error is that of the projection"
    )
    T = host(s.coefficients()) * unit_of_coefficients(call)
    if np.isfinite(T).all():
        # What is below the threshold has no part in it.
        cut = NEAR * floor / np.linalg.norm(C, 2) if C.any() else 1.0
        best = np.linalg.lstsq(C, B, rcond=max(cut, max(C.shape) * EPS))[0] if cut < 1 else np.zeros_like(T)
        swell = 1 + np.linalg.norm(C) * np.linalg.norm(best) / total
        least, ours = (np.linalg.norm(B - C @ x) / total for x in (best, T))
        assert ours <= 1.01 * least + 16 * max(C.shape) * precision(call) * swell, "as good as least squares"


def check_independent(call, s):
    """No dependent pick while an independent column is left, but for those that were included by force."""
    if not in_range(call):
        return
    X, floor = weighted(call), threshold(call)
    include = list(call.options.get("include", ()))
    forced = len(include) - np.sum(pivots(X[:, include]) > CLEAR * floor) if include else 0
    heights = pivots(X[:, admissible(call)])
    possible = np.sum(heights > CLEAR * NEAR * floor)
    assert s.rank >= min(s.k - forced, possible), "no dependent pick while an independent column is left"


# --- the same from another storage ----------------------------------------------------------------------

#: Relative accuracy of an error that is a difference of energies, as of matrices read in passes.
ACCURACY = 1e-10

#: Methods whose picks are the same in every storage.
SAME = ("residual", "greedy", "norm", "uniform", "sketched_qr")

#: What decides between columns, if only in one direction that is left; methods without it owe the same picks.
SCORES = {
    "residual": "height",
    "pivoted_qr": "height",
    "sketched_qr": "height",
    "greedy": "gain",
    "norm": "norm",
}


def owes_the_same(call, storage):
    """Whether the picks in this storage are those in memory; of random_pivot it is the law, of dask's greedy core-sets."""
    return (
        call.method in SAME
        and (call.method, storage) != ("greedy", "dask")
        and not {"tol", "target"} & set(call.options)
    )


def check_same(call, s, expected):
    """The same picks up to the rank; where they part, the two columns tie to rounding."""
    ours, theirs = listed(s), listed(expected)
    if ours == theirs:
        return "same"
    t = next(
        (t for t, (i, j) in enumerate(zip(ours, theirs, strict=False)) if i != j), min(len(ours), len(theirs))
    )
    if t >= min(s.rank, expected.rank):  # beyond the rank, or the threshold, all is rounding
        assert s.rank == expected.rank or t >= certain_rank(call, theirs), "the same rank"
        return "beyond the rank"
    assert call.method in SCORES, f"pick {t}: {ours[t]}, not {theirs[t]}"
    X = weighted(call)
    E = np.linalg.norm(oracles.residual_matrix(X, theirs[:t]), axis=0)
    pair = [ours[t], theirs[t]]
    largest = np.linalg.norm(X, axis=0).max()
    rounding = 64 * precision(call) * largest / E[pair].min()
    score = {
        "height": lambda: E[pair] ** 2,
        "norm": lambda: np.linalg.norm(X[:, pair], axis=0) ** 2,
        "gain": lambda: oracles.gains(X, theirs[:t])[pair],
    }[SCORES[call.method]]()
    scale = np.linalg.norm(X) ** 2 if call.method == "greedy" else score.max()
    assert abs(score[0] - score[1]) <= rounding * scale, f"pick {t}: {ours[t]}, not {theirs[t]}"
    return "tie"


def certain_rank(call, indices):
    """How many of these columns are independent beyond doubt."""
    return int(np.sum(pivots(weighted(call)[:, indices]) > CLEAR * threshold(call)))
