"""
Matrices made to break a rule
=============================

Averages over data hide worst cases. ``cssp.matrices`` holds families that each mislead some rule; a method earns trust
where they end.
"""

import matplotlib.pyplot as plt
import numpy as np

import cssp
from cssp.matrices import MATRICES

families = ["kahan", "duplicated_tail_kahan", "simplex", "basis_only_killer", "low_noise", "foxgood", "baart"]
methods = ["residual", "greedy", "strong_rrqr", "osinsky", "local_search", "leverage_top", "deim", "farthest"]
table = np.empty((len(methods), len(families)))
for j, family in enumerate(families):
    A = MATRICES[family](24, 24, 6, 0)
    for i, method in enumerate(methods):
        table[i, j] = cssp.select(A, 6, method, rng=0).certificate().ratio

# %%
# Squared error over the optimum, n = 24, k = 6. The best that can be promised for any matrix is k + 1 = 7.

fig, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
shown = ax.imshow(np.log10(np.maximum(table, 1)), cmap="magma_r", vmin=0, vmax=4, aspect="auto")
for (i, j), value in np.ndenumerate(table):
    light = np.log10(max(value, 1)) > 1.7
    ax.text(
        j,
        i,
        f"{value:.3g}" if value < 1000 else f"{value:.0e}",
        ha="center",
        va="center",
        fontsize=8,
        color="white" if light else "black",
    )
ax.set_xticks(range(len(families)), [name.replace("_", "\n") for name in families], fontsize=8)
ax.set_yticks(range(len(methods)), methods)
fig.colorbar(shown, label="log10 of the ratio")
plt.show()
