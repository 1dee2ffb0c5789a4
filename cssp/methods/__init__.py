"""The table of methods. A new method is one file here, which ends in its row, and its name in the list below.

Writing a method
----------------
A method is a function ``name(p: Problem, *, option=default) -> Picks`` in ``cssp/methods/name.py``. The
module docstring is the citation; the function reads like the paper's algorithm, in the paper's letters.
Keyword-only parameters are the options a caller may pass to `cssp.select`; a bad value raises
`cssp.errors.ArgumentError`.

What is given (see `cssp.problem.Problem`): ``p.A`` (m, n) weighted and scaled, free of padding, NaN and
Inf; ``p.k``; ``p.include`` (chosen already, in order); ``p.candidates`` (may be chosen; included and
excluded columns are False; excluded columns still count in the error); ``p.rng``; ``p.floor`` (residual
norms above it count for the rank) and ``p.noise`` (at or below it, nothing but rounding is left: stop there);
``p.goal`` (squared residual at which a nested method may stop, -1 without tol); ``p.B`` (what is
reconstructed). ``p.argmax(scores, allowed)`` applies the tie rule. ``p.numpy()`` or ``p.numpy("double")``
is the same problem as NumPy arrays, for methods that need LAPACK. All randomness comes from ``p.rng``, on
the host. ``p.progress(done, total)`` reports how far the method is; problems handed to another method get
``progress=silent`` (`cssp.progress`, where a `Deadline` ends what may take long).

What is owed: ``Picks(indices, rank)``: the included columns first, then distinct candidates in order of
choice, at most ``p.k`` in all. Fewer only where no independent column is left or the goal is met; never a
wrong or repeated index to make up the number. Nothing else: `select` completes, truncates at the tolerance,
warns, maps indices back, computes errors and certificates.

What the row, ``ROW`` at the end of the file, states (see `Method`): ``supports`` lists the arguments honoured; `select` refuses the others
by name. ``valid``, ``weights``, ``k``, ``deficient`` and batches come for free.
"""

from __future__ import annotations

from cssp.methods import (
    adaptive,
    arp,
    barrier,
    blockwise_pivot,
    bss,
    deim,
    exact,
    farthest,
    gappypod_e,
    greedy,
    interlacing,
    leverage,
    leverage_top,
    local_search,
    norm,
    osinsky,
    pivoted_qr,
    qdeim,
    random_pivot,
    residual,
    sketched_qr,
    strong_rrqr,
    two_stage,
    uniform,
    volume,
    volume_derandomized,
)
from cssp.methods.row import METHODS, Guarantee, Method

__all__ = ["METHODS", "Guarantee", "Method"]

METHODS |= {
    module.ROW.name: module.ROW
    for module in (
        residual,
        pivoted_qr,
        greedy,
        leverage_top,
        farthest,
        norm,
        uniform,
        volume,
        arp,
        random_pivot,
        adaptive,
        blockwise_pivot,
        leverage,
        two_stage,
        sketched_qr,
        strong_rrqr,
        osinsky,
        volume_derandomized,
        interlacing,
        deim,
        qdeim,
        gappypod_e,
        barrier,
        bss,
        local_search,
        exact,
    )
}
