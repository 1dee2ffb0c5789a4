"""Groups, constraints and costs: against the definition, one pick at a time, and against brute force."""

import itertools
import math
import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from optional import torch

import cssp
from analysis.theory import conditions as theory
from analysis.theory import guarantees
from cssp import AtMost, CsspError, MinDistance, RankDeficientError, RankDeficientWarning, bounds, select
from cssp.conditions import one_by_one

rng = np.random.default_rng(0)
A = rng.standard_normal((14, 24)) * np.logspace(0, -1, 24)[rng.permutation(24)]
LABELS = np.array(list("aabbbcdddeeffffgghhhhiij"))
POINTS = rng.random((24, 2))
COSTS = rng.random(24) + 0.1


def residual_of(X, S):
    Q = np.linalg.qr(X[:, S])[0] if len(S) else np.zeros((len(X), 0))
    return X - Q @ (Q.conj().T @ X)


def error2(X, S, B=None):
    both = np.concatenate([X, X if B is None else B], axis=1)
    U, s, _ = np.linalg.svd(X[:, list(S)], full_matrices=False)
    U = U[:, s > 1e-12]
    left = both[:, X.shape[1] :]
    return float(np.sum(np.abs(left - U @ (U.conj().T @ left)) ** 2))


def best_column(X, S, allowed, method, costs):
    """The next column by the definition of the rule, without recursion."""
    E, open_ = residual_of(X, S), [j for j in np.flatnonzero(allowed) if j not in S]
    if method == "residual":
        return max(open_, key=lambda j: np.sum(E[:, j] ** 2) / costs[j])
    before = error2(X, S) if S else np.sum(X**2)
    return max(open_, key=lambda j: (before - error2(X, [*S, j])) / costs[j])


@pytest.mark.parametrize("setting", theory.SETTINGS, ids=lambda s: f"{s.method}-{s.conditions}-{s.source}")
def test_statements_under_conditions_hold(setting, monkeypatch):
    monkeypatch.setattr(guarantees, "SETTINGS", [setting])
    (line,) = guarantees.under_conditions(["residual", "greedy"], 40, seed=3)
    assert line.holds_up, line.violations[:3]
    assert line.instances == 40


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize("method", ["residual", "greedy"])
@pytest.mark.parametrize("seed", range(5))
def test_groups_of_one_column_are_the_method_itself(method, seed):
    X = np.random.default_rng(seed).standard_normal((9, 15)) * np.logspace(0, -7, 15)
    plain = select(X, 7, method).indices.tolist()
    assert select(X, 7, method, groups=range(15)).indices.tolist() == plain
    assert select(X, 7, method, costs=np.full(15, 0.3)).indices.tolist() == plain
    assert select(X, 7, method, constraint=AtMost(range(15), 1)).indices.tolist() == plain


def groups_by_definition(X, k, method, labels, first=(), B=None):
    B, chosen = X if B is None else B, list(first)
    columns = lambda groups: [j for g in groups for j in np.flatnonzero(labels == g)]  # noqa: E731
    while len(chosen) < k:
        left = [g for g in dict.fromkeys(labels.tolist()) if g not in chosen]
        E = residual_of(X, columns(chosen))
        if method == "residual":
            chosen.append(max(left, key=lambda g: np.sum(np.abs(E[:, labels == g]) ** 2)))
        else:
            chosen.append(min(left, key=lambda g: error2(X, columns([*chosen, g]), B)))
    return tuple(chosen), columns(chosen)


@pytest.mark.parametrize("method", ["residual", "greedy"])
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_groups_are_chosen_whole_by_the_definition(method, make):
    for k in (1, 3, 4):
        sel = select(make(A), k, method, groups=LABELS)
        names, columns = groups_by_definition(A, k, method, LABELS)
        assert sel.groups == names
        assert sel.indices.tolist() == columns
        assert np.all(np.diff(np.asarray(sel.errors)) <= 1e-12)
        assert float(sel.errors[-1]) == pytest.approx(error2(A, columns))
        assert sel.k == len(columns)


def test_a_short_column_near_the_span_of_longer_ones_does_not_blur_the_gain_of_its_group():
    """The four columns of group 0 span everything, the last by 1e-4 of its length; group 1 captures 5.6e-9 less."""
    X = [
        [0.20298040, -0.044385334, 0.60419843, 0.31052383, -0.10554819, -0.00058459757, -0.00023229882],
        [0.19412174, -0.024508012, 0.38369820, 0.15555534, -0.060569771, -0.00034330300, -0.00012953642],
        [0.10387263, 0.021619304, -0.17103644, -0.19049364, 0.045752531, 0.00027819905, 0.00010995886],
        [-0.56320674, 0.00054255934, -0.34792082, 0.10455084, 0.016953951, 8.6146116e-05, 1.1726337e-05],
    ]
    A = np.array(X)
    for scale in (1.0, 1e-200, 1e200):
        sel = cssp.select(A * scale, 1, "greedy", groups=[0, 0, 1, 1, 1, 0, 0])
        assert sel.indices.tolist() == [0, 1, 5, 6]


def test_groups_with_weights_a_target_and_included_and_excluded_columns():
    w = np.linspace(1, 3, 24)
    assert (
        select(A, 3, "greedy", groups=LABELS, weights=w).groups
        == groups_by_definition(A * w, 3, "greedy", LABELS)[0]
    )
    B = np.random.default_rng(5).standard_normal((14, 3))
    assert (
        select(A, 3, "greedy", groups=LABELS, target=B).groups
        == groups_by_definition(A, 3, "greedy", LABELS, B=B)[0]
    )
    for method in ("residual", "greedy"):
        sel = select(A, 4, method, groups=LABELS, include=[8, 16], exclude=[0])
        expected = groups_by_definition(A[:, 2:], 4, method, LABELS[2:], first=("d", "g"))[0]
        assert sel.groups == expected
        assert sel.indices[:5].tolist() == [6, 7, 8, 15, 16]
    with pytest.raises(CsspError, match="group 'a', whose column 1 exclude forbids"):
        select(A, 2, groups=LABELS, include=[0], exclude=[1])


def test_groups_of_complex_columns_a_batch_and_padding():
    Z = A + 1j * np.random.default_rng(8).standard_normal(A.shape)
    assert select(Z, 3, "residual", groups=LABELS).groups == groups_by_definition(Z, 3, "residual", LABELS)[0]
    both = select(np.stack([A, A[:, ::-1]]), 2, "greedy", groups=LABELS)
    assert both.groups == [select(X, 2, "greedy", groups=LABELS).groups for X in (A, A[:, ::-1])]
    valid = np.arange(24) != 4
    padded = np.where(valid, A, np.nan)
    sel = select(padded, 2, groups=LABELS, valid=valid, include=[2])
    assert sel.indices[:2].tolist() == [2, 3]
    rest = np.flatnonzero(valid)
    assert sel.groups == groups_by_definition(A[:, rest], 2, "residual", LABELS[rest], first="b")[0]


def test_groups_stop_at_a_tolerance_at_the_end_of_a_group():
    sel = select(A, method="greedy", groups=LABELS, tol=0.5)
    ends = [sum(np.isin(LABELS, sel.groups[:t])) for t in range(len(sel.groups) + 1)]
    relative = np.sqrt(sel.errors / sel.errors[0])
    assert relative[ends[-1]] <= 0.5 < relative[ends[-2]]
    assert sel.groups == select(A, len(sel.groups), "greedy", groups=LABELS).groups


@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_dependent_columns_in_groups(method):
    colours = np.repeat(np.eye(3), [5, 4, 3], axis=0)
    X = np.concatenate([np.ones((12, 1)), colours, rng.standard_normal((12, 2))], axis=1)
    sel = select(
        X, 2, method, groups=[0, 0, 0, 0, 1, 1]
    )  # dependent within a group, which is no reason to warn
    assert (set(sel.groups), sel.rank, sel.k) == ({0, 1}, 5, 6)
    with pytest.warns(RankDeficientWarning):  # the constant alone adds nothing to all colours
        assert select(X, 3, method, groups=[0, 1, 1, 1, 2, 2]).groups[-1] == 0
    twins = np.concatenate([A[:, :4], A[:, :4]], axis=1)
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.warns(RankDeficientWarning):
        assert select(twins, 3, method, groups=labels).groups[2] in (2, 3)
    assert len(select(twins, 3, method, groups=labels, deficient="truncate").groups) == 2
    with pytest.raises(RankDeficientError):
        select(twins, 3, method, groups=labels, deficient="raise")
    assert select(twins, 1, method, groups=labels).groups[0] in (0, 1)  # the first of equal groups


def test_the_certificate_of_groups_is_the_theorem_about_groups():
    ours = select(A, 3, groups=LABELS).certificate()
    s = np.linalg.svd(A, compute_uv=False)
    k = select(A, 3, groups=LABELS).k
    expected = bounds.group_residual(10, 3, 4) * np.sum(s[3:] ** 2) / np.sum(s[k:] ** 2)
    assert ours.factor == pytest.approx(expected)
    assert "block-pivoted QR promises" in str(ours)
    short = select(A, groups=LABELS, tol=0.6)
    assert len(short.groups) < 10
    expected = bounds.group_residual(10, len(short.groups), 4) * np.sum(s[len(short.groups) :] ** 2)
    assert short.certificate().factor == pytest.approx(expected / np.sum(s[short.k :] ** 2))
    for free in (select(A, 3, "greedy", groups=LABELS), select(A, 3, groups=LABELS, include=[0])):
        assert free.certificate().factor is None
    assert select(A, 3, constraint=AtMost(LABELS, 1)).certificate().factor is None
    assert select(A, 3, costs=COSTS).certificate().factor is None


# ---------------------------------------------------------------- constraints


class EveryOther:
    """Columns of the parity that the last one has not: what was forbidden is allowed again later."""

    def allowed(self, chosen):
        return np.ones(24, dtype=bool) if not len(chosen) else np.arange(24) % 2 != chosen[-1] % 2


class Later:
    """The longest columns are allowed only after three others."""

    def allowed(self, chosen):
        return (np.linalg.norm(A, axis=0) < 2.5) | (np.arange(24) == 3) | (len(chosen) > 3)


CONSTRAINTS = {
    "at most": AtMost(LABELS, 1),
    "at most of some": AtMost(LABELS, {"a": 0, "f": 2}),
    "distance": MinDistance(POINTS, 0.25),
    "both": [AtMost(LABELS, 2), MinDistance(POINTS, 0.15)],
    "opens again": EveryOther(),
    "opens later": Later(),
}


def allowed(constraint, chosen):
    every = constraint if isinstance(constraint, list) else [constraint]
    return np.logical_and.reduce([one.allowed(np.array(chosen, dtype=int)) for one in every])


@pytest.mark.parametrize("first", [1, 8])
@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_each_pick_is_the_best_of_those_allowed(method, name, first, monkeypatch):
    monkeypatch.setattr(one_by_one, "FIRST", first)
    constraint, expected = CONSTRAINTS[name], [3]
    for _ in range(5):
        expected.append(best_column(A, expected, allowed(constraint, expected), method, np.ones(24)))
    sel = select(A, 6, method, constraint=constraint, include=[3])
    assert sel.indices.tolist() == expected
    assert float(sel.errors[-1]) == pytest.approx(error2(A, expected))
    if method == "residual":
        for make in (torch.as_tensor, sp.csc_array, lambda X: da.from_array(X, chunks=(14, 6))):
            assert select(make(A), 6, method, constraint=constraint, include=[3]).indices.tolist() == expected


@pytest.mark.parametrize("method", ["residual", "greedy", "farthest", "random_pivot"])
def test_every_choice_satisfies_the_constraint(method):
    for constraint in CONSTRAINTS.values():
        for seed in range(3):
            S = select(A, 4, method, constraint=constraint, rng=seed).indices.tolist()
            assert all(allowed(constraint, S[:t])[j] for t, j in enumerate(S))
    farthest = select(A, 5, "farthest", constraint=AtMost(LABELS, 1)).indices.tolist()
    for t in range(1, 5):
        open_ = np.flatnonzero(allowed(AtMost(LABELS, 1), farthest[:t]))
        near = [min(np.linalg.norm(A[:, j] - A[:, i]) for i in farthest[:t]) for j in open_]
        assert open_[np.argmax(near)] == farthest[t]


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_law_of_random_pivots_under_a_constraint(accelerated):
    X = np.array([[3.0, 2.0, 1.0, 0.5], [0.0, 1.0, 2.0, 1.0], [0.5, 0.0, 1.0, 2.0]])
    limit = AtMost([0, 0, 1, 1], 1)
    law = {}
    for i, j in itertools.permutations(range(4), 2):
        if (i < 2) != (j < 2):
            p = np.sum(X[:, i] ** 2) / np.sum(X**2)
            norms = np.sum(residual_of(X, [i]) ** 2, axis=0)
            law[i, j] = p * norms[j] / norms[[2, 3] if i < 2 else [0, 1]].sum()
    draws, generator = 600, np.random.default_rng(11)
    counts = dict.fromkeys(law, 0)
    for _ in range(draws):
        S = select(X, 2, "random_pivot", constraint=limit, rng=generator, accelerated=accelerated).indices
        counts[tuple(S.tolist())] += 1
    # Hoeffding: a frequency is off by more than .11 with probability at most 2·exp(-2·600·.0121) = 1e-6.
    for pair, p in law.items():
        assert abs(counts[pair] / draws - p) < 0.11


def test_what_a_constraint_ends():
    ring = MinDistance(POINTS, 0.6)
    with pytest.raises(
        CsspError, match=r"k = 9, but MinDistance\(24 points, r=0.6\) allows only \d columns?, and none after"
    ):
        select(A, 9, constraint=ring)
    short = select(A, 9, constraint=ring, deficient="truncate")
    assert 1 <= short.k < 9
    assert not ring.allowed(short.indices).any()
    assert select(A, constraint=ring, tol=1e-6).indices.tolist() == short.indices.tolist()
    assert select(A, 2, constraint=AtMost(LABELS, 1), tol=0.99).k == 1
    with pytest.raises(CsspError, match="allows no column"):
        select(A, 1, constraint=AtMost(LABELS, 0))
    with pytest.raises(CsspError, match=r"include: column 1 is not allowed after \[0\] by AtMost"):
        select(A, 3, constraint=AtMost(LABELS, 1), include=[0, 1])


def test_dependent_columns_under_a_constraint_are_filled_with_allowed_ones():
    X = np.tile(A[:, :2], 4)
    limit = AtMost([0, 1, 0, 1, 2, 2, 3, 3], 1)
    with pytest.warns(RankDeficientWarning):
        sel = select(X, 4, constraint=limit)
    assert sel.rank == 2
    assert sorted({0: 0, 1: 1, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3}[j] for j in sel.indices.tolist()) == [
        0,
        1,
        2,
        3,
    ]
    assert select(X, 4, constraint=limit, deficient="truncate").k == 2
    with pytest.raises(RankDeficientError, match="k = 4 exceeds"):
        select(X, 4, constraint=limit, deficient="raise")


def test_distances_that_are_equal_up_to_rounding_are_enough():
    X = np.diag(np.arange(10.0, 0, -1))
    assert select(X, 4, constraint=MinDistance(np.arange(10) * 0.1, 0.3)).indices.tolist() == [0, 3, 6, 9]
    assert MinDistance([[0.0, 0.0], [3.0, 4.0]], 5).allowed([0]).tolist() == [False, True]
    assert MinDistance([[0.0, 0.0], [3.0, 4.0]], 5.001).allowed([0]).tolist() == [False, False]


# ---------------------------------------------------------------- costs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_each_pick_is_the_best_per_cost_that_can_be_paid(method, seed):
    r = np.random.default_rng(seed)
    X, c = r.standard_normal((8, 12)), r.random(12) + 0.05
    expected, budget = [], 1.4
    while (open_ := (c <= budget - c[expected].sum()) & ~np.isin(np.arange(12), expected)).any() and len(
        expected
    ) < 8:
        expected.append(best_column(X, expected, open_, method, c))
    per_cost = select(X, len(expected), method, costs=c)
    assert per_cost.indices[:2].tolist() == expected[:2]
    sel = select(X, method=method, costs=c, budget=budget)
    assert sel.cost == pytest.approx(c[sel.indices].sum())
    assert sel.cost <= budget
    if method == "residual":
        assert sel.indices.tolist() == expected
    else:
        assert sel.squared_error <= error2(X, expected) * (1 + 1e-9)


def test_the_better_of_two_choices_is_kept():
    X = np.diag([1.0, 10.0])  # per cost the first column is better, and then the second cannot be paid
    costs = [0.5, 100.0]
    assert select(X, method="greedy", costs=costs, budget=100).indices.tolist() == [1]
    assert select(X, method="residual", costs=costs, budget=100).indices.tolist() == [0]
    assert cssp.select_gram(X.T @ X, method="greedy", costs=costs, budget=100).indices.tolist() == [1]


def test_budgets():
    X = np.diag([4.0, 3.0, 2.0, 1.0])
    assert select(X, costs=[0.1, 0.1, 0.1, 5], budget=0.3).indices.tolist() == [
        0,
        1,
        2,
    ]  # .1 + .1 + .1 > .3 in binary
    assert select(X, 2, costs=np.ones(4), budget=3).k == 2
    assert select(X, 3, costs=np.ones(4), budget=2).k == 2
    assert select(X, costs=np.ones(4), budget=3, include=[3]).indices.tolist() == [3, 0, 1]
    assert select(X, costs=np.ones(4), budget=4, tol=0.5).k == 2
    assert (
        select(X[:, [0, 0, 1]], costs=np.ones(3), budget=3).k == 2
    )  # nothing is paid for what brings nothing
    assert select(X, method="greedy", target=X[:, :2], costs=np.ones(4), budget=4).k == 2
    assert select(X, costs=np.ones(4), budget=3, groups=[0, 1, 1, 1]).groups == (0,)
    assert select(X, costs=np.ones(4), budget=3, constraint=AtMost([0, 0, 1, 1], 1)).indices.tolist() == [
        0,
        2,
    ]
    assert select(np.stack([X, X]), costs=np.ones(4), budget=2).cost.tolist() == [2, 2]


# ---------------------------------------------------------------- on a Gram matrix, records, refusals


@pytest.mark.parametrize("method", ["residual", "greedy"])
def test_a_gram_matrix_gives_the_same_choice(method):
    for conditions in (
        {"k": 5, "constraint": MinDistance(POINTS, 0.2)},
        {"k": 5, "constraint": [AtMost(LABELS, 1), EveryOther()]},
        {"k": 6, "costs": COSTS},
        {"costs": COSTS, "budget": 1.5},
        {"k": 4, "costs": COSTS, "budget": 2.0, "constraint": AtMost(LABELS, 1)},
    ):
        ours, theirs = (
            select(A, method=method, **conditions),
            cssp.select_gram(A.T @ A, method=method, **conditions),
        )
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert ours.cost == theirs.cost
        assert theirs.certificate().factor is None
    ring = MinDistance(POINTS, 0.6)
    with pytest.raises(CsspError, match="allows only"):
        cssp.select_gram(A.T @ A, 9, method, constraint=ring)
    short = cssp.select_gram(A.T @ A, 9, method, constraint=ring, deficient="truncate")
    assert (
        short.indices.tolist() == select(A, 9, method, constraint=ring, deficient="truncate").indices.tolist()
    )
    picks = cssp.select_gram(
        A.T @ A, 6, "random_pivot", constraint=AtMost(LABELS, 1), rng=0, accelerated=True
    ).indices
    assert len(set(LABELS[picks])) == 6


def test_groups_and_costs_are_saved(tmp_path):
    sel = select(A, 3, groups=LABELS, costs=COSTS)
    sel.save(tmp_path / "picked.json")
    for again in (cssp.Selection.load(tmp_path / "picked.json"), pickle.loads(pickle.dumps(sel))):
        assert (again.groups, again.cost) == (sel.groups, sel.cost)
    both = select(np.stack([A, 2 * A]), 3, groups=LABELS, costs=COSTS)
    both.save(tmp_path / "both.json")
    again = cssp.Selection.load(tmp_path / "both.json")
    assert again.groups == both.groups
    assert again.cost.tolist() == both.cost.tolist()
    with pytest.raises(CsspError, match="include=indices"):
        sel.extend(20)


def refused(words, *args, **arguments):
    return pytest.param(args, arguments, words, id=words[:40])


class Wrong:
    def __init__(self, answer):
        self.answer = answer

    def allowed(self, chosen):
        return self.answer


@pytest.mark.parametrize(
    ("args", "arguments", "words"),
    [
        refused(
            "'deim' cannot honour groups; methods that can: 'greedy', 'residual'", 2, "deim", groups=LABELS
        ),
        refused("'norm' cannot honour constraint; .*'random_pivot'", 2, "norm", constraint=AtMost(LABELS, 1)),
        refused("'farthest' cannot honour costs", 2, "farthest", costs=COSTS),
        refused("groups has 3 labels: expected 24", 2, groups=[1, 2, 3]),
        refused("groups has dtype float64", 2, groups=COSTS),
        refused(r"groups .* shape \(2,\): expected one label per column", 2, groups=[[0, 1], [2]]),
        refused("groups is a set: expected a sequence of labels", 2, groups={"a", "b"}),
        refused("option 'cost' is unknown.*pass costs=cost", 2, cost=COSTS),
        refused("option 'feature_groups' is unknown.*pass groups=, one label", 2, feature_groups=[[0, 1]]),
        refused("groups has dtype object", 2, groups=[*LABELS[:23], 3]),
        refused("only 10 groups; k counts groups", 11, groups=LABELS),
        refused("k = 10, but only 9 of 10 groups may be chosen whole", 10, groups=LABELS, exclude=[0]),
        refused("include has columns of 2 groups, more than k = 1", 1, groups=LABELS, include=[0, 9]),
        refused("options .*: expected the method's own rule", 2, "greedy", groups=LABELS, p=4),
        refused("constraint = 3: expected an object with a method allowed", 2, constraint=3),
        refused("returned dtype int64, shape", 2, constraint=Wrong(np.arange(24))),
        refused(
            r"shape \(3,\): expected a bool array of shape \(24,\)",
            2,
            constraint=Wrong(np.ones(3, dtype=bool)),
        ),
        refused(r"expected a bool array of shape \(24,\)", 2, constraint=AtMost([0, 1], 1)),
        refused(
            "costs must be positive; column 2 has 0.0: put", 2, costs=np.where(np.arange(24) == 2, 0, COSTS)
        ),
        refused(r"costs has shape \(23,\)", 2, costs=COSTS[1:]),
        refused("costs: expected an array of finite real numbers", 2, costs=COSTS * np.nan),
        refused("budget = 3 without costs", budget=3),
        refused("budget = -1: expected one positive number", costs=COSTS, budget=-1),
        refused("budget=0.01 allows no column", costs=COSTS, budget=0.01),
        refused(
            "include: column 3 is not allowed after .* by budget=0.2",
            costs=np.full(24, 0.15),
            budget=0.2,
            include=[1, 3],
        ),
        refused("neither k nor tol is given", costs=COSTS),
        refused("tol_each with costs: expected tol", 2, costs=COSTS, tol_each=0.1),
    ],
)
def test_refusals(args, arguments, words):
    with pytest.raises(CsspError, match=words):
        select(A, *args, **arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AtMost([0, 1], {2: 1}), "the label 2, which no column has"),
        (lambda: AtMost([0, 1], -1), "q = -1: must be at least 0"),
        (lambda: AtMost([0, 1], 1.5), "expected an integer"),
        (lambda: AtMost("ab", 1), "labels has dtype"),
        (lambda: MinDistance([[0.0, np.nan]], 1), "points: expected an array of finite real numbers"),
        (lambda: MinDistance([0.0, 1.0], 0), "r = 0: expected one positive number"),
        (lambda: MinDistance(np.zeros((2, 2, 2)), 1), r"points has shape \(2, 2, 2\)"),
        (lambda: select(sp.csc_array(A), 2, groups=LABELS), "groups of a matrix that is read in passes"),
        (lambda: bounds.block_eigenvalues(A, [1, 2]), "one label for each column"),
        (lambda: bounds.share_left(3, 4), "spent must lie in"),
    ],
)
def test_wrong_conditions_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_bounds_under_conditions():
    assert bounds.group_residual(9, 4, 1) >= bounds.pivoted_qr_frobenius(9, 4)
    assert bounds.group_residual(5000, 4000, 3) == math.inf
    assert bounds.share_left(4, 4) == 0
    assert bounds.budget_greedy(1.0, 1.0) == pytest.approx(1 - 1 / math.e)
    equal = np.kron(np.eye(4), np.array([[1.0], [1.0]]))  # orthogonal groups of one norm attain the share
    assert select(
        equal.T[:, ::1], 1, groups=np.repeat(range(4), 2), deficient="truncate"
    ).relative_error ** 2 == pytest.approx(0.75)
    low, high = bounds.block_eigenvalues(A[:, :10], LABELS[:10])
    assert 0 < low < 1 < high
    assert bounds.block_eigenvalues(A)[0] == 0  # more columns than rows
    assert bounds.constrained_greedy(0.5, 2.0, 10**6) > 0.5 / 10**6
    assert bounds.constrained_greedy(1.0, 1.0, 8) >= 1 / 8


def test_values_that_are_no_sequence_of_one_length():
    with pytest.raises(CsspError, match="points: expected an array of finite real numbers, got"):
        MinDistance([[0.0, 1.0], [2.0]], 1)
    with pytest.raises(CsspError, match="labels is a dict: expected a sequence of labels"):
        AtMost({"a": 1, "b": 2}, 1)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("d", [1, 3])
def test_distances_at_any_scale_by_definition(scale, d):
    points = np.random.default_rng(d).integers(0, 4, (60, d)) * 1.0  # many distances are exactly r
    limit = MinDistance(points * scale, 2 * scale)
    for chosen in ([], [3], [3, 50, 7]):
        wanted = [all(np.linalg.norm(x - points[i]) >= 2 for i in chosen) for x in points]
        np.testing.assert_array_equal(limit.allowed(np.array(chosen, dtype=np.int64)), wanted)


@pytest.mark.parametrize("method", ["residual", "greedy"])
@pytest.mark.parametrize("unit", [2.0**-1020, 2.0**1000])
def test_the_unit_of_costs_does_not_matter(method, unit):
    rng = np.random.default_rng(31)
    A, costs = rng.standard_normal((8, 12)), rng.uniform(1, 3, 12)
    usual = select(A, method=method, costs=costs, budget=8)
    other = select(A, method=method, costs=costs * unit, budget=8 * unit)
    np.testing.assert_array_equal(other.indices, usual.indices)
    assert other.cost == usual.cost * unit
