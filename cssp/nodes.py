"""Nodes of merge-and-reduce: a few columns of a part of a matrix, and what their span holds of that part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cssp.linalg import adjoint, basis, project_off, take_columns
from cssp.scaling import shifted
from cssp.select import select

__all__ = ["Node", "choose", "merged", "noise", "norm", "projected"]


@dataclass(frozen=True, eq=False)
class Node:
    """Columns kept of a part of the stream.

    Attributes
    ----------
    C : array, shape (m, r)
        The columns, in stream order.
    place : int64 array, shape (r,)
        Their positions in the stream.
    W : array, shape (m, s), s ≤ r
        WWᴴ = ẐẐᴴ for the part Ẑ of all columns below that the node still knows: their image under the projections made
        so far, in the span of C.
    lost : float
        Bound on the Frobenius norm of what the projections took away.
    """

    C: np.ndarray
    place: np.ndarray
    W: np.ndarray
    lost: float


def merged(nodes: list[Node]) -> Node:
    """Return the nodes side by side, in stream order: disjoint parts of the stream, whose squares add up."""
    if len(nodes) == 1:
        return nodes[0]
    nodes = sorted(nodes, key=lambda node: int(node.place[0]))
    return Node(
        np.concatenate([node.C for node in nodes], axis=1),
        np.concatenate([node.place for node in nodes]),
        np.concatenate([node.W for node in nodes], axis=1),
        math.hypot(*(node.lost for node in nodes)),
    )


def choose(node: Node, k: int, method: str) -> np.ndarray:
    """Return k columns of the node, in order of choice."""
    target = node.W if method == "greedy" and node.W is not node.C else None
    return np.asarray(select(node.C, k, method, target=target).indices)


def projected(node: Node, picks: np.ndarray) -> Node:
    """Return the node on the picks alone: P_S of what it knew, and the loss."""
    C = take_columns(node.C, picks)
    Q, _ = basis(C, noise(C))
    known = adjoint(Q) @ node.W
    lost = norm(project_off(node.W, Q))
    if known.shape[1] > known.shape[0]:
        known = adjoint(np.linalg.qr(adjoint(known), mode="r"))
    W = Q @ known if Q.shape[1] else np.zeros_like(C[:, :1])
    return Node(C, node.place[picks], W, node.lost + lost)


def noise(C: np.ndarray) -> float:
    """Return the residual norm at or below which nothing is left but rounding, as `cssp.pivoting.noise` has it."""
    return float(2 * math.sqrt(min(C.shape)) * np.finfo(C.dtype).eps * max(norm(c) for c in C.T))


def norm(X: np.ndarray) -> float:
    """Return Frobenius norm, of any scale."""
    e = math.frexp(float(np.max(np.abs(X))))[1] if X.size else 0
    return math.ldexp(float(np.linalg.norm(shifted(X, -e).ravel().astype(np.result_type(X, np.float64)))), e)
