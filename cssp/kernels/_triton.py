"""The fused kernel: a whole selection in one launch, one program for each item, nothing shared between items.

The scores of all columns stay in registers. A step costs four reductions over them, one row of G, and the
factor rows so far, which stay in the first-level cache as long as a panel of them fits; beyond that G is
brought up to date by one product per panel (right-looking), so that no step reads more rows than a panel has.
Imported only where it is used. ``TRITON_INTERPRET=1`` in the environment runs it on the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cssp.kernels.rules import RESOLVED, SEEN, Rules

__all__ = ["gram", "steps"]

#: Bytes of factor rows that may be read again in every step: what fits into the first-level cache beside the scores.
PANEL_BYTES = 160 * 1024

#: Factor rows read at once, so that their loads are in flight together.
UNROLL = tl.constexpr(8)

#: Tile of the double precision Gram matrix, and rows of A taken at once.
TILE, DEPTH = 32, 8


def steps(
    G: Tensor,
    norms: Tensor | None,
    k: Tensor | None,
    kmax: int,
    live: Tensor | None,
    include: Tensor | None,
    rules: Rules,
    again: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run pivoted partial Cholesky of every item, as the torch path does it.

    Parameters
    ----------
    G : tensor, shape (B, n, n)
        Overwritten where k takes more than one panel.
    norms, k, kmax, live, include, rules
        As in the torch path.
    again : tuple of tensors, optional
        An answer whose unsafe items are to be done, in place; the safe ones are passed over.
    """
    B, n, _ = G.shape
    block = max(16, triton.next_power_of_2(n))
    L = G.new_empty(B, kmax, n)
    scratch = G.new_empty(B, 4, n)
    largest = G.new_empty(B)
    if again is None:
        indices = torch.empty(B, kmax, dtype=torch.int64, device=G.device)
        rank = torch.empty(B, dtype=torch.int64, device=G.device)
        safe = torch.empty(B, dtype=torch.bool, device=G.device)
    else:
        indices, rank, safe = again
    rows = PANEL_BYTES // (n * G.element_size())
    panel = kmax if again is not None or rows >= kmax else max(16, rows // 16 * 16)
    for start in range(0, kmax, panel):
        stop = min(start + panel, kmax)
        _panel[(B,)](
            G,
            norms,
            None if live is None else live.contiguous().view(torch.int8),
            None if include is None else include.contiguous(),
            k,
            L,
            scratch,
            largest,
            indices,
            rank,
            safe.view(torch.int8),
            n,
            start,
            stop,
            kmax,
            0 if include is None else include.shape[1],
            rules.band,
            rules.slack,
            rules.refresh,
            rules.least,
            rules.reach,
            rules.added(kmax),
            SEEN=SEEN,
            RESOLVED=RESOLVED,
            LOW=rules.low,
            HIGH=rules.high,
            EXACT=rules.exact,
            FIRST=start == 0,
            AGAIN=again is not None,
            BLOCK=block,
            KBLOCK=triton.next_power_of_2(kmax),
            num_warps=warps(block),
        )
        if stop < kmax:
            P = L[:, start:stop]
            G.baddbmm_(P.mT, P, alpha=-1)
    return indices, rank, safe


def warps(block: int) -> int:
    """Return the warps of one program: eight columns a thread, where there are enough."""
    return min(16, max(1, block // 256))


def gram(A: Tensor, weights: Tensor | None, safe: Tensor) -> Tensor:
    """Return G = diag(w) AᵀA diag(w) in double precision, of the items that are not safe; the others are left unwritten."""
    B, m, n = A.shape
    G = torch.empty(B, n, n, dtype=torch.float64, device=A.device)
    tiles = triton.cdiv(n, TILE)
    w = None if weights is None else weights.double().contiguous()
    _gram[(tiles, tiles, B)](
        A, w, safe.view(torch.int8), G, m, n, *A.stride(), TILE=TILE, DEPTH=DEPTH, num_warps=4
    )
    return G


@triton.jit
def _gram(A, W, safe, G, m, n, a0, a1, a2, TILE: tl.constexpr, DEPTH: tl.constexpr):
    b = tl.program_id(2).to(tl.int64)
    if tl.load(safe + b) != 0:
        return
    if tl.program_id(1) > tl.program_id(0):
        return
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1) * TILE + tl.arange(0, TILE)
    A += b * a0
    total = tl.zeros((TILE, TILE), dtype=tl.float64)
    # Outer products, since tl.dot has no double precision everywhere; only items in doubt come here.
    for first in range(0, m, DEPTH):
        for u in tl.static_range(DEPTH):
            row = A + u * a1
            x = tl.load(row + i.to(tl.int64) * a2, mask=(i < n) & (first + u < m), other=0).to(tl.float64)
            y = tl.load(row + j.to(tl.int64) * a2, mask=(j < n) & (first + u < m), other=0).to(tl.float64)
            total += x[:, None] * y[None, :]
        A += DEPTH * a1
    if W is not None:
        total *= tl.load(W + b * n + i, mask=i < n, other=0)[:, None]
        total *= tl.load(W + b * n + j, mask=j < n, other=0)[None, :]
    inside = (i < n)[:, None] & (j < n)[None, :]
    G += b * n * n
    tl.store(G + i[:, None] * n + j[None, :], total, mask=inside)
    tl.store(G + j[None, :] * n + i[:, None], total, mask=inside)


@triton.jit
def _larger(low, high, other_low, other_high):
    return tl.maximum(low, other_low), tl.maximum(high, other_high)


@triton.jit(do_not_specialize=["start", "stop", "kmax", "c"])
def _panel(
    G,  # (B, n, n)
    norms,  # (B, n) or None
    live,  # (B, n) or None
    include,  # (B, c) or None
    k,  # (B,) or None
    L,  # (B, kmax, n) factor rows
    scratch,  # (B, 4, n): scores, their errors, squared norms at the start, and where they were last formed
    largest,  # (B,) squared norm
    indices,  # (B, kmax)
    rank,  # (B,)
    safe,  # (B,)
    n,
    start,
    stop,
    kmax,
    c,
    band,
    slack,
    refresh,
    least,
    reach,
    added,
    SEEN: tl.constexpr,
    RESOLVED: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    EXACT: tl.constexpr,
    FIRST: tl.constexpr,
    AGAIN: tl.constexpr,
    BLOCK: tl.constexpr,
    KBLOCK: tl.constexpr,
):
    # One function on purpose: scores, errors and norms stay in registers from the first pick of the panel to the last.
    b = tl.program_id(0).to(tl.int64)
    if AGAIN:  # noqa: SIM102  (decided at compile time; the inner test at run time)
        if tl.load(safe + b) != 0:
            return
    number = G.dtype.element_ty
    inf = float("inf")
    cols = tl.arange(0, BLOCK)
    inside = cols < n
    G += b * n * n
    L += b * kmax * n
    indices += b * kmax
    scores = scratch + b * 4 * n
    errors = scores + n
    begun = errors + n
    formed = begun + n
    end = stop
    if k is not None:
        end = tl.minimum(stop, tl.load(k + b).to(tl.int32))

    if FIRST:
        alive = inside
        if live is not None:
            alive = inside & (tl.load(live + b * n + cols, mask=inside, other=0) != 0)
        d0 = tl.load(G + cols * (n + 1), mask=alive, other=0)
        finite = tl.abs(d0) < inf  # False for NaN
        trusted = tl.min(tl.where(alive & (finite == 0), 0, 1), 0)
        alive = alive & finite
        d0 = tl.where(alive, d0, 0)
        gamma = tl.zeros((), number) + added
        if norms is not None:
            norm = tl.load(norms + b * n + cols, mask=alive, other=0)
            seen = alive & (norm > 0)
            gamma += SEEN * tl.max(tl.where(seen, tl.abs(d0 / tl.where(seen, norm * norm, 1) - 1), 0), 0)
        d = tl.where(alive, d0, -inf)
        E = gamma * d0
        X = d0
        top = tl.max(d0, 0)
        ranged = (top > LOW) & (top < HIGH)
        if EXACT:
            ranged = ranged | (top == 0)
        trusted = trusted & ranged.to(tl.int32)
        r = tl.zeros((), tl.int64)
        places = tl.arange(0, KBLOCK)
        tl.store(indices + places, tl.full((KBLOCK,), -1, tl.int64), mask=places < kmax)
        tl.store(begun + cols, d0, mask=inside)
        tl.store(scores + cols, d, mask=inside)
        tl.store(errors + cols, E, mask=inside)
        tl.store(formed + cols, X, mask=inside)
    else:
        d = tl.load(scores + cols, mask=inside, other=-inf)
        E = tl.load(errors + cols, mask=inside, other=0)
        X = tl.load(formed + cols, mask=inside, other=0)
        top = tl.load(largest + b)
        trusted = tl.load(safe + b).to(tl.int32)
        r = tl.load(rank + b)
    tl.debug_barrier()

    t = start
    while t < end:
        low, high = tl.reduce((d - E, d + E), 0, _larger)
        maybe = d + E + slack * X >= low - band * tl.abs(low)
        p = tl.min(tl.where(maybe & inside, cols, n - 1), 0)
        last = tl.max(tl.where(maybe & inside, cols, 0), 0)
        forced = False
        if include is not None:
            wanted = tl.load(include + b * c + t, mask=t < c, other=-1).to(tl.int32)
            forced = wanted >= 0
            p = tl.where(forced, wanted, p)
        Gp = tl.load(G + p * n + cols, mask=inside, other=0)  # early, so that it is there when it is needed
        dp = tl.load(scores + p)
        Ep = tl.load(errors + p)
        d0p = tl.load(begun + p)
        sure = (p == last) | (dp - Ep + slack * tl.load(formed + p) >= high * (1 - band))
        good = dp > tl.maximum(tl.maximum(RESOLVED * Ep, reach * d0p), least * top)
        fine = tl.where(good, sure, high <= 0)
        if include is not None:
            fine = tl.where(forced, good | (d0p == 0), fine)
        trusted = trusted & fine.to(tl.int32)
        if good | forced:
            tl.store(indices + t, p.to(tl.int64))
            row = tl.zeros((BLOCK,), number)
            if good:
                for s in range(start, t, UNROLL):
                    for u in tl.static_range(UNROLL):
                        Lsp = tl.load(L + (s + u) * n + p, mask=s + u < t, other=0)
                        Ls = tl.load(L + (s + u) * n + cols, mask=inside & (s + u < t), other=0)
                        row += Lsp * Ls
                row = tl.where(d > -inf, (Gp - row) / tl.sqrt(dp), 0)
                square = row * row
                E += square / dp * Ep
                d -= square
                X = tl.where(d <= refresh * X, tl.maximum(d, 0), X)
                r += 1
            d = tl.where(cols == p, -inf, d)
            tl.store(L + t * n + cols, row, mask=inside)
            tl.store(scores + cols, d, mask=inside)
            tl.store(errors + cols, E, mask=inside)
            tl.store(formed + cols, X, mask=inside)
            tl.debug_barrier()  # the next pivot's scores and factor rows are read by other threads
            t += 1
        else:
            end = (
                t  # nothing is left that the Gram matrix could tell from rounding; later panels find the same
            )
    tl.store(largest + b, top)
    tl.store(rank + b, r)
    tl.store(safe + b, trusted.to(tl.int8))
