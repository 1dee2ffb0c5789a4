"""
Where to put the sensors
========================

A field is known at many past times, and from now on will be measured at twelve places only. Which ones, and what is the
rest? Places are columns, times are rows: the least-squares coefficients of the past rebuild the future. The fields here
are digits of 8 x 8 pixels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import cssp

X = load_digits().data / 16
past, future = X[:1200], X[1200:]
mean = past.mean(axis=0)
k = 12


def rebuilt(sel):
    """The future from its values at the chosen places."""
    return mean + (future - mean)[:, sel.indices] @ sel.coefficients()


def error(Y):
    return np.linalg.norm(Y - future) / np.linalg.norm(future)


chosen = cssp.select(past - mean, k, "greedy")
random = [cssp.select(past - mean, k, "uniform", rng=seed) for seed in range(20)]
chance = sorted(error(rebuilt(sel)) for sel in random)
V = np.linalg.svd(past - mean, full_matrices=False)[2][:k]
patterns = mean + (future - mean) @ V.T @ V
print(f"chosen {error(rebuilt(chosen)):.3f}, random {np.median(chance):.3f} (best of 20: {chance[0]:.3f})")
print(f"all pixels, {k} principal components: {error(patterns):.3f}")

# %%
rows = {
    "digit": future,
    "chosen": rebuilt(chosen),
    "random": rebuilt(random[0]),
}
fig, axes = plt.subplots(3, 9, figsize=(8, 2.9), layout="constrained")
for line, (title, Y) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(title)
    for ax, y in zip(line, Y, strict=False):
        ax.imshow(y.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
for line, sel in ((axes[1], chosen), (axes[2], random[0])):
    for ax in line:
        ax.plot(sel.indices % 8, sel.indices // 8, "o", markersize=3, markerfacecolor="none", color="tab:red")
plt.show()

# %%
# Red circles are the places measured. With patterns given beforehand, as columns of a basis, ``cssp.select(basis.T, k)`` is
# Q-DEIM: pivoted QR of the basis.
