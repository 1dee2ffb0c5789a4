"""The fused kernel behind `residual`, on the CPU: the same picks as the textbook, or none."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from kernel_cases import FAMILIES, matrix  # noqa: E402

from cssp.kernels import residual_select  # noqa: E402
from cssp.methods._fused import fused  # noqa: E402
from cssp.methods.residual import textbook  # noqa: E402
from cssp.problem import Problem  # noqa: E402


def problem(A, k, exclude=(), include=(), **fields):
    free = torch.ones(A.shape[1], dtype=torch.bool)
    free[[*exclude, *include]] = False
    return Problem(A=A, k=k, candidates=free, include=tuple(include), width=A.shape[1], **fields)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_picks_are_those_of_the_textbook(family, dtype):
    sure = 0
    for seed in range(6):
        A = matrix(family, 60, 40, np.random.default_rng(seed)).to(dtype)
        for p in (
            problem(A, 15),
            problem(A, 12, exclude=(0, 3, 7)),
            problem(A, 9, include=(5, 1), exclude=(2,)),
        ):
            found = fused(p)
            if found is None:
                continue
            sure += 1
            wanted = textbook(p)
            assert list(found.indices) == list(wanted.indices)
            assert found.rank == wanted.rank
    assert sure >= 12 or family in ("graded", "low rank", "duplicates", "zero columns")


def test_it_leaves_alone_what_it_cannot_do():
    A = torch.randn(20, 10, dtype=torch.float64)
    assert fused(problem(A, 4, tol=0.5)) is None
    assert fused(problem(A.to(torch.complex128), 4)) is None
    assert fused(problem(A, 4)) is not None


def test_doubt_goes_to_the_textbook(monkeypatch):
    """Of a kernel that is not sure of its picks none is taken."""
    from cssp import kernels

    def unsure(*args, **kwargs):
        indices, rank, safe = residual_select(*args, **kwargs)
        return indices.flip(1), rank, torch.zeros_like(safe)

    monkeypatch.setattr(kernels, "residual_select", unsure)
    assert fused(problem(torch.randn(20, 10), 4)) is None


def test_where_it_is_asked(monkeypatch):
    """For torch tensors on a CUDA device, unless one product per pick is insisted on."""
    module = sys.modules["cssp.methods.residual"]

    class Elsewhere:
        type = "cuda"

    asked = []
    monkeypatch.setattr(module, "fused", lambda p: asked.append(p))
    monkeypatch.setattr(module, "textbook", lambda p: "textbook")
    monkeypatch.setattr(module, "is_torch_array", lambda A: True)

    class Fake:
        class A:
            device = Elsewhere

    assert module.residual(Fake) == "textbook"
    assert len(asked) == 1
    assert module.residual(Fake, speculate=False) == "textbook"
    assert len(asked) == 1
