"""SciPy's interpolative decomposition on the Hilbert matrix of its documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.linalg.interpolative as sli

import cssp
from analysis.peer_tasks.task import Task, script

N = 1000


def tasks() -> list[Task]:
    """Return the tasks: to a precision of 1e-3, and of rank 20."""
    A = scipy.linalg.hilbert(N)

    def error(found: Any) -> float:
        S, T = found
        return float(np.linalg.norm(A - A[:, S] @ T) / np.linalg.norm(A))

    def theirs(eps_or_k: float | int, rand: bool):
        def run(_: int) -> Any:
            found = sli.interp_decomp(A, eps_or_k, rand=rand, rng=np.random.default_rng(0))
            idx, proj = found[-2:]
            k = proj.shape[0]
            return idx[:k], sli.reconstruct_interp_matrix(idx, proj)

        return run

    def ours(method: str, **how: Any):
        def run(_: int) -> Any:
            found = cssp.interpolative(A, method=method, **how)
            return found.columns, found.T

        return run

    return [
        Task(
            title=f"scipy.linalg.interpolative: {name}",
            text=f"The Hilbert matrix of order {N:,}. SciPy's precision is one of pivots, ours of the error itself.",
            page="https://docs.scipy.org/doc/scipy/reference/linalg.interpolative.html",
            measure="relative Frobenius error, less is better",
            runs={
                "SciPy, random sampling": theirs(eps_or_k, True),
                "SciPy": theirs(eps_or_k, False),
                "cssp strong_rrqr": ours("strong_rrqr", **how),
                "cssp residual": ours("residual", **how),
                "cssp sketched_qr": ours("sketched_qr", rng=0, **how),
            },
            result=error,
        )
        for name, eps_or_k, how in (("to a precision of 1e-3", 1e-3, {"tol": 1e-3}), ("rank 8", 8, {"k": 8}))
    ]


if __name__ == "__main__":
    script(tasks())
