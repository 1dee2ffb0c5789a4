"""Greedy residual on a GPU: the picks of the fused kernel, where it reports them as certain.

`cssp.kernels.residual_select` makes all picks without host synchronisation and reports whether each was clearly better
than its runner-up. Where one was not, or the kernel does not support the call, the caller continues as on any device.
"""

from __future__ import annotations

from cssp.problem import Picks, Problem


def fused(p: Problem) -> Picks | None:
    """Return the picks of the rule, or None where they are uncertain, complex, or end at a tolerance."""
    if p.tol is not None or "complex" in str(p.A.dtype):
        return None
    import torch

    from cssp.kernels import residual_select

    candidates, include = p.candidates, None
    if p.include:
        include = torch.tensor([p.include], dtype=torch.int64, device=p.device)
        candidates = candidates.index_fill(0, include[0], True)
    indices, rank, safe = residual_select(p.A[None], p.k, candidates=candidates[None], include=include)
    *picks, counted, sure = torch.cat([indices[0], rank, safe.long()]).tolist()  # one host synchronisation
    found = [j for j in picks if j >= 0]
    if p.include:
        return Picks(found) if sure else None
    return Picks(found, counted, exhausted=counted < p.k) if sure else None
