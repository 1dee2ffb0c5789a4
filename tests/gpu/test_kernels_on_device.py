"""The fused kernel on a CUDA device: picks, masks, panels, graphs, compilation, and no word with the host."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
sys.path.insert(0, str(Path(__file__).parents[1] / "cssp"))

from kernel_cases import FAMILIES, arguments, matrix  # noqa: E402

import cssp  # noqa: E402
from analysis.benchmarks.speed import tokens  # noqa: E402
from cssp.kernels import pivoted_cholesky, residual_select  # noqa: E402


def on_device(given):
    return {name: x.cuda() for name, x in given.items()} | {"kmax": int(given["k"].max())}


def images(d, n, B):
    return (
        torch.stack([torch.from_numpy(tokens(d, n, seed).T.copy()) for seed in range(B)]).bfloat16().cuda().mT
    )


def test_triton_is_there():
    assert pivoted_cholesky._has_triton()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_safe_picks_are_those_of_the_host(family, dtype):
    rng = np.random.default_rng(0)
    A = torch.stack([matrix(family, 96, 70, rng) for _ in range(6)]).to(dtype)
    want, rank, sure = residual_select(A, 24)
    indices, found, safe = residual_select(A.cuda(), 24)
    both = sure & safe.cpu()
    assert torch.equal(indices.cpu()[both], want[both])
    assert torch.equal(found.cpu()[both], rank[both])
    if family not in ("graded", "low rank", "duplicates", "zero columns"):
        assert both.all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", ["triton", "torch"])
def test_weights_masks_includes(dtype, path):
    for seed in range(20):
        A, given = arguments(seed, dtype)
        want, _, sure = residual_select(A, **given)
        indices, _, safe = residual_select(A.cuda(), **on_device(given), path=path)
        both = sure & safe.cpu()
        assert torch.equal(indices.cpu()[both], want[both])


@pytest.mark.parametrize(
    ("d", "n", "k", "B"), [(4096, 576, 64, 64), (4096, 2880, 320, 1), (1024, 8000, 40, 1)]
)
def test_sizes_of_real_images(d, n, k, B):
    """Several panels, and the widest rows, against double precision."""
    A = images(d, n, B)
    indices, rank, safe = residual_select(A, k)
    exact, *_ = residual_select(A.double(), k, path="torch")
    assert torch.equal(indices[safe], exact[safe])
    assert safe.float().mean() >= 0.9
    assert (rank == k).all()


def test_repair_on_the_device():
    A = torch.randn(3, 60, 40, generator=torch.Generator().manual_seed(0))
    A[1] *= 2.0**-90
    weights = torch.linspace(0.5, 1.5, 40)
    want, _, _ = residual_select(A, 12, weights)
    indices, _, safe = residual_select(A.cuda(), 12, weights.cuda())
    assert safe.all()
    assert torch.equal(indices.cpu(), want)


def test_no_host_synchronisation():
    A, given = arguments(0, torch.float32)
    A, given = A.cuda(), on_device(given)
    residual_select(A, **given)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        residual_select(A, **given)
        residual_select(A, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graph():
    A = images(256, 144, 4)
    residual_select(A, 16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        residual_select(A, 16)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = residual_select(A, 16)
    A.copy_(A.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(captured, residual_select(A, 16), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(mode):
    A = images(256, 144, 4)

    def prune(A):
        indices, _, safe = residual_select(A, 16)
        return torch.gather(A, 2, indices.unsqueeze(1).expand(-1, A.shape[1], -1)), safe

    compiled = torch.compile(prune, fullgraph=True, mode=mode)
    for _ in range(3):
        got = [x.clone() for x in compiled(A)]
    for x, want in zip(got, prune(A), strict=True):
        assert torch.equal(x, want)


def test_tf32_does_not_reach_it():
    A = images(1024, 200, 2).float()
    matmul = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    want = residual_select(A, 30)
    try:
        setattr(matmul, name, value)
        got = residual_select(A, 30)
    finally:
        setattr(matmul, name, before)
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x, y)


def test_the_same_picks_as_select():
    A = images(512, 192, 2)
    indices, _, safe = residual_select(A, 40)
    assert safe.all()
    for a, row in zip(A, indices, strict=True):
        assert cssp.select(a, 40).indices.tolist() == row.tolist()
