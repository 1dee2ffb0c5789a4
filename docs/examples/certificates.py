"""
Certificates: how good is this choice?
======================================

``Selection.certificate`` compares with the SVD, which no columns can beat, and states two promises on the ratio: the factor
of the method's theorem, known before anything was chosen, and a factor of this very choice, 1/σ_min(V_k[S])², that holds
for columns from anywhere.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import cssp

A = load_digits().data
ks = [2, 4, 8, 16, 32]
methods = {"residual": "o", "strong_rrqr": "s", "osinsky": "^"}

fig, axes = plt.subplots(1, 3, figsize=(8, 3.4), sharey=True, layout="constrained")
for ax, (name, marker) in zip(axes, methods.items(), strict=True):
    found = [cssp.select(A, k, name).certificate() for k in ks]
    ax.loglog(ks, [c.factor for c in found], "k:", label="theorem")
    ax.loglog(ks, [c.a_posteriori for c in found], "--", color="0.5", label="this choice")
    ax.loglog(ks, [c.ratio for c in found], marker + "-", label="measured")
    ax.set_xticks(ks, ks)
    ax.minorticks_off()
    ax.set(title=f"{name}\n[{found[0].source}]", xlabel="k", ylim=(0.7, 1e8))
axes[0].set_ylabel("squared error / optimum")
axes[0].legend()
plt.show()

# %%
# The exponential factor of pivoted QR is not slack in the proof: some matrices attain it. On data it is far away, and the
# certificate says so. Columns chosen by hand are judged in the same way.

by_hand = cssp.select(A, 4, include=[20, 28, 36, 44])
certificate = by_hand.certificate()
print(
    f"ratio {certificate.ratio:.2f}, at most {certificate.a_posteriori:.1f} for these columns, theorem: {certificate.factor}"
)
