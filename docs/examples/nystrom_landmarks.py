"""
Landmarks for a kernel
======================

A kernel matrix of n points has n² entries. ``select_gram`` chooses k landmarks from k of its rows, and the Nyström
approximation follows from them. The points are colours of a photograph: many are nearly the same, some are rare.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import cssp

image = load_sample_image("flower.jpg")[::8, ::8]
X = image.reshape(-1, 3) / 255
n, ks = len(X), [10, 20, 40, 80]
chosen = {
    name: [cssp.select_gram("rbf", k, name, X=X, gamma=50, rng=0) for k in ks]
    for name in ("residual", "random_pivot", "uniform")
}
entries = chosen["random_pivot"][-1].entries
print(f"{entries:,} of {n * n:,} entries evaluated for k = {ks[-1]}")

fig, ax = plt.subplots()
for (name, found), marker in zip(chosen.items(), "so^", strict=True):
    ax.loglog(ks, [sel.relative_error for sel in found], marker + "-", label=name)
ax.set_xticks(ks, ks)
ax.minorticks_off()
ax.set(xlabel="landmarks", ylabel="relative trace error", title=f"Nyström approximation, n = {n}")
ax.legend()
plt.show()

# %%
# The rule of the largest residual goes for what is rare, uniform draws for what is common. Randomly pivoted Cholesky
# takes some of both and wins. The landmarks are a palette:

fig, axes = plt.subplots(4, 1, figsize=(7, 5), height_ratios=[4, 1, 1, 1], layout="constrained")
axes[0].imshow(image)
for ax, (name, found) in zip(axes[1:], chosen.items(), strict=True):
    colours = X[np.sort(found[2].indices)]
    ax.imshow(colours[np.argsort(colours.sum(axis=1))][None], aspect="auto")
    ax.set_title(name, fontsize=9)
for ax in axes:
    ax.set_axis_off()
plt.show()
