"""Greedy residual on a GPU: the picks of the fused kernel, as far as it vouches for them.

`cssp.kernels.residual_select` makes all picks without a word to the host and says whether each was told from its
runner-up. Where one was not, or the kernel cannot do what is asked, the caller goes on as on any device.
"""

from __future__ import annotations

from cssp.problem import Picks, Problem


def fused(p: Problem) -> Picks | None:
    """Return the picks of the rule, or None where these are in doubt, complex, or end at a tolerance."""
    if p.tol is not None or "complex" in str(p.A.dtype):
        return None
    import torch

    from cssp.kernels import residual_select

    candidates, include = p.candidates, None
    if p.include:
        include = torch.tensor([p.include], dtype=torch.int64, device=p.device)
        candidates = candidates.index_fill(0, include[0], True)
    indices, rank, safe = residual_select(p.A[None], p.k, candidates=candidates[None], include=include)
    *picks, counted, sure = torch.cat([indices[0], rank, safe.long()]).tolist()  # one wait for the device
    found = [j for j in picks if j >= 0]
    if p.include:
        return Picks(found) if sure else None
    return Picks(found, counted, exhausted=counted < p.k) if sure else None
