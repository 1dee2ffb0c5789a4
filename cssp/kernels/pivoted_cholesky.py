"""Greedy residual selection of a whole batch by pivoted Cholesky on its Gram matrices.

Pivoted Cholesky on G = AᵀA chooses the columns that column-pivoted QR chooses on A [businger1965;
harbrecht2012]: the diagonal of its Schur complement holds the squared residual norms. One batched product
forms G; each of the k steps then reads one row of G and the factor rows so far, and none of them waits for
the host. A CUDA tensor goes to one fused Triton kernel (`cssp.kernels._triton`), anything else to the same
steps in plain torch.

Squaring costs half the digits, so the kernel carries an estimate E of the error of every diagonal entry and
says for each item whether its picks are beyond doubt (``safe``). E starts at γ·‖a_j‖², where γ is measured: the
largest relative difference between diag(G) and the squared column norms, summed separately. Eliminating
pivot p takes S_jj to S_jj - S_pj²/S_pp, and E_j to E_j + (S_pj/S_pp)² E_p: what errors of the entries, taken
as independent, grow to in first order. This is an estimate and not a bound; docs/theory/numerics.md says how it
was tried. Items in doubt are done again in double precision before the answer is given, so that with single
and half precision ``safe`` fails only near the end of the numerical rank.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cssp.errors import ArgumentError
from cssp.kernels.rules import RESOLVED, SEEN, Rules

__all__ = ["residual_select"]

#: Widest matrix the fused kernel takes: a row lives in the registers of one program.
WIDEST = 8192

#: Bytes that the Gram matrices of the second, double precision pass may take on a GPU.
REPAIR_BYTES = 1 << 30

PATHS = ("auto", "torch", "triton")


def residual_select(
    A: Tensor,
    k: int | Sequence[int] | Tensor,
    weights: Tensor | None = None,
    valid: Tensor | None = None,
    candidates: Tensor | None = None,
    include: Tensor | None = None,
    *,
    kmax: int | None = None,
    repair: bool = True,
    path: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose columns by largest residual norm, in every item of a batch.

    Nothing is read back by the host on a CUDA device: the call can be captured in a CUDA graph and compiled
    with ``torch.compile(fullgraph=True)``.

    Parameters
    ----------
    A : tensor, shape (B, m, n)
        float64, float32, float16 or bfloat16, in any strides (``features.mT`` is not copied). Halves are
        multiplied as they are and summed in float32.
    k : int, or one int per item
        Number of columns to choose, the included ones counted. A tensor on the device needs `kmax`.
    weights : tensor, shape (n,) or (B, n), optional
        Not negative; columns are scaled by them.
    valid, candidates : bool tensors, shape (n,) or (B, n), optional
        False marks padding, whose entries may be anything; False forbids choosing a column.
    include : int64 tensor, shape (B, c), optional
        Columns chosen first, in order; -1 fills up a shorter row at its end. They need not be candidates.
    kmax : int, optional
        Length of the answer, at least the largest k.
    repair : bool
        Whether items in doubt are done again from a Gram matrix in double precision (float64 input never is).
    path : {"auto", "torch", "triton"}
        "auto" is Triton for CUDA tensors up to 8192 columns where it is installed.

    Returns
    -------
    indices : int64 tensor, shape (B, kmax)
        Chosen columns in order of choice, then -1 where an item's k is smaller than kmax or its independent columns ran out.
    rank : int64 tensor, shape (B,)
        Number of independent columns among them. Where the item is safe this is the numerical rank of the chosen
        columns; otherwise pivots that the Gram matrix could not resolve are not counted.
    safe : bool tensor, shape (B,)
        Whether every pick is certain: its lead over the runner-up exceeds the estimated error, or
        the tie rule (lowest index within 64 units of rounding) applies beyond doubt. False too where A or a
        weight is not finite, where squares leave the range, and where picks ended although columns may be left.

    Raises
    ------
    ArgumentError
        A shape, dtype or device is wrong. Values are not looked at.
    """
    if A.ndim != 3 or not A.dtype.is_floating_point:
        raise ArgumentError(f"A is {A.dtype} of shape {tuple(A.shape)}: expected a real (B, m, n) tensor")
    if path not in PATHS:
        raise ArgumentError(f"path = {path!r}: expected one of {PATHS}")
    B, _, n = A.shape
    counts, kmax = _counts(k, kmax, A)
    spread = functools.partial(_spread, shape=(B, n), device=A.device)
    live = None
    for name, mask in (("valid", valid), ("candidates", candidates)):
        if mask is not None:
            mask = spread(name, mask).bool()
            live = mask if live is None else live & mask
    if include is not None:
        if include.ndim != 2 or include.shape[0] != B or include.dtype != torch.int64:
            raise ArgumentError(
                f"include has shape {tuple(include.shape)} and dtype {include.dtype}: expected int64 of shape ({B}, c)"
            )
        if live is not None:
            given = torch.zeros(B, n + 1, dtype=torch.bool, device=A.device)
            given = given.scatter(1, torch.where(include < 0, n, include), True)[:, :n]
            live = live | (given if valid is None else given & spread("valid", valid).bool())
    if weights is not None:
        weights = spread("weights", weights)
    # The op is for the compiler; called directly, its first call would import the whole of it, seconds of work.
    plain = type(A) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    run = _residual_select if plain else torch.ops.cssp.residual_select
    return run(A.detach(), counts, kmax, weights, live, include, repair, path)


def _counts(k: Any, kmax: int | None, A: Tensor) -> tuple[Tensor | None, int]:
    """Return k of every item as a tensor on the device of A, None where all take kmax; and kmax."""
    B, _, n = A.shape
    if isinstance(k, int):
        if kmax is None or kmax == k:
            return None, _checked(k, k, n)
        return torch.full((B,), k, dtype=torch.int64, device=A.device), _checked(k, kmax, n)
    on_host = not isinstance(k, Tensor) or k.device.type == "cpu"
    counts = torch.as_tensor(k, dtype=torch.int64)
    if counts.shape != (B,):
        raise ArgumentError(f"k has shape {tuple(counts.shape)}: expected an int, or ({B},)")
    if kmax is None:
        if not on_host:
            raise ArgumentError("k is on the device: pass kmax, since reading k would wait for the device")
        kmax = int(counts.max())
    return counts.to(A.device), _checked(0, kmax, n)


def _checked(k: int, kmax: int, n: int) -> int:
    if not 0 <= k <= kmax <= n:
        raise ArgumentError(f"k = {k} and kmax = {kmax}: expected 0 <= k <= kmax <= n = {n}")
    return kmax


def _spread(name: str, x: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Return x as (B, n) on the device of A."""
    if tuple(x.shape) not in (shape, shape[1:]) or x.device != device:
        raise ArgumentError(f"{name} has shape {tuple(x.shape)} on {x.device}: expected {shape} on {device}")
    return x.expand(shape)


def _residual_select(
    A: Tensor,
    k: Tensor | None,
    kmax: int,
    weights: Tensor | None,
    live: Tensor | None,
    include: Tensor | None,
    repair: bool,
    path: str,
) -> tuple[Tensor, Tensor, Tensor]:
    B, _, n = A.shape
    if 0 in (B, n, kmax):
        return _empty(A, kmax, -1)
    if path == "triton" or (path == "auto" and A.is_cuda and n <= WIDEST and _has_triton()):
        from cssp.kernels import _triton

        steps: Any = _triton.steps
    else:
        steps = _steps
    rules = Rules.of(A)
    G, norms = gram_and_norms(A, weights)
    answer = steps(G, norms, k, kmax, live, include, rules)
    if not repair or A.dtype == torch.float64:
        return answer
    del G
    return _repaired(A, k, kmax, weights, live, include, steps, rules, answer)


_op = torch.library.custom_op("cssp::residual_select", _residual_select, mutates_args=())


@_op.register_fake
def _(A, k, kmax, weights, live, include, repair, path):
    return _empty(A, kmax, -1)


def _empty(A: Tensor, kmax: int, fill: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the answer before the first pick."""
    B = A.shape[0]
    indices = A.new_full((B, kmax), fill, dtype=torch.int64)
    return indices, A.new_zeros(B, dtype=torch.int64), A.new_ones(B, dtype=torch.bool)


def gram_and_norms(A: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return G = diag(w) AᵀA diag(w), and the norms of the columns of A·diag(w), summed separately.

    Half precisions stay halves on a GPU, where tensor cores multiply them exactly and sum in float32.
    """
    single = A.dtype != torch.float64
    compute = torch.float32 if single else torch.float64
    with _full_precision():
        if (
            A.is_cuda
            and A.dtype in (torch.float16, torch.bfloat16)
            and "dtype" in torch.ops.aten.bmm.overloads()
        ):
            G = torch.bmm(A.mT, A, out_dtype=torch.float32)
        else:
            W = A.to(compute)
            G = torch.bmm(W.mT, W)
    # The host sums a column in one long chain, so it does that in double precision; a GPU sums by a tree.
    norms = torch.linalg.vector_norm(A, dim=1, dtype=compute if A.is_cuda else torch.float64).to(compute)
    if weights is not None:
        w = weights.to(compute)
        G.mul_(w.unsqueeze(1)).mul_(w.unsqueeze(2))
        norms = norms * w
    return G, norms


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Compute products of float32 matrices in float32 inside the block: TF32 keeps three digits."""
    matmul: Any = torch.backends.cuda.matmul
    name, wanted = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, wanted)
    try:
        yield
    finally:
        setattr(matmul, name, before)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _steps(
    G: Tensor,
    norms: Tensor | None,
    k: Tensor | None,
    kmax: int,
    live: Tensor | None,
    include: Tensor | None,
    rules: Rules,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run pivoted partial Cholesky of all items side by side, kmax steps.

    Parameters
    ----------
    G : tensor, shape (B, n, n)
    norms : tensor, shape (B, n), or None
        None where G is known to full precision of the input.
    k, kmax, live, include
        As the op has them; live columns may be chosen or are included.
    """
    B, n, _ = G.shape
    place, item = torch.arange(n, device=G.device), torch.arange(B, device=G.device)
    indices, rank, safe = _empty(G, kmax, -1)
    d0 = G.diagonal(dim1=1, dim2=2)
    alive = torch.ones(B, n, dtype=torch.bool, device=G.device) if live is None else live
    finite = torch.isfinite(d0)
    safe &= (finite | ~alive).all(1)
    alive = alive & finite
    gamma = G.new_full((B, 1), rules.added(kmax))
    if norms is not None:
        apart = torch.where(alive & (norms > 0), (d0 / norms.square() - 1).abs(), 0)
        gamma = gamma + SEEN * apart.amax(1, keepdim=True)
    d0 = torch.where(alive, d0, 0)
    d = torch.where(alive, d0, -math.inf)
    E, X = gamma * d0, d0  # estimated errors; squared norms where they were last formed
    top = d0.amax(1)
    in_range = (top > rules.low) & (top < rules.high)
    safe &= in_range | ((top == 0) & rules.exact)
    L = G.new_zeros(B, kmax, n)
    going = torch.ones_like(safe)
    for t in range(kmax):
        if k is not None:
            going = going & (t < k)
        low, high = (d - E).amax(1), (d + E).amax(1)
        slack = torch.where(torch.isfinite(d), E + rules.slack * X, 0)
        maybe = d + slack >= (low - rules.band * low.abs()).unsqueeze(1)
        p, last = torch.where(maybe, place, n - 1).amin(1), torch.where(maybe, place, 0).amax(1)
        forced = torch.zeros_like(going)
        if include is not None and t < include.shape[1]:
            forced = include[:, t] >= 0
            p = torch.where(forced, include[:, t], p)
        dp, Ep = d[item, p], E[item, p]
        sure = (p == last) | (dp - Ep + rules.slack * X[item, p] >= high * (1 - rules.band))
        good = dp > torch.maximum(torch.maximum(RESOLVED * Ep, rules.reach * d0[item, p]), rules.least * top)
        # Nothing but zeros left is a sound end; a zero column may be included soundly.
        safe &= ~going | torch.where(forced, good | (d0[item, p] == 0), torch.where(good, sure, high <= 0))
        going = going & (good | forced)
        step = (going & good).unsqueeze(1)
        indices[:, t] = torch.where(going, p, -1)
        rank += step[:, 0]
        with _full_precision():
            known = torch.bmm(L[:, :t].gather(2, p.view(B, 1, 1).expand(B, t, 1)).mT, L[:, :t]).squeeze(1)
        row = (G[item, p] - known) * torch.where(step[:, 0], dp, 1).rsqrt().unsqueeze(1)
        row = torch.where(step & torch.isfinite(d), row, 0)
        L[:, t] = row
        share = row.square() / torch.where(step[:, 0], dp, 1).unsqueeze(1)
        d = torch.where(going.unsqueeze(1) & (place == p.unsqueeze(1)), -math.inf, d - row.square())
        E = E + share * Ep.unsqueeze(1)
        X = torch.where(d <= rules.refresh * X, d.clamp_min(0), X)
    return indices, rank, safe


def _repaired(
    A: Tensor,
    k: Tensor | None,
    kmax: int,
    weights: Tensor | None,
    live: Tensor | None,
    include: Tensor | None,
    steps: Any,
    rules: Rules,
    answer: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the answer with items in doubt done again from a Gram matrix in double precision.

    On the host they are taken out of the batch; on a device, where nobody may ask how many they are, the kernels pass
    over the others.
    """
    indices, rank, safe = answer
    rules = Rules.of(A, torch.float64)
    if steps is not _steps:
        from cssp.kernels import _triton

        if 8 * A.shape[0] * A.shape[2] ** 2 > REPAIR_BYTES:
            return answer
        return steps(_triton.gram(A, weights, safe), None, k, kmax, live, include, rules, again=answer)
    if A.is_cuda:
        return answer
    doubt = (~safe).nonzero()[:, 0]
    if doubt.numel():

        def part(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[doubt]

        G, _ = gram_and_norms(A[doubt].double(), part(weights))
        again = steps(G, None, part(k), kmax, part(live), part(include), rules)
        indices[doubt], rank[doubt], safe[doubt] = again
    return indices, rank, safe
