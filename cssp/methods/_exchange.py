"""The best exchange of one chosen column in the p-norm of all residual norms."""

from __future__ import annotations

import math

import numpy as np

from cssp.linalg import adjoint, column_norms2, project_off
from cssp.linalg import squares as sq
from cssp.methods._shared import CLEAR, TIES, Rest
from cssp.residuals import p_norm

#: Numbers that are worked on at once.
ROOM = 1 << 18


def best_exchange(a: Rest, S: list[int], bar: float, p: float) -> tuple[int, int] | None:
    """Return the place i in S and the column j whose exchange makes the p-norm of the residual norms least; None unless its square
    is below ``bar``.

    Let u_i be the unit vector of span A_S orthogonal to the chosen columns but i, c_ij = u_iᴴa_j, d_il = u_iᴴb_l, and e_j, f_l
    the residuals of a_j and b_l. The exchange changes ‖f_l‖² by
        (|d_il|² ‖e_j‖² - 2 Re(conj(e_jᴴf_l) conj(c_ij) d_il) - |e_jᴴf_l|²) / (‖e_j‖² + |c_ij|²).
    Among equals the one of least Frobenius error is returned, then the lowest j.
    """
    allowed = a.open.copy()
    allowed[S] = False
    J = np.flatnonzero(allowed)
    if not S or not J.size:
        return None
    Q, R11 = np.linalg.qr(a.E[:, S])
    U = Q @ np.linalg.inv(R11).conj().T
    U = U / np.sqrt(column_norms2(U))
    E, whole = project_off(a.E, Q), a.problem.target is None
    E[:, S] = 0
    F = E if whole else project_off(a.B, Q)
    c, d = adjoint(U) @ a.E[:, J], adjoint(U) @ a.B
    e2, f2 = column_norms2(E)[J], column_norms2(F)
    norm, frobenius = np.full((2, J.size, len(S)), math.inf)
    step = max(1, ROOM // f2.size)
    for part in (slice(t, t + step) for t in range(0, J.size, step)):
        G = adjoint(E[:, J[part]]) @ F
        own = np.arange(len(G)), J[part]
        for i in range(len(S)):
            below = e2[part] + sq(c[i, part])
            clear = below > (CLEAR * a.noise) ** 2
            cross = np.real(G.conj() * (c[i, part].conj()[:, None] * d[i]))
            change = sq(d[i]) * e2[part][:, None] - 2 * cross - sq(G)
            h2 = np.maximum(f2 + change / np.where(clear, below, 1.0)[:, None], 0)
            if whole:
                h2[own] = 0
            norm[part, i] = np.where(clear, p_norm(h2, p), math.inf)
            frobenius[part, i] = np.sum(h2, axis=1)
    least = float(norm.min())
    if not least**2 < bar:
        return None
    tied = norm <= least * (1 + TIES)
    best = frobenius[tied].min()
    j, i = np.argwhere(tied & (frobenius <= best * (1 + TIES)))[0]
    return int(i), int(J[j])
