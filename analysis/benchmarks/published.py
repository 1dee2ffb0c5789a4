"""Published selection loops as their rules read, in plain torch: what the kernel is timed against.

Written after the papers and kinder than the official code where that costs nothing: no host synchronisation,
distances kept up to date instead of formed anew in every round.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cdpruner", "deflation", "divprune"]


def cdpruner(features: Tensor, relevance: Tensor, k: int) -> Tensor:
    """Choose by fast greedy MAP for the kernel r_i cos_ij r_j (Zhang et al. 2025, after Chen, Zhang and Zhou 2018).

    Parameters
    ----------
    features : tensor, shape (B, n, d)
    relevance : tensor, shape (B, n)
    k : int

    Returns
    -------
    indices : tensor, shape (B, k), in order of choice
    """
    B, n, _ = features.shape
    x = torch.nn.functional.normalize(features.float(), dim=2)
    r = relevance.float()
    kernel = r.unsqueeze(2) * (x @ x.mT) * r.unsqueeze(1)
    item = torch.arange(B, device=x.device)
    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    C = x.new_zeros(k, B, n)
    indices = torch.empty(B, k, dtype=torch.int64, device=x.device)
    for t in range(k):
        j = gain.argmax(1)
        indices[:, t] = j
        known = torch.einsum("tb,tbn->bn", C[:t, item, j], C[:t])
        C[t] = (kernel[item, j] - known) / gain[item, j].sqrt().unsqueeze(1)
        gain = gain - C[t].square()
        gain[item, j] = -torch.inf
    return indices


def divprune(features: Tensor, k: int) -> Tensor:
    """Choose by max-min diversity in cosine distance from the token whose nearest neighbour is farthest (Alvar et al. 2025).

    Parameters
    ----------
    features : tensor, shape (n, d)
        One image: the rule is published for one.
    k : int

    Returns
    -------
    indices : tensor, shape (k,), in order of choice
    """
    x = torch.nn.functional.normalize(features, dim=1)
    distance = 1 - x @ x.mT
    j = distance.topk(2, dim=0, largest=False).values[1].argmax()
    indices = torch.empty(k, dtype=torch.int64, device=x.device)
    nearest = torch.full_like(distance[0], torch.inf)
    for t in range(k):
        indices[t] = j
        nearest = torch.minimum(nearest, distance.index_select(0, j.view(1))[0])
        nearest.scatter_(0, indices[: t + 1], -torch.inf)
        j = nearest.argmax()
    return indices


def deflation(A: Tensor, k: int) -> Tensor:
    """Return greedy residual as it is defined: the residual matrix itself, deflated after every pick.

    Parameters
    ----------
    A : tensor, shape (B, m, n)
    k : int

    Returns
    -------
    indices : tensor, shape (B, k), in order of choice
    """
    E = A.float()
    item = torch.arange(E.shape[0], device=E.device)
    picks = []
    for _ in range(k):
        norms = E.square().sum(1)
        j = norms.argmax(1)
        picks.append(j)
        q = E[item, :, j] / norms[item, j].sqrt().unsqueeze(1)
        E = E - q.unsqueeze(2) * torch.bmm(q.unsqueeze(1), E)
        E[item, :, j] = 0
    return torch.stack(picks, 1)
