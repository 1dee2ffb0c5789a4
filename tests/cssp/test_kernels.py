"""The batched kernel against `cssp.select` and against the tie rule in exact enough arithmetic.

The Triton kernel runs in the interpreter, in a process of its own (kernel_in_interpreter.py), and is compiled for
sm_90, which needs no device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import EPS, FAMILIES, arguments, matrix, near_ties
from optional import torch

import cssp
from cssp.errors import ArgumentError

kernels = pytest.importorskip("cssp.kernels", reason="torch is not installed", exc_type=ImportError)
pivoted_cholesky, residual_select = kernels.pivoted_cholesky, kernels.residual_select
HERE = Path(__file__).parent


def reference(A, k, **options):
    """Independent picks of `cssp.select`, a list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cssp.RankDeficientWarning)
        return cssp.select(A, k, deficient="truncate", **options).indices.tolist()


def picks(row):
    return [j for j in row.tolist() if j >= 0]


def rule(A, k, eps=EPS):
    """Greedy residual under the tie rule, from explicit residuals in double precision."""
    E = np.array(A, dtype=np.float64)
    exact, open_, found = (E**2).sum(0), np.ones(E.shape[1], bool), []
    for _ in range(k):
        N = np.where(open_, (E**2).sum(0), -1.0)
        exact = np.where(exact * np.sqrt(eps) >= N, N, exact)
        bar = N.max() * (1 - 64 * eps)
        j = int(np.flatnonzero(open_ & (8 * eps * exact + N >= bar))[0])
        q = E[:, j] / np.linalg.norm(E[:, j])
        E = E - np.outer(q, q @ E)
        open_[j] = False
        found.append(j)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_safe_picks_are_those_of_select(family, dtype):
    safe_items = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        m, n, B = int(rng.integers(6, 70)), int(rng.integers(4, 60)), 4
        A = torch.stack([matrix(family, m, n, rng) for _ in range(B)]).to(dtype)
        k = rng.integers(1, min(m, n) // 2 + 2, B)
        indices, rank, safe = residual_select(A, k.tolist())
        assert indices.shape == (B, k.max())
        for b in range(B):
            want = reference(A[b], int(k[b]))
            if safe[b]:
                assert picks(indices[b]) == want, (family, seed, b)
                assert rank[b] == len(want)
            safe_items += int(safe[b])
    if family not in ("graded", "low rank", "duplicates", "zero columns"):
        assert safe_items == 32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_masks_includes(dtype):
    told = 0
    for seed in range(40):
        A, given = arguments(seed, dtype)
        indices, rank, safe = residual_select(A, **given)
        for b in range(A.shape[0]):
            valid, candidates = given["valid"][b], given["candidates"][b]
            want = reference(
                A[b],
                int(given["k"][b]),
                weights=given["weights"][b].double().numpy(),
                valid=valid.numpy(),
                exclude=[
                    j
                    for j in torch.nonzero(valid & ~candidates)[:, 0].tolist()
                    if j not in given["include"][b]
                ],
                include=[j for j in given["include"][b].tolist() if j >= 0],
            )
            if safe[b]:
                assert picks(indices[b]) == want, (seed, b)
                assert rank[b] == len(want)
            told += int(safe[b])
    assert told >= 0.9 * 40 * 3


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("kind", ["large common part", "steep pivot"])
def test_near_ties_are_told_apart_or_owned_up(kind, repair):
    k, B = 8, 400
    A = near_ties(kind, B, np.random.default_rng(5)).float()
    indices, _, safe = residual_select(A, k, repair=repair)
    assert not [b for b in range(B) if safe[b] and indices[b].tolist() != rule(A[b].double().numpy(), k)]
    share = float(safe.float().mean())
    assert share >= 0.95 if repair else 0.2 <= share <= 0.9  # hard enough to need the flag


def test_the_error_estimate_holds_and_is_not_idle():
    """Scores after k steps against exact ones: within the estimate, and not a hundred times below it."""
    worst = []
    for family in ("noise", "decay", "mean", "spread"):
        A = matrix(family, 1500, 80, np.random.default_rng(1)).float()
        G, norms = pivoted_cholesky.gram_and_norms(A[None], None)
        rules = pivoted_cholesky.Rules.of(A[None])
        H = A.double().mT @ A.double()
        gamma = rules.added(30) + pivoted_cholesky.SEEN * float(
            (G.diagonal(dim1=1, dim2=2) / norms**2 - 1).abs().max()
        )
        d, E, x = G[0].diagonal().clone(), gamma * G[0].diagonal(), H.diagonal().clone()
        L, M, live = torch.zeros(30, 80), torch.zeros(30, 80, dtype=torch.float64), torch.ones(80, dtype=bool)
        for t in range(30):
            p = int(torch.where(live, x, -1).argmax())
            live[p] = False
            L[t] = (G[0, p] - L[:t, p] @ L[:t]) / d[p].sqrt()
            M[t] = (H[p] - M[:t, p] @ M[:t]) / x[p].sqrt()
            E = E + (L[t] ** 2 / d[p]) * E[p]
            d, x = d - L[t] ** 2, x - M[t] ** 2
            worst.append(float(((d - x).abs() / E)[live].max()))
    assert 0.01 < max(worst) < 1


def test_ties_go_to_the_lowest_index():
    A = torch.eye(9).expand(2, 9, 9)
    indices, rank, safe = residual_select(A, 9)
    assert indices.tolist() == [list(range(9))] * 2
    assert rank.tolist() == [9, 9]
    assert safe.all()
    unit = torch.nn.functional.normalize(
        torch.randn(1, 300, 40, generator=torch.Generator().manual_seed(0)), dim=1
    )
    assert residual_select(unit, 1)[0].tolist() == [[0]]


@pytest.mark.parametrize(("units", "first"), [(40, 0), (120, 1)])
def test_the_tie_band(units, first):
    A = torch.eye(2, dtype=torch.float64)
    A[1, 1] = 1 + units * EPS / 2
    for path_dtype in (torch.float32, torch.bfloat16):
        got = residual_select(A.float()[None], 2)[0]
        assert got[0, 0] == first, path_dtype


def test_rank_deficiency():
    g = torch.Generator().manual_seed(0)
    A = torch.randn(3, 40, 5, generator=g) @ torch.randn(3, 5, 30, generator=g)
    A[1] = 0
    A[2, :, 4:] = 0
    A[2, :, :4] = torch.randn(40, 4, generator=g)
    indices, rank, safe = residual_select(A, 8)
    assert rank.tolist() == [5, 0, 4]
    assert [len(picks(row)) for row in indices] == [5, 0, 4]
    assert safe.tolist() == [False, True, True]  # zeros are zeros; rounding may hide something
    few, rank, _ = residual_select(torch.randn(1, 3, 10, generator=g), 6)
    assert rank.tolist() == [3]
    assert len(picks(few[0])) == 3


@pytest.mark.parametrize(("units", "rank"), [(5, 1), (12, 2)])
def test_a_short_column_counts_as_it_does_for_select(units, rank):
    """However small the matrix, a column of fewer than 10 units of rounding of the largest one does not count."""
    A = torch.diag(torch.tensor([1.0, units * 2.0**-52], dtype=torch.float64))
    assert residual_select(A[None], 2)[1].tolist() == [rank]
    assert cssp.select(A, 2, deficient="truncate").rank == rank


def test_dependent_and_zero_includes():
    A = torch.eye(4, 6)
    A[:, 4] = A[:, 0]
    A[:, 5] = 0
    include = torch.tensor([[0, 4, -1], [5, 1, -1], [2, -1, -1]])
    indices, rank, safe = residual_select(A.expand(3, 4, 6), 4, include=include)
    assert indices.tolist() == [[0, 4, 1, 2], [5, 1, 0, 2], [2, 0, 1, 3]]
    assert rank.tolist() == [3, 3, 4]
    assert safe.tolist() == [False, True, True]


def test_padding_may_hold_anything_and_neighbours_do_not_matter():
    g = torch.Generator().manual_seed(3)
    A = torch.randn(4, 50, 20, generator=g)
    clean, _, _ = residual_select(A[:, :, :16], 7)
    A[:, :, 16:] = float("nan")
    A[1, :, 17] = float("inf")
    valid = torch.arange(20) < 16
    indices, _, safe = residual_select(A, 7, valid=valid)
    assert torch.equal(indices, clean)
    assert safe.all()
    A[2, 0, 3] = float("nan")
    spoiled, _, safe = residual_select(A, 7, valid=valid)
    assert safe.tolist() == [True, True, False, True]
    assert torch.equal(spoiled[[0, 1, 3]], clean[[0, 1, 3]])
    bad = torch.ones(20)
    bad[5] = float("inf")
    assert not residual_select(A, 7, weights=bad, valid=valid)[2].any()


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-45, 2.0**45, 2.0**100])
def test_scale(scale):
    A = torch.randn(2, 60, 30, generator=torch.Generator().manual_seed(4))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        B = A.bfloat16().to(dtype) * scale
        indices, _, safe = residual_select(B, 9)
        assert safe.all()
        assert indices.tolist() == [reference(a, 9) for a in A.bfloat16().float()]
    tiny = residual_select(torch.full((1, 4, 4), 1e-300, dtype=torch.float64), 1)
    assert not tiny[2].any()  # squares underflow: not a zero matrix, and the kernel says it cannot tell


def test_shapes_at_the_edge():
    indices, rank, safe = residual_select(torch.ones(2, 3, 1), [0, 1])
    assert indices.tolist() == [[-1], [0]]
    assert rank.tolist() == [0, 1]
    assert safe.all()
    for shape, k in (((0, 3, 4), 2), ((2, 3, 0), 0), ((2, 3, 4), 0)):
        indices, rank, safe = residual_select(torch.ones(shape), k)
        assert indices.shape == (shape[0], k)
        assert rank.shape == safe.shape == (shape[0],)
    A = torch.randn(2, 30, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(residual_select(A, 5, kmax=8)[0][:, :5], residual_select(A, 5)[0])
    assert torch.equal(residual_select(A.mT.contiguous().mT, 5)[0], residual_select(A, 5)[0])


def test_arguments_are_not_changed():
    A, given = arguments(0, torch.float32)
    before = A.clone(), {name: x.clone() for name, x in given.items()}
    residual_select(A, **given)
    torch.testing.assert_close(A, before[0], rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(given[name], x) for name, x in before[1].items())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"A": torch.ones(3, 4), "k": 2}, r"\(B, m, n\)"),
        ({"A": torch.ones(1, 3, 4, dtype=torch.int64), "k": 2}, "real"),
        ({"k": 5}, "kmax = 5"),
        ({"k": 3, "kmax": 2}, "kmax = 2"),
        ({"k": [1, 2]}, "k has shape"),
        ({"k": 2, "weights": torch.ones(3)}, "weights has shape"),
        ({"k": 2, "valid": torch.ones(2, 4, dtype=torch.bool)}, "valid has shape"),
        ({"k": 2, "include": torch.ones(1, 1)}, "int64"),
        ({"k": 2, "path": "cuda"}, "path = 'cuda'"),
    ],
)
def test_refusals(given, says):
    with pytest.raises(ArgumentError, match=says):
        residual_select(**({"A": torch.ones(1, 3, 4)} | given))


def test_float32_stays_float32():
    """TF32 is switched off inside and given back."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with pivoted_cholesky._full_precision():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_break(backend):
    A, given = arguments(1, torch.float32)

    def prune(A, k, include, weights):
        indices, rank, safe = residual_select(A * 2, k, weights, include=include, kmax=6)
        return torch.gather(A, 2, indices.clamp_min(0).unsqueeze(1).expand(-1, A.shape[1], -1)), rank, safe

    inputs = A.nan_to_num(), given["k"].clamp_max(6), given["include"], given["weights"]
    compiled = torch.compile(prune, fullgraph=True, backend=backend)
    for got, want in zip(compiled(*inputs), prune(*inputs), strict=True):
        assert torch.equal(got, want)


def test_op_is_sound():
    A, given = arguments(2, torch.float32)
    live = given["valid"] & given["candidates"]
    torch.library.opcheck(
        torch.ops.cssp.residual_select,
        (A.nan_to_num(), given["k"], 9, given["weights"], live, given["include"], True, "torch"),
    )


def run(code, **environment):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    done = subprocess.run(
        [sys.executable, *code],
        env=env | {"PYTHONPATH": str(HERE.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_triton_is_imported_only_where_it_is_used():
    code = "import sys, torch; from cssp.kernels import residual_select; residual_select(torch.randn(2, 9, 5), 3); "
    run(["-c", code + "assert 'triton' not in sys.modules and 'torch._dynamo' not in sys.modules"])
    run(["-c", "import sys, cssp; assert 'torch' not in sys.modules and 'triton' not in sys.modules"])


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton", reason="the gpu extra is not installed")
    rows = json.loads(run([str(HERE / "kernel_in_interpreter.py")], TRITON_INTERPRET="1"))
    assert len(rows) >= 12
    different = [row for row in rows if not row["same"]]
    assert not different


def test_triton_kernels_compile_for_hopper():
    pytest.importorskip("triton", reason="the gpu extra is not installed")
    for variant, found in json.loads(run([str(HERE / "kernel_for_hopper.py")])).items():
        assert found["bytes"] > 0
        assert found["stack"] <= 64, variant  # no row of scores spills
