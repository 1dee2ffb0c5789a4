"""Matrices that are hard to select from, and calls of `select` on them, right ones and wrong ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optional import BACKENDS, torch

from cssp import METHODS, RankDeficientWarning, select

MAXIMUM = {"float16": 65504.0, "bfloat16": 3e38, "float32": 3e38, "complex64": 1e38}
REAL = ("float64", "float64", "float32", "float16", "bfloat16", "int64", "int8", "bool")
COMPLEX = ("complex128", "complex64")


# --- matrices -------------------------------------------------------------------------------------------


def gaussian(g, m, n):
    return g.standard_normal((m, n))


def integers(g, m, n):
    return g.integers(-2, 3, (m, n)).astype(float)


def few(g, m, n):
    return g.choice([-1.0, 0.0, 0.0, 1.0, 1e-9], (m, n))


def low_rank(g, m, n):
    r = int(g.integers(1, min(m, n) + 1))
    return g.standard_normal((m, r)) @ g.standard_normal((r, n))


def integer_low_rank(g, m, n):
    r = int(g.integers(1, min(m, n) + 1))
    return (g.integers(-2, 3, (m, r)) @ g.integers(-2, 3, (r, n))).astype(float)


def duplicates(g, m, n):
    """Few different columns, some of them negated or scaled by powers of two."""
    X = g.standard_normal((m, n))[:, g.integers(0, max(1, n // 2), n)]
    return X * np.ldexp(g.choice([1.0, -1.0], n), g.integers(-2, 3, n)) if g.random() < 0.5 else X


def graded_columns(g, m, n):
    return g.standard_normal((m, n)) * 10.0 ** g.uniform(-300, 300, n)


def graded_rows(g, m, n):
    return g.standard_normal((m, n)) * 10.0 ** g.uniform(-300, 300, (m, 1))


def graded_spectrum(g, m, n):
    U, s, Vh = np.linalg.svd(g.standard_normal((m, n)), full_matrices=False)
    return (U * np.logspace(0, -g.uniform(0, 18), s.size)) @ Vh


def near_equal(g, m, n):
    return g.standard_normal((m, 1)) + 10.0 ** -g.uniform(3, 17) * g.standard_normal((m, n))


def subnormal(g, m, n):
    return g.integers(-9, 10, (m, n)) * 5e-324 * 2.0 ** g.integers(0, 40)


def constant(g, m, n):
    return np.full((m, n), g.choice([0.0, 1.0, -3.0, 1e300, 1e-300, 0.1]))


def holes(g, m, n):
    """Zero rows and zero columns."""
    return g.standard_normal((m, n)) * (g.random(n) < 0.6) * (g.random((m, 1)) < 0.8)


def equal_norms(g, m, n):
    """Columns of one length: signs, or a scaled identity beside its copies."""
    if g.random() < 0.5:
        return g.choice([-1.0, 1.0], (m, n))
    return np.tile(np.eye(m) * g.choice([1.0, 0.1, 7.0]), (1, n // m + 1))[:, :n]


def simplex(g, m, n):
    return np.eye(m, n) * g.choice([1.0, 1e-4, 1e-8]) + 1.0


def kahan(g, m, n):
    d = max(m, n)
    s, c = np.sin(1.2), np.cos(1.2)
    K = np.diag(s ** np.arange(d)) @ (np.eye(d) - c * np.triu(np.ones((d, d)), 1))
    return K[:m, :n]


def huge(g, m, n):
    return g.uniform(-1, 1, (m, n)) * 1.7e308


def cosines(g, m, n):
    """The discrete cosine transform: orthonormal rows where m ≤ n, as bases of reduced models have."""
    N = max(m, n)
    X = np.cos(np.pi * np.outer(np.arange(m), np.arange(n) + 0.5) / N)
    return X * np.sqrt(np.where(np.arange(m) == 0, 1, 2) / N)[:, None]


def legendre(g, m, n):
    """Normalised Legendre polynomials at Gauss points: orthonormal rows where m ≤ n."""
    x, w = np.polynomial.legendre.leggauss(max(m, n))
    X = np.polynomial.legendre.legvander(x, m - 1) * np.sqrt(np.outer(w, np.arange(m) + 0.5))
    return X[:n].T


def modes(g, m, n):
    """Proper orthogonal decomposition of moving bumps: orthonormal rows, or columns where m > n."""
    x, c = np.linspace(0, 1, max(m, n)), g.random((min(m, n) + 2, 1))
    V = np.linalg.svd(np.exp(-((x - c) ** 2) / 0.005), full_matrices=False)[2][: min(m, n)]
    return V if m <= n else V.T


def components(g, m, n):
    """Principal components: orthonormal rows, or columns where m > n."""
    Q = np.linalg.qr(g.standard_normal((max(m, n), min(m, n))))[0]
    return Q.T if m <= n else Q


def one_hot(g, m, n):
    """An intercept and indicators of the levels of some variables, each of which sums to it."""
    columns = [np.ones(m)]
    while len(columns) < n:
        levels = int(g.integers(2, 6))
        columns.extend((g.integers(0, levels, m) == level).astype(float) for level in range(levels))
    return np.stack(columns[:n], axis=1)


def sums(g, m, n):
    """Columns beside sums of some of them, in any order."""
    X = g.standard_normal((m, n))
    for j in range(n - n // 3, n):
        X[:, j] = X[:, : n - n // 3] @ g.integers(-1, 2, n - n // 3)
    return X[:, g.permutation(n)]


def graded_dependent(g, m, n):
    """Dependent columns in unlike units."""
    return sums(g, m, n) * 10.0 ** g.uniform(-5, 5, n)


KINDS = (
    gaussian,
    integers,
    few,
    low_rank,
    integer_low_rank,
    duplicates,
    graded_columns,
    graded_rows,
    graded_spectrum,
    near_equal,
    subnormal,
    constant,
    holes,
    equal_norms,
    simplex,
    kahan,
    huge,
)
#: Kinds with dependent columns or orthonormal rows, where scores tie.
DEPENDENT = (
    cosines,
    legendre,
    modes,
    components,
    one_hot,
    sums,
    graded_dependent,
    duplicates,
    low_rank,
    integer_low_rank,
)
#: Kinds without ties and without directions near rounding: picks are the same however they are computed.
PLAIN = (gaussian,)

shapes = st.tuples(st.integers(1, 6), st.integers(1, 7))


def cast(A, dtype):
    """The matrix as a host array of that dtype, clipped to its range; bfloat16 as its float32 values."""
    with np.errstate(all="ignore"):
        if dtype == "bool":
            return A > 0
        if dtype.startswith("int"):
            return np.clip(np.round(A * (100 if np.abs(A).max() < 1 else 1)), -99, 99).astype(dtype)
        if dtype in MAXIMUM:
            A = np.clip(A, -MAXIMUM[dtype], MAXIMUM[dtype])
        if dtype == "bfloat16":
            return torch.as_tensor(A).bfloat16().float().numpy()
        return A.astype(dtype)


@st.composite
def matrices(draw, kinds=KINDS, dtypes=("float64",), shape=shapes):
    """A host array (m, n)."""
    m, n = draw(shape)
    dtype = draw(st.sampled_from(dtypes))
    kind = draw(st.sampled_from((*kinds, None) if kinds is KINDS else kinds))
    if kind is None:  # entry by entry: what Hypothesis can shrink
        A = draw(hnp.arrays(np.float64, (m, n), elements=st.floats(-1e150, 1e150), fill=st.just(0.0)))
    else:
        g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        A = kind(g, m, n)
        if dtype in COMPLEX:
            A = (
                A * np.exp(1j * g.integers(0, 8, n) * np.pi / 4)
                if g.random() < 0.5
                else A + 1j * kind(g, m, n)
            )
            A = np.where(np.isfinite(A), A, 1.0)
    if dtype in COMPLEX:
        A = A.astype(complex)
        top = MAXIMUM.get(dtype, 1e307)
        A = np.clip(A.real, -top, top) + 1j * np.clip(A.imag, -top, top)
    return np.ascontiguousarray(A.astype(dtype) if dtype in COMPLEX else cast(A, dtype))


# --- calls ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Arguments of `select`: the matrix on the host, what it is handed over as, and all others."""

    A: np.ndarray
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    backend: str = "numpy"
    half: bool = False  # bfloat16, which the host does not have

    def matrix(self):
        if self.backend == "numpy":
            return self.A
        X = torch.as_tensor(self.A)
        return X.bfloat16() if self.half else X

    def run(self, **changes):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RankDeficientWarning)
            return select(self.matrix(), method=self.method, **self.native(self.options | changes))

    def native(self, options):
        """Options with the target as what the matrix is."""
        if self.backend == "torch" and options.get("target") is not None:
            return options | {"target": torch.as_tensor(options["target"])}
        return options

    def but(self, **changes):
        """The call with other options; None leaves one out."""
        options = {k: v for k, v in (self.options | changes).items() if v is not None}
        return replace(self, options=options)

    def __repr__(self):
        A = f"np.array({self.A.tolist()!r}, dtype={str(self.A.dtype)!r})"
        A = A.replace("nan", "np.nan").replace("inf", "np.inf")
        if self.backend == "torch":
            A = f"torch.as_tensor({A})" + (".bfloat16()" if self.half else "")
        options = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        return f"select({A}, method={self.method!r}, {options})"


def able(feature):
    return sorted(name for name, row in METHODS.items() if feature in row.supports)


names = st.sampled_from(sorted(METHODS))
ordered = st.sampled_from(sorted(name for name, row in METHODS.items() if row.nested))
deterministic = st.sampled_from(sorted(name for name, row in METHODS.items() if row.deterministic))
seeds = st.integers(0, 99)


def own_options(method, m, n, k, free):
    """Strategies of the method's own options, within their ranges."""
    rank = st.integers(1, min(m, n))
    return {
        "leverage_top": {"rank": rank},
        "leverage": {"rank": rank},
        "two_stage": {"rank": rank},
        "sketched_qr": {"rank": st.integers(1, 9), "oversample": st.integers(0, 9)},
        "barrier": {"rank": st.integers(1, free)} if free else {},
        "bss": {"rank": st.integers(1, k - 1)} if k > 1 else {},
        "strong_rrqr": {"f": st.floats(1, 10)},
        "random_pivot": {"accelerated": st.booleans()},
        "adaptive": {"rounds": st.integers(1, 9)},
        "blockwise_pivot": {"block": st.integers(1, 20)},
        "local_search": {"start": st.sampled_from(["pivoted_qr", "greedy", "osinsky", "strong_rrqr"])},
    }.get(method, {})


@st.composite
def calls(
    draw,
    methods=names,
    kinds=KINDS,
    dtypes=REAL + COMPLEX,
    backends=BACKENDS,
    plain=False,
    tol=True,
    padded=False,
    shape=shapes,
):
    """Right calls on one matrix; with ``plain`` nothing but k."""
    method = draw(methods)
    supports = METHODS[method].supports
    half = "bfloat16" in dtypes and "torch" in BACKENDS and draw(st.integers(0, 7)) == 0
    dtypes = [d for d in dtypes if d != "bfloat16" and ("complex" in supports or d not in COMPLEX)]
    A = draw(matrices(kinds, ("bfloat16",) if half else tuple(dtypes), shape))
    backend = "torch" if half else draw(st.sampled_from(backends))
    m, n = A.shape
    options: dict[str, Any] = {} if METHODS[method].deterministic else {"rng": draw(seeds)}
    if plain:
        return Call(A, method, options | {"k": draw(st.integers(1, n))}, backend, half)
    columns = np.arange(n)
    if padded or draw(st.integers(0, 3)) == 0:
        options["valid"] = np.isin(columns, draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n)))
        columns = columns[options["valid"]]
    c = i = 0
    if {"include", "exclude"} <= supports and draw(st.booleans()):
        order = draw(st.permutations(columns.tolist()))
        c = draw(st.integers(0, columns.size - 1))
        i = draw(st.integers(0, columns.size - c))
        options |= {"exclude": order[:c]} if c else {}
        options |= {"include": order[c : c + i]} if i else {}
    k = draw(st.integers(max(1, i), columns.size - c))
    options["k"] = k
    if draw(st.integers(0, 2)) == 0:
        options["weights"] = draw(weights(n))
    if tol and "tol" in supports and draw(st.integers(0, 2)) == 0:
        options["tol"] = draw(
            st.sampled_from([1.0, 0.5, 0.1, 1e-3, 1e-8, 1e-15, 1e-300]) | st.floats(1e-12, 1)
        )
        if draw(st.booleans()):
            del options["k"]
    if "target" in supports and draw(st.integers(0, 3)) == 0:
        same = COMPLEX if A.dtype.kind == "c" else ("float64", "float32")
        B = draw(matrices(dtypes=same, shape=st.tuples(st.just(m), st.integers(1, 4))))
        options["target"] = B
    own = own_options(method, m, columns.size, k, k - i)
    for name, values in own.items():
        if draw(st.integers(0, 2)) == 0 and not (name == "rank" and method == "bss" and "k" not in options):
            options[name] = draw(values)
    if "rng" not in options and "start" in options:
        options["rng"] = draw(seeds)
    if options.get("weights") is not None and "valid" in options:  # padding may hold anything
        options["weights"] = np.where(options["valid"], options["weights"], np.nan)
    return Call(A, method, options, backend, half)


@st.composite
def weights(draw, n):
    g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return g.integers(0, 3, n).astype(float)
    if kind == 1:
        return 10.0 ** g.uniform(-200, 200, n)
    if kind == 2:
        return np.ldexp(1.0, g.integers(-300, 300, n))
    return g.random(n) * (g.random(n) < 0.9)


# --- wrong arguments ------------------------------------------------------------------------------------

junk = st.sampled_from(["x", 2.5, None, b"k", {}, object, float("nan"), 1j, [[1], [2, 3]], "residual"])


def wrong(m, n):
    """Pairs: arguments no call may have on an (m, n) matrix, and words of which the message has one."""
    bad_float = st.sampled_from([0.0, -0.1, 1.0000001, np.nan, np.inf, -np.inf, "a", True, [0.1], {}, 1j])
    bad_index = st.sampled_from(
        [[n], [-1], [0, 0], [0.5], np.zeros(n, bool), "a", [[[0]]], {}, [None], 0, 2.5]
    )
    vectors = st.sampled_from(
        [
            np.ones(n + 1),
            np.ones((1, n, 1)),
            np.full(n, np.nan),
            np.full(n, -1.0),
            np.full(n, np.inf),
            ["a"] * n,
            np.ones(n) * 1j,
            2.0,
            {},
            [None] * n,
            "abc",
            [[1], [2, 3]],
        ]
    )
    bad_k = st.sampled_from(
        [0, -1, n + 1, 10**30, 1.0, "1", True, [1], None, {}, [], 1j, np.nan, [[1], [1, 2]]]
    )
    bad_rng = st.sampled_from([-1, 1.5, "a", True, [1], np.random.RandomState, {}, object()])
    return st.one_of(
        st.tuples(bad_k.map(lambda x: {"k": x}), st.just(("k",))),
        st.tuples(bad_float.map(lambda x: {"tol": x}), st.just(("tol",))),
        st.tuples(vectors.map(lambda x: {"weights": x}), st.just(("weights",))),
        st.tuples(bad_index.map(lambda x: {"include": x, "exclude": None}), st.just(("include",))),
        st.tuples(bad_index.map(lambda x: {"exclude": x, "include": None}), st.just(("exclude",))),
        st.tuples(st.just({"include": [0], "exclude": [0]}), st.just(("include", "exclude"))),
        st.tuples(st.just({"exclude": range(n), "include": None}), st.just(("exclude", "k ="))),
        st.tuples(
            st.sampled_from(
                [np.ones(n), np.ones(n + 1, bool), np.zeros(n, bool), "ab", {}, [None] * n, 1, [[1], [1, 2]]]
            ).map(lambda x: {"valid": x}),
            st.just(("valid",)),
        ),
        st.tuples(
            st.sampled_from(["Fill", "", None, 3, ["fill"], {}]).map(lambda x: {"deficient": x}),
            st.just(("deficient",)),
        ),
        st.tuples(bad_rng.map(lambda x: {"rng": x}), st.just(("rng",))),
        st.tuples(
            st.sampled_from(["residul", "", None, 3, ["residual"], b"residual", {}, "Residual"]).map(
                lambda x: {"method": x}
            ),
            st.just(("method",)),
        ),
        st.tuples(st.just({"no_such_option": 1}), st.just(("no_such_option",))),
        st.tuples(
            st.sampled_from(
                [
                    ("leverage_top", "rank", 0),
                    ("leverage", "rank", -1),
                    ("leverage", "rank", 1.5),
                    ("two_stage", "rank", 10**9),
                    ("leverage_top", "rank", "a"),
                    ("bss", "rank", n + 1),
                    ("bss", "rank", 0),
                    ("bss", "rank", [1]),
                    ("strong_rrqr", "f", 0.5),
                    ("strong_rrqr", "f", np.nan),
                    ("strong_rrqr", "f", np.inf),
                    ("strong_rrqr", "f", "a"),
                    ("strong_rrqr", "f", None),
                    ("strong_rrqr", "f", 1j),
                    ("strong_rrqr", "f", np.complex128(2)),
                    ("strong_rrqr", "f", [2.0]),
                    ("sketched_qr", "rank", 0),
                    ("sketched_qr", "oversample", -1),
                    ("sketched_qr", "oversample", 1.5),
                    ("random_pivot", "accelerated", 1),
                    ("random_pivot", "accelerated", "yes"),
                    ("random_pivot", "accelerated", np.ones(2)),
                    ("adaptive", "rounds", 0),
                    ("adaptive", "batch", -3),
                    ("adaptive", "batch", 0.5),
                    ("local_search", "start", "local_search"),
                    ("local_search", "start", "nowhere"),
                    ("local_search", "start", None),
                    ("local_search", "start", ["residual"]),
                    ("exact", "nodes", 0),
                    ("exact", "nodes", 1e6),
                ]
            ).map(lambda x: {"method": x[0], x[1]: x[2]}),
            st.sampled_from([None]),
        ),
    )


def wrong_matrix(A):
    """Pairs: what no call may have as A, and words of which the message has one."""
    m, n = A.shape
    dirty = A.astype(complex if A.dtype.kind == "c" else float)
    dirty[m // 2, n - 1] = np.nan
    endless = dirty.copy()
    endless[m // 2, n - 1] = -np.inf
    return st.sampled_from(
        [
            (dirty, f"NaN in column {n - 1}"),
            (endless, f"Inf in column {n - 1}"),
            (torch.as_tensor(dirty), f"NaN in column {n - 1}"),
            (A[0], "A has shape"),
            (A[0, 0], "A has shape"),
            (A[:0], "A has shape"),
            (A[:, :0], "A has shape"),
            (None, "A is a NoneType"),
            ("A", "A has dtype"),
            ([[1, 2], [3]], "A is not a matrix"),
            (A.astype(str), "A has dtype"),
            (A.astype(object), "A has dtype"),
            (np.ma.masked_array(A, mask=False), "A is a masked array"),
            ({}, "A is a dict"),
        ]
    )
